# SPDX-License-Identifier: MIT
"""Finds the highest rate of an open loop that a contender holds.

A rate is held if the run is valid, its throughput is at least 98 % of the rate
and the figure that was named, such as p99, is within the limit.
"""

import collections
import html
import math
import os
import re
import textwrap
from typing import Any

from . import directory, measurement, results, run, verdict
from .console import COLUMNS, say
from .processes import Failure

FIGURES = {"p50": "latency_p50_us", "p90": "latency_p90_us",
           "p99": "latency_p99_us", "p99.9": "latency_p999_us",
           "max": "latency_max_us", "mean": "latency_mean_us"}
UNITS = {"us": 1, "ms": 1e3, "s": 1e6}
EXAMPLE = "such as 'p99<=20ms' or 'max<1s'"

WITHIN = 0.05  # how far the least rate not held is above the one held
STEP = 1.3  # first step from a rate, until one is held and one is not
START = 0.8  # of the closed loop's throughput
LEAST_LINES = 20  # of a try: with fewer a percentile says nothing
LIMITS = 20  # a try takes this many times the limit, so a queue shows
LONGEST = 10.0  # seconds; even if that is less than LIMITS
PATIENCE = 5.0  # seconds that a reply may take, or four times the limit
DECIMALS = 4  # digits of a rate

RATE = "rate_held_per_s"
RATE_COLUMNS = (
    "contender", "entry", "model", "upstream_connection", "concurrency",
    "delay_ms", "repetition", "valid", "why", "disturbed", "unknown",
    "figure", "relation", "limit_us", RATE, "rate_not_held_per_s",
    "latency_us", "closed_loop_per_s", "tries", "upstream_use")


class Goal(collections.namedtuple("Goal", "figure relation limit_us")):
    """What a rate that is held must achieve."""

    @classmethod
    def parse(cls, text):
        """Return the goal that a text such as p99<=20ms describes.

        Raise ValueError if it describes none.
        """
        found = re.fullmatch(r"\s*([a-z0-9.]+)\s*(<=?)\s*(\d+\.?\d*|\.\d+)"
                             r"\s*(us|ms|s)\s*", text)
        if not found or found[1] not in FIGURES:
            raise ValueError(f"{text!r} is not FIGURE<=TIME, {EXAMPLE}; the "
                             f"figures are {', '.join(FIGURES)}, the units "
                             f"{', '.join(UNITS)}")
        limit = float(found[3]) * UNITS[found[4]]
        if not 1 <= limit <= 60e6:
            raise ValueError(f"{text!r} is not from 1us to 60s")
        return cls(found[1], found[2], limit)

    def text(self):
        return f"{self.figure} {self.relation} {time_text(self.limit_us)}"

    def met(self, row):
        """Return whether a run meets it."""
        value = row[FIGURES[self.figure]]
        if value is None:
            return False
        return value < self.limit_us or (self.relation == "<=" and
                                         value == self.limit_us)


def time_text(us):
    for unit in ("s", "ms"):
        if us >= UNITS[unit]:
            return f"{us / UNITS[unit]:.4g} {unit}"
    return f"{us:.4g} us"


def rounded(rate):
    """Return a rate with a few digits, as tables and load have it."""
    return float(f"{rate:.{DECIMALS}g}")


def narrow(holds, ends, start, least, step):
    """Return the ends of a bracket once it is narrow.

    The low end holds or is 0, the high one does not hold or is infinite. Try
    start first if neither end is known. If nothing from least on holds, the
    low end stays 0.
    """
    low, high = ends
    while low == 0 or high > low * (1 + WITHIN):
        if high == math.inf:
            rate = low * step if low else start
            step *= step if low else 1
        elif low == 0:
            rate = max(high / step, least)
            step *= step
            if high <= least:
                break
        else:
            rate = math.sqrt(low * high)
        rate = rounded(rate)
        if low >= rate or rate >= high:
            break
        if holds(rate):
            low = rate
        else:
            high = rate
    return low, high


def twice(holds, rate, first):
    """Return whether a rate holds in two of three tries, after the first."""
    second = holds(rate)
    return second if second == first else holds(rate)


def highest(holds, start, least):
    """Return the highest rate that holds, and the least that does not.

    Noise can spoil a try, and everything after it rests on its outcome. So
    both ends are tried again; if that contradicts, a third try decides, and
    the search goes on from there, once for each end.
    """
    low, high = narrow(holds, (0.0, math.inf), start, least, STEP)
    if twice(holds, high, False):
        low, high = narrow(holds, (high, math.inf), start, least, 1 + WITHIN)
    if low and not twice(holds, low, True):
        low, high = narrow(holds, (0.0, low), start, least, 1 + WITHIN)
    return low, high


