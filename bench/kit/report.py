# SPDX-License-Identifier: MIT
"""Writes the page of a measurement: verdict, charts, tables, how to read them.

Every figure comes from value_of(), so that tables and charts agree.
"""

import collections
import gzip
import html
import os
import re
import statistics
from typing import NamedTuple

import numpy

from . import charts, matrix, search, verdict
from .directory import facts_of, rows_of
from .groups import Groups
from .processes import Failure
from .results import (baseline_of, cell, comparisons_of, connections, current,
                      median, ordered, read_rows)


class Figure(NamedTuple):
    """How a column is shown, wherever it is: in tables and in charts."""
    heading: str
    unit: str = ""
    decimals: int = 2
    factor: float = 1


FIGURES = {
    "throughput_per_s": Figure("requests", "per s", 0),
    "overhead_ratio": Figure("overhead"),
    "cpu_per_request_us": Figure("CPU per request", "µs", 1),
    "cpu_user_per_request_us": Figure("user", "µs", 1),
    "cpu_system_per_request_us": Figure("system", "µs", 1),
    "voluntary_switches_per_request": Figure("switches, voluntary"),
    "involuntary_switches_per_request": Figure("involuntary"),
    "system_calls_per_request": Figure("system calls", "", 1),
    "memory_per_connection_kib": Figure("memory per connection", "KiB", 1),
    "memory_growth_per_request_bytes": Figure("growth per request", "B", 1),
    "latency_p50_us": Figure("p50", "ms", 2, 1e-3),
    "latency_p99_us": Figure("p99", "ms", 2, 1e-3),
    "latency_p999_us": Figure("p99.9", "ms", 2, 1e-3),
    "latency_max_us": Figure("max", "ms", 2, 1e-3),
}
CPU = "cpu_per_request_us"
CPU_SPLIT = ("cpu_user_per_request_us", "cpu_system_per_request_us")
# Columns that a table lacks if no run has them.
NOT_ALWAYS = ("memory_growth_per_request_bytes", "latency_p999_us",
              "latency_max_us")
UPSTREAM_USE = {"keep": "kept", "new": "new each", "mixed": "mixed"}

POOL_TABLE = (
    ("overhead", "overhead", "", 3),
    ("create_ms", "starting the workers", "ms", 1),
    ("cpu_user_ms", "user", "ms", 0),
    ("cpu_system_ms", "system", "ms", 0),
    ("voluntary_switches", "switches, voluntary", "", 0),
    ("involuntary_switches", "involuntary", "", 0),
    ("late_p50_us", "lateness p50", "µs", 0),
    ("late_p99_us", "p99", "µs", 0),
    ("late_max_us", "max", "µs", 0),
)

READING = {
    "overhead": """How much longer the requests took than the upstream's delay
alone: total time / (delay × requests / connections), the documents' own
measure. 1 is the floor (the dashed line). Where a line is flat, another
connection costs nothing. Where it bends up, the server has run out of CPU; its
height there depends on CPU per request, not on threads or events. Lower is
better.""",
    "throughput": """Correct replies per second, both axes logarithmic. While
the upstream's delay is the limit, ten times the connections make ten times the
requests and the lines coincide: there the chart does not tell servers apart.
They part where CPU becomes the limit. If the kit shares the cores with the
server, the limit is what all three use together, which makes servers look more
alike than they are: compare CPU per request instead. Higher is better.""",
    "one level": """Measured at one number of connections, on a logarithmic
axis. The best is first.""",
    "cpu": """CPU time per request of all the server's threads and processes,
whatever the server waits for, at each number of connections with a scale of
its own. The total is exact; its split into user code and kernel is sampled by
the kernel's ticks, and at one connection there are few of them. The kit's own
CPU time is not included. Lower is better.""",
    "squeezed": """One server would leave the others no room, so the axis is
logarithmic: equal distances are equal ratios.""",
    "latency": """Time from a line to its reply, over all connections: half of
the requests are within the dot, 99 of 100 within the triangle, which gives the
order. Each number of connections has its own logarithmic scale. In a closed
loop each connection sends again once it has its reply, so a slow server gets
fewer requests: beyond its limit the mean is connections / throughput, and only
the distance from dot to triangle shows how evenly it serves. Further left is
better.""",
    "memory": """Resident memory with all connections open and answered, minus
that of the idle server, per connection. Pages that processes share are counted
once. The heap of an interpreter or a garbage collector grows in steps, so
ignore differences of a few KiB. Lower is better.""",
    "switches": """How often per request the kernel switched a core from one
thread to another. Dot: the thread waited for something (voluntary), which
gives the order. Ring: it was preempted (involuntary). The axis is logarithmic
and starts at 0.01 or above: a faint mark at its left end is below it. This is
the documents' case against threads; see the CPU chart for what it amounts to.
A busy event loop needs few switches, because one wait returns many events.
Further left is cheaper.""",
    "pool": """The documents' own experiment: many sleeps of a few
milliseconds over a pool of N workers, without a network. Overhead is total
time / (sleep × tasks / N); 1 is the floor. In each model the clock starts when
the workers exist and wait, and stops when the last task is done.""",
    "heat": """Each cell is a moment, when lines were sent, and a latency; the
stronger its colour, the more requests. An even band is a steady server. A
stall is a gap with a streak above its start, of the requests that waited.
Several bands are requests that queue behind each other. Of each server this is
the run with the middle p99, and all share their axes.""",
}

