# SPDX-License-Identifier: MIT
"""What waits, and what fetches: what each costs, and whether the two add up.

Servers that differ in nothing else are the cells of a table: a row for each
way to wait, a column for each way to fetch. Differences are taken within each
repetition, as in the verdict.
"""

import html
import itertools
import math
import os
import statistics
from typing import Any, NamedTuple

from . import charts, results, verdict
from .contenders import FETCHES, WAITS

LIBRARY, PLAIN = FETCHES
SWITCHES = ("voluntary_switches_per_request",
            "involuntary_switches_per_request")
CALLS = "system_calls_per_request"  # counted once, so without an interval
COVERAGE = 0.95


class Measure(NamedTuple):
    """A figure of the matrix: the sum of its columns in runs.tsv."""
    slug: str
    columns: tuple
    heading: str
    unit: str
    decimals: int


MEASURES = (
    Measure("cpu", (verdict.CPU,), "CPU per request", "µs", 1),
    Measure("switches", SWITCHES, "Context switches per request", "", 2),
    Measure("calls", (CALLS,), "System calls per request", "", 1),
    Measure("memory", ("memory_per_connection_kib",),
            "Memory per connection", "KiB", 1),
)
CPU = MEASURES[0]

READING = """A line goes from plain sockets to libcurl: its slope is what the
library costs, its distance from another line what waiting costs. Where the
lines are parallel, the two add up. An upright bar is the interval of a
median."""


class Effect(NamedTuple):
    """A difference or a ratio, and its interval.

    The word is more, less, none or few as in the verdict; unsure if the
    interval excludes no effect but the stricter test does not; empty where
    nothing can be said.
    """
    estimate: float
    low: float | None
    high: float | None
    word: str


def cells_of(facts):
    """Return the contender of each (waits, fetches)."""
    return {(entry["waits"], entry["fetches"]): entry["name"]
            for entry in facts.get("contenders", ())
            if entry.get("waits") in WAITS
            and entry.get("fetches") in FETCHES}


def median_interval(values):
    """Return the least and the most that the median may be, whatever the
    distribution: two of the values. None if there are too few."""
    count = len(values)
    below = 0.0  # chance that at most so many values are below the median
    rank = -1
    while rank + 1 < count // 2:
        below += math.comb(count, rank + 1) / 2 ** count
        if below > (1 - COVERAGE) / 2:
            break
        rank += 1
    if rank < 0:
        return None
    ordered = sorted(values)
    return ordered[rank], ordered[-1 - rank]