class Stuck(Exception):
    """A search that can't go on; its text says why."""


class Search(measurement.Measurement):
    """All searches of one measurement, in the place of its runs."""

    TABLE = "tries.tsv", (*run.COLUMNS, "held")

    def __init__(self, settings, options, chosen, output):
        super().__init__(settings, options, chosen, output)
        self.goal = Goal.parse(options.find_rate)
        seconds = self.goal.limit_us / 1e6
        settings.duration = max(settings.duration,
                                min(LIMITS * seconds, LONGEST))
        self.patience_seconds = max(PATIENCE, 4 * seconds)
        self.rates = directory.Table(output, "rates.tsv", RATE_COLUMNS)
        self.done = directory.made(directory.rows_of(output, "rates.tsv"))
        # Of a search that was cut short, the tries that it made count.
        self.earlier = collections.defaultdict(list)
        for row in directory.rows_of(output, "tries.tsv"):
            plan = key_of(row)
            if plan not in self.done and \
                    directory.STOPPED not in (row["why"] or ""):
                self.earlier[plan].append(row)

    def limit(self):
        return None  # a search that is cut short finds nothing

    def make_all(self):
        """Make all searches that have no result yet."""
        total = self.planned()
        for repetition in range(1, self.options.repeat + 1):
            for block in self.blocks(repetition):
                for plan in block:
                    if plan.key not in self.done:
                        self.find(plan, total)

    def find(self, plan, total):
        """Make one search and write its result."""
        hunt = Hunt(self, plan)
        hunt.search()
        self.rates.add(hunt.row)
        self.say_row(plan, hunt.row, total)
        self.runs += 1

    def say_row(self, plan, row, total):
        """Report on a search, and on how long the rest takes."""
        name = verdict.entry_name(plan.contender.name, plan.contender.name
                                  if plan.entry == 2 else None)
        way = {"keep": "", "-": "", "new": ", new connections"}
        points = results.connections(plan.concurrency)
        if len(self.options.delay) > 1:
            points += f", {plan.delay_ms:g} ms"
        say(f"[{self.runs + 1}/{total}] {name}"
            f"{way[plan.contender.connection]}, {points}: "
            f"{outcome(row)}; {self.time_left(total)}")

    def make_once(self, plan):
        """Make one try, write its row and return it as it is read."""
        earlier = self.earlier[(*plan.key[:5], None, *plan.key[6:])]
        if earlier:
            made = earlier.pop(0)
            if made["rate_per_s"] == plan.rate:
                return made
            earlier.clear()
        row: dict[str, Any] = {"held": None}
        self.table.count += 1
        self.settings.load_patience = self.patience_seconds if plan.rate \
            else run.LOAD_PATIENCE
        try:
            self.measure(plan, row)
        except BaseException as problem:
            row["why"].append(str(problem) if isinstance(problem, Failure)
                              else directory.STOPPED)
            raise
        finally:
            row["valid"] = not row["why"]
            if plan.rate:
                row["held"] = self.held(plan, row)
            self.table.add(row)
        return results.typed({name: directory.format_value(value)
                              for name, value in row.items()})

    def held(self, plan, row):
        return row["valid"] and self.goal.met(row) and \
            row["throughput_per_s"] >= run.RATE_LEAST * plan.rate

    def attempt(self, plan):
        """Make a try, again while it fails because of other programs.

        Return the last row and how many there are.
        """
        for count in range(1, measurement.TRIES + 1):
            row = self.make_once(plan)
            spoilt = row["disturbed"] or only_kit(row)
            if not spoilt:
                self.patience = measurement.PATIENCE
            if row["held"] == "yes" or not plan.rate or not spoilt:
                break
            if count == measurement.TRIES:
                self.patience -= 1
                if self.patience == 0:
                    say("bench: the machine stays busy: disturbed tries are "
                        "no longer made again")
            if self.patience <= 0:
                break
        return row, count


def key_of(row):
    """Return what names the search of a try."""
    return results.plan_of({**row, "rate_per_s": None})


def only_kit(row):
    """Return whether nothing but the kit was the limit of a run."""
    reasons = (row["why"] or "").split("; ")
    return all(reason.startswith(run.KIT_LIMIT) for reason in reasons)