PAGE_STYLE = """
:root{color-scheme:light dark;--paper:#ffffff;--ink:#1b1f24;--faint:#5b6470;
--rule:#d8dce2;--panel:#f5f7f9;--good:#1a7f37;--bad:#c4321f;--mark:#eef3fb}
@media(prefers-color-scheme:dark){:root{--paper:#14171b;--ink:#e3e6ea;
--faint:#9aa4b0;--rule:#30363d;--panel:#1b2026;--good:#4cc26a;--bad:#ff7b6b;
--mark:#1d2733}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:24px 20px 64px;
background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.2em 0}
h2{font-size:1.3rem;margin:2.2em 0 .3em;padding-top:.6em;
border-top:1px solid var(--rule)}
h3{font-size:1.05rem;margin:1.2em 0 .3em}
h4{font-size:.95rem;margin:1em 0 .2em}
p{margin:.5em 0;max-width:72ch}
.faint{color:var(--faint);font-size:.9rem}
.verdict{display:inline-block;font-weight:600;padding:.25em .7em;
border:1px solid currentColor;border-radius:6px;margin:.4em 0}
.good{color:var(--good)}.bad{color:var(--bad)}
.figures{display:grid;gap:20px 28px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,365px),1fr));
align-items:start}
figure.multiple .figures.small div{max-width:320px}
.figures.small{grid-template-columns:repeat(auto-fill,
minmax(min(100%,260px),1fr))}
figure{margin:0;min-width:0;max-width:480px}
figure h3{margin-top:.4em}
figure svg{width:100%;height:auto;display:block}
figcaption{font-size:.92rem;color:var(--faint)}
figure.multiple{grid-column:1/-1;max-width:none}
figure.multiple figcaption{max-width:72ch;margin:0 0 .6em}
figure.multiple .figures div{min-width:0;max-width:480px}
.wide{overflow-x:auto;margin:.6em 0 1.2em;border:1px solid var(--rule);
border-radius:6px}
table{border-collapse:collapse;font-size:.8rem;width:100%;
font-variant-numeric:tabular-nums}
th,td{padding:.3em .36em;text-align:right;border-bottom:1px solid var(--rule);
white-space:nowrap}
th{font-weight:600;color:var(--faint);vertical-align:bottom;
white-space:normal}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;
background:var(--paper);white-space:normal;overflow-wrap:anywhere;
width:max-content;min-width:min(24vw,9em);max-width:min(28vw,15em)}
tr:last-child td{border-bottom:0}
tr.level th{background:var(--panel);color:var(--ink);text-align:left;
max-width:none}
tr.group th{color:var(--ink);text-align:left;max-width:none;
padding-top:.7em}
tr.base td{background:var(--mark);font-weight:600}
table.matrix td.real{font-weight:700}
table.ratios td small,table.matrix td small{color:var(--faint);font-weight:400}
table.ratios tr.base td{font-weight:400}
table.ratios td.real{font-weight:700}
table.ratios td:last-child,table.ratios thead th:last-child{text-align:left;
white-space:normal;min-width:16em;padding-left:1.2em}
table.facts{white-space:normal}
table.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere;
vertical-align:top}
table.facts td:first-child{width:30%;color:var(--faint)}
code{font-size:.9em;overflow-wrap:anywhere}
details{margin:.6em 0}summary{cursor:pointer}
@media(max-width:600px){body{padding:14px 12px 48px;font-size:15px}
th,td{padding:.3em .45em}}
"""


def escape(text):
    return html.escape(str(text))