class Matrix:
    """The matrix of one comparison."""

    def __init__(self, comparison, baseline, cells):
        self.comparison = comparison
        self.baseline = baseline
        self.cells = {cell: name for cell, name in cells.items()
                      if name in comparison.names}
        self.effects: dict[tuple, Effect | None] = {}
        self.waits = [wait for wait in WAITS if any(
            (wait, fetch) in self.cells for fetch in FETCHES)]
        self.complete = [wait for wait in self.waits if all(
            (wait, fetch) in self.cells for fetch in FETCHES)]

    def drawn(self):
        """Return whether there are at least two rows of two cells."""
        return len(self.complete) > 1

    @property
    def base(self):
        """Return what the others wait for: threads, if they are there."""
        return self.complete[0]

    def values(self, cell, level, measure):
        """Return the values by repetition, of each entry."""
        found: dict[float, dict] = {}
        name = self.cells.get(cell)
        for row in self.comparison.runs(name, level) if name else ():
            parts = [self.comparison.figure(row, column)
                     for column in measure.columns]
            if None not in parts:
                found.setdefault(row["repetition"], {})[
                    row.get("entry") or 1] = sum(parts)
        return found

    def flat(self, cell, level, measure):
        return [value for entries in self.values(cell, level, measure)
                .values() for value in entries.values()]

    def median(self, cell, level, measure):
        """Return the median of a cell, and its interval or None."""
        values = self.flat(cell, level, measure)
        if not values:
            return None, None
        return statistics.median(values), (
            None if measure.columns == (CALLS,) else median_interval(values))

    def contrast(self, terms, level, measure, log=False):
        """Return the sum of (sign, cell) in each repetition that has all;
        with log, of the logarithms. Nothing if a logarithm is not defined."""
        least = verdict.LEAST.get(measure.columns[0], 0) if log else -math.inf
        columns = []
        for sign, cell in terms:
            values = self.values(cell, level, measure)
            if any(value <= least for entries in values.values()
                   for value in entries.values()):
                return []
            columns.append({
                repetition: sign * statistics.fmean(
                    math.log(value) if log else value
                    for value in entries.values())
                for repetition, entries in values.items()})
        return [sum(column[repetition] for column in columns)
                for repetition in columns[0]
                if all(repetition in column for column in columns)]

    def floor(self, level, measure, log):
        """Return what a difference must exceed: the least that counts, and
        how much the baseline differs from itself."""
        middle, _ = self.median((self.base, LIBRARY), level, measure)
        least = math.log1p(verdict.SMALLEST) if log \
            else verdict.SMALLEST * abs(middle or 0)
        for cell, name in self.cells.items():
            if name == self.baseline:
                own = [[math.log(entries[entry]) if log else entries[entry]
                        for entry in (1, 2)]
                       for entries in self.values(cell, level,
                                                  measure).values()
                       if len(entries) == 2
                       and (not log or min(entries.values()) > 0)]
                if own:
                    least = max(least, abs(verdict.Spread(
                        [second - first for first, second in own]).mean))
        return least

    def effect(self, terms, level, measure, log=False):
        """Return the effect of these terms, or None if it is not known."""
        key = (*terms, level, measure.slug, log)
        if key not in self.effects:
            self.effects[key] = self.estimate(terms, level, measure, log)
        return self.effects[key]

    def estimate(self, terms, level, measure, log):
        """Return the same, from the rows."""
        values = self.contrast(terms, level, measure, log)
        if not values:
            return None

        def shown(mean):
            return math.exp(mean) if log else mean

        spread = verdict.Spread(values)
        if measure.columns == (CALLS,):
            return Effect(shown(spread.mean), None, None, "")
        if spread.size < 2:
            return Effect(shown(spread.mean), None, None, "few")
        low, high = spread.interval(verdict.CHANCE)
        word = "none"
        if abs(spread.mean) > self.floor(level, measure, log) and \
                not low <= 0 <= high:
            word = "unsure"
            if spread.excludes_zero(self.chance(measure)):
                word = "more" if spread.mean > 0 else "less"
        return Effect(shown(spread.mean), shown(low), shown(high), word)

    def chance(self, measure):
        """Return how often an interaction may be found wrongly: half of
        verdict.WRONG is for CPU, half for the others."""
        tests = 2 * len(self.comparison.levels) * (len(self.complete) - 1)
        others = 1 if measure is CPU else len(MEASURES) - 1
        return verdict.WRONG / 2 / tests / others

    def library(self, wait, level, measure, log=False):
        """Return what the library costs with this way to wait."""
        return self.effect([(1, (wait, LIBRARY)), (-1, (wait, PLAIN))],
                           level, measure, log)

    def waiting(self, wait, fetch, level, measure, log=False):
        """Return what this way to wait costs more than the base."""
        return self.effect([(1, (wait, fetch)), (-1, (self.base, fetch))],
                           level, measure, log)

    def interaction(self, wait, level, measure, log=False):
        """Return how much more the library costs with this way to wait than
        with the base: 0 if the two add up, 1 if they multiply."""
        return self.effect(
            [(1, (wait, LIBRARY)), (-1, (wait, PLAIN)),
             (-1, (self.base, LIBRARY)), (1, (self.base, PLAIN))],
            level, measure, log)


def matrices_of(rows, baseline, facts):
    """Return the matrices of the comparisons that have one."""
    cells = cells_of(facts)
    found = [Matrix(comparison, baseline, cells)
             for comparison in results.comparisons_of(rows)]
    return [each for each in found if each.drawn()]


def signed(value, decimals):
    return f"{value:+,.{decimals}f}".replace("-", "−")


def plain(value, decimals):
    return f"{value:,.{decimals}f}".replace("-", "−")


def with_unit(text, measure):
    return f"{text} {measure.unit}".strip()


def between(effect, decimals, form=plain):
    """Return the interval in words, with a blank before it, if known."""
    if effect.low is None:
        return ""
    return f" ({form(effect.low, decimals)} to {form(effect.high, decimals)})"


def cost(effect, measure):
    return with_unit(plain(effect.estimate, measure.decimals),
                     measure) + between(effect, measure.decimals)


def verdict_on(matrix, wait, level, measure=CPU):
    """Return in words whether waiting and library add up, or nothing."""
    added = matrix.interaction(wait, level, measure)
    base = matrix.base
    both = [matrix.library(each, level, measure) for each in (base, wait)]
    if not added or None in both:
        return ""
    text = (f"{LIBRARY} costs {cost(both[0], measure)} with {base} and "
            f"{cost(both[1], measure)} with {wait}")
    if added.word == "few":
        return f"{text}; too few runs to tell whether the two add up."
    if not added.word:
        return f"{text}."
    if added.word == "none":
        text += ("; the two add up within the noise: the difference is "
                 f"{cost(added, measure)}.")
    elif added.word == "unsure":
        text += ("; too few runs to tell whether the two add up: the "
                 f"difference is {cost(added, measure)}.")
    else:
        text += (f"; the two don't add up: {LIBRARY} costs "
                 f"{difference(added, measure)} {added.word} with {wait}.")
    return f"{text} {factors(matrix, wait, level, measure)}".rstrip()


