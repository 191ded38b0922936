# SPDX-License-Identifier: MIT
"""Draws charts as SVG, with gnuplot, that are readable on white and on black.

What gnuplot draws in black gets the colour of the surrounding text.
"""

import os
import re
import shutil
import subprocess

from .processes import Failure

WIDTH = 500
ROW = 17  # height of a bar with its gap
# Medium lightness, so each is visible on white and on black.
COLOURS = ("#e4572e", "#2f86d6", "#3a9d5d", "#a868d6", "#d9901a", "#1ba3a3",
           "#d6579c", "#7d8a2e", "#8a6a4f", "#6f7ff0", "#b03a48", "#5f8f8f",
           "#c27ba0", "#4f9ad0")
BASELINE = "threadecho"

STYLE = (".chart{color:#1b1f24}"
         "@media(prefers-color-scheme:dark){.chart{color:#e3e6ea}}")


def colour_of(names, baseline=BASELINE):
    """Return a colour for each name; the baseline has the text's colour."""
    others = [name for name in names if name != baseline]
    colours = {name: COLOURS[index % len(COLOURS)]
               for index, name in enumerate(others)}
    colours[baseline] = "black"
    return colours


def quoted(text):
    """Return text as a gnuplot string."""
    return '"' + re.sub(r'([\\"])', r"\\\1", text) + '"'


def draw(path, height, script):
    """Run a gnuplot script that draws into path; return the SVG as text."""
    name = os.path.splitext(os.path.basename(path))[0]
    if not shutil.which("gnuplot"):
        raise Failure("gnuplot is not installed: gnuplot-nox "
                      "(scripts/install-deps bench)")
    head = (f'set terminal svg noenhanced size {WIDTH},{height} dynamic '
            f'font "sans-serif,12" name "chart" '
            "linewidth 1.2\n"
            f"set output {quoted(path)}\n"
            "set border 3 linewidth 0.7\nset tics nomirror scale 0.6\n"
            'set grid linecolor rgb "#8a8f98" linewidth 0.4 '
            "dashtype 3\n")
    done = subprocess.run(["gnuplot"], input=head + script, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False)
    if done.returncode != 0:
        raise Failure(f"gnuplot: {name}: {done.stderr.strip()}")
    with open(path, encoding="utf-8") as file:
        text = recolour(file.read(), name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return text


def recolour(svg, name):
    """Replace black with the text's colour, and make ids unique on a page."""
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"rgb\( *0, *0, *0 *\)|(?<=[\"' :])black(?=[\"' ;])",
                 "currentColor", svg)
    svg = re.sub(r"(id=['\"]|url\(#|href=['\"]#)", rf"\g<1>{name}-", svg)
    svg = re.sub(r"<title>.*?</title>|<desc>.*?</desc>", "", svg,
                 flags=re.S)
    return re.sub(r"<svg\b", f'<svg class="chart" role="img" '
                  f'aria-label="{name}"', svg, count=1) \
        .replace("<defs>", f"<style>{STYLE}</style>\n<defs>", 1)


def lines(path, series, labels, colours, log_y=False, reference=None):
    """Draw a line for each (name, [(x, y)]), over a logarithmic x."""
    rows = (len(series) + 1) // 2
    xs = sorted({x for _, points in series for x, _ in points})
    height = 330 + rows * 17
    script = [f"set xlabel {quoted(labels[0])}",
              f"set ylabel {quoted(labels[1])} offset 1,0",
              "set logscale x 10", 'set format x "%.0f"',
              "set key below left Left reverse maxcols 2 samplen 2 "
              "spacing 1.05 width 0",
              f"set xrange [{min(xs) / 1.15:.6g}:{max(xs) * 1.15:.6g}]"]
    if log_y:
        script += ["set logscale y 10", "set ytics (" + ", ".join(
            f'"{step * 10 ** power:,}" {step * 10 ** power}'
            for power in range(7) for step in (1, 2, 5)) + ")"]
    else:
        script.append("set yrange [0:*]")
    if len(xs) <= 8:
        script.append("set xtics (" + ", ".join(
            f'"{x:,}" {x}' for x in xs) + ")")
    plots = []
    for index, (title, points) in enumerate(series):
        script.append(f"$d{index} << END")
        script += [f"{x} {y:.6g}" for x, y in points]
        script.append("END")
        width = 2.6 if colours[title] == "black" else 1.5
        plots.append(f"$d{index} using 1:2 with linespoints linewidth "
                     f"{width} pointtype {index % 12 + 4} pointsize 0.55 "
                     f'linecolor rgb "{colours[title]}" '
                     f"title {quoted(title)}")
    if reference is not None:
        plots.append(f'{reference} with lines linewidth 0.8 dashtype 2 '
                     f'linecolor rgb "#8a8f98" notitle')
    script.append("plot " + ", \\\n  ".join(plots))
    return draw(path, height, "\n".join(script) + "\n")


