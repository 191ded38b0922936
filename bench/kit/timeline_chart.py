# SPDX-License-Identifier: MIT
"""Draws a timeline: a row for each thread, and for each client of a loop.

What runs is a bar, what waits is a line: the picture can be read without its
colours. As wide as a phone, like all charts.
"""

import html
import math
from typing import NamedTuple

from . import charts, timeline

WIDTH = charts.WIDTH
LEFT = 74.0  # of the time axis; the names are before it
NAME_WIDTH = (LEFT - 6) * charts.TEXT_SIZE / 10  # their text is smaller
RIGHT = WIDTH - 13.0
ROW = 15.0
LANE = 11.0
MOST_ROWS = 16
SHORTEST_MS = 0.02  # of the whole; shorter pieces are drawn together
KEY_HEIGHT = 15
COLUMNS = 2


class Stroke(NamedTuple):
    """How a state is drawn: a line of this height."""
    height: float
    colour: str
    dashes: str | None = None


STROKES = {
    "upstream": Stroke(1.2, "#8a8f98"),
    "client": Stroke(3, "#3a9d5d", "1.2 2"),
    "any": Stroke(1.2, "#8a8f98", "5 2.5"),
    "other": Stroke(1.2, "#8a8f98", "1 3"),
    "lock": Stroke(5, "#a868d6", "1 1.5"),
    "ready": Stroke(11, "#d9901a", "1.2 .8"),
    "kernel": Stroke(7, "#d6472a"),
    "user": Stroke(11, "#2f86d6"),
    "running": Stroke(9, "#2f86d6"),
}
FETCH = Stroke(1.2, "#8a8f98")  # a request is with the upstream
OWN = Stroke(7, "#2f86d6")  # a loop runs for this client

STYLE = (".chart .key{font-size:10.5px}.chart .zoomed{fill:#8a8f98;"
         "fill-opacity:.18}.chart .name{font-size:10px}")


def merge(pieces, shortest):
    """Return [from, to, state], short ones in a row as one: that in which
    they have spent the most time."""
    merged = []
    group: list = []

    def flush():
        if group:
            times: dict = {}
            for start, end, state in group:
                times[state] = times.get(state, 0) + end - start
            merged.append([group[0][0], group[-1][1],
                           max(times, key=lambda state: times[state])])
            group.clear()
    for start, end, state in pieces:
        if end - start >= shortest:
            flush()
            merged.append([start, end, state])
            continue
        if group and end - group[0][0] > shortest:
            flush()
        group.append([start, end, state])
    flush()
    joined: list = []
    for piece in merged:
        if joined and joined[-1][2] == piece[2] \
                and piece[0] - joined[-1][1] < shortest / 2:
            joined[-1][1] = piece[1]
        else:
            joined.append(piece)
    return joined


def number(value):
    return f"{value:.2f}".rstrip("0").rstrip(".")


class Panel:
    """A part of the window, with a row for each thread."""

    def __init__(self, drawing, seen, begin_us, end_us):
        self.drawing = drawing
        self.seen = seen
        self.begin, self.end = begin_us, end_us
        self.shortest = (end_us - begin_us) / (
            seen.settings.milliseconds / SHORTEST_MS)

    def x(self, us):
        us = min(max(us, self.begin), self.end)
        return LEFT + (RIGHT - LEFT) * (us - self.begin) / (
            self.end - self.begin)

    def stroke(self, pieces, y, how):
        """Draw pieces of (from, to) as one path."""
        path = []
        for start, end in pieces:
            if end > self.begin and start < self.end:
                left = self.x(start)
                path.append(f"M{number(left)} {number(y)}"
                            f"h{number(max(self.x(end) - left, 0.1))}")
        if path:
            self.drawing.add("path", d="".join(path), stroke=how.colour,
                             stroke_width=how.height,
                             stroke_dasharray=how.dashes, fill="none")

    def row(self, name, hover, pieces, y):
        self.drawing.open_group(hover)
        self.drawing.text(LEFT - 5, y + 3.5,
                          charts.fit_text(name, NAME_WIDTH), whole=name,
                          text_anchor="end", class_="name")
        merged = merge([piece[:3] for piece in pieces
                        if piece[1] > self.begin and piece[0] < self.end],
                       self.shortest)
        for state, how in STROKES.items():
            self.stroke([(start, end) for start, end, kind in merged
                         if kind == state], y, how)
        self.drawing.close_group()

    def lane(self, client, y):
        """Draw whose request runs: that of this client."""
        self.drawing.text(LEFT - 5, y + 3.5, f"client {client}",
                          text_anchor="end", class_="name")
        self.stroke([(start, end) for start, end, owner in self.seen.fetches
                     if owner == client], y, FETCH)
        own = sorted((start, end, "run") for thread in self.seen.threads
                     for start, end, state, owner in thread["pieces"]
                     if owner == client and state in timeline.ON_CORE)
        self.stroke([(start, end) for start, end, _
                     in merge(own, self.shortest)], y, OWN)

    def axis(self, y, top, from_zero):
        """Draw the time axis, in ms."""
        drawing, first = self.drawing, 0 if from_zero else self.begin
        span = self.end - self.begin
        step = charts.step_down(span / 4, (1, 2, 5))
        drawing.line((LEFT, y), (RIGHT, y), class_="axis")
        at = math.ceil(first / step) * step
        while at <= first + span * 1.0001:
            place = self.x(at)
            drawing.line((place, top), (place, y), class_="grid")
            drawing.text(place, y + 12, f"{at / 1e3:g}",
                         class_="tick x", text_anchor="middle")
            at += step
        drawing.text(LEFT - 14, y + 12, "ms", class_="tick",
                     text_anchor="end")


