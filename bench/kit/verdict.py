# SPDX-License-Identifier: MIT
"""Compares each contender with the baseline, and says how sure that is.

The runs of a repetition are neighbours in time, so they are compared in pairs:
the logarithm of contender / baseline, once per repetition. The baseline enters
each repetition twice. Its second entry over its first is how much the same
server differs from itself, by chance alone.
"""

import collections
import functools
import html
import itertools
import math
import re
import statistics

import numpy

from . import results
from .console import wrap
from .groups import Groups

# What is compared: column, heading.
COMPARED = (
    ("cpu_per_request_us", "CPU"),
    ("throughput_per_s", "requests/s"),
    ("latency_p50_us", "p50"),
    ("latency_p99_us", "p99"),
    ("memory_per_connection_kib", "memory"),
)
CPU = COMPARED[0][0]

CHANCE = 0.05  # an interval misses the true ratio this often
WRONG = 0.03  # how often a contender like the baseline is called different
SMALLEST = 0.01  # a difference below 1 % is none
BOOTSTRAP_LEAST = 5  # pairs; fewer have too few different resamples
LEAST = {"memory_per_connection_kib": 1.0}  # figures below have no ratio
TRIMMED = 0.2  # of the pairs, left out at each end: a busy host slows some
UNTRUSTED = "NOT TRUSTWORTHY"
RESAMPLES = 4000
NAME = 20  # columns for a name
CELL = 12  # columns for a figure
SHORT_BOUNDS = 11  # columns for an interval in a table of many
SHORT_CELLS = (11, 10, 10, 10)  # for the figures after it

# A ratio to the baseline, its interval, the number of pairs; word is less,
# more, none (no difference) or few (too few pairs to tell).
Ratio = collections.namedtuple("Ratio", "estimate low high pairs word")

WORDS = {"less": "less", "more": "more", "none": "no difference",
         "few": "too few runs to tell"}


def trimmed_mean(ordered):
    """Return the trimmed mean of values in ascending order."""
    cut = int(TRIMMED * len(ordered))
    return float(ordered[cut:len(ordered) - cut].mean())


def squared_error(ordered):
    """Return the variance of that mean, and how many values it has."""
    size = len(ordered)
    cut = int(TRIMMED * size)
    kept = size - 2 * cut
    if kept < 2:
        return 0.0, kept
    winsorized = numpy.clip(ordered, ordered[cut], ordered[size - cut - 1])
    return (float(winsorized.var(ddof=1)) * (size - 1) /
            (kept * (kept - 1))), kept


@functools.cache
def t_quantile(probability, freedom):
    """Return a quantile of Student's t distribution, above the median."""
    # With t = sqrt(freedom) tan(angle), its density is cos^(freedom - 1).
    angles = numpy.linspace(0, math.pi / 2, 200001)
    areas = numpy.cumsum(numpy.cos(angles) ** (freedom - 1))
    angle = angles[numpy.searchsorted(areas, (2 * probability - 1) *
                                      areas[-1])]
    return math.sqrt(freedom) * math.tan(angle)


@functools.lru_cache(maxsize=8)  # --until asks for ever larger sizes
def resampling(size, seed):
    """Return the part of each value in each resample's trimmed mean.

    The values are in ascending order, so those of a resample are, too, as soon
    as their ranks are: that is done once for all figures.
    """
    ranks = numpy.random.default_rng((size, seed)).integers(
        0, size, (RESAMPLES, size))
    cut = int(TRIMMED * size)
    kept = numpy.sort(ranks)[:, cut:size - cut]
    starts = size * numpy.arange(RESAMPLES)[:, numpy.newaxis]
    counts = numpy.bincount((starts + kept).ravel(),
                            minlength=RESAMPLES * size)
    return counts.reshape(RESAMPLES, size) / kept.shape[1]