class Hunt:
    """One search: a contender, a number of connections, a repetition."""

    def __init__(self, search, plan):
        self.all = search
        self.plan = plan
        self.last = {}  # the last row of each rate, None for the closed loop
        self.best = {}  # the last one that was held
        goal = search.goal
        contender = plan.contender
        self.row: dict[str, Any] = dict.fromkeys(RATE_COLUMNS)
        self.row.update(
            contender=contender.name, entry=plan.entry, model=contender.model,
            upstream_connection=contender.connection, tries=0,
            concurrency=plan.concurrency, delay_ms=plan.delay_ms,
            repetition=plan.repetition, why=[], disturbed=[], unknown=[],
            figure=goal.figure, relation=goal.relation,
            limit_us=goal.limit_us)

    def search(self):
        """Find the rate and fill in the row."""
        row = self.row
        try:
            self.attempt(None)
            closed = self.last[None]
            row["closed_loop_per_s"] = closed["throughput_per_s"]
            row["upstream_use"] = closed["upstream_use"]
            # a rate does not rest on the rest: CPU and memory
            row["unknown"] = [reason for reason in
                              (closed["unknown"] or "").split("; ")
                              if reason.startswith("whether")]
            why = closed["why"] or ""
            if not closed["throughput_per_s"] or not all(
                    reason.startswith((run.LITTLES_LAW, run.KIT_LIMIT))
                    for reason in filter(None, why.split("; "))):
                raise Stuck(f"in a closed loop: {why or 'no reply'}")
            least = rounded(LEAST_LINES / self.all.settings.duration)
            low, high = highest(self.holds, max(
                START * closed["throughput_per_s"], least), least)
            self.take(low, high)
        except Stuck as problem:
            row["why"].append(str(problem))
        row["valid"] = not row["why"]

    def attempt(self, rate):
        plan = self.plan
        made, count = self.all.attempt(measurement.Plan(
            plan.contender, plan.entry,
            (plan.concurrency, plan.delay_ms, rate), plan.repetition))
        self.row["tries"] += count
        self.last[rate] = made
        return made

    def holds(self, rate):
        made = self.attempt(rate)
        held = made["held"] == "yes"
        if held:
            self.best[rate] = made
        say(f"    {rate:,g}/s: {describe(made, self.all.goal)}")
        return held

    def take(self, low, high):
        """Fill in what was found."""
        row = self.row
        row[RATE], row["rate_not_held_per_s"] = low, high
        if low:
            row["latency_us"] = \
                self.best[low][FIGURES[self.all.goal.figure]]
        failed = self.last[high]
        if failed["held"] != "yes" and failed["disturbed"]:
            row["disturbed"].append(failed["disturbed"])
        if failed["why"] and only_kit(failed):
            row["why"].append(f"at {high:,g} lines per second "
                              f"{failed['why']}")


def describe(row, goal):
    """Return how a try went, in words."""
    disturbed = f"; DISTURBED: {row['disturbed']}" if row["disturbed"] else ""
    if row["why"]:
        reasons = row["why"].replace(" lines per second", "/s")
        return f"not held: {reasons}{disturbed}"
    seen = f"{goal.figure} {time_text(row[FIGURES[goal.figure]])}"
    if row["held"] == "yes":
        return f"held, {seen}"
    if goal.met(row):
        seen += f", but {row['throughput_per_s']:,.0f} replies/s"
    return f"not held, {seen}{disturbed}"


def width(row):
    """Return how far apart the rates are that were held and not held."""
    return row["rate_not_held_per_s"] / row[RATE] - 1


def outcome(row):
    """Return the result of a search, in words."""
    if row["why"]:
        return "NOT VALID: " + directory.format_value(row["why"])
    limit = time_text(row["limit_us"])
    if not row[RATE]:
        return (f"no rate is held: {row['figure']} is not {row['relation']} "
                f"{limit} even at {row['rate_not_held_per_s']:,g} lines per "
                "second")
    disturbed = directory.format_value(row["disturbed"])
    return (f"{row[RATE]:,g} lines per second, {row['figure']} "
            f"{time_text(row['latency_us'])} (to {100 * width(row):.0f} %, "
            f"{row['tries']} tries)"
            f"{'; DISTURBED: ' + disturbed if disturbed else ''}")


def goal_of(rows):
    row = rows[0]
    return Goal(row["figure"], row["relation"], row["limit_us"])


def verdicts(rows, baseline):
    return verdict.verdicts_of(rows, baseline, ((RATE, "rate"),))


def heading(rows):
    return f"The highest rate with {goal_of(rows).text()}"


def quality(rows):
    """Return whether the results can be trusted, and sentences on why."""
    bad = [row for row in rows if row["valid"] != "yes"]
    shaky = [row for row in rows if row["disturbed"]]
    widths = [width(row) for row in rows
              if row[RATE] and row["valid"] == "yes"]
    said = []
    if shaky:
        said.append(f"NOT TRUSTWORTHY: in {len(shaky)} of {len(rows)} "
                    "searches the rate that was not held was disturbed each "
                    "time. Measure again on a quiet machine.")
    if bad:
        reasons = results.ordered(f"{row['contender']}: {row['why']}"
                                  for row in bad)
        said.append(f"{len(bad)} of {len(rows)} searches are not valid; the "
                    f"figures leave them out ({'; '.join(reasons)}).")
    if widths:
        said.append(f"Each rate is known to {100 * max(widths):.1f} % or "
                    f"better, in {sum(row['tries'] for row in rows):.0f} "
                    "tries.")
    said += verdict.gaps(rows, ("search", "searches"))
    return not bad and not shaky, said