def difference(effect, measure):
    """Return the size of a difference, whichever its sign."""
    if effect.estimate >= 0:
        return cost(effect, measure)
    return cost(Effect(-effect.estimate, -effect.high, -effect.low,
                       effect.word), measure)


def factors(matrix, wait, level, measure):
    """Return in words whether waiting and library multiply, or nothing."""
    base = matrix.base
    both = [matrix.library(each, level, measure, True)
            for each in (base, wait)]
    ratio = matrix.interaction(wait, level, measure, True)
    if not ratio or None in both:
        return ""
    said = {"none": "the same factor within the noise",
            "few": "too few runs to tell whether that is the same",
            "unsure": "too few runs to tell whether that is the same"}.get(
                ratio.word, "not the same factor")
    return (f"A request costs {plain(both[0].estimate, 2)} and "
            f"{plain(both[1].estimate, 2)} times as much with it: "
            f"{said} (ratio {plain(ratio.estimate, 2)}"
            f"{between(ratio, 2).replace(' (', ', ').rstrip(')')}).")


def ratios_on(matrix, wait, level, measure=CPU):
    """Return in words what this way to wait costs, for each way to fetch."""
    said = []
    for fetch in reversed(FETCHES):
        ratio = matrix.waiting(wait, fetch, level, measure, True)
        if ratio:
            name, base = (matrix.cells[each, fetch]
                          for each in (wait, matrix.base))
            said.append(f"{name} / {base}: {plain(ratio.estimate, 2)}"
                        f"{between(ratio, 2)}")
    return f"{'; '.join(said)}." if said else ""


def sentences(matrix, level, measure=CPU):
    """Return what the matrix says at this many connections."""
    found = []
    for wait in matrix.waits:
        if wait != matrix.base:
            said = [ratios_on(matrix, wait, level, measure)]
            if wait in matrix.complete:
                said.append(verdict_on(matrix, wait, level, measure))
            if any(said):
                found.append(" ".join(text for text in said if text))
    return found


def headings(matrix, measure):
    """Return the headings of a table, with their units."""
    base = matrix.base
    unit = measure.unit
    return [("waits", ""), *((fetch, unit) for fetch in FETCHES),
            (f"{LIBRARY} costs", unit),
            *((f"{fetch}: over {base}", unit) for fetch in FETCHES),
            ("interaction", unit), ("interaction", "ratio")]


def cells_on(matrix, wait, level, measure):
    """Return the cells of a row as (text, interval, whether it is more than
    noise)."""
    decimals = measure.decimals
    found = []
    for fetch in FETCHES:
        value, bounds = matrix.median((wait, fetch), level, measure)
        found.append((results.cell(value, decimals).replace("-", "−"),
                      "–".join(plain(each, decimals) for each in bounds)
                      if bounds else "", False))
    effects: list[Any] = [
        (matrix.library(wait, level, measure), signed, decimals)]
    if wait == matrix.base:  # it costs nothing more than itself
        effects += [None] * 4
    else:
        effects += [(matrix.waiting(wait, fetch, level, measure), signed,
                     decimals) for fetch in FETCHES]
        effects += [(matrix.interaction(wait, level, measure), signed,
                     decimals),
                    (matrix.interaction(wait, level, measure, True), plain,
                     2)]
    for each in effects:
        if not each or not each[0]:
            found.append(("–" if each else "", "", False))
            continue
        effect, form, places = each
        found.append((form(effect.estimate, places),
                      between(effect, places, form).strip(" ()"),
                      effect.word in ("more", "less")))
    return found


def levels_of(matrix, measure):
    """Return the numbers of connections at which something is known."""
    return [level for level in matrix.comparison.levels
            if any(matrix.values(cell, level, measure)
                   for cell in matrix.cells)]


def html_table(matrix, measure):
    """Return the table of one figure, a block per number of connections."""
    heads = headings(matrix, measure)
    parts = ['<div class="wide"><table class="matrix" '
             f'data-measure="{measure.slug}"><thead><tr>' + "".join(
                 f"<th>{html.escape(text)}{'<br>' + unit if unit else ''}</th>"
                 for text, unit in heads) + "</tr></thead><tbody>"]
    for level in levels_of(matrix, measure):
        parts.append(f'<tr class="level"><th colspan="{len(heads)}">'
                     f"{results.connections(level)}</th></tr>")
        for wait in matrix.waits:
            cells = "".join(
                f"<td{' class=' + chr(34) + 'real' + chr(34) if real else ''}>"
                f"{text}{'<br><small>' + bounds + '</small>' * bool(bounds)}"
                "</td>" if bounds else f"<td>{text}</td>"
                for text, bounds, real in cells_on(matrix, wait, level,
                                                   measure))
            parts.append(f"<tr><td>{wait}</td>{cells}</tr>")
    parts.append("</tbody></table></div>")
    return "\n".join(parts)