class Spread:
    """How far the trimmed mean of some values may be off.

    With others, the same of the difference between the two means.
    """

    def __init__(self, values, others=()):
        self.size = min(len(values), len(others) or len(values))
        self.mean, self.means = 0.0, numpy.zeros(RESAMPLES)
        variances = []  # of each mean, and of how many values
        for seed, sign, each in (1, 1, values), (2, -1, others):
            if len(each):
                ordered = numpy.sort(each)
                self.mean += sign * trimmed_mean(ordered)
                self.means += sign * (resampling(len(each), seed) @ ordered)
                variances.append(squared_error(ordered))
        self.error = math.sqrt(sum(square for square, _ in variances))
        # Welch's degrees of freedom; those of one set if there is only one
        self.freedom = self.error and round(self.error ** 4 / sum(
            square ** 2 / (kept - 1) for square, kept in variances if square),
            1)

    def margin(self, chance):
        """Return how far off the mean may be, but by this chance.

        This is Yuen's: Student's for trimmed means.
        """
        return self.error and \
            self.error * t_quantile(1 - chance / 2, self.freedom)

    def interval(self, chance):
        """Return the interval that misses the true mean by this chance.

        The percentile interval of a few values is too narrow. Expanded like
        this (Hesterberg 2015, section 5.3) it is as wide as Student's would
        be. Even fewer values have too few resamples, and get Student's.
        """
        if self.size < BOOTSTRAP_LEAST:
            margin = self.margin(chance)
            return self.mean - margin, self.mean + margin
        tail = statistics.NormalDist().cdf(
            -math.sqrt(self.size / (self.size - 1)) *
            t_quantile(1 - chance / 2, self.size - 1))
        low, high = numpy.quantile(self.means, (tail, 1 - tail))
        return float(low), float(high)

    def excludes_zero(self, chance):
        """Return whether the true mean is not 0, wrong by this chance.

        With few values Yuen's test keeps to a small chance, which the
        bootstrap can't. The interval must exclude 0 as well.
        """
        low, high = self.interval(CHANCE)
        return not low <= 0 <= high and abs(self.mean) > self.margin(chance)


def logarithms(comparison, name, level, column):
    """Return the logarithms of a figure, by repetition and entry.

    There are none if it is not above its least value in all runs: the memory
    of a server may even shrink as clients come.
    """
    found: dict[float, dict] = collections.defaultdict(dict)
    for row in comparison.runs(name, level):
        value = comparison.figure(row, column)
        if value is None:
            continue
        if value <= LEAST.get(column, 0):
            return {}
        found[row["repetition"]][row.get("entry") or 1] = math.log(value)
    return found


def pairs_of(comparison, baseline, name, level, column):
    """Return log(contender / baseline) by repetition.

    For the baseline itself it is log(second entry / first).
    """
    base = logarithms(comparison, baseline, level, column)
    if name == baseline:
        return {repetition: entries[2] - entries[1]
                for repetition, entries in base.items() if len(entries) == 2}
    return {repetition: statistics.fmean(entries.values()) -
            statistics.fmean(base[repetition].values())
            for repetition, entries in logarithms(comparison, name, level,
                                                  column).items()
            if repetition in base}


def chance_of(column, levels):
    """Return how often a figure may be called different wrongly.

    Half of WRONG is for CPU per request, half for the other figures.
    """
    others = 1 if column == CPU else len(COMPARED) - 1
    return WRONG / 2 / levels / others


def ratio_of(spread, chance, floor):
    """Return the ratio with this spread of logarithms.

    It is called more or less only if a test says so that is wrong with this
    chance, and if it is further from 1 than SMALLEST and than the baseline's
    ratio to itself, the floor.
    """
    if spread.size < 2:
        return Ratio(math.exp(spread.mean), None, None, spread.size, "few")
    low, high = spread.interval(CHANCE)
    least = math.log1p(SMALLEST)
    if floor is not None:
        least = max(least, abs(floor.mean))
    word = "none"
    if abs(spread.mean) > least and spread.excludes_zero(chance):
        word = "more" if spread.mean > 0 else "less"
    return Ratio(math.exp(spread.mean), math.exp(low), math.exp(high),
                 spread.size, word)