def place(groups):
    """Return headings and rows, each with its y, and the y of the bottom."""
    y = 0.0
    headings = []
    placed = []
    for heading, rows in groups:
        headings.append((y, heading))
        y += 1
        for row in rows:
            placed.append((y, row))
            y += 1
        y += 0.4
    return headings, placed, y


def bars(path, groups, parts, label, colours, decimals=1):
    """Draw stacked bars; groups are (heading, [(title, [value, ...])])."""
    headings, placed, bottom = place(groups)
    largest = max((sum(values) for _, (_, values) in placed), default=1)
    script = row_axis(headings, placed, bottom, label)
    script.append(f"set xrange [0:{(largest or 1) * 1.18:.6g}]")
    for index in range(len(parts)):
        # the parts of a bar differ in opacity
        script.append(f"$part{index} << END")
        for y, (title, values) in placed:
            low = sum(values[:index])
            script.append(f"{low:.6g} {low + values[index]:.6g} {y} "
                          f"{int(colours_number(colours[title]))}")
        script.append("END")
    for y, (_, values) in placed:
        script.append(f'set label "{sum(values):,.{decimals}f}" at '
                      f"{sum(values):.6g},{y} left offset 0.4,0 "
                      'font ",10"')
    plots = []
    for index in range(len(parts)):
        solid = (0.95, 0.4)[index] if len(parts) > 1 else 0.9
        plots.append(
            f"$part{index} using 1:3:1:2:($3-0.36):($3+0.36):4 with "
            f"boxxyerror fillstyle transparent solid {solid} noborder "
            "linecolor rgb variable notitle")
    if len(parts) > 1:
        for index, part in enumerate(parts):
            solid = (0.95, 0.4)[index]
            plots.append(f"NaN with boxes fillstyle transparent solid "
                         f'{solid} noborder linecolor rgb "#8a8f98" '
                         f"title {quoted(part)}")
    script.append("plot " + ", \\\n  ".join(plots))
    return draw(path, round(bottom * ROW) + 95, "\n".join(script) + "\n")


def ranges(path, groups, label, colours):
    """Draw rows from p50 to p99, over a logarithmic x."""
    headings, placed, bottom = place(groups)
    script = row_axis(headings, placed, bottom, label)
    script += ["set logscale x 10", 'set format x "%h"', "$d << END"]
    for y, (title, (middle, high)) in placed:
        script.append(f"{middle:.6g} {y} {max(high - middle, 0):.6g} "
                      f"{high:.6g} {int(colours_number(colours[title]))}")
    script += [
        "END",
        "set offsets 0, 0, 0, 0",
        "plot $d using 1:2:3:(0):5 with vectors nohead linewidth 3 "
        "linecolor rgb variable notitle, \\",
        "  $d using 1:2:5 with points pointtype 7 pointsize 0.7 "
        'linecolor rgb variable notitle, \\',
        "  $d using 4:2:5 with points pointtype 9 pointsize 0.7 "
        "linecolor rgb variable notitle, \\",
        '  NaN with points pointtype 7 linecolor rgb "#8a8f98" title "p50",'
        " \\",
        '  NaN with points pointtype 9 linecolor rgb "#8a8f98" title "p99"']
    return draw(path, round(bottom * ROW) + 95, "\n".join(script) + "\n")


def colours_number(colour):
    """Return a colour as a number, as gnuplot reads it from a column."""
    return 0 if colour == "black" else int(colour[1:], 16)


def row_axis(headings, placed, bottom, label):
    """Return the script of a vertical axis with a title per row."""
    tics = ", ".join(f"{quoted(title)} {y}" for y, (title, _) in placed)
    longest = max((len(title) for _, (title, _) in placed), default=5)
    script = [f"set xlabel {quoted(label)}",
              f"set yrange [{bottom}:-0.6]",
              f"set ytics ({tics}) scale 0", "set grid noytics xtics",
              f"set lmargin {longest + 2}", "set rmargin 2",
              "set border 1", "set key top right outside horizontal "
              "samplen 1.2"]
    for y, heading in headings:
        script.append(f"set label {quoted(heading)} at graph 0,first {y} "
                      'left offset 0,0 font "sans-serif:Bold,12"')
    return script
