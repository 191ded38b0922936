# SPDX-License-Identifier: MIT
"""The groups of contenders: many of them are too many for one chart."""

from typing import NamedTuple

from .results import ordered

# In the order of a report, with their headings.
GROUPS = {
    "c": "In C",
    "document": "The document’s own",
    "frameworks": "Other Python names of the document",
    "modern": "Newer than the document",
    "own": "Your own",
}
OWN = "own"  # the group of --peer
CHOICES = tuple(group for group in GROUPS if group != OWN)
FEW = 8  # contenders that one chart or list has room for


class Part(NamedTuple):
    """A group, or all contenders if they are not split."""
    group: str  # empty if they are not split
    heading: str
    names: list


class Groups:
    """How the contenders of a measurement are split; facts are those of its
    environment.json."""

    def __init__(self, rows=(), baseline=None, facts=None):
        names = ordered(row["contender"] for row in rows)
        entries = (facts or {}).get("contenders", ())
        self.baseline = baseline
        self.by_name = {entry["name"]: entry.get("group")
                        for entry in entries}
        known = {group for name in names
                 if (group := self.by_name.get(name)) in GROUPS}
        self.split = len(names) > FEW and len(known) > 1

    def of(self, name):
        """Return the group of a contender, or nothing if there is none."""
        if not self.split:
            return ""
        group = self.by_name.get(name)
        return group if group in GROUPS else OWN

    def parts(self, names):
        """Return the parts that these names fall into, in their order."""
        if not self.split:
            return [Part("", "", list(names))]
        found = [Part(group, heading, [name for name in names
                                       if self.of(name) == group])
                 for group, heading in GROUPS.items()]
        return [part for part in found if part.names]

    def baseline_first(self, names):
        """Return the same, but the baseline before all groups."""
        if not self.split or self.baseline not in names:
            return self.parts(names)
        return [Part("", "", [self.baseline]), *self.parts(
            [name for name in names if name != self.baseline])]

    def multiples(self, names):
        """Return the same, with the baseline in each for comparison, unless
        there is nothing to compare with it."""
        if not self.split:
            return self.parts(names)
        others = [name for name in names if name != self.baseline]
        return [part._replace(names=[
            name for name in names
            if name in part.names or name == self.baseline])
                for part in self.parts(others)]
