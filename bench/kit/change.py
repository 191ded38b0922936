# SPDX-License-Identifier: MIT
"""Compares two measurements of the same contenders, an old and a new one."""

import math

from . import directory, environment, results
from .processes import Failure
from .verdict import COMPARED, CPU, Spread, chance_of, pairs_of, ratio_of

WORSE = {"throughput_per_s": "less"}  # for all other figures it is more
KIT = ("load_cpu_per_request_us", "upstream_cpu_per_request_us")


class Change:
    """The ratios new / old of one comparison, read as a Verdict is.

    A machine is not as fast on one day as on another. So what changes is each
    contender's ratio to the baseline; of the baseline itself it is the ratio
    of its CPU time to the kit's. Its other figures are compared as they are.
    """

    def __init__(self, old, new, baseline):
        self.comparison = new
        self.lost = lost(old, new)
        common = [name for name in new.names if name in old.names]
        self.baseline = baseline if baseline in common else None
        self.names = sorted(common, key=lambda name: name != self.baseline)
        self.levels = [level for level in new.levels if level in old.levels]
        self.ratios = {}
        for column, _ in COMPARED:
            for level in self.levels:
                self.judge(old, new, level, column)

    def judge(self, old, new, level, column):
        """Add the ratios of a figure."""
        values = {name: [self.values_of(each, name, level, column)
                         for each in (old, new)] for name in self.names}
        chance = [value for each in (old, new) if self.baseline for value in
                  pairs_of(each, self.baseline, self.baseline, level,
                           column).values()]
        floor = Spread(chance) if chance else None
        for name, (before, after) in values.items():
            if before and after:
                ratio = ratio_of(Spread(after, before),
                                 chance_of(column, len(self.levels)), floor)
                if name == self.baseline and column != CPU:
                    ratio = ratio._replace(word="none")  # the machine's
                self.ratios[name, level, column] = ratio

    def values_of(self, comparison, name, level, column):
        """Return the logarithms of what is compared, of all repetitions."""
        if self.baseline and name != self.baseline:
            return list(pairs_of(comparison, self.baseline, name, level,
                                 column).values())
        found = []
        for row in comparison.runs(name, level):
            value = comparison.figure(row, column)
            kit = sum(row.get(part) or 0 for part in KIT)
            if value and value > 0 and (column != CPU or kit):
                found.append(math.log(value / kit if column == CPU
                                      else value))
        return found

    def get(self, name, level, column):
        """Return a ratio, or None."""
        return self.ratios.get((name, level, column))

    def worse(self, share):
        """Return (contender, connections, heading, ratio) of what is worse,
        not by chance and by more than a share."""
        limit = math.log1p(share)
        return [(name, level, heading, ratio)
                for name in self.names for level in self.levels
                for column, heading in COMPARED
                if (ratio := self.get(name, level, column))
                and (name != self.baseline or column == CPU)
                and ratio.word == WORSE.get(column, "more")
                and abs(math.log(ratio.estimate)) > limit]


def lost(old, new):
    """Return (contender, connections) that have valid runs only in the old
    comparison."""
    return [(name, level) for name in old.names for level in old.levels
            if old.runs(name, level)
            and not (level in new.levels and new.runs(name, level))]


def differences(old, new):
    """Return the differences between two measurements, in words, that would
    explain a change."""
    return environment.differences(*(directory.read_facts(path)
                                     for path in (old, new)))


def changes(old, new):
    """Return the changes between two directories, and the (path, title) of
    what only one of them has.

    There is a change for each comparison that both have. Raises Failure if
    there is none.
    """
    facts = directory.read_facts(new)
    rows = [directory.rows_of(path) for path in (old, new)]
    for path, each in zip((old, new), rows):
        if not each:
            raise Failure(f"{path} has no runs")
    before, after = ({(each.delay_ms, each.connection, each.rate): each
                      for each in results.comparisons_of(part)}
                     for part in rows)
    common = [key for key in after if key in before
              and set(after[key].names) & set(before[key].names)
              and set(after[key].levels) & set(before[key].levels)]
    missing = [(path, part[key].title())
               for path, part in ((old, before), (new, after))
               for key in part if key not in common]
    if not common:
        raise Failure(f"{old} and {new} have no run in common: delay, "
                      "connections, upstream connections and contender must "
                      "be the same")
    return [Change(before[key], after[key], facts.get("baseline"))
            for key in common], missing