def hover_of(thread):
    """Return a thread's name and where its time went."""
    times: dict = {}
    for start, end, state, _ in thread["pieces"]:
        times[state] = times.get(state, 0) + end - start
    parts = [f"{timeline.STATES[state]} {us / 1e3:.2f} ms"
             for state, us in sorted(times.items(), key=lambda item:
                                     -item[1])]
    return f"{thread['name']} {thread['tid']}: {', '.join(parts)}"


def name_of(thread):
    return f"client {thread['client']}" if thread["client"] \
        else thread["name"]


def draw_key(drawing, states, lanes, y):
    """Draw what each line means; return where that ends."""
    keys = [(STROKES[state], timeline.STATES[state]) for state in
            timeline.STATES if state in states]
    for index, (how, words) in enumerate(keys):
        x = 4 + index % COLUMNS * WIDTH / COLUMNS
        place = y + index // COLUMNS * KEY_HEIGHT + 6
        drawing.add("path", d=f"M{number(x)} {number(place)}h22",
                    stroke=how.colour, stroke_width=how.height,
                    stroke_dasharray=how.dashes, fill="none")
        drawing.text(x + 28, place + 3.5, words, class_="key")
    y += -(-len(keys) // COLUMNS) * KEY_HEIGHT
    if lanes:
        for x, how, words in (
                (4, OWN, "runs for this client"),
                (4 + WIDTH / COLUMNS, FETCH, "its request is upstream")):
            drawing.add("path", d=f"M{number(x)} {number(y + 6)}h22",
                        stroke=how.colour, stroke_width=how.height,
                        fill="none")
            drawing.text(x + 28, y + 9.5, words, class_="key")
        y += KEY_HEIGHT
    return y


def describe(seen, hidden):
    """Return the lines of text below the picture."""
    times = dict.fromkeys(timeline.STATES, 0.0)
    for thread in seen.threads:
        for start, end, state, _ in thread["pieces"]:
            times[state] += (end - start) / 1e3
    if seen.tracer == "strace":
        lines = [f"{seen.replies} replies; threads run or are ready to for "
                 f"{times['running']:.1f} ms in all.",
                 "Seen with strace, which slows the server down: user",
                 "space, kernel and waits for a core are not told apart."]
    else:
        lines = [f"{seen.replies} replies; in all {times['user']:.2f} ms in "
                 f"user space, {times['kernel']:.2f} ms",
                 f"in the kernel, {times['ready']:.2f} ms ready without a "
                 "core."]
    if hidden:
        lines.append(f"Not drawn: {hidden} more that ran the least.")
    if seen.idle:
        lines.append(f"{seen.idle} other thread{'s' * (seen.idle > 1)} did "
                     "nothing.")
    return lines


def on_core(thread):
    return sum(end - start for start, end, state, _ in thread["pieces"]
               if state in timeline.ON_CORE)


def rows_of(seen):
    """Return the threads to draw, and how many are left out."""
    busiest = sorted(seen.threads, key=on_core, reverse=True)[:MOST_ROWS]
    shown = [thread for thread in seen.threads if thread in busiest]
    return shown, len(seen.threads) - len(shown)


def draw_panel(drawing, seen, rows, lanes, span, y, from_zero):
    """Draw the rows from one time to another; return where that ends."""
    panel = Panel(drawing, seen, *span)
    top = y
    bottom = y + len(rows) * ROW + (lanes and lanes * LANE + 4) + 2
    if from_zero:
        left, right = panel.x(seen.zoom), panel.x(
            seen.zoom + (span[1] - span[0]) / timeline.ZOOM)
        drawing.add("rect", x=left, y=top, width=right - left,
                    height=bottom - top, class_="zoomed")
    panel.axis(bottom, top, from_zero)
    for thread in rows:
        panel.row(name_of(thread), hover_of(thread), thread["pieces"],
                  y + ROW / 2)
        y += ROW
    for client in range(1, lanes + 1):
        panel.lane(client, y + 4 + LANE / 2)
        y += LANE
    return bottom + 24


def draw(seen, path=None):
    """Draw a Timeline; return the SVG, and write it if there is a path."""
    drawing = charts.Drawing()
    rows, hidden = rows_of(seen)
    lanes = seen.settings.clients if any(
        thread["loop"] for thread in seen.threads) else 0
    length = seen.settings.milliseconds
    name = (f"{seen.contender.name}: {length:g} ms, "
            f"{seen.settings.clients} clients")
    if seen.contender.fetches:
        name += f", upstream after {seen.settings.delay_ms:g} ms"
    notes = describe(seen, hidden)
    drawing.parts.append(f"<title>{html.escape(name)}</title>")
    drawing.parts.append(f"<desc>{html.escape(' '.join(notes))}</desc>")
    drawing.parts.append(f"<style>{STYLE}</style>")
    drawing.text(2, 12, charts.fit_text(name, WIDTH - 4), whole=name,
                 class_="heading")
    states = {piece[2] for thread in rows for piece in thread["pieces"]}
    y = draw_key(drawing, states, lanes, 20) + 6
    y = draw_panel(drawing, seen, rows, lanes, (0, length * 1e3), y, True)
    part = length / timeline.ZOOM
    drawing.text(2, y + 9, f"The busiest {part:g} ms, enlarged",
                 class_="heading")
    y = draw_panel(drawing, seen, rows, lanes,
                   (seen.zoom, seen.zoom + part * 1e3), y + 14, False)
    for line in notes:
        y += 14
        drawing.text(2, y - 4, line, class_="key")
    return drawing.svg(y + 6, name, path)