def value_of(comparison, name, level, column):
    """Return a figure in the unit that it is shown in, or None.

    User and system time are the median total, split by the median share: their
    own medians may come from different runs and add up to another total.
    """
    if column in CPU_SPLIT:
        total = comparison.value(name, level, CPU)
        shares = [row[CPU_SPLIT[0]] / (row[CPU_SPLIT[0]] + row[CPU_SPLIT[1]])
                  for row in comparison.runs(name, level)
                  if all(isinstance(row.get(part), float)
                         for part in CPU_SPLIT)
                  and row[CPU_SPLIT[0]] + row[CPU_SPLIT[1]] > 0]
        if total is None or not shares:
            return None
        user = total * statistics.median(shares)
        return user if column == CPU_SPLIT[0] else total - user
    value = comparison.value(name, level, column)
    return None if value is None else value * FIGURES[column].factor


def shown(comparison, name, level, column):
    """Return a figure as tables and charts show it, without its unit."""
    return cell(value_of(comparison, name, level, column),
                FIGURES[column].decimals)


def hover_text(comparison, name, level, columns):
    """Return what the pointer shows over a mark: a row's figures."""
    figures_of = ", ".join(
        f"{FIGURES[column].heading} "
        f"{shown(comparison, name, level, column)} {FIGURES[column].unit}"
        .rstrip() for column in columns)
    return f"{name}, {connections(level)}: {figures_of}"


def names_by(comparison, level, column, descending=False):
    """Return the contenders that ran at this level, the best first."""
    def key(name):
        value = value_of(comparison, name, level, column)
        if value is None:
            return True, 0
        return False, -value if descending else value
    return sorted((name for name in comparison.names
                   if comparison.made[name, level]), key=key)


def series_of(comparison, column):
    """Return the lines of a chart, without contenders that have no value."""
    series = []
    for name in comparison.names:
        points = [(level, value_of(comparison, name, level, column),
                   hover_text(comparison, name, level, (column,)))
                  for level in comparison.levels]
        points = [point for point in points if point[1]]
        if points:
            series.append(charts.Line(name, points))
    return series


def panels_of(comparison, columns, label, order, descending=False):
    """Return a panel per number of connections, for a chart of rows.

    The label of a row is of the columns named by it; order is the column that
    gives the order of the rows.
    """
    panels = []
    for level in comparison.levels:
        rows = []
        for name in names_by(comparison, level, order, descending):
            values = tuple(value_of(comparison, name, level, column)
                           for column in columns)
            if None not in values:
                rows.append(charts.Row(
                    name, tuple(max(value, 0) for value in values),
                    " · ".join(shown(comparison, name, level, column)
                               for column in label),
                    hover_text(comparison, name, level,
                               ordered((*label, *columns)))))
        if rows:
            panels.append(charts.Panel(connections(level), rows))
    return panels