def lines_of(found, groups):
    """Yield (connections, group's heading, name, rate, ratio) of a verdict."""
    for level in found.levels:
        for part in groups.baseline_first(found.names):
            for name in part.names:
                if found.comparison.made[name, level]:
                    yield (level, part.heading, name,
                           found.comparison.value(name, level, RATE),
                           found.get(name, level, RATE))


def rate_text(rate):
    return "none" if rate == 0 else results.cell(rate, 0)


def terminal(rows, baseline, groups):
    """Return the results as lines for a terminal."""
    lines = []
    for found in verdicts(rows, baseline):
        title = found.comparison.title()
        lines += textwrap.wrap(
            f"{heading(rows)}, in lines per second, and against {baseline} "
            f"with 95 % intervals: {title[0].lower()}{title[1:]}.", COLUMNS)
        last = last_group = None
        for level, group, name, rate, ratio in lines_of(found, groups):
            if level != last:
                lines += ["", f"{results.connections(level):<34}{'rate':>9}"
                              f"{'ratio':>8}"]
            if group and (level, group) != (last, last_group):
                lines.append(f" {group}")
            last, last_group = level, group
            label = verdict.shorten(name, 30)
            line = f"  {label:<32}{rate_text(rate):>9}"
            if ratio and name == baseline:
                line += (f"{'':10}(again: {verdict.number(ratio)}"
                         f"{bounded(ratio)})")
            elif ratio:
                bounds = verdict.interval(ratio)
                line += (f"{verdict.number(ratio):>8}  "
                         f"{bounds + '  ' if bounds else ''}"
                         f"{verdict.WORDS[ratio.word]}")
            lines.append(line)
        lines.append("")
    for text in quality(rows)[1]:
        lines += textwrap.wrap(text, COLUMNS)
    return lines


def bounded(ratio):
    bounds = verdict.interval(ratio)
    return f", {bounds}" if bounds else ""


def html_section(rows, baseline, groups):
    """Return the section of a page."""
    rows = results.current(rows)
    trusted, said = quality(rows)
    parts = [f"<h2>{html.escape(heading(rows))}</h2>",
             f'<p class="verdict {"good" if trusted else "bad"}">'
             f"{html.escape(' '.join(said))}</p>",
             "<p>Lines per second of an open loop, whose latencies count from "
             "when a line was due: the median of the searches, and its ratio "
             f"to {html.escape(baseline)}’s in the same repetition.</p>"]
    for found in verdicts(rows, baseline):
        parts += [f"<h3>{html.escape(found.comparison.title())}</h3>",
                  '<div class="wide"><table class="rates"><thead><tr>'
                  "<th>server</th><th>rate<br>per s</th><th>ratio</th>"
                  "<th>in words</th></tr></thead><tbody>"]
        last = last_group = None
        for level, group, name, rate, ratio in lines_of(found, groups):
            if level != last:
                parts.append('<tr class="level"><th colspan="4">'
                             f"{results.connections(level)}</th></tr>")
            if group and (level, group) != (last, last_group):
                parts.append('<tr class="group"><th colspan="4">'
                             f"{html.escape(group)}</th></tr>")
            last, last_group = level, group
            parts.append(html_row(name, name == baseline, level, rate, ratio))
        parts.append("</tbody></table></div>")
    return "\n".join(parts)


def html_row(name, base, level, rate, ratio):
    """Return a row; the baseline's ratio is that of its second entry."""
    cells = [rate_text(rate), "–", ""]
    if ratio:
        word = verdict.WORDS[ratio.word]
        bounds = verdict.interval(ratio)
        cells[1:] = [verdict.number(ratio) +
                     (f"<br><small>{bounds}</small>" if bounds else ""),
                     f"again: {word}" if base else word]
    return (f'<tr{" class=" + chr(34) + "base" + chr(34) if base else ""} '
            f'data-name="{html.escape(name)}" data-level="{level}"><td>'
            f"{html.escape(name)}</td>" +
            "".join(f"<td>{text}</td>" for text in cells) + "</tr>")


def rows_of(path):
    """Return the results of a directory, if it has any."""
    return results.current(directory.rows_of(path, "rates.tsv")) \
        if os.path.isdir(path) else []
