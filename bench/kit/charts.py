# SPDX-License-Identifier: MIT
"""Draws charts as SVG that are readable on white, on black and on a phone.

A chart is as wide as a phone, so its text is as large there as on a desk.
What has the colour of the text follows the reader's colour scheme.
"""

import colorsys
import html
import math
import statistics
from typing import NamedTuple

import numpy

from .groups import Groups

WIDTH = 380
SMALL_WIDTH = 280  # of a heat map among others
ROW = 16  # height of a row with its gap
NAME_WIDTH = 126  # longest name beside a chart
TEXT_SIZE = 11
SQUEEZED = 4  # the largest value is this many times the median
# Medium lightness, so each is visible on white and on black.
COLOURS = ("#e4572e", "#2f86d6", "#3a9d5d", "#a868d6", "#d9901a", "#1ba3a3",
           "#d6579c", "#7d8a2e", "#8a6a4f", "#6f7ff0", "#b03a48", "#5f8f8f",
           "#c27ba0", "#4f9ad0")
TEXT_COLOUR = "currentColor"
# The hues of a group, in degrees, and how light they are in turn: relative
# luminances with a contrast of 3 and more to white and to black.
HUES = {"c": (185, 265), "document": (-12, 45), "frameworks": (280, 335),
        "modern": (85, 160), "own": (48, 75)}
LUMINANCES = (0.17, 0.28, 0.22)
SATURATION = 0.68
HEAT_CELL = 3  # side of a heat map's cell
HEAT_SHADES = (0.3, 0.42, 0.54, 0.66, 0.8, 1)

STYLE = (".chart{color:#1b1f24;font:11px system-ui,-apple-system,'Segoe UI',"
         "Roboto,sans-serif}.chart text{fill:currentColor}"
         ".chart .heading{font-weight:600}.chart .tick{font-size:10px}"
         ".chart .grid{stroke:#8a8f98;stroke-width:.5;stroke-dasharray:2 3}"
         ".chart .axis{stroke:currentColor;stroke-width:.7;fill:none}"
         ".chart .reference{stroke:#8a8f98;stroke-dasharray:5 4}"
         ".chart .series:hover path{stroke-width:4}"
         "@media(prefers-color-scheme:dark){.chart{color:#e3e6ea}}")


class Row(NamedTuple):
    """A contender in a panel: a value for each part of the chart."""
    name: str
    values: tuple
    label: str  # its figures, as the tables show them
    hover: str


class Panel(NamedTuple):
    """The rows at one number of connections, with a scale of their own."""
    heading: str
    rows: list
    floor: float = 0  # a logarithmic scale starts no lower
    frame: tuple = ()  # rows of the charts beside it, on the same scale


class Line(NamedTuple):
    """A contender in a line chart."""
    name: str
    points: list  # (x, y, hover)


class Point(NamedTuple):
    """A value at one of the columns of a chart of slopes."""
    column: int
    value: float
    bounds: tuple  # its interval
    hover: str


class Slope(NamedTuple):
    """A line from column to column."""
    name: str
    points: list


def colour_of(names, baseline, groups=None):
    """Return a colour for each name; the baseline has the text's colour.

    Those of a group have hues of its own.
    """
    groups = groups or Groups()
    others = [name for name in names if name != baseline]
    colours = {}
    for part in groups.parts(others):
        for index, name in enumerate(part.names):
            colours[name] = family_colour(
                HUES[part.group], index, len(part.names)) if part.group \
                else COLOURS[index % len(COLOURS)]
    colours[baseline] = TEXT_COLOUR
    return colours


def family_colour(hues, index, count):
    """Return one of this many colours between two hues; neighbours differ in
    hue and in lightness."""
    stride = next(stride for stride in range(2 * count // 5 + 1, count + 1)
                  if math.gcd(stride, count) == 1)
    step = index * stride % count
    hue = hues[0] + (hues[1] - hues[0]) * step / max(count - 1, 1)
    wanted = LUMINANCES[index % len(LUMINANCES)]
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        colour = colorsys.hls_to_rgb(hue % 360 / 360, middle, SATURATION)
        if luminance(colour) < wanted:
            low = middle
        else:
            high = middle
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)


