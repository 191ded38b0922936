# SPDX-License-Identifier: MIT
"""Writes the tables of figures into a Markdown page, between markers."""

import os

from . import matrix, report, results, verdict
from .console import wrap
from .directory import facts_of
from .groups import Groups
from .processes import Failure

BEGIN = "<!-- figures: scripts/plot --table writes what follows -->"
END = "<!-- end of the figures -->"

# The same for the matrix, on a page that has these lines.
MATRIX_BEGIN = "<!-- matrix: scripts/plot --table writes what follows -->"
MATRIX_END = "<!-- end of the matrix -->"

WIDTH = 79  # columns of a line

# The columns of a table, with their headings.
HEADINGS = {
    "throughput_per_s": "requests/s",
    "cpu_per_request_us": "CPU per request, µs",
    "latency_p50_us": "p50, ms",
    "latency_p99_us": "p99, ms",
    "voluntary_switches_per_request": "switches per request",
    "memory_per_connection_kib": "memory per connection, KiB",
}


def level_table(comparison, level, ratios, groups):
    """Return the medians at this many connections, a row per style."""
    lines = [f"**{results.connections(level)}**", "",
             f"| style | {' | '.join(HEADINGS.values())} | "
             f"CPU / {ratios.baseline}'s |",
             "|---|" + "---:|" * (len(HEADINGS) + 1)]
    for part in groups.baseline_first(comparison.names):
        rows = [row_of(comparison, level, ratios, name)
                for name in part.names if comparison.made[name, level]]
        if rows and part.heading:
            lines.append(f"| **{part.heading}** |" +
                         " |" * (len(HEADINGS) + 1))
        lines += rows
    return lines + [""]


def row_of(comparison, level, ratios, name):
    """Return the row of one style."""
    cells = []
    for column in HEADINGS:
        cells.append(report.shown(comparison, name, level, column))
        if column == report.CPU:
            spread = comparison.spread(name, level, column, 0)
            cells[-1] += f" ({spread})" if spread else ""
    ratio = ratios.get(name, level, report.CPU)
    own = name == ratios.baseline  # its ratio is that to itself
    cells.append(verdict.number(ratio) if ratio and not own else "–")
    return f"| `{name}` | " + " | ".join(cells) + " |"


def facts_line(comparison, facts):
    """Return a sentence on what the medians are of."""
    mine = [row for row in comparison.rows if row["valid"] == "yes"]
    dropped = len(comparison.rows) - len(mine)
    if not mine:
        raise Failure("no run is valid")
    text = (f"{comparison.title()}; medians, of CPU in brackets the least and "
            "the most.")
    if facts:
        text += f" {report.summary_line(comparison.rows, facts)}."
    if dropped:
        text += (f" {dropped} of {len(comparison.rows)} runs failed a check "
                 f"and {'is' if dropped == 1 else 'are'} left out; so is a "
                 "row of which more than half did.")
    return text


def read(directory):
    """Return the rows of a measurement, its facts and its baseline."""
    path = os.path.join(directory, "runs.tsv")
    rows = results.read_rows(path)
    if not rows:
        raise Failure(f"{path} has no rows")
    facts = facts_of(directory)
    return rows, facts, results.baseline_of(rows, facts)


def tables(directory):
    """Return the Markdown lines, of the first of the comparisons."""
    rows, facts, baseline = read(directory)
    comparison = results.comparisons_of(rows)[0]
    lines = wrap(facts_line(comparison, facts), 0, WIDTH) + [""]
    ratios = verdict.Verdict(comparison, baseline)
    groups = Groups(rows, baseline, facts)
    for level in comparison.levels:
        lines += level_table(comparison, level, ratios, groups)
    return lines


def matrix_tables(directory):
    """Return the Markdown lines of the first of the matrices. Raises Failure
    if there is none."""
    rows, facts, baseline = read(directory)
    matrices = matrix.matrices_of(rows, baseline, facts)
    if not matrices:
        raise Failure(f"{directory} has no matrix: no two ways to wait with "
                      "both ways to fetch")
    return matrix.markdown(matrices[0])


def put(page, text, begin, end, lines):
    """Return the text of a page with lines between two of its lines."""
    before, found, rest = text.partition(begin + "\n")
    _, found_end, after = rest.partition(end + "\n")
    if not found or not found_end:
        raise Failure(f"{page} lacks the lines '{begin}' and '{end}'")
    inside = "\n".join(lines)
    return f"{before}{begin}\n\n{inside}\n{end}\n{after}"


def write(directory, page):
    """Put the tables of DIR/runs.tsv between the markers of a page, and the
    matrix if the page has its markers too."""
    try:
        with open(page, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise Failure(f"{page}: {error.strerror}") from error
    text = put(page, text, BEGIN, END, tables(directory))
    if MATRIX_BEGIN in text:
        text = put(page, text, MATRIX_BEGIN, MATRIX_END,
                   matrix_tables(directory))
    with open(page, "w", encoding="utf-8") as file:
        file.write(text)