def draw(matrix, measure, directory):
    """Draw the figure at each number of connections; return the SVGs."""
    panels = []
    for level in levels_of(matrix, measure):
        lines = []
        for wait in matrix.complete:
            points = []
            for index, fetch in enumerate(reversed(FETCHES)):
                value, bounds = matrix.median((wait, fetch), level, measure)
                if value is not None:
                    text = with_unit(results.cell(value, measure.decimals),
                                     measure)
                    points.append(charts.Point(
                        index, value, bounds or (value, value),
                        f"{matrix.cells[wait, fetch]}, "
                        f"{results.connections(level)}: {text}"))
            if points:
                lines.append(charts.Slope(wait, points))
        if lines:
            panels.append((level, lines))
    frame = [line for _, lines in panels for line in lines]
    colours = charts.colour_of(WAITS, WAITS[0])
    return [charts.slopes(
        os.path.join(directory, f"matrix-{matrix.comparison.slug}-"
                     f"{measure.slug}-{level}.svg"),
        lines, tuple(reversed(FETCHES)), results.connections(level), colours,
        frame) for level, lines in panels]


def html_section(matrices, directory):
    """Return the section of the page, drawing its charts."""
    parts = ['<h2 id="matrix">What waits, and what fetches</h2>',
             "<p>Servers that differ in nothing else. A cell is a median with "
             "its interval. A cost is a difference within each repetition. "
             "Two costs add up if the library costs the same, whatever "
             "waits: then the interaction is 0. They multiply if it costs "
             "the same factor: then its ratio is 1. Bold: more than noise, "
             "by the rules of the verdict.</p>"]
    for matrix in matrices:
        parts.append(f"<h3>{html.escape(matrix.comparison.title())}</h3>")
        said = [html_sentences(matrix, level)
                for level in reversed(levels_of(matrix, CPU))]
        parts += said[:1]
        if said[1:]:
            parts.append("<details><summary>The same at fewer connections"
                         f"</summary>{''.join(said[1:])}</details>")
        for measure in MEASURES:
            svgs = draw(matrix, measure, directory)
            if not svgs:
                continue
            caption = f"<figcaption>{html.escape(READING)}</figcaption>" \
                if measure is CPU else ""
            unit = f", {measure.unit}" if measure.unit else ""
            parts.append(
                f'<figure class="multiple"><h4>{measure.heading}{unit}</h4>'
                f'{caption}<div class="figures small">' +
                "".join(f"<div>{svg}</div>" for svg in svgs) +
                "</div></figure>")
            parts.append(html_table(matrix, measure))
    return "\n".join(parts)


def html_sentences(matrix, level):
    """Return what the matrix says at this many connections."""
    said = sentences(matrix, level)
    items = "".join(f"<li>{html.escape(text)}</li>" for text in said)
    return (f"<h4>CPU per request at {results.connections(level)}</h4>"
            f"<ul>{items}</ul>" if said else "")


def terminal(matrices):
    """Return what the matrices say, as lines for a terminal."""
    lines = []
    for matrix in matrices:
        levels = levels_of(matrix, CPU)
        said = sentences(matrix, levels[-1]) if levels else []
        if said:
            title = matrix.comparison.title()
            lines += verdict.wrap(
                "What waits, and what fetches: CPU per request at "
                f"{results.connections(levels[-1])}, "
                f"{title[0].lower()}{title[1:]}.", 0)
            lines += [""] + [line for text in said
                             for line in verdict.wrap(f"  {text}")] + [""]
    return lines


def markdown(matrix):
    """Return the tables and sentences as Markdown lines."""
    lines = []
    for measure in MEASURES:
        levels = levels_of(matrix, measure)
        if not levels:
            continue
        heads = [text + (", ratio" if unit == "ratio" else "")
                 for text, unit in headings(matrix, measure)]
        unit = f", {measure.unit}" if measure.unit else ""
        lines += [f"**{measure.heading}{unit}**", "",
                  f"| connections | {' | '.join(heads)} |",
                  "|---:|---|" + "---:|" * (len(heads) - 1)]
        for level, wait in itertools.product(levels, matrix.waits):
            cells = [text + (f" ({bounds})" if bounds else "")
                     for text, bounds, _ in cells_on(matrix, wait, level,
                                                     measure)]
            lines.append(f"| {level:,} | {wait} | {' | '.join(cells)} |")
        lines.append("")
    for level in levels_of(matrix, CPU):
        said = sentences(matrix, level)
        if said:
            lines += [f"CPU per request at {results.connections(level)}:",
                      ""]
            for text in said:
                lines += verdict.wrap(f"- {text}", 2, 79)
            lines.append("")
    return lines