class Pictures:
    """Draws the charts of a comparison: one, or one for each group."""

    def __init__(self, comparison, directory, colours, groups):
        self.comparison = comparison
        self.directory = directory
        self.colours = colours
        self.parts = groups.multiples(comparison.names)
        self.drawn: list[tuple[str, str, list]] = []

    def add(self, what, reading, heading, draw):
        """Add a figure: draw(path, names, title) returns the chart of these
        contenders, or nothing if they have no value."""
        svgs = []
        for part in self.parts:
            slug = f"{what}-{self.comparison.slug}" + (
                f"-{part.group}" if part.group else "")
            svgs.append(draw(os.path.join(self.directory, f"{slug}.svg"),
                             part.names, part.heading))
        svgs = [svg for svg in svgs if svg]
        if svgs:
            self.drawn.append((reading, heading, svgs))

    def add_lines(self, what, heading, series, labels, log_y, reference):
        """Add line charts of these lines."""
        def draw(path, names, title):
            mine = [line for line in series if line.name in names]
            return mine and charts.lines(
                path, mine, labels, self.colours, log_y, reference, title,
                series)
        self.add(what, what, heading, draw)

    def add_rows(self, what, reading, heading, kind, panels, *arguments,
                 **options):
        """Add charts of these panels; kind draws one of them."""
        def draw(path, names, title):
            mine = [panel._replace(
                rows=[row for row in panel.rows if row.name in names],
                frame=panel.rows) for panel in panels]
            mine = [panel for panel in mine if panel.rows]
            return mine and kind(path, mine, *arguments, self.colours,
                                 **options, title=title)
        self.add(what, reading, heading, draw)

    def add_growth(self, what, heading):
        """Draw overhead or throughput against the number of connections.

        At one number of connections there is no line: the values are in a row
        each.
        """
        comparison = self.comparison
        column = {"overhead": "overhead_ratio",
                  "throughput": "throughput_per_s"}[what]
        figure = FIGURES[column]
        unit = f"{figure.heading} {figure.unit}".strip()
        if len(comparison.levels) == 1:
            panels = panels_of(comparison, (column,), (column,), column,
                               descending=what == "throughput")
            self.add_rows(what, "one level", heading, charts.dots, panels,
                          ((unit, "dot"),), unit)
            return
        series = series_of(comparison, column)
        levels = sorted({x for line in series for x, _, _ in line.points})
        largest = [max(y for line in series for x, y, _ in line.points
                       if x == level) for level in levels]
        self.add_lines(what, heading, series, ("connections", unit),
                       what == "throughput" or max(largest, default=0) > 8,
                       1 if what == "overhead" else None)

    def add_cpu(self):
        """Draw the total with its split: bars, or marks if those would not
        do."""
        panels = panels_of(self.comparison, CPU_SPLIT, (CPU,), CPU)
        unit = f"{FIGURES[CPU].unit} per request"
        heading = "CPU per request"
        if not panels or not charts.squeezed(panels):
            self.add_rows("cpu", "cpu", heading, charts.bars, panels,
                          ("user", "system"), unit)
            return
        panels = panels_of(self.comparison, (CPU_SPLIT[0], CPU), (CPU,), CPU)
        # little user time must not stretch the scale
        panels = [panel._replace(floor=min(row.values[1]
                                           for row in panel.rows) / 4)
                  for panel in panels]
        self.add_rows("cpu", "cpu squeezed", heading, charts.dots, panels,
                      (("user", "ring"), ("user and system", "dot")), unit)

    def add_memory(self):
        """Draw memory per connection at the most connections."""
        column = "memory_per_connection_kib"
        panels = panels_of(self.comparison, (column,), (column,), column)[-1:]
        heading, unit = "Memory per connection", "KiB per connection"
        if not panels or not charts.squeezed(panels):
            self.add_rows("memory", "memory", heading, charts.bars, panels,
                          ("memory",), unit)
            return
        self.add_rows("memory", "memory squeezed", heading, charts.dots,
                      [panels[0]._replace(floor=0.1)], (("memory", "dot"),),
                      unit)

    def add_all(self):
        """Draw all charts; return (how to read it, heading, SVGs) of each."""
        self.add_growth("overhead", "Overhead")
        self.add_growth("throughput", "Throughput")
        self.add_memory()
        self.add_cpu()
        columns = ("latency_p50_us", "latency_p99_us")
        self.add_rows("latency", "latency", "Latency", charts.dots,
                      panels_of(self.comparison, columns, (), columns[1]),
                      (("p50", "dot"), ("p99", "triangle")), "milliseconds")
        columns = ("voluntary_switches_per_request",
                   "involuntary_switches_per_request")
        panels = [panel._replace(floor=0.01) for panel in
                  panels_of(self.comparison, columns, columns, columns[0])]
        self.add_rows("switches", "switches", "Context switches", charts.dots,
                      panels, (("voluntary", "dot"), ("involuntary", "ring")),
                      "per request", joined=False)
        return self.drawn


def read_samples(path):
    """Return when each measured request was sent, in s, and the ms it took,
    as two arrays."""
    with gzip.open(path, "rt", encoding="ascii") as file:
        text = re.sub(r"#.*\n", "", file.read())
    cells = numpy.fromstring(text, sep=" ").reshape(-1, 4)
    cells = cells[cells[:, 3] == 1]
    return cells[:, 0], numpy.maximum(cells[:, 1], 1) / 1000


def samples_of(directory, row):
    """Return the samples of a run, or nothing if their file is not there."""
    path = os.path.join(directory, row.get("samples") or "samples/none")
    try:
        found = read_samples(path) if os.path.isfile(path) else ()
        return found if len(found) and len(found[0]) else ()
    except EOFError:
        return ()  # a bench that is killed leaves part of a file


