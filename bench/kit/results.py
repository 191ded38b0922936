# SPDX-License-Identifier: MIT
"""Reads the rows of a measurement and groups those that can be compared."""

import collections
import csv
import statistics

CONNECTIONS = {
    "keep": "upstream connections kept",
    "new": "a new upstream connection for each fetch",
}

TEXT_COLUMNS = ("contender", "label", "model", "samples", "why", "disturbed",
                "unknown", "upstream_use")
# What names a planned run; entry is 2 where the baseline enters again.
PLAN_COLUMNS = ("contender", "entry", "upstream_connection", "concurrency",
                "delay_ms", "rate_per_s", "repetition")
MEMORY_FROM = 100  # connections; with fewer the growth of the heap dominates


def read_rows(path):
    """Return the rows of a table: numbers as floats, empty cells as None.

    A last row that is cut off, by a full disk or a crash, is left out.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().split("\n")[:-1]
    return [typed(line) for line in csv.DictReader(
        lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            if None not in line and None not in line.values()]


def typed(line):
    """Return a row from the text of its cells."""
    row = {}
    for name, value in line.items():
        row[name] = value or None
        if name in TEXT_COLUMNS:
            continue
        try:
            row[name] = float(value)
        except (TypeError, ValueError):
            pass
    return row


def median(rows, column):
    values = [row[column] for row in rows
              if isinstance(row.get(column), float)]
    return statistics.median(values) if values else None


def ordered(values):
    return list(dict.fromkeys(values))


def plan_of(row):
    """Return what names the planned run of a row."""
    return tuple(row.get(name) for name in PLAN_COLUMNS)


def current(rows):
    """Return the rows that count: of each planned run the last one made.

    A run that was disturbed or stopped is made again.
    """
    last = {}
    for row in rows:
        last[plan_of(row)] = row
    return list(last.values())


def baseline_of(rows, facts):
    """Return the contender that the others are compared with, or None."""
    names = ordered(row["contender"] for row in rows)
    for name in (facts.get("baseline"), "threadecho"):
        if name in names:
            return name
    return names[0] if names else None


class Comparison:
    """The runs that can be compared: one delay, one way to go upstream, one
    offered rate (None in a closed loop)."""

    def __init__(self, delay_ms, connection, rate, rows):
        self.delay_ms = delay_ms
        self.connection = connection
        self.rate = rate
        self.rows = rows
        self.levels = sorted({int(row["concurrency"]) for row in rows})
        names = ordered(row["contender"] for row in rows)
        self.made = collections.defaultdict(list)
        for row in rows:
            self.made[row["contender"], int(row["concurrency"])].append(row)
        self.names = sorted(names, key=self.rank)
        self.slug = f"{connection}-{delay_ms:g}ms" + (
            f"-{rate:g}" if rate else "")

    def rank(self, name):
        """Return the CPU per request, at the most connections possible."""
        for level in reversed(self.levels):
            value = self.value(name, level, "cpu_per_request_us")
            if value is not None:
                return value
        return float("inf")

    def runs(self, name, level):
        """Return the runs that the figures are of.

        These are the valid ones that nothing disturbed, or if that is less
        than half of them, all valid ones. If more than half are invalid, there
        are none.
        """
        made = self.made[name, level]
        valid = [row for row in made if row["valid"] == "yes"]
        if 2 * len(valid) < len(made):
            return []
        quiet = [row for row in valid if not row.get("disturbed")]
        return quiet if 2 * len(quiet) >= len(valid) else valid

    def disturbed(self, name, level):
        """Return whether the figures rest on runs that were disturbed."""
        return any(row.get("disturbed") for row in self.runs(name, level))

    @staticmethod
    def figure(row, column):
        """Return a figure of a run, or None."""
        if column == "memory_per_connection_kib" and \
                row["concurrency"] < MEMORY_FROM:
            return None
        value = row.get(column)
        return value if isinstance(value, float) else None

    def value(self, name, level, column):
        """Return the median of the runs, or None."""
        values = [value for row in self.runs(name, level)
                  if (value := self.figure(row, column)) is not None]
        return statistics.median(values) if values else None

    def spread(self, name, level, column, decimals):
        """Return the least and the most of the runs, as text."""
        values = [row[column] for row in self.runs(name, level)
                  if isinstance(row[column], float)]
        if len(values) < 2:
            return ""
        return f"{cell(min(values), decimals)}–{cell(max(values), decimals)}"

    def title(self):
        delay = (f"an upstream that answers after {self.delay_ms:g} ms"
                 if self.delay_ms else "an upstream that answers at once")
        rate = (f", open loop, {self.rate:,.10g} lines per second"
                if self.rate else "")
        return (f"{delay[0].upper()}{delay[1:]}, "
                f"{CONNECTIONS.get(self.connection, 'as they come')}{rate}")


def cell(value, decimals):
    return "–" if value is None else f"{value:,.{decimals}f}"


def connections(count):
    """Return '1 connection' or 'N connections'."""
    return f"{count:,} connection{'' if count == 1 else 's'}"


def comparisons_of(rows):
    """Return the comparisons among the rows that count.

    A user's own server goes its own way upstream. It is in the comparison of
    those that go the same way or, if there is none, in each of its delay.
    """
    rows = current(rows)
    found = []
    kinds = {(row["delay_ms"], row.get("rate_per_s")) for row in rows}
    for delay, rate in sorted(kinds, key=lambda kind: (-kind[0],
                                                       kind[1] or 0)):
        here = [row for row in rows
                if (row["delay_ms"], row.get("rate_per_s")) == (delay, rate)]
        ways = [way for way in ("keep", "new")
                if any(row["upstream_connection"] == way for row in here)]
        own = {name: {row.get("upstream_use") for row in here
                      if row["contender"] == name}
               for name in ordered(row["contender"] for row in here
                                   if row["upstream_connection"] == "-")}
        for way in ways or ["-"]:
            elsewhere = {name for name, uses in own.items()
                         if len(uses) == 1 and uses != {way}
                         and uses & set(ways)}
            found.append(Comparison(delay, way, rate, [
                row for row in here
                if row["upstream_connection"] == way
                or (row["upstream_connection"] == "-"
                    and row["contender"] not in elsewhere)]))
    return found