def luminance(colour):
    """Return the relative luminance of a colour in sRGB, as WCAG has it."""
    red, green, blue = (part / 12.92 if part <= 0.04045
                        else ((part + 0.055) / 1.055) ** 2.4
                        for part in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def text_width(text, size=TEXT_SIZE):
    """Return the greatest width that the text has in any usual font."""
    wide = {**dict.fromkeys(" !'(),-./:;I[]ijl|ftr·", 0.42),
            **dict.fromkeys("abcdeghknopqsuvxyz_0123456789–", 0.65),
            **dict.fromkeys("mwMW@%…", 1.0)}
    return size * sum(wide.get(letter, 0.8) for letter in text)


def fit_text(text, width):
    """Return the text, without its middle if it is wider than this."""
    if text_width(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = text[:(kept + 1) // 2] + "…" + text[-(kept // 2):]
        if text_width(short) <= width:
            return short
    return "…"


def squeezed(panels):
    """Return whether the largest bar of a panel leaves the others no room."""
    for panel in panels:
        totals = [sum(row.values) for row in panel.rows]
        if max(totals) > SQUEEZED * statistics.median_low(totals):
            return True
    return False


def step_down(value, steps=range(1, 10)):
    """Return the largest step times a power of ten not above the value."""
    power = 10.0 ** math.floor(math.log10(value))
    return power * max(step for step in steps
                       if step == 1 or step * power <= value * (1 + 1e-9))


def step_up(value):
    """Return the next integer times a power of ten, or the value itself."""
    power = 10.0 ** math.floor(math.log10(value))
    return power * math.ceil(value / power * (1 - 1e-9))


def tick_text(value):
    return f"{value:,.0f}" if value >= 1 and value == int(value) \
        else f"{value:.6g}"


class Scale:
    """Maps values to places along an axis, and chooses its ticks."""

    def __init__(self, values, ends, log=False, floor=0.0):
        self.log = log
        self.start, self.end = ends
        if log:
            positive = [value for value in values if value > 0] or [1]
            self.low = step_down(max(min(positive), floor))
            self.high = step_up(max(max(positive), self.low))
            if self.high <= self.low:
                self.high = step_up(self.low * 1.2)
        else:
            self.low, self.high = 0.0, max(values, default=0) or 1.0

    def __call__(self, value):
        """Return the place of a value, or the nearer end if it is beyond."""
        value = min(max(value, self.low), self.high)
        share = (math.log(value / self.low) / math.log(self.high / self.low)
                 if self.log else value / self.high)
        return self.start + share * (self.end - self.start)

    def ticks(self, apart):
        """Return ticks at least this far apart, or as far as their text."""
        def room(some):
            places = sorted((self(tick), apart or text_width(
                tick_text(tick), 10) + 6) for tick in some)
            return all(after - before >= (width + more) / 2
                       for (before, width), (after, more)
                       in zip(places, places[1:]))
        choices = [self.choose(steps) for steps in (
            [range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)]
            if self.log else
            [step_down(self.high, (1, 2, 5)) / parts
             for parts in (10, 5, 4, 2, 1)])]
        fitting = [some for some in choices if len(some) > 1 and room(some)]
        return fitting[0] if fitting else [self.low, self.high]

    def choose(self, steps):
        if not self.log:
            return [steps * count
                    for count in range(int(self.high / steps + 1e-9) + 1)]
        powers = range(math.floor(math.log10(self.low) + 1e-9),
                       math.ceil(math.log10(self.high)) + 1)
        return [step * 10.0 ** power for power in powers for step in steps
                if self.low * 0.999 <= step * 10.0 ** power
                <= self.high * 1.001]


class Drawing:
    """The elements of an SVG."""

    def __init__(self, width=WIDTH):
        self.width = width
        self.parts = []

    def add(self, name, content="", **attributes):
        shown = "".join(
            f' {key.strip("_").replace("_", "-")}="{self.attribute(value)}"'
            for key, value in attributes.items() if value is not None)
        self.parts.append(f"<{name}{shown}>{content}</{name}>" if content
                          else f"<{name}{shown}/>")

    @staticmethod
    def attribute(value):
        if isinstance(value, float):
            return f"{value:.2f}".rstrip("0").rstrip(".")
        return html.escape(str(value))

    def text(self, x, y, text, **attributes):
        """Write the text, shortened with its whole in a hover."""
        whole = attributes.pop("whole", text)
        hover = f"<title>{html.escape(whole)}</title>" if whole != text \
            else ""
        self.add("text", html.escape(text) + hover, x=float(x), y=float(y),
                 **attributes)

    def title(self, title):
        """Write what a chart is of, if it is one of several; return where
        the rest of it starts."""
        if not title:
            return 0.0
        self.text(2, 13, title, class_="heading", font_size=13)
        return 20.0

    def line(self, start, end, **attributes):
        self.add("line", x1=float(start[0]), y1=float(start[1]),
                 x2=float(end[0]), y2=float(end[1]), **attributes)

    def mark(self, shape, x, y, colour, **attributes):
        """Draw a dot, a ring or a triangle around a place."""
        if shape == "triangle":
            self.add("path", d=f"M{x - 4:.2f} {y + 3.5:.2f}h8l-4 -7z",
                     fill=colour, **attributes)
        else:
            ring = {"fill": "none", "stroke": colour, "stroke_width": 1.5} \
                if shape == "ring" else {"fill": colour}
            self.add("circle", cx=float(x), cy=float(y),
                     r=3.2 if shape == "ring" else 3.8, **ring, **attributes)

    def open_group(self, hover, **attributes):
        shown = "".join(f' {key.replace("_", "-")}="{html.escape(value)}"'
                        for key, value in attributes.items())
        self.parts.append(f"<g{shown}><title>{html.escape(hover)}</title>")

    def close_group(self):
        self.parts.append("</g>")

    def level_axis(self, scale, y, top):
        """Draw ticks and grid of a horizontal axis."""
        self.line((scale.start, y), (scale.end, y), class_="axis")
        for tick in scale.ticks(None):
            self.line((scale(tick), top), (scale(tick), y), class_="grid")
            self.text(scale(tick), y + 12, tick_text(tick),
                      class_="tick x", text_anchor="middle")

    def upright_axis(self, scale, left, right, apart=22):
        """Draw ticks and grid of a vertical axis."""
        self.line((left, scale.start), (left, scale.end), class_="axis")
        for tick in scale.ticks(apart):
            self.line((left, scale(tick)), (right, scale(tick)),
                      class_="grid")
            self.text(left - 4, scale(tick) + 3.5, tick_text(tick),
                      class_="tick y", text_anchor="end")

    def svg(self, height, name, path=None):
        """Return the SVG, and write it to a file if there is a path."""
        text = (f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" '
                f'role="img" aria-label="{html.escape(name)}" '
                f'viewBox="0 0 {self.width} {height:.0f}" '
                f'width="{self.width * 3 // 2}" '
                f'height="{height * 1.5:.0f}">\n<style>{STYLE}</style>\n'
                + "\n".join(self.parts) + "\n</svg>\n")
        if path:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return text


def name_of(path):
    return path.rpartition("/")[2].removesuffix(".svg")


def spread_out(wanted, apart, low, high):
    """Return places near the wanted ones, in their order and apart."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places = [0.0] * len(wanted)
    below = low - apart
    for index in order:
        below = places[index] = max(wanted[index], below + apart)
    above = high + apart
    for index in reversed(order):
        above = places[index] = min(places[index], above - apart)
    return places


def lines(path, series, labels, colours, log_y=False, reference=None,
          title="", frame=()):
    """Draw a line for each contender, over a logarithmic x.

    The frame are the lines of the charts beside it, on the same scales.
    """
    drawing = Drawing()
    frame = frame or series
    xs = sorted({x for line in frame for x, _, _ in line.points})
    ys = [y for line in frame for _, y, _ in line.points]
    if reference is not None:
        ys.append(reference)
    start = drawing.title(title)
    top = start + 26.0
    bottom = top + max(230, len(series) * 13 + 10)
    names = max(text_width(line.name) for line in frame)
    right = WIDTH - min(names, NAME_WIDTH) - 20
    y_scale = Scale(ys, (bottom, top), log_y)
    left = max(text_width(tick_text(tick), 10)
               for tick in y_scale.ticks(22)) + 8
    x_scale = Scale(xs, (left + 8, right - 6), True)
    # the levels are the ends, not the next 1, 2 or 5
    x_scale.low, x_scale.high = xs[0], max(xs[-1], xs[0] * 1.01)
    drawing.text(2, start + 12, labels[1], class_="heading")
    drawing.upright_axis(y_scale, left, right)
    drawing.line((left, bottom), (right, bottom), class_="axis")
    free = float("inf")
    for x in reversed(xs):  # the last is the one to keep
        half = text_width(tick_text(x), 10) / 2
        if x_scale(x) + half < free:
            drawing.text(x_scale(x), bottom + 13, tick_text(x),
                         class_="tick x", text_anchor="middle")
            free = x_scale(x) - half - 4
    drawing.text((left + right) / 2, bottom + 28, labels[0],
                 text_anchor="middle")
    if reference is not None:
        drawing.line((left, y_scale(reference)), (right, y_scale(reference)),
                     class_="reference")
    places = spread_out([y_scale(line.points[-1][1]) for line in series], 13,
                        top + 2, bottom - 2)
    # the baseline comes last, above the others
    for line, place in sorted(zip(series, places), key=lambda pair: colours[
            pair[0].name] == TEXT_COLOUR):
        colour = colours[line.name]
        wide = 2.6 if colour == TEXT_COLOUR else 1.6
        drawing.open_group(line.name, class_="series", data_name=line.name)
        spots = [(x_scale(x), y_scale(y)) for x, y, _ in line.points]
        drawing.add("path", d="M" + "L".join(
            f"{x:.2f} {y:.2f}" for x, y in spots), fill="none",
            stroke=colour, stroke_width=wide)
        last = spots[-1]
        drawing.add("path", d=f"M{last[0]:.2f} {last[1]:.2f}"
                    f"L{right + 4:.2f} {place:.2f}H{right + 11:.2f}",
                    fill="none", stroke=colour, stroke_width=0.8)
        for (x, y), (level, _, hover) in zip(spots, line.points):
            drawing.add("circle", f"<title>{html.escape(hover)}</title>",
                        cx=x, cy=y, r=2.4, fill=colour, data_x=f"{level:g}")
        drawing.text(right + 14, place + 4,
                     fit_text(line.name, WIDTH - right - 15),
                     whole=line.name, class_="name")
        drawing.close_group()
    return drawing.svg(bottom + 36, name_of(path), path)


def slopes(path, series, columns, title, colours, frame):
    """Draw a line from column to column, from zero: parallel lines have the
    same difference. The frame are all lines on the same scale."""
    drawing = Drawing(SMALL_WIDTH)
    start = drawing.title(title)
    top, bottom = start + 10.0, start + 170.0
    values = [each for line in frame for point in line.points
              for each in (point.value, *point.bounds)]
    scale = Scale(values, (bottom, top))
    left = max(text_width(tick_text(tick), 10)
               for tick in scale.ticks(22)) + 8
    right = SMALL_WIDTH - max(text_width(line.name) for line in frame) - 20
    places = [left + 22 + index * (right - left - 44) / (len(columns) - 1)
              for index in range(len(columns))]
    drawing.upright_axis(scale, left, right)
    drawing.line((left, bottom), (right, bottom), class_="axis")
    for column, place in zip(columns, places):
        drawing.text(place, bottom + 13, column, text_anchor="middle")
    ends = spread_out([scale(line.points[-1].value) for line in series], 13,
                      top + 2, bottom - 2)
    for line, end in zip(series, ends):
        colour = colours[line.name]
        drawing.open_group(line.name, class_="series", data_name=line.name)
        spots = [(places[point.column], scale(point.value))
                 for point in line.points]
        drawing.add("path", d="M" + "L".join(
            f"{x:.2f} {y:.2f}" for x, y in spots), fill="none",
            stroke=colour, stroke_width=1.8)
        for spot, point in zip(spots, line.points):
            low, high = (scale(each) for each in point.bounds)
            drawing.line((spot[0], low), (spot[0], high), stroke=colour,
                         stroke_width=1)
            drawing.add("circle", f"<title>{html.escape(point.hover)}</title>",
                        cx=spot[0], cy=spot[1], r=2.8, fill=colour,
                        data_column=columns[point.column])
        drawing.add("path", d=f"M{spots[-1][0]:.2f} {spots[-1][1]:.2f}"
                    f"L{right + 4:.2f} {end:.2f}H{right + 10:.2f}",
                    fill="none", stroke=colour, stroke_width=0.8)
        drawing.text(right + 13, end + 4, line.name, class_="name")
        drawing.close_group()
    return drawing.svg(bottom + 20, name_of(path), path)


def layout(panels):
    """Return where the plot of a chart of rows starts and ends."""
    rows = [row for panel in panels for row in panel.frame or panel.rows]
    names = max(text_width(row.name) for row in rows)
    labels = max(text_width(row.label) for row in rows)
    return min(names, NAME_WIDTH) + 8.0, WIDTH - labels - 10.0


def chart_of_rows(path, panels, parts, unit, draw_row, draw_key, log, title):
    """Draw panels of rows, one below the other."""
    drawing = Drawing()
    left, right = layout(panels)
    y = drawing.title(title) + 4.0
    if len(parts) > 1:
        x = left
        for index, part in enumerate(parts):
            draw_key(drawing, index, x + 5, y + 6)
            drawing.text(x + 14, y + 10, part)
            x += text_width(part) + 30
        y += 22
    for panel in panels:
        drawing.text(2, y + 11, panel.heading, class_="heading")
        top = y + 16
        bottom = top + len(panel.rows) * ROW + 2
        frame = panel.frame or panel.rows
        values = [value for row in frame for value in row.values] \
            if log else [sum(row.values) for row in frame]
        scale = Scale(values, (left, right - 6), log, panel.floor)
        drawing.level_axis(scale, bottom, top)
        for index, row in enumerate(panel.rows):
            middle = top + (index + 0.5) * ROW
            drawing.open_group(row.hover, data_name=row.name,
                               data_panel=panel.heading)
            drawing.text(left - 5, middle + 4, fit_text(row.name, left - 6),
                         whole=row.name, text_anchor="end", class_="name")
            draw_row(drawing, row, scale, middle)
            drawing.text(WIDTH - 2, middle + 4, row.label,
                         text_anchor="end", class_="figure")
            drawing.close_group()
        y = bottom + 22
    drawing.text((left + right) / 2, y + 8, unit, text_anchor="middle")
    return drawing.svg(y + 16, name_of(path), path)


def bars(path, panels, parts, unit, colours, title=""):
    """Draw bars from zero; the parts of a bar differ in opacity."""
    solid = (0.95, 0.4) if len(parts) > 1 else (0.9,)

    def draw_row(drawing, row, scale, middle):
        total = 0.0
        for part, value, opacity in zip(parts, row.values, solid):
            drawing.add("rect", x=scale(total), y=middle - 6, height=12,
                        width=scale(total + value) - scale(total),
                        fill=colours[row.name], fill_opacity=opacity,
                        data_part=part)
            total += value

    def draw_key(drawing, index, x, y):
        drawing.add("rect", x=x - 5, y=y - 5, width=11, height=10,
                    fill="#8a8f98", fill_opacity=solid[index])

    return chart_of_rows(path, panels, parts, unit, draw_row, draw_key,
                         False, title)


def dots(path, panels, parts, unit, colours, joined=True, title=""):
    """Draw a mark for each part, over a logarithmic x.

    The parts are (name, shape). A value below the scale is a faint mark at
    its end.
    """
    def draw_row(drawing, row, scale, middle):
        colour = colours[row.name]
        if joined:
            drawing.line((scale(row.values[0]), middle),
                         (scale(row.values[-1]), middle), stroke=colour,
                         stroke_width=3, stroke_opacity=0.45)
        for (part, shape), value in zip(parts, row.values):
            low = 0.35 if value < scale.low else None
            drawing.mark(shape, scale(value), middle, colour,
                         data_part=part, opacity=low)

    def draw_key(drawing, index, x, y):
        drawing.mark(parts[index][1], x, y, "#8a8f98")

    return chart_of_rows(path, panels, [name for name, _ in parts], unit,
                         draw_row, draw_key, True, title)


def heat(samples, seconds, ends, hover, path=None):
    """Return a picture of when requests were sent and how long they took.

    The samples are two arrays, of s and of ms. A cell is the darker the more
    requests fell into it, by the logarithm of their number.
    """
    drawing = Drawing(WIDTH if path else SMALL_WIDTH)
    top, height = 20.0, 180 if path else 105
    bottom = top + height
    y_scale = Scale(ends, (bottom, top), True)
    left = max([text_width("ms")] + [text_width(tick_text(tick), 10)
                                     for tick in y_scale.ticks(22)]) + 8
    right = drawing.width - 12.0
    x_scale = Scale([seconds], (left, right))
    columns = max(int((right - left) / HEAT_CELL), 1)
    rows = height // HEAT_CELL
    wide, high = (right - left) / columns, height / rows
    per_column = columns / seconds
    base = math.log(y_scale.low)
    per_row = rows / (math.log(y_scale.high) - base)
    starts, latencies = samples
    across = numpy.clip((starts * per_column).astype(int), 0, columns - 1)
    up = numpy.clip(((numpy.log(latencies) - base) * per_row).astype(int), 0,
                    rows - 1)
    counts = numpy.bincount(across * rows + up)
    most = math.log(counts.max()) or 1
    shaded: dict = {}
    for index in numpy.flatnonzero(counts).tolist():
        shade = int(math.log(counts[index]) / most *
                    (len(HEAT_SHADES) - 1) + 0.5)
        shaded.setdefault(shade, []).append(divmod(index, rows))
    drawing.text(left - 4, 11, "ms", text_anchor="end")
    drawing.text(left + 4, 11, fit_text(hover, right - left), whole=hover,
                 class_="heading")
    drawing.upright_axis(y_scale, left, right)
    for shade, cells in sorted(shaded.items()):
        drawing.add("path", d="".join(
            f"M{left + column * wide:.1f} {bottom - (row + 1) * high:.1f}"
            f"h{wide:.2f}v{high:.2f}h-{wide:.2f}z"
            for column, row in sorted(cells)), fill=COLOURS[1],
            fill_opacity=HEAT_SHADES[shade], class_="heat")
    drawing.level_axis(x_scale, bottom, top)
    drawing.text((left + right) / 2, bottom + 26, "seconds",
                 text_anchor="middle")
    return drawing.svg(bottom + 32, hover, path)