def heat_maps(comparison, directory, groups):
    """Return latency over time, a run per contender, where samples are."""
    level = comparison.levels[-1]
    picked = {}
    for name in comparison.names:
        runs = sorted((row for row in comparison.runs(name, level)
                       if isinstance(row.get("latency_p99_us"), float)),
                      key=lambda row: row["latency_p99_us"])
        if runs:
            row = runs[(len(runs) - 1) // 2]
            samples = samples_of(directory, row)
            if samples:
                picked[name] = row, samples
    if not picked:
        return ""
    ends = (min(latencies.min() for _, (_, latencies) in picked.values()),
            max(latencies.max() for _, (_, latencies) in picked.values()))
    seconds = max(row["seconds"] for row, _ in picked.values())
    parts = [f"<details><summary>Latency over time, {connections(level)}"
             f"</summary><p class=\"faint\">{escape(READING['heat'])}</p>"]
    for part in groups.parts(picked):
        parts += [group_heading(part), '<div class="figures small">']
        parts += [f"<figure>"
                  f"{charts.heat(picked[name][1], seconds, ends, name)}"
                  f"<figcaption>{run_caption(picked[name][0])}</figcaption>"
                  "</figure>" for name in part.names]
        parts.append("</div>")
    return "\n".join(parts + ["</details>"])


def run_caption(row):
    """Return what is said of one run below its picture."""
    return (f"Run {row['run']:.0f}: p99 {shown_of(row, 'latency_p99_us')} "
            f"ms, max {shown_of(row, 'latency_max_us')} ms")


def group_heading(part):
    return f"<h4>{escape(part.heading)}</h4>" if part.heading else ""


def shown_of(row, column):
    """Return a figure of one run."""
    value = row.get(column)
    figure = FIGURES[column]
    return cell(value if value is None else value * figure.factor,
                figure.decimals)


def draw_run(directory, number):
    """Draw the latency over time of one run; return the file."""
    table = os.path.join(directory, "runs.tsv")
    rows = [row for row in read_rows(table) if row["run"] == number]
    if not rows:
        raise Failure(f"{table} has no run {number}")
    row = rows[-1]
    samples = samples_of(directory, row)
    if not samples:
        raise Failure(f"{directory} has no samples of run {number}")
    path = os.path.join(directory, "charts", f"run-{number}.svg")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    starts, latencies = samples
    seconds = row["seconds"] or starts.max()
    charts.heat(samples, seconds, (latencies.min(), latencies.max()),
                f"{row['contender']}, {connections(int(row['concurrency']))}",
                path)
    return path


def figures(drawn):
    """Return the charts, (what, heading, SVGs) of each, with how to read
    them."""
    parts = ['<div class="figures">']
    for what, heading, svgs in drawn:
        reading = " ".join(READING[word] for word in
                           ([what] if what in READING else what.split()))
        caption = f"<figcaption>{escape(reading)}</figcaption>"
        if len(svgs) == 1:
            parts.append(f"<figure><h3>{escape(heading)}</h3>{svgs[0]}"
                         f"{caption}</figure>")
            continue
        multiples = "".join(f"<div>{svg}</div>" for svg in svgs)
        parts.append(f'<figure class="multiple"><h3>{escape(heading)}</h3>'
                     f'{caption}<div class="figures">{multiples}</div>'
                     "</figure>")
    parts.append("</div>")
    return "\n".join(parts)


def heading_row(columns, first):
    """Return the start of a row of (heading, unit)."""
    heads = "".join(f"<th>{escape(title)}{'<br>' + unit if unit else ''}</th>"
                    for title, unit in columns)
    return f"<tr><th>{escape(first)}</th>{heads}"


def columns_of(comparison):
    """Return the columns that the table of a comparison has."""
    return [column for column in FIGURES if column not in NOT_ALWAYS
            or any(isinstance(row.get(column), float)
                   for row in comparison.rows)]


def own_servers(comparison):
    """Return those that go their own way upstream."""
    return {row["contender"] for row in comparison.rows
            if row["upstream_connection"] == "-"}


def upstream_cell(comparison, name, level):
    """Return how an own server used its upstream connections."""
    uses = ordered(UPSTREAM_USE[row["upstream_use"]]
                   for row in comparison.runs(name, level)
                   if row.get("upstream_use") in UPSTREAM_USE)
    return f"<td>{' or '.join(uses) or '–'}</td>"


def group_row(part, columns):
    """Return the heading of a group within a table."""
    return (f'<tr class="group"><th colspan="{columns}">'
            f"{escape(part.heading)}</th></tr>" if part.heading else "")


def comparison_table(comparison, baseline, groups):
    """Return a table of medians, a block per number of connections and
    group."""
    columns = columns_of(comparison)
    own = own_servers(comparison)
    heads = []
    for column in columns:
        heads.append((FIGURES[column].heading, FIGURES[column].unit))
        if column == CPU:
            heads.append(("least–most", FIGURES[CPU].unit))
    heads += [("upstream", "")] if own else []
    heads += [("runs", "")]
    parts = ['<div class="wide"><table class="runs"><thead>',
             heading_row(heads, "server"), "</tr></thead><tbody>"]
    disturbed: list = []
    for level in comparison.levels:
        parts.append(f'<tr class="level"><th colspan="{len(heads) + 1}">'
                     f"{connections(level)}</th></tr>")
        for part in groups.parts(names_by(comparison, level, CPU)):
            parts.append(group_row(part, len(heads) + 1))
            for name in part.names:
                disturbed += disturbances(comparison, name, level)
                parts.append(table_row(comparison, name, level, columns,
                                       own, name == baseline))
    parts.append("</tbody></table></div>")
    if disturbed:
        parts.append(
            '<p class="faint">* Rests on runs that something else on the '
            f"machine disturbed: {escape(some_of(disturbed))}.</p>")
    return "\n".join(parts)


def disturbances(comparison, name, level):
    """Return what disturbed the runs that a row rests on."""
    return [row["disturbed"] for row in comparison.runs(name, level)
            if row.get("disturbed")]


def table_row(comparison, name, level, columns, own, base):
    """Return the medians of one contender; own are the user's servers."""
    cells = []
    for column in columns:
        cells.append(shown(comparison, name, level, column))
        if column == CPU:
            cells.append(comparison.spread(name, level, CPU,
                                           FIGURES[CPU].decimals))
    cells = [f"<td>{text}</td>" for text in cells]
    if own:
        cells.append(upstream_cell(comparison, name, level)
                     if name in own else "<td></td>")
    cells.append(runs_cell(comparison.made[name, level]))
    mark = " *" if comparison.disturbed(name, level) else ""
    base_class = ' class="base"' if base else ""
    return (f"<tr{base_class}><td>{escape(name)}{mark}</td>"
            f"{''.join(cells)}</tr>")


def some_of(reasons, shown_at_most=3):
    """Return the different ones, or the first of them and how many more."""
    reasons = ordered(reasons)
    more = len(reasons) - shown_at_most
    return "; ".join(reasons[:shown_at_most]) + (
        f"; {more} more" if more > 0 else "")


def runs_cell(rows):
    """Return how many runs there are, and how many of them are valid."""
    valid = sum(row["valid"] == "yes" for row in rows)
    if valid == len(rows):
        return f"<td>{valid}</td>"
    return f'<td class="bad">{valid} of {len(rows)}</td>'


def numbers_of(rows, column):
    """Return the figures of a column that are known."""
    return [row[column] for row in rows
            if isinstance(row.get(column), float)]


def checked_facts(rows):
    """Return what was checked, as (name, text)."""
    counted = sum(row["server_requests"] is not None and
                  row["server_requests"] == (row["client_replies"] or 0) + 1
                  for row in rows)
    replies = sum(row["client_replies"] or 0 for row in rows)
    seconds = numbers_of(rows, "seconds")
    ratios = numbers_of(rows, "littles_law_ratio")
    loads = numbers_of(rows, "load_cores")
    upstreams = numbers_of(rows, "upstream_cores")
    others = numbers_of(rows, "other_cores")
    disturbed = [row["disturbed"] for row in rows if row.get("disturbed")]
    facts = [("replies compared byte for byte", f"{replies:,.0f}"),
             ("seconds measured per run; longer where some connections "
              "wait long", f"{min(seconds, default=0):.3g} to "
              f"{max(seconds, default=0):.3g}"),
             ("runs whose server counted the same requests",
              f"{counted} of {len(rows)}")]
    if ratios:
        facts.append(("throughput × mean latency / connections "
                      "(Little’s law: 1)",
                      f"{min(ratios):.3f} to {max(ratios):.3f}; "
                      "0.95 to 1.05 passes, where replies are few 0.90 "
                      "to 1.10"))
    if loads and upstreams:
        facts.append(("busiest load generator and upstream, as a share of "
                      "one core",
                      f"{max(loads):.2f} and {max(upstreams):.2f}; "
                      "up to 0.90 passes"))
    if disturbed:
        facts.append(("runs that something else disturbed",
                      f"{len(disturbed)} of {len(rows)}: "
                      f"{some_of(disturbed)}"))
    if others:
        facts.append(("cores used by other programs",
                      f"median {statistics.median(others):.2f}, at most "
                      f"{max(others):.2f}"))
    return facts


def validity(rows):
    """Return what was checked, and the runs that failed, as tables."""
    parts = [facts_table(checked_facts(rows))]
    bad = [row for row in rows if row["valid"] != "yes"]
    if bad:
        parts.append('<div class="wide"><table class="facts"><tbody>')
        parts += [f"<tr><td>run {row['run']:.0f}</td><td>"
                  f"{escape(row['contender'])}, {row['concurrency']:,.0f} "
                  f"connections, {row['delay_ms']:g} ms: "
                  f"{escape(row['why'])}</td></tr>" for row in bad]
        parts.append("</tbody></table></div>")
    return "\n".join(parts)


def facts_table(facts):
    """Return a table of (name, text)."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
                   for name, value in facts)
    return f'<div class="wide"><table class="facts"><tbody>{rows}' \
           "</tbody></table></div>"


def flatten(value, prefix=""):
    """Yield nested facts as (name, text), the names joined."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flatten(inner, f"{prefix}{name.replace('_', ' ')} ")
    elif isinstance(value, list):
        yield prefix.strip(), " ".join(map(str, value)) or "none"
    else:
        yield prefix.strip(), "not available" if value is None else str(value)


def environment_section(heading, facts):
    """Return the facts and the contenders' commands."""
    facts = dict(facts)
    contenders = facts.pop("contenders", [])
    parts = [f"<h2>{heading}</h2>", facts_table(flatten(facts))]
    if contenders:
        parts += ["<h3>Commands</h3>", facts_table(
            [(f"{each['name']} ({each['upstream_connection']})"
              if each["upstream_connection"] != "-" else each["name"],
              f"{each['model']}: {each['command']}")
             for each in contenders])]
    return "\n".join(parts)


def workers(count):
    """Return '1 worker' or 'N workers'."""
    return f"{count:,} worker{'' if count == 1 else 's'}"


def pool_section(rows, directory):
    """Return the section on the sleep experiment."""
    rows = [row for row in rows if row["span"] == "tasks"] or rows
    labels = ordered(row["label"] for row in rows)
    levels = sorted({int(row["workers"]) for row in rows})
    cells = collections.defaultdict(list)
    for row in rows:
        cells[row["label"], int(row["workers"])].append(row)

    def figure(label, level, column, decimals):
        return cell(median(cells[label, level], column), decimals)

    decimals = {column: places for column, _, _, places in POOL_TABLE}
    series = [charts.Line(label, [
        (level, median(cells[label, level], "overhead"),
         f"{label}, {workers(level)}: overhead "
         f"{figure(label, level, 'overhead', decimals['overhead'])}")
        for level in levels if cells[label, level]]) for label in labels]
    drawn = [("pool", "Overhead of a pool of sleepers", [charts.lines(
        os.path.join(directory, "pool.svg"), series,
        ("workers", "overhead"), charts.colour_of(labels, "pthreads"),
        log_y=max(y for line in series for _, y, _ in line.points) > 8,
        reference=1)])]
    parts = ["<h2>The documents’ experiment</h2>", figures(drawn),
             '<div class="wide"><table class="pools"><thead>',
             heading_row([head[1:3] for head in POOL_TABLE], "pool"),
             "</tr></thead><tbody>"]
    for level in levels:
        parts.append(f'<tr class="level"><th colspan="{len(POOL_TABLE) + 1}">'
                     f"{workers(level)}</th></tr>")
        for label in labels:
            if cells[label, level]:
                values = "".join(
                    f"<td>{figure(label, level, column, places)}</td>"
                    for column, _, _, places in POOL_TABLE)
                parts.append(f"<tr><td>{escape(label)}</td>{values}</tr>")
    parts.append("</tbody></table></div>")
    return "\n".join(parts)


def summary_line(rows, facts):
    """Return how many runs there are, when they began, of what and where."""
    def many(count, word):
        return f"{count} {word}{'' if count == 1 else 's'}"

    repetitions = int(max(row["repetition"] for row in rows))
    commit = (facts.get("commit") or "no commit")[:12]
    if facts.get("uncommitted_changes"):
        commit += " with changes"
    cpu = facts.get("cpu", {})
    return (f"{many(len(rows), 'run')}, {many(repetitions, 'repetition')} of "
            f"each, {facts.get('started', '')}, commit {commit}, "
            f"{cpu.get('cores', '?')} cores of {cpu.get('model', '?')}, "
            f"Linux {facts.get('kernel', '?')}")


def title_of(rows, baseline):
    """Return what was compared."""
    if not rows:
        return "What a pool of sleepers costs"
    others = [name for name in ordered(row["contender"] for row in rows)
              if name != baseline]
    if not others:
        return f"What {baseline} costs"
    if len(others) > 4:
        return f"{baseline} compared with {len(others)} other servers"
    last = f" and {others[-1]}" if others[1:] else others[-1]
    return f"{baseline} compared with {', '.join(others[:-1])}{last}"


def contents(comparisons):
    """Return links to the sections of a page, if it has several."""
    if len(comparisons) < 2:
        return ""
    links = "".join(f'<li><a href="#{escape(comparison.slug)}">'
                    f"{escape(comparison.title())}</a></li>"
                    for comparison in comparisons)
    return f"<p>Charts and figures of each comparison:</p><ul>{links}</ul>"


def where_it_ran(facts):
    """Return on which machines the programs ran, in words."""
    far = [f"{each['name']} {each['command'].replace('already, ', '')}"
           for each in facts.get("contenders", ())
           if each.get("model") == "elsewhere"]
    if not far:
        return ("The load generator, the upstream and the server ran on the "
                "same machine, so compare the figures of this page with each "
                "other, not with another machine’s.")
    return (f"The load generator ran on this machine; {', '.join(far)}. Such "
            "a server was started by somebody else, and the network is part "
            "of its latencies. What is not known of it has no figure.")


def run_sections(directory, made, baseline, facts):
    """Return the sections on the runs, drawing their charts."""
    rows = current(made)
    chart_directory = os.path.join(directory, "charts")
    names = ordered(row["contender"] for row in rows)
    groups = Groups(rows, baseline, facts)
    comparisons = comparisons_of(rows)
    sections = [
        *verdict.html_section(made, baseline, groups),
        f'<p class="faint">{escape(summary_line(rows, facts))}</p>',
        "<p>Each figure below is the median of the repetitions. "
        f"{escape(where_it_ran(facts))}</p>", contents(comparisons)]
    matrices = matrix.matrices_of(made, baseline, facts)
    if matrices:
        sections.append(matrix.html_section(matrices, chart_directory))
    colours = charts.colour_of(names, baseline, groups)
    for comparison in comparisons:
        drawn = Pictures(comparison, chart_directory, colours,
                         groups).add_all()
        sections += [
            f'<h2 id="{escape(comparison.slug)}">'
            f"{escape(comparison.title())}</h2>",
            figures(drawn), heat_maps(comparison, directory, groups),
            "<h3>The figures</h3>",
            comparison_table(comparison, baseline, groups)]
    return sections + ["<h2>What was checked</h2>", validity(rows)]


def write(directory):
    """Draw DIR/charts/*.svg and write DIR/report.html."""
    rows = rows_of(directory, "runs.tsv")
    pool = rows_of(directory, "pool.tsv")
    rates = current(rows_of(directory, "rates.tsv"))
    if not rows and not pool and not rates:
        raise Failure(f"{directory} has no rows, neither in runs.tsv nor in "
                      "pool.tsv nor in rates.tsv")
    facts = facts_of(directory, "environment.json")
    pool_facts = facts_of(directory, "pool-environment.json")
    chart_directory = os.path.join(directory, "charts")
    os.makedirs(chart_directory, exist_ok=True)
    baseline = baseline_of(rows or rates, facts)
    sections = []
    if rows:
        sections += run_sections(directory, rows, baseline, facts)
    if rates:
        sections.append(search.html_section(
            rates, baseline, Groups(rates, baseline, facts)))
    if pool:
        sections.append(pool_section(pool, chart_directory))
    if (rows or rates) and facts:
        sections.append(environment_section("Environment", facts))
    if pool and pool_facts:
        sections.append(environment_section("Environment of the pools",
                                            pool_facts))
    with open(os.path.join(directory, "report.html"), "w",
              encoding="utf-8") as file:
        file.write(page(title_of(rows or rates, baseline), sections))


def page(title, sections):
    """Return the page, with the title above its sections."""
    return ("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n"
            '<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, '
            'initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'
            f"<title>{escape(title)}</title>\n"
            f"<style>{PAGE_STYLE}</style>\n</head>\n<body>\n"
            f"<h1>{escape(title)}</h1>\n"
            + "\n".join(sections) + "\n</body>\n</html>\n")
