# SPDX-License-Identifier: MIT
"""Compares two measurements of the same contenders, an old and a new one."""

import math

from . import directory, environment, results
from .processes import Failure
from .verdict import (FIGURES, Spread, deviations, logarithms, pairs_of,
                      ratio_of)

WORSE = {"throughput_per_s": "less"}  # for all other figures it is more


class Change:
    """The ratios new / old of one comparison, read as a Verdict is."""

    baseline = "the old measurement"

    def __init__(self, old, new, baseline):
        self.comparison = new
        self.names = [name for name in new.names if name in old.names]
        self.levels = [level for level in new.levels if level in old.levels]
        self.ratios = {}
        for column, _ in FIGURES:
            self.judge(old, new, baseline, column)

    def judge(self, old, new, baseline, column):
        """Add the ratios of a figure."""
        keys = [(name, level) for name in self.names for level in self.levels]
        values = {key: [values_of(each, *key, column) for each in (old, new)]
                  for key in keys}
        for level in self.levels:
            pool = deviations([each for name in self.names
                               for each in values[name, level]])
            chance = [value for each in (old, new) for value in
                      pairs_of(each, baseline, baseline, level,
                               column).values()]
            floor = Spread(chance, pool) if chance else None
            for name in self.names:
                before, after = values[name, level]
                if before and after:
                    spread = Spread(after, pool, others=before)
                    self.ratios[name, level, column] = ratio_of(
                        spread, len(FIGURES) * len(self.levels), floor)

    def get(self, name, level, column):
        """Return a ratio, or None."""
        return self.ratios.get((name, level, column))

    def worse(self, share):
        """Return (contender, connections, heading, ratio) of what is worse,
        for sure and by more than a share."""
        limit = math.log1p(share)
        return [(name, level, heading, ratio)
                for name in self.names for level in self.levels
                for column, heading in FIGURES
                if (ratio := self.get(name, level, column))
                and ratio.word == WORSE.get(column, "more")
                and abs(math.log(ratio.estimate)) > limit]


def values_of(comparison, name, level, column):
    """Return the logarithms of a figure in all runs."""
    return [value for entries in logarithms(comparison, name, level,
                                            column).values()
            for value in entries.values()]


def differences(old, new):
    """Return in what two measurements differ that would explain a change."""
    found = environment.differences(*(directory.read_facts(path)
                                      for path in (old, new)))
    return [text for text in found if not text.startswith("compiler")]


def changes(old, new):
    """Return the changes between two directories, of all comparisons that
    both have."""
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
    missing = [after[key].title() for key in after if key not in common]
    if not common:
        raise Failure(f"{old} and {new} have no run in common: delay, "
                      "connections, upstream connections and contender must "
                      "be the same")
    return [Change(before[key], after[key], facts.get("baseline"))
            for key in common], missing