class Verdict:
    """The ratios of one comparison."""

    def __init__(self, comparison, baseline, figures=COMPARED):
        self.comparison = comparison
        self.baseline = baseline
        self.figures = figures
        self.names = [baseline] + [name for name in comparison.names
                                   if name != baseline]
        self.levels = [*comparison.levels]
        pairs = {(name, level, column): pairs_of(comparison, baseline, name,
                                                 level, column)
                 for name in self.names for level in self.levels
                 for column, _ in figures}
        self.ratios = self.judge({key: list(each.values())
                                  for key, each in pairs.items() if each})

    def judge(self, pairs):
        """Return the ratio of each (name, level, column) that has pairs."""
        spreads = {}
        for level, (column, _) in itertools.product(self.levels,
                                                    self.figures):
            spreads.update({key: Spread(values)
                            for key, values in pairs.items()
                            if key[1:] == (level, column)})
        found = {}
        for key, spread in spreads.items():
            name, level, column = key
            floor = spreads.get((self.baseline, level, column))
            found[key] = ratio_of(spread, chance_of(column, len(self.levels)),
                                  None if name == self.baseline else floor)
        return found

    def get(self, name, level, column):
        """Return a ratio, or None."""
        return self.ratios.get((name, level, column))

    def headline(self, name):
        """Return the most connections with a ratio of CPU per request, and
        that ratio, or None."""
        for level in reversed(self.levels):
            ratio = self.get(name, level, CPU)
            if ratio:
                return level, ratio
        return None

    def width(self, name, level):
        """Return half the width of the interval of CPU per request, as a
        share; infinite if it is not known."""
        ratio = self.get(name, level, CPU)
        if not ratio or ratio.low is None:
            return math.inf
        return (math.log(ratio.high) - math.log(ratio.low)) / 2


def verdicts_of(rows, baseline, figures=COMPARED):
    """Return the verdicts of all comparisons that have the baseline."""
    return [Verdict(comparison, baseline, figures)
            for comparison in results.comparisons_of(rows)
            if baseline in comparison.names]


def number(ratio):
    return f"{ratio.estimate:.2f}"


def interval(ratio, dash="–"):
    if ratio.low is None:
        return ""
    return f"{ratio.low:.2f}{dash}{ratio.high:.2f}"


def entry_name(name, baseline):
    return f"{name}, again" if name == baseline else name


def sentence(verdict, name):
    """Return the verdict on one contender in a sentence."""
    baseline = verdict.baseline
    who = f"{name} against itself" if name == baseline else name
    found = verdict.headline(name)
    if found is None:
        return f"{who}: {no_ratio(verdict, name)}"
    level, ratio = found
    where = f"CPU per request at {results.connections(level)}"
    but = invalid(verdict, name, level)
    if ratio.word == "few":
        return f"{who}: {number(ratio)} of {baseline}'s {where}, but too " \
               f"few runs to tell{but}"
    between = f"{ratio.low:.2f} to {ratio.high:.2f}"
    if ratio.word == "none":
        return f"{who}: no difference from {baseline} in {where} " \
               f"({number(ratio)}, {between}){but}"
    return f"{who}: {number(ratio)} of {baseline}'s {where} ({between}): " \
           f"{ratio.word}{but}"


def no_ratio(verdict, name):
    """Return why there is no ratio of CPU per request."""
    comparison = verdict.comparison
    for one in (name, verdict.baseline):
        valid = [row for level in verdict.levels
                 for row in comparison.runs(one, level)]
        if valid and not any(comparison.figure(row, CPU) for row in valid):
            return f"CPU per request of {one} is not known"
    return "no valid pair of runs to compare"


