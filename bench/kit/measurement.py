# SPDX-License-Identifier: MIT
"""Makes the runs of a measurement, in an order that makes them comparable."""

import itertools
import random
import time
from typing import Any

from . import calls, directory, results, run, verdict
from .console import say
from .processes import Failure

QUICK_SECONDS = 105  # of two minutes; the rest is for the report
UNTIL_REPETITIONS = 8  # least, before --until looks at an interval
LONGER = (4, 30)  # least and most times the duration, of a longer run
SLOWEST = 3  # a longer run takes this many times the slowest latency
TRIES = 3  # of a run that is disturbed
PATIENCE = 3  # runs in a row that may stay disturbed, each made TRIES times
OVERHEAD_SECONDS = 0.8  # of a run, besides warm-up and measured time


class Plan:
    """One run to make."""

    def __init__(self, contender, entry, point, repetition):
        self.contender = contender
        self.entry = entry  # 2 where the baseline enters again
        self.concurrency, self.delay_ms, self.rate = point
        self.repetition = repetition

    @property
    def key(self):
        """Return the same as results.plan_of() its row."""
        return (self.contender.name, self.entry, self.contender.connection,
                self.concurrency, self.delay_ms, self.rate, self.repetition)


class Measurement:
    """All runs of one measurement."""

    TABLE: tuple[str, tuple] = ("runs.tsv", run.COLUMNS)

    def __init__(self, settings, options, chosen, output):
        self.settings = settings
        self.options = options
        self.chosen = chosen
        self.output = output
        self.table = directory.Table(output, *self.TABLE)
        self.done = directory.made(directory.rows_of(output))
        self.counted: dict[tuple, float] = {}  # system calls
        self.began = time.monotonic()
        self.runs = 0  # made so far
        self.patience = PATIENCE
        self.ways: dict[str, str] = {}  # that own servers went upstream

    def blocks(self, repetition):
        """Return the blocks of a repetition: lists of plans whose runs are
        compared with each other, each in an order of its own."""
        options = self.options
        ways = results.ordered(contender.connection for contender
                               in self.chosen if contender.connection != "-")
        found = []
        for delay_ms, concurrency, way in itertools.product(
                options.delay, options.concurrency, ways or ["-"]):
            here = [contender for contender in self.chosen
                    if way == self.way_of(contender, ways or ["-"])]
            point = concurrency, delay_ms, options.rate
            plans = [Plan(contender, entry, point, repetition)
                     for contender in here for entry in (1, 2)
                     if entry == 1 or contender.name == options.baseline]
            random.Random(f"{repetition} {point} {way}").shuffle(plans)
            found.append(plans)
        return found

    def way_of(self, contender, ways):
        """Return the way upstream whose block a contender belongs to: an own
        server's is known once it has run."""
        if contender.connection != "-":
            return contender.connection
        way = self.ways.get(contender.name)
        return way if way in ways else ways[0]

    def planned(self):
        """Return how many runs are missing; None if that depends on time."""
        if not self.options.repeat:
            return None
        return sum(plan.key not in self.done
                   for repetition in range(1, self.options.repeat + 1)
                   for block in self.blocks(repetition) for plan in block)

    def seconds_per_run(self):
        return (self.settings.duration + self.settings.warmup +
                OVERHEAD_SECONDS)

    def limit(self):
        """Return the limit of the whole measurement in seconds, or None."""
        options = self.options
        if options.until:
            return options.time_limit * 60
        return QUICK_SECONDS if options.quick else None

    def time_is_up(self, seconds=0.0):
        """Return whether the limit is reached, this many seconds from now."""
        limit = self.limit()
        return limit is not None and \
            time.monotonic() - self.options.began + seconds > limit

    def count_calls(self, tracer):
        """Count the system calls per request of each contender."""
        options = self.options
        levels = options.concurrency[-1 if options.quick else 0:]
        for contender in self.chosen if tracer else ():
            if contender.elsewhere:
                continue
            found = {level: calls.count(self.settings, tracer, contender,
                                        level, options.delay[0])
                     for level in levels}
            self.counted.update({(contender.key, level): value
                                 for level, value in found.items()})
            seen = ", ".join(f"{value:.1f} at {level}"
                             for level, value in found.items()
                             if value is not None)
            say(f"bench: {contender.name}: system calls per request: "
                f"{seen or 'unknown'}")

    def make_all(self):
        """Make all runs that have no row yet."""
        total = self.planned()
        for repetition in itertools.count(1):
            began = time.monotonic()
            for block in self.blocks(repetition):
                for plan in self.wanted(block, repetition):
                    if repetition > 1 and self.time_is_up():
                        return
                    self.make(plan, total)
            if self.enough(repetition, time.monotonic() - began):
                return

    def enough(self, repetition, seconds):
        """Return whether that was the last repetition."""
        options = self.options
        if options.repeat:
            return repetition >= options.repeat
        if options.until and repetition >= UNTIL_REPETITIONS and \
                not self.too_wide():
            return True
        # Part of a repetition would leave some contenders with fewer runs.
        return self.time_is_up(seconds)

    def too_wide(self):
        """Return the (contender, way, connections, delay) whose interval is
        wider than was asked for."""
        found = set()
        for each in verdict.verdicts_of(directory.rows_of(self.output),
                                        self.options.baseline,
                                        verdict.COMPARED[:1]):  # CPU
            comparison = each.comparison
            found |= {(name, comparison.connection, level,
                       comparison.delay_ms)
                      for name in each.names for level in each.levels
                      if name != each.baseline
                      and each.get(name, level, verdict.CPU)
                      and each.width(name, level) > self.options.until}
        return found

    def wanted(self, block, repetition):
        """Return those plans of a block that are still needed."""
        plans = [plan for plan in block if plan.key not in self.done]
        if self.options.until and repetition > UNTIL_REPETITIONS:
            wide = {(name, level, delay)
                    for name, _, level, delay in self.too_wide()}
            here = {plan.contender.name for plan in plans
                    if (plan.contender.name, plan.concurrency,
                        plan.delay_ms) in wide}
            plans = [plan for plan in plans if here and plan.contender.name
                     in here | {self.options.baseline}]
        return plans

    def make(self, plan, total):
        """Make one run, again if it is disturbed."""
        for attempt in range(1, TRIES + 1):
            row = self.make_once(plan)
            self.say_row(plan, row, total)
            if not row["disturbed"]:
                self.patience = PATIENCE
                break
            if attempt == TRIES:
                self.patience -= 1
                if self.patience == 0:
                    say("bench: the machine stays busy: disturbed runs are "
                        "no longer made again")
            if self.patience <= 0 or self.time_is_up(self.seconds_per_run()):
                break
        self.runs += 1

    def make_once(self, plan):
        """Make one run, write its row and return it.

        A server that leaves some connections waiting for a whole run fails
        only the check by Little's law. It gets a longer run.
        """
        settings = self.settings
        duration, warmup = settings.duration, settings.warmup
        row: dict[str, Any] = {}
        self.table.count += 1
        try:
            self.measure(plan, row)
            if run.only_too_short(row) and not self.limit():
                enough = SLOWEST * row["slowest_us"] / 1e6 / duration
                factor = min(max(enough, LONGER[0]), LONGER[1])
                settings.duration = duration * factor
                settings.warmup = warmup * factor
                self.measure(plan, row)
        except BaseException as problem:
            row["why"].append(directory.STOPPED + (
                f": {problem}" if isinstance(problem, Failure) else ""))
            raise
        finally:
            settings.duration, settings.warmup = duration, warmup
            row["valid"] = not row["why"]
            self.ways[plan.contender.name] = row["upstream_use"]
            self.table.add(row)
        return row

    def measure(self, plan, row):
        """Make one run and fill in its row, even if the run raises."""
        contender = plan.contender
        row.update(dict.fromkeys(run.COLUMNS))
        row.update(
            run=self.table.count, contender=contender.name, entry=plan.entry,
            model=contender.model, upstream_connection=contender.connection,
            concurrency=plan.concurrency, delay_ms=plan.delay_ms,
            rate_per_s=plan.rate, repetition=plan.repetition, why=[],
            disturbed=[], unknown=[], client_connections=0,
            client_lines=None,
            system_calls_per_request=self.counted.get(
                (contender.key, plan.concurrency))
            if plan.delay_ms == self.options.delay[0] else None)
        run.measure(self.settings, plan, row)

    def say_row(self, plan, row, total):
        """Report on a run, and on how long the rest takes."""
        name = verdict.entry_name(plan.contender.name, plan.contender.name
                                  if plan.entry == 2 else None)
        way = {"keep": "", "-": "", "new": ", new connections"}
        points = f"{results.connections(plan.concurrency)}"
        if len(self.options.delay) > 1:
            points += f", {plan.delay_ms:g} ms"
        count = f"{self.runs + 1}/{total}" if total else f"{self.runs + 1}"
        say(f"[{count}] {name}{way[plan.contender.connection]}, {points}: "
            f"{describe(row)}; {self.time_left(total)}")

    def time_left(self, total):
        spent = time.monotonic() - self.began
        limit = self.limit()
        if total:
            seconds = spent / (self.runs + 1) * (total - self.runs - 1)
        else:
            seconds = max((limit or 0) - (time.monotonic() -
                                          self.options.began), 0)
        most = "" if total else "at most "
        return f"{most}{round(seconds) // 60}:{round(seconds) % 60:02d} left"


def describe(row):
    """Return the result of a run, in words."""
    disturbed = directory.format_value(row["disturbed"] or [])
    if row["why"]:
        return "NOT VALID: " + directory.format_value(row["why"])
    cpu = row["cpu_per_request_us"]
    used = "CPU unknown" if cpu is None else f"{cpu:.1f} us CPU"
    unknown = directory.format_value(row["unknown"])
    return (f"{row['throughput_per_s']:,.0f}/s, {used}, "
            f"p99 {row['latency_p99_us'] / 1000:.2f} ms"
            f"{'; DISTURBED: ' + disturbed if disturbed else ''}"
            f"{'; NOT KNOWN: ' + unknown if unknown else ''}")
