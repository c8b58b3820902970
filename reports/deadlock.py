# SPDX-License-Identifier: MIT
"""Deadlocks that were found: who waits for whom as a graph, what broke the cycle, and the stacks.

The graph is laid out here and written by the template, which escapes every text. Boxes stand along the two long sides
of a ring, the labels of the arrows in the gaps between them and inside the ring, so that nothing overlaps however many
tasks there are. All its text is of one width, without which nobody could say what fits.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from unicodedata import east_asian_width

from reports.analysis import Comparison, place, plain
from reports.model import Cell, Event, num, obj, seq, text, whole
from reports.text import one_line, plural, quantity, seconds

MAX_DRAWN = 12  # tasks of a cycle
MAX_LISTED = 64
MAX_CYCLES = 24
MAX_FRAMES = 64
RAW_SHOWN = 2000

BOX_PX, GAP_PX, ROW_GAP_PX, LINE_PX = 184, 156, 92, 16
BOX_CHARS, GAP_CHARS = 22, 18
WHERE_LINES, WAITS_LINES = 2, 3
BOX_HEIGHT_PX = LINE_PX * (2 + WHERE_LINES) + 20
EDGE_PX, LABEL_EDGE_PX = 10, 44
HEAD_PX, CORNER_PX, BESIDE_PX = 9, 12, 10


@dataclass
class Step:
    """One task of a cycle, which waits for what the next one holds."""

    comm: str
    pid: str
    where: str
    waits: str
    stack: str

    @property
    def who(self) -> str:
        return self.comm + (f" (pid {self.pid})" if self.pid else "")

    @property
    def words(self) -> str:
        return self.who + (f" in {self.where}" if self.where else "") + f" waits for {self.waits}"


@dataclass
class Line:
    """A line of text, by its baseline."""

    x: int
    y: int
    words: str
    style: str = ""
    anchor: str = "start"


@dataclass
class Box:
    x: int
    y: int
    title: str
    lines: list[Line]
    width: int = BOX_PX
    height: int = BOX_HEIGHT_PX


@dataclass
class Arrow:
    path: str
    head: str
    title: str
    lines: list[Line]


@dataclass
class Graph:
    title: str
    width: int
    height: int
    boxes: list[Box]
    arrows: list[Arrow]


@dataclass
class Cycle:
    arm: int
    place: str
    found: str
    steps: list[Step]
    graph: Graph | None
    broken: str
    drained: str
    raw: str
    remark: str

    @property
    def words(self) -> list[str]:
        """A line for each task, or what the record has instead."""
        following = self.steps[1:] + self.steps[:1]
        lines = [f"{step.words}, held by {other.who}" for step, other in zip(self.steps, following)]
        return lines[:MAX_LISTED] or [self.raw]

    @property
    def stacks(self) -> list[Step]:
        return [step for step in self.steps[:MAX_LISTED] if step.stack]


@dataclass
class Deadlocks:
    cycles: list[Cycle]
    left_out: int


def _columns(words: str) -> int:
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in words)


def _cut(words: str, width: int) -> str:
    """As much as fits, with an ellipsis where something is left out."""
    if _columns(words) <= width:
        return words
    while _columns(words) >= width:
        words = words[:-1]
    return words + "\N{HORIZONTAL ELLIPSIS}"


def folded(value: str, width: int, most: int) -> list[str]:
    """In lines that fit, broken at spaces and behind the underscores of kernel names."""
    lines = [""]
    for piece in re.findall(r"\s?[^\s_]*_+|\s?[^\s_]+", one_line(value, width * most + 1)):
        if lines[-1] and _columns(lines[-1] + piece) > width:
            lines.append("")
            piece = piece.lstrip()
        lines[-1] += piece
    if len(lines) > most:
        lines[most - 1 :] = ["".join(lines[most - 1 :])]
    return [_cut(line, width) for line in lines]


def _step(entry: dict[str, object]) -> Step:
    pid = whole(entry.get("pid"))
    frames = [text(frame) for frame in seq(entry.get("stack"))[:MAX_FRAMES]]
    return Step(
        one_line(text(entry.get("comm")) or "?", 64),
        "" if pid is None else str(pid),
        one_line(text(entry.get("where"))),
        one_line(text(entry.get("waits")) or "something that is not on record"),
        "\n".join(one_line(frame) for frame in frames if frame),
    )


def _box(step: Step, number: int, x: int, y: int) -> Box:
    lines = [(_cut(step.comm, BOX_CHARS - 3), "name"), (f"pid {step.pid}" if step.pid else "", "soft")]
    lines += [(line, "") for line in folded(f"in {step.where}" if step.where else "", BOX_CHARS, WHERE_LINES)]
    placed = [
        Line(x + 12, y + 24 + LINE_PX * row, words, style) for row, (words, style) in enumerate(lines) if words
    ]
    placed.append(Line(x + BOX_PX - 10, y + 24, str(number), "soft", "end"))
    return Box(x, y, step.words, placed)


def _path(points: list[tuple[int, int]]) -> str:
    """Straight pieces with round corners."""
    parts = [f"M{points[0][0]} {points[0][1]}"]
    for before, corner, after in zip(points, points[1:], points[2:]):
        near, far = (_towards(corner, other, CORNER_PX) for other in (before, after))
        parts.append(f"L{near[0]} {near[1]}Q{corner[0]} {corner[1]} {far[0]} {far[1]}")
    return "".join(parts) + f"L{points[-1][0]} {points[-1][1]}"


def _towards(start: tuple[int, int], end: tuple[int, int], by: int) -> tuple[int, int]:
    """`by` pixels from the start on a line along one axis."""
    return tuple(a + by * ((b > a) - (b < a)) for a, b in zip(start, end))


def _arrow(points: list[tuple[int, int]], step: Step, lines: list[Line]) -> Arrow:
    tip, tail = points[-1], _towards(points[-1], points[-2], HEAD_PX)
    across = (0, 5) if tip[1] == tail[1] else (5, 0)
    head = (
        f"M{tip[0]} {tip[1]}L{tail[0] + across[0]} {tail[1] + across[1]}"
        f"L{tail[0] - across[0]} {tail[1] - across[1]}Z"
    )
    return Arrow(_path([*points[:-1], tail]), head, f"{step.who} waits for {step.waits}", lines)


def _label(step: Step, x: int, last_y: int, anchor: str = "middle") -> list[Line]:
    """The lines of a label that ends at a height."""
    lines = folded(step.waits, GAP_CHARS, WAITS_LINES)
    return [Line(x, last_y - LINE_PX * (len(lines) - 1 - row), words, "", anchor) for row, words in enumerate(lines)]


def _along(step: Step, begin: int, end: int, y: int) -> Arrow:
    """From side to side, with its label on it."""
    return _arrow([(begin, y), (end, y)], step, _label(step, (begin + end) // 2, y - 7))


def _pair(steps: list[Step]) -> tuple[list[tuple[int, int]], list[Arrow], int]:
    """Two tasks beside each other: one arrow there, one back."""
    y = LABEL_EDGE_PX
    left, right = EDGE_PX + BOX_PX, EDGE_PX + BOX_PX + GAP_PX
    there, back = y + BOX_HEIGHT_PX // 3, y + 2 * BOX_HEIGHT_PX // 3
    under = len(folded(steps[1].waits, GAP_CHARS, WAITS_LINES)) * LINE_PX
    arrows = [
        _along(steps[0], left, right, there),
        _arrow([(right, back), (left, back)], steps[1], _label(steps[1], (left + right) // 2, back + under)),
    ]
    return [(EDGE_PX, y), (right, y)], arrows, 2 * LABEL_EDGE_PX + BOX_HEIGHT_PX


def _turn(step: Step, start: tuple[int, int], end: tuple[int, int], right: bool) -> Arrow:
    """From one row to the other, down at the right end. The label stands in the ring, beside the upright piece."""
    (x, y), (to_x, to_y) = ((left + BOX_PX // 2, top) for left, top in (start, end))
    middle = y + BOX_HEIGHT_PX // 2
    if x == to_x:
        points = [(x, y + BOX_HEIGHT_PX * right), (x, to_y + BOX_HEIGHT_PX * (not right))]
    elif right:
        middle += to_y - y
        points = [(x, y + BOX_HEIGHT_PX), (x, middle), (to_x + BOX_PX // 2, middle)]
    else:
        points = [(x - BOX_PX // 2, middle), (to_x, middle), (to_x, to_y + BOX_HEIGHT_PX)]
    upright, side = (x, -1) if right else (to_x, 1)
    gap = min(y, to_y) + BOX_HEIGHT_PX + ROW_GAP_PX // 2
    under = len(folded(step.waits, GAP_CHARS, WAITS_LINES)) * LINE_PX // 2
    anchor = "end" if right else "start"
    return _arrow(points, step, _label(step, upright + side * BESIDE_PX, gap + under - 4, anchor))


def _ring(steps: list[Step]) -> tuple[list[tuple[int, int]], list[Arrow], int]:
    """Half of the tasks from left to right, the others below them and back."""
    pitch, top = BOX_PX + GAP_PX, (len(steps) + 1) // 2
    low_y = EDGE_PX + BOX_HEIGHT_PX + ROW_GAP_PX
    places = [(EDGE_PX + index * pitch, EDGE_PX) for index in range(top)]
    # One fewer in the lower row: they stand below the gaps of the upper.
    inset = (2 * top - len(steps)) * pitch // 2
    places += [(EDGE_PX + inset + index * pitch, low_y) for index in reversed(range(len(steps) - top))]
    arrows = []
    for index, step in enumerate(steps):
        (x, y), (to_x, to_y) = places[index], places[(index + 1) % len(steps)]
        if y != to_y:
            arrows.append(_turn(step, (x, y), (to_x, to_y), y < to_y))
        elif x < to_x:
            arrows.append(_along(step, x + BOX_PX, to_x, y + BOX_HEIGHT_PX // 2))
        else:
            arrows.append(_along(step, x, to_x + BOX_PX, y + BOX_HEIGHT_PX // 2))
    return places, arrows, low_y + BOX_HEIGHT_PX + EDGE_PX


def graph(steps: list[Step]) -> Graph | None:
    """The cycle as a picture, where it is one and can be read as one."""
    if not 2 <= len(steps) <= MAX_DRAWN:
        return None
    places, arrows, height = _pair(steps) if len(steps) == 2 else _ring(steps)
    boxes = [_box(step, number, *place) for number, (step, place) in enumerate(zip(steps, places), 1)]
    title = f"{plural(len(steps), 'task')} that wait for each other: {', '.join(step.comm for step in steps)}"
    return Graph(title, max(x for x, _ in places) + BOX_PX + EDGE_PX, height, boxes, arrows)


def _ends(cell: Cell) -> list[tuple[Event, Event | None]]:
    """Each deadlock, and the event that ended it before there was another."""
    pairs: list[tuple[Event, Event | None]] = []
    for event in cell.events:
        if event.kind == "deadlock":
            pairs.append((event, None))
        elif event.kind == "deadlock-end" and pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], event)
    return pairs


def _broken(begin: Event, end: Event | None) -> str:
    if end is None:
        return "The record does not say that it ended."
    by = one_line(plain(end.fields.get("broken_by"))) or "something that is not on record"
    return f"Broken by {by}, at {seconds(end.t)}, {seconds(end.t - begin.t)} after it was found."


def _drained(end: Event | None) -> str:
    if end is None:
        return ""
    took = num(end.fields.get("drain_ms"))
    after = f" after {quantity(took, 'ms')}" if took is not None and took >= 0 else ""
    known = {True: f"All had gone on{after}.", False: f"Not all had gone on{after}."}
    drained = end.fields.get("drained")
    return known[drained] if isinstance(drained, bool) else "Whether all went on is not on record."


def _cycle(arm: int, where: str, begin: Event, end: Event | None) -> Cycle:
    steps = [_step(obj(entry)) for entry in seq(begin.fields.get("steps"))]
    remark = f"{len(steps):,} tasks are too many to draw" if len(steps) > MAX_DRAWN else ""
    remark += f"; the first {MAX_LISTED} are listed" if len(steps) > MAX_LISTED else ""
    raw = one_line(begin.raw, RAW_SHOWN) or "The record does not say who waits for whom."
    return Cycle(
        arm, where, seconds(begin.t), steps, graph(steps), _broken(begin, end), _drained(end), raw, remark
    )


def found(comparison: Comparison) -> Deadlocks:
    """Every deadlock that the cells' logs tell of."""
    cycles = [
        (column.colour, place(column, cell), begin, end)
        for column in comparison.columns
        for cell in column.cells
        for begin, end in _ends(cell)
    ]
    return Deadlocks([_cycle(*cycle) for cycle in cycles[:MAX_CYCLES]], max(0, len(cycles) - MAX_CYCLES))