def invalid(verdict, name, level):
    """Return what is to be said of a contender's runs that are not valid."""
    made = verdict.comparison.made[name, level]
    bad = sum(row["valid"] != "yes" for row in made)
    return f"; {bad} of its {len(made)} runs are not valid" if bad else ""


def lead(verdict):
    """Return what short sentences are about."""
    return (f"CPU per request at {results.connections(verdict.levels[-1])}, "
            f"divided by that of {verdict.baseline}:")


def short_sentence(verdict, name):
    """Return the verdict on one contender of many, below the lead; the whole
    sentence if it is not about the most connections."""
    found = verdict.headline(name)
    if not found or found[0] != verdict.levels[-1]:
        return sentence(verdict, name)
    level, ratio = found
    bounds = f" ({interval(ratio, ' to ')})" if ratio.word != "few" else ""
    return (f"{entry_name(name, verdict.baseline)}: {number(ratio)}{bounds}, "
            f"{WORDS[ratio.word]}{invalid(verdict, name, level)}")


def shorten(name, width):
    """Return a name that fits, without its middle if it is too long."""
    if len(name) <= width:
        return name
    return name[:width - width // 2 - 1] + "…" + name[-(width // 2):]


def terminal_table(verdict, heading, label):
    """Return the lines of the table, for a terminal; label names a row."""
    lines = [*wrap(heading, 0), "",
             " " * NAME + "".join(f"{heading:>{CELL - 1}} "
                                  for _, heading in COMPARED).rstrip()]
    for level in verdict.levels:
        lines.append(results.connections(level))
        for name in verdict.names:
            found = [verdict.get(name, level, column)
                     for column, _ in COMPARED]
            if not any(found):
                continue
            first = f"  {shorten(label(name), NAME - 3):<{NAME - 2}}"
            second = " " * NAME
            for ratio in found:
                text = number(ratio) if ratio else "–"
                mark = "*" if ratio and ratio.word in ("less", "more") else " "
                first += f"{text:>{CELL - 1}}{mark}"
                bounds = interval(ratio) if ratio else ""
                second += f"{bounds:>{CELL - 1}} "
            lines.append(first.rstrip())
            if second.strip():
                lines.append(second.rstrip())
    return lines


def short_table(verdict, groups):
    """Return the lines of a table with a line per contender, by group: only
    CPU has its interval."""
    lines = [*wrap(terminal_heading(verdict) + " The page has the intervals "
                   "of all.", 0), "",
             f"{'':{NAME}}{COMPARED[0][1]:>6}{'':13}" + "".join(
                 f"{heading:>{width - 1}} " for (_, heading), width
                 in zip(COMPARED[1:], SHORT_CELLS)).rstrip()]
    for level in verdict.levels:
        lines.append(results.connections(level))
        for part in groups.baseline_first(verdict.names):
            rows = [line for name in part.names
                    if (line := short_row(verdict, name, level))]
            if rows and part.heading:
                lines.append(f" {part.heading}")
            lines += rows
    return lines


def short_row(verdict, name, level):
    """Return a line of the table, or nothing if there is no ratio."""
    found = [verdict.get(name, level, column) for column, _ in COMPARED]
    if not any(found):
        return ""
    texts = [number(ratio) + (
        "*" if ratio.word in ("less", "more") else " ") if ratio else "– "
        for ratio in found]
    bounds = interval(found[0]) if found[0] else ""
    if len(bounds) > SHORT_BOUNDS:
        bounds = f"{found[0].low:.0f}–{found[0].high:.0f}"
    label = shorten(entry_name(name, verdict.baseline), NAME - 3)
    return (f"  {label:<{NAME - 2}}{texts[0]:>7}"
            f"{bounds:>{SHORT_BOUNDS + 1}}" + "".join(
                f"{text:>{width}}"
                for text, width in zip(texts[1:], SHORT_CELLS))).rstrip()


def terminal_heading(verdict):
    title = verdict.comparison.title()
    return (f"Against {verdict.baseline}, with 95 % intervals: "
            f"{title[0].lower()}{title[1:]}. A * marks what differs by more "
            f"than {verdict.baseline} from itself.")


def in_words(found):
    """Return in words what differs among (heading, ratio)."""
    real = [f"{heading} {WORDS[ratio.word]}" for heading, ratio in found
            if ratio.word in ("less", "more")]
    if real:
        return ", ".join(real)
    few = all(ratio.word == "few" for _, ratio in found)
    return WORDS["few" if few else "none"]


def html_table(verdict, groups):
    """Return the table as HTML: the baseline, then the groups."""
    heads = "".join(f"<th>{heading}</th>" for _, heading in COMPARED)
    parts = ['<div class="wide"><table class="ratios"><thead><tr>'
             f"<th>server</th>{heads}<th>in words</th></tr></thead><tbody>"]
    for level in verdict.levels:
        parts.append(f'<tr class="level"><th colspan="{len(COMPARED) + 2}">'
                     f"{results.connections(level)}</th></tr>")
        named = [(name, html_row(verdict, name, level))
                 for name in verdict.names]
        rows = {name: row for name, row in named if row}
        for part in groups.baseline_first(list(rows)):
            if part.heading:
                parts.append(f'<tr class="group"><th colspan="'
                             f'{len(COMPARED) + 2}">'
                             f"{html.escape(part.heading)}</th></tr>")
            parts += [rows[name] for name in part.names]
    parts.append("</tbody></table></div>")
    return "\n".join(parts)


def html_row(verdict, name, level):
    """Return a row of the table, or nothing if it has no ratio."""
    found = [(heading, verdict.get(name, level, column))
             for column, heading in COMPARED]
    if not any(ratio for _, ratio in found):
        return ""
    cells = "".join(html_cell(ratio) for _, ratio in found)
    words = in_words([each for each in found if each[1]])
    own = ' class="base"' if name == verdict.baseline else ""
    return (f"<tr{own}><td>"
            f"{html.escape(entry_name(name, verdict.baseline))}"
            f"</td>{cells}<td>{words}</td></tr>")


def html_cell(ratio):
    if not ratio:
        return "<td>–</td>"
    real = ' class="real"' if ratio.word in ("less", "more") else ""
    bounds = interval(ratio)
    return (f"<td{real}>{number(ratio)}"
            f"{'<br><small>' + bounds + '</small>' if bounds else ''}</td>")


def html_section(rows, baseline, groups):
    """Return the verdict as parts of a page, without its heading."""
    trusted, said = quality(rows)
    parts = [f'<p class="verdict {"good" if trusted else "bad"}">'
             f"{html.escape(' '.join(said))}</p>"]
    found = verdicts_of(rows, baseline)
    if not found:
        return parts
    parts.append(
        f"<p>Each figure divided by {html.escape(baseline)}’s in the same "
        "repetition, with the interval that has the true ratio in 95 of 100 "
        "measurements. Bold: it differs from 1 by more than "
        f"{html.escape(baseline)} differs from itself (“again”), by more "
        "than 1 %, and more than is due to chance: among so many figures some "
        "intervals exclude 1 by chance alone. Less CPU, latency and memory is "
        "better; more requests are.</p>")
    for verdict in found:
        parts.append(f"<h3>{html.escape(verdict.comparison.title())}</h3>")
        if groups.split:
            parts.append(f"<p>{html.escape(lead(verdict))}</p>")
        say = short_sentence if groups.split else sentence
        for part in groups.baseline_first(verdict.names):
            if part.heading:
                parts.append(f"<h4>{html.escape(part.heading)}</h4>")
            parts.append("<ul>" + "".join(
                f"<li>{html.escape(say(verdict, name))}</li>"
                for name in part.names) + "</ul>")
        table = html_table(verdict, groups)
        parts.append("<details><summary>All ratios, at each number of "
                     f"connections</summary>{table}</details>"
                     if groups.split else table)
    return parts


def quality(rows):
    """Return whether the rows can be trusted, and sentences on why."""
    counted = results.current(rows)
    bad = [row for row in counted if row["valid"] != "yes"]
    disturbed = [row for row in counted if row.get("disturbed")]
    shaky = any(comparison.disturbed(name, level)
                for comparison in results.comparisons_of(rows)
                for name in comparison.names for level in comparison.levels)
    said = []
    if shaky:
        said.append(f"{UNTRUSTED}: {len(disturbed)} of "
                    f"{runs(len(counted), 'was', 'were')} disturbed "
                    f"({reasons_of(disturbed)}). Measure again on a quiet "
                    "machine.")
    if bad:
        said.append(f"{len(bad)} of {runs(len(counted), 'is', 'are')} not "
                    "valid, and in no figure.")
    elif not shaky:
        checks = "the checks that can be made" if any(
            "whether" in (row.get("unknown") or "") for row in counted) \
            else "all checks"
        said.append(f"{'All ' if len(counted) > 1 else ''}"
                    f"{runs(len(counted), 'has', 'have')} passed {checks}.")
    said += gaps(counted)
    again = len(rows) - len(counted)
    if again:
        said.append(f"Besides, {runs(again, 'was', 'were')} disturbed or "
                    "stopped, and made again.")
    if disturbed and not shaky:
        said.append(f"{runs(len(disturbed), 'was', 'were')} disturbed, and "
                    "is in no figure." if len(disturbed) == 1 else
                    f"{runs(len(disturbed), 'was', 'were')} disturbed, and "
                    "are in no figure.")
    return not bad and not shaky, said


def gaps(rows, kind=("run", "runs")):
    """Return sentences on what is not known of servers that run elsewhere."""
    found: dict[str, dict] = collections.defaultdict(dict)
    for row in rows:
        for reason in filter(None, (row.get("unknown") or "").split("; ")):
            names = found[reason]
            names[row["contender"]] = names.get(row["contender"], 0) + 1
    return [f"NOT KNOWN: {reason} ({', '.join(names)}: "
            f"{(count := sum(names.values()))} {kind[count > 1]})."
            for reason, names in found.items()]


def runs(count, singular, plural):
    """Return '1 run was' or 'N runs were'."""
    return f"1 run {singular}" if count == 1 else f"{count} runs {plural}"


def reasons_of(disturbed):
    """Return what disturbed some runs, each cause at its worst."""
    worst: dict[str, float] = {}
    for row in disturbed:
        for reason in row["disturbed"].split("; "):
            found = re.fullmatch(r"(.*) ([\d.]+) cores", reason)
            cause, cores = (found[1], float(found[2])) if found \
                else (reason, 0.0)
            worst[cause] = max(worst.get(cause, 0.0), cores)
    return ", ".join(f"{cause} up to {cores:.1f} cores" if cores else cause
                     for cause, cores in worst.items())


def terminal(rows, baseline, groups=None):
    """Return the whole verdict as lines for a terminal."""
    groups = groups or Groups()
    lines = []
    for comparison in results.comparisons_of(rows):
        if baseline not in comparison.names:
            lines += wrap(f"{baseline} has no runs to compare with: "
                          f"{comparison.title()}.", 0)
    for verdict in verdicts_of(rows, baseline):
        lines += short_table(verdict, groups) if groups.split else \
            terminal_table(verdict, terminal_heading(verdict),
                           functools.partial(entry_name, baseline=baseline))
        lines.append("")
        if groups.split:
            lines += [*wrap(lead(verdict), 0), ""]
        say = short_sentence if groups.split else sentence
        for part in groups.baseline_first(verdict.names):
            if part.heading:
                lines.append(f" {part.heading}")
            for name in part.names:
                lines += wrap(("  " if groups.split else "") +
                              say(verdict, name))
        lines.append("")
    for text in quality(rows)[1]:
        lines += wrap(text, 0)
    return lines
