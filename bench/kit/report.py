# SPDX-License-Identifier: MIT
"""Writes the page of a measurement: tables, charts and how to read them."""

import collections
import html
import json
import os
import statistics

from . import charts
from .charts import BASELINE
from .processes import Failure
from .results import (cell, comparisons_of, connections, median, ordered,
                      read_rows)

# The figures of the tables: column, heading, unit, decimals.
RUN_TABLE = (
    ("throughput_per_s", "requests", "per s", 0),
    ("overhead_ratio", "overhead", "", 2),
    ("cpu_per_request_us", "CPU per request", "µs", 1),
    ("cpu_user_per_request_us", "user", "µs", 1),
    ("cpu_system_per_request_us", "system", "µs", 1),
    ("voluntary_switches_per_request", "switches, voluntary", "", 2),
    ("involuntary_switches_per_request", "involuntary", "", 2),
    ("system_calls_per_request", "system calls", "", 1),
    ("memory_per_connection_kib", "memory per connection", "KiB", 1),
    ("latency_p50_us", "p50", "ms", 2),
    ("latency_p99_us", "p99", "ms", 2),
)

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
    "cpu": """CPU time per request of all the server's threads and processes,
whatever the server waits for. The solid part is user code, the pale one the
kernel. The total is exact; the split is sampled by the kernel's ticks, and at
one connection there are few of them. The kit's own CPU time is not included.
Lower is better.""",
    "latency": """Time from a line to its reply, over all connections: half of
the requests are within the dot, 99 of 100 within the triangle. Each connection
sends again once it has its reply (a closed loop), so a slow server gets fewer
requests: beyond its limit the mean is connections / throughput, and only the
distance from dot to triangle shows how evenly it serves. Further left is
better.""",
    "memory": """Resident memory with all connections open and answered, minus
that of the idle server, per connection. Pages that processes share are counted
once. The heap of an interpreter or a garbage collector grows in steps, so
ignore differences of a few KiB. Lower is better.""",
    "switches": """How often per request the kernel switched a core from one
thread to another. Solid: the thread waited for something (voluntary). Pale: it
was preempted (involuntary). This is the documents' case against threads; see
the CPU chart for what it amounts to. A busy event loop needs few switches,
because one wait returns many events. Lower is cheaper.""",
    "pool": """The documents' own experiment: many sleeps of a few
milliseconds over a pool of N workers, without a network. Overhead is total
time / (sleep × tasks / N); 1 is the floor. In each model the clock starts when
the workers exist and wait, and stops when the last task is done.""",
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
p{margin:.5em 0;max-width:72ch}
.faint{color:var(--faint);font-size:.9rem}
.verdict{display:inline-block;font-weight:600;padding:.25em .7em;
border:1px solid currentColor;border-radius:6px;margin:.4em 0}
.good{color:var(--good)}.bad{color:var(--bad)}
.figures{display:grid;gap:20px 28px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,500px),1fr));
align-items:start}
figure{margin:0;min-width:0}
figure h3{margin-top:.4em}
figure svg{width:100%;height:auto;display:block}
figcaption{font-size:.92rem;color:var(--faint)}
.wide{overflow-x:auto;margin:.6em 0 1.2em;border:1px solid var(--rule);
border-radius:6px}
table{border-collapse:collapse;font-size:.8rem;width:100%;
font-variant-numeric:tabular-nums}
th,td{padding:.3em .42em;text-align:right;border-bottom:1px solid var(--rule);
white-space:nowrap}
th{font-weight:600;color:var(--faint);vertical-align:bottom;
white-space:normal}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;
background:var(--paper);white-space:nowrap}
tr:last-child td{border-bottom:0}
tr.level th{background:var(--panel);color:var(--ink);text-align:left}
tr.base td{background:var(--mark);font-weight:600}
table.facts{white-space:normal}
table.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere;
vertical-align:top}
table.facts td:first-child{width:34%;min-width:8em;color:var(--faint)}
table.facts td:first-child{white-space:normal}
code{font-size:.9em;overflow-wrap:anywhere}
details{margin:.6em 0}summary{cursor:pointer}
@media(max-width:600px){body{padding:14px 12px 48px;font-size:15px}
th,td{padding:.3em .45em}}
"""


def escape(text):
    return html.escape(str(text))


def line_series(comparison, column):
    series = []
    for name in comparison.names:
        points = [(level, comparison.value(name, level, column))
                  for level in comparison.levels]
        points = [point for point in points if point[1]]
        if points:
            series.append((name, points))
    return series


def bar_groups(comparison, columns, levels=None, scale=1.0):
    """Return (heading, [(name, values)]), the smallest values first."""
    groups = []
    for level in levels or comparison.levels:
        rows = []
        for name in comparison.names:
            values = [comparison.value(name, level, column)
                      for column in columns]
            if all(value is not None for value in values):
                rows.append((name, [max(value, 0) * scale
                                    for value in values]))
        rows.sort(key=lambda row: sum(row[1]))
        if rows:
            groups.append((connections(level), rows))
    return groups


def draw_comparison(comparison, directory, colours):
    """Draw all charts of a comparison; return (what, heading, svg) of each."""
    drawn = []

    def path(what):
        return os.path.join(directory, f"{what}-{comparison.slug}.svg")

    series = line_series(comparison, "overhead_ratio")
    if series:
        drawn.append(("overhead", "Overhead", charts.lines(
            path("overhead"), series, ("connections", "overhead"), colours,
            log_y=max(y for _, points in series
                      for _, y in points) > 8, reference=1)))
    series = line_series(comparison, "throughput_per_s")
    if series:
        drawn.append(("throughput", "Throughput", charts.lines(
            path("throughput"), series,
            ("connections", "requests per second"), colours, log_y=True)))
    groups = bar_groups(comparison, ("cpu_user_per_request_us",
                                     "cpu_system_per_request_us"))
    if groups:
        drawn.append(("cpu", "CPU per request", charts.bars(
            path("cpu"), groups, ("user", "system"),
            "microseconds per request", colours, 0)))
    groups = bar_groups(comparison, ("latency_p50_us", "latency_p99_us"),
                        scale=1e-3)
    if groups:
        drawn.append(("latency", "Latency", charts.ranges(
            path("latency"), groups, "milliseconds", colours)))
    groups = bar_groups(comparison, ("memory_per_connection_kib",),
                        comparison.levels[-1:])
    if groups:
        drawn.append(("memory", "Memory per connection", charts.bars(
            path("memory"), groups, ("memory",),
            "KiB per connection", colours, 1)))
    groups = bar_groups(comparison, ("voluntary_switches_per_request",
                                     "involuntary_switches_per_request"))
    if groups:
        drawn.append(("switches", "Context switches per request", charts.bars(
            path("switches"), groups, ("voluntary", "involuntary"),
            "per request", colours, 2)))
    return drawn


def figures(drawn):
    parts = ['<div class="figures">']
    for what, heading, svg in drawn:
        parts.append(f"<figure><h3>{escape(heading)}</h3>{svg}"
                     f"<figcaption>{escape(READING[what])}</figcaption>"
                     "</figure>")
    parts.append("</div>")
    return "\n".join(parts)


def heading_row(columns, first):
    heads = "".join(
        f"<th>{escape(title)}"
        f"{'<br>' + unit if unit else ''}</th>"
        for _, title, unit, _ in columns)
    return f"<tr><th>{escape(first)}</th>{heads}"


def comparison_table(comparison):
    """Return a table of medians, a block per number of connections."""
    parts = ['<div class="wide"><table><thead>',
             heading_row(RUN_TABLE, "server"),
             f"<th>CPU / {BASELINE}’s</th><th>CPU, least–most<br>µs</th>"
             "<th>runs</th></tr></thead><tbody>"]
    for level in comparison.levels:
        parts.append(f'<tr class="level"><th colspan="{len(RUN_TABLE) + 4}">'
                     f"{connections(level)}</th></tr>")
        base = comparison.value(BASELINE, level, "cpu_per_request_us")
        for name in comparison.names:
            rows = comparison.made[name, level]
            if not rows:
                continue
            cells = []
            for column, _, unit, decimals in RUN_TABLE:
                value = comparison.value(name, level, column)
                if value is not None and unit == "ms":
                    value /= 1000
                cells.append(f"<td>{cell(value, decimals)}</td>")
            cpu = comparison.value(name, level, "cpu_per_request_us")
            ratio = cpu / base if cpu and base else None
            valid = sum(row["valid"] == "yes" for row in rows)
            mark = "" if valid == len(rows) else ' class="bad"'
            count = (str(valid) if valid == len(rows)
                     else f"{valid} of {len(rows)}")
            base_class = ' class="base"' if name == BASELINE else ""
            spread = comparison.spread(name, level, "cpu_per_request_us", 0)
            parts.append(
                f"<tr{base_class}><td>{escape(name)}</td>{''.join(cells)}"
                f"<td>{cell(ratio, 2)}</td><td>{spread}</td>"
                f"<td{mark}>{count}</td></tr>")
    parts.append("</tbody></table></div>")
    return "\n".join(parts)


def validity(rows):
    """Return what was checked, and the runs that failed."""
    bad = [row for row in rows if row["valid"] != "yes"]
    counted = sum(row["server_requests"] is not None and
                  row["server_requests"] == (row["client_replies"] or 0) + 1
                  for row in rows)
    ratios = [row["littles_law_ratio"] for row in rows
              if isinstance(row["littles_law_ratio"], float)]
    loads = [row["load_cores"] for row in rows
             if isinstance(row["load_cores"], float)]
    upstreams = [row["upstream_cores"] for row in rows
                 if isinstance(row["upstream_cores"], float)]
    others = [row["other_cores"] for row in rows
              if isinstance(row["other_cores"], float)]
    replies = sum(row["client_replies"] or 0 for row in rows)
    seconds = [row["seconds"] for row in rows
               if isinstance(row["seconds"], float)]
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
                      "0.95 to 1.05 passes"))
    if loads and upstreams:
        facts.append(("busiest load generator and upstream, as a share of "
                      "one core",
                      f"{max(loads):.2f} and {max(upstreams):.2f}; "
                      "up to 0.90 passes"))
    if others:
        facts.append(("cores used by other programs",
                      f"median {statistics.median(others):.2f}, at most "
                      f"{max(others):.2f}"))
    parts = [facts_table(facts)]
    if bad:
        parts.append('<div class="wide"><table class="facts"><tbody>')
        parts += [f"<tr><td>run {row['run']:.0f}</td><td>"
                  f"{escape(row['contender'])}, {row['concurrency']:,.0f} "
                  f"connections, {row['delay_ms']:g} ms: "
                  f"{escape(row['why'])}</td></tr>" for row in bad]
        parts.append("</tbody></table></div>")
    return "\n".join(parts)


def facts_table(facts):
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


def pool_section(rows, directory):
    """Return the section on the sleep experiment."""
    rows = [row for row in rows if row["span"] == "tasks"] or rows
    labels = ordered(row["label"] for row in rows)
    levels = sorted({int(row["workers"]) for row in rows})
    cells = collections.defaultdict(list)
    for row in rows:
        cells[row["label"], int(row["workers"])].append(row)
    series = [(label, [(level, median(cells[label, level], "overhead"))
                       for level in levels if cells[label, level]])
              for label in labels]
    drawn = [("pool", "Overhead of a pool of sleepers", charts.lines(
        os.path.join(directory, "pool.svg"), series,
        ("workers", "overhead"), charts.colour_of(labels, "pthreads"),
        log_y=max(y for _, points in series for _, y in points) > 8,
        reference=1))]
    parts = ["<h2>The documents’ experiment</h2>", figures(drawn),
             '<div class="wide"><table><thead>',
             heading_row(POOL_TABLE, "pool"), "</tr></thead><tbody>"]
    for level in levels:
        parts.append(f'<tr class="level"><th colspan="{len(POOL_TABLE) + 1}">'
                     f"{level:,} worker{'s' if level > 1 else ''}</th></tr>")
        for label in labels:
            if cells[label, level]:
                values = "".join(
                    f"<td>{cell(median(cells[label, level], column), places)}"
                    "</td>" for column, _, _, places in POOL_TABLE)
                parts.append(f"<tr><td>{escape(label)}</td>{values}</tr>")
    parts.append("</tbody></table></div>")
    return "\n".join(parts)


def summary_line(rows, facts):
    runs = len(rows)
    repetitions = int(max(row["repetition"] for row in rows))
    plural = "s" if repetitions > 1 else ""
    commit = (facts.get("commit") or "no commit")[:12]
    if facts.get("uncommitted_changes"):
        commit += " with changes"
    cpu = facts.get("cpu", {})
    return (f"{runs} runs, {repetitions} repetition{plural} of each, "
            f"{facts.get('started', '')}, commit {commit}, "
            f"{cpu.get('cores', '?')} cores of {cpu.get('model', '?')}, "
            f"Linux {facts.get('kernel', '?')}")


def verdict(rows):
    bad = sum(row["valid"] != "yes" for row in rows)
    if bad:
        return (f'<p class="verdict bad">{bad} of {len(rows)} runs are not '
                "valid; the figures leave them out</p>")
    return (f'<p class="verdict good">All {len(rows)} runs passed all '
            "checks</p>")


def read_facts(directory, name):
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write(directory):
    """Draw DIR/charts/*.svg and write DIR/report.html."""
    runs_path = os.path.join(directory, "runs.tsv")
    pool_path = os.path.join(directory, "pool.tsv")
    rows = read_rows(runs_path) if os.path.exists(runs_path) else []
    pool = read_rows(pool_path) if os.path.exists(pool_path) else []
    if not rows and not pool:
        raise Failure(f"{directory} has no rows, neither in runs.tsv nor in "
                      "pool.tsv")
    facts = read_facts(directory, "environment.json")
    pool_facts = read_facts(directory, "pool-environment.json")
    chart_directory = os.path.join(directory, "charts")
    os.makedirs(chart_directory, exist_ok=True)
    body = ["<h1>What a thread per connection costs</h1>"]
    if rows:
        body += [f'<p class="faint">{escape(summary_line(rows, facts))}</p>',
                 verdict(rows),
                 "<p>Each figure is the median of the repetitions. The load "
                 "generator, the upstream and the server ran on the same "
                 "machine, so compare the figures of this page with each "
                 "other, not with another machine’s.</p>"]
        colours = charts.colour_of(ordered(row["contender"] for row in rows))
        for comparison in comparisons_of(rows):
            body.append(f"<h2>{escape(comparison.title())}</h2>")
            body.append(figures(draw_comparison(comparison, chart_directory,
                                                colours)))
            body.append("<h3>The figures</h3>")
            body.append(comparison_table(comparison))
        body += ["<h2>What was checked</h2>", validity(rows)]
    if pool:
        body.append(pool_section(pool, chart_directory))
    if rows and facts:
        body.append(environment_section("Environment", facts))
    if pool and pool_facts:
        body.append(environment_section(
            "Environment of the pools", pool_facts))
    page = ("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n"
            '<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, '
            'initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'
            "<title>threadecho: measurements</title>\n"
            f"<style>{PAGE_STYLE}</style>\n</head>\n<body>\n"
            + "\n".join(body) + "\n</body>\n</html>\n")
    with open(os.path.join(directory, "report.html"), "w",
              encoding="utf-8") as file:
        file.write(page)
