# SPDX-License-Identifier: MIT
"""Figures of the report as plotly.js specifications: plain dictionaries, without the Python binding's classes.

Colours are tokens ("@arm0", "@ink"): the page puts in those of the reader's scheme. Texts from records go through
`label`, because plotly reads a small HTML of its own in hover labels.
"""
from __future__ import annotations

import html
import math
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from textwrap import wrap
from typing import Any

from reports.analysis import Column, Comparison, distinct, ends, repeat_words
from reports.model import Cell, Event, Series, num, obj, seq, text
from reports.text import number, one_line, plural, seconds

# Every arm has one colour in the whole report. The first ones follow Okabe and Ito's set, which readers with any colour
# vision can tell apart, a little darker for paper and a little lighter for dark screens.
LIGHT = ("#c8500a", "#0a6fb4", "#00875f", "#b3589a", "#8a6d00", "#5a5f66", "#6b4fb3", "#7a2e00", "#2e9bd6", "#003a63")
DARK = ("#f08a45", "#5fb3ee", "#35c79a", "#e093c4", "#d9b93b", "#aab2bc", "#b7a0f0", "#d0764a", "#9ad6f7", "#86a8e0")

MAX_POINTS = 3000  # a trace; more than a screen has columns
MAX_MARKERS = 300  # a cell and kind
MAX_GUIDES = 16  # vertical lines through all panels
MAX_LANES = 40
MAX_CACHE_PANELS = 4
MAX_LOADS = 6  # bars in one lane
MAX_BARS = 60  # of one workload
HOVER_COLUMNS = 62
NEIGHBOURS = 6  # other events named in a hover label
TOP_CACHES = 12
BAR_ARMS = 6
FIGURE_POINTS = 120_000  # of the curves of one figure, where there are many
LONGEST_S = 1e12  # more than a clock can say; an axis of damaged times must still be one
GAP_S = 1.5  # slabinfo stands still for a second, and a sample late, before anything is missing
RATE_WINDOW_S = 0.5
PAGE_MIB = 4096 / 2**20  # what pswpin and pswpout count, on all machines that we boot

LANE_PX, PANEL_PX, SPACE_PX, TOP_PX, BOTTOM_PX = 40, 128, 40, 36, 46
SMALL_LANE_PX, MANY_LANES = 24, 8
LOAD_PX = 14  # of a bar, with room for its name
MANY_COLUMNS = 8  # of more, nobody can tell the curves apart


@dataclass
class Kind:
    """How a kind of event is drawn: marker, height within its lane, and whether it goes through all panels."""

    name: str
    symbol: str
    offset: float = 0.0
    guide: bool = False


KINDS = {
    "oom-kill": Kind("OOM kill", "x", 0.3, True),
    "memcg-oom-kill": Kind("memcg OOM kill", "x-open", 0.3, True),
    "panic": Kind("panic", "star", -0.05, True),
    "bug": Kind("BUG", "hexagon", -0.05, True),
    "oops": Kind("oops", "hexagon", -0.05, True),
    "hung-task": Kind("hung task", "square", 0.0, True),
    "wq-lockup": Kind("workqueue lockup", "diamond", 0.0, True),
    "soft-lockup": Kind("soft lockup", "diamond-tall", 0.0, True),
    "rcu-stall": Kind("RCU stall", "triangle-up", 0.0, True),
    "alloc-failure": Kind("allocation failure", "triangle-down", 0.0),
    "offline-failure": Kind("offline failure", "triangle-left", 0.0),
    "warn": Kind("warning", "circle-open", 0.0),
    "kmsg-lost": Kind("kernel log lost", "asterisk-open", 0.0),
    "deadlock": Kind("deadlock", "hexagram", 0.0, True),
    "deadlock-end": Kind("deadlock broken", "hexagram-open", 0.0),
    "deadline": Kind("deadline", "bowtie", 0.0, True),
    "snapshot-overflow": Kind("snapshot overflow", "cross", 0.0),
    "phase": Kind("phase", "line-ns-open", -0.32),
    "offline": Kind("block offline", "triangle-right", 0.0),
    "online": Kind("block online", "circle", 0.0),
    "unplug": Kind("DIMM unplugged", "triangle-sw", 0.0),
    "plug": Kind("DIMM plugged", "triangle-ne", 0.0),
}


@dataclass
class Panel:
    """One strip of the stacked figure."""

    title: str
    series: list[tuple[Column, Cell, Series, str, str]] = field(default_factory=list)  # the last two: dash, note
    log: bool = False
    unit: str = ""
    rangemode: str = "tozero"


def label(value: object, limit: int = 110) -> str:
    """Text of a record for plotly: one short line, its markup inert, its template marks broken."""
    return html.escape(one_line(value, limit), quote=False).replace("%{", "%\N{WORD JOINER}{")


def token(column: Column) -> str:
    return f"@arm{column.colour % len(LIGHT)}"


def theme(palette: tuple[str, ...], dark: bool) -> dict[str, str]:
    """What the colour tokens mean in one scheme."""
    names = {f"@arm{index}": colour for index, colour in enumerate(palette)}
    # Bands are see-through, so that those of several arms can be told apart where they overlap.
    names |= {f"{name}-band": f"{colour}33" for name, colour in names.items()}
    greys = (
        ("#d7dbe0", "#9aa3ad", "#2c323a", "#171b20", "#232930")
        if dark
        else ("#1d2329", "#5c6670", "#e3e6ea", "#ffffff", "#ffffff")
    )
    tones = ("#5fd08f", "#ff8a80", "#f0c060") if dark else ("#0b6b3a", "#b3261e", "#8a5a00")
    names |= dict(zip(("@good", "@bad", "@mixed"), tones))
    return names | dict(zip(("@ink", "@soft", "@grid", "@paper", "@hover"), greys))


def _step(times: list[float]) -> float:
    steps = [b - a for a, b in zip(times, times[1:]) if b > a]
    return median(steps) if steps else GAP_S


def split_at_gaps(series: Series) -> list[list[tuple[float, float]]]:
    """Stretches without a hole: nobody knows what happened between two samples that lie far apart."""
    points = sorted(zip(series.t, series.v))
    longest = max(GAP_S, 2.5 * _step([t for t, _ in points]))
    stretches: list[list[tuple[float, float]]] = []
    for point in points:
        if not stretches or point[0] - stretches[-1][-1][0] > longest:
            stretches.append([])
        stretches[-1].append(point)
    return stretches


def thin(points: list[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """At most about `limit` points; each bucket keeps its lowest and its highest, so that no peak is lost."""
    if len(points) <= limit:
        return points
    size = math.ceil(len(points) / max(1, limit // 2))
    kept = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        ends = {bucket.index(min(bucket, key=lambda p: p[1])), bucket.index(max(bucket, key=lambda p: p[1]))}
        kept += [bucket[index] for index in sorted(ends)]
    return kept


def line(series: Series, limit: int = MAX_POINTS) -> tuple[list[float], list[float | None]]:
    """x and y with a null in every gap."""
    stretches = split_at_gaps(series)
    total = max(1, len(series))
    x: list[float] = []
    y: list[float | None] = []
    for stretch in stretches:
        if x:
            x.append(x[-1])
            y.append(None)
        for t, value in thin(stretch, max(2, limit * len(stretch) // total)):
            x.append(round(t, 3))
            y.append(float(f"{value:.5g}"))
    return x, y


def rate(counter: Series, factor: float, ceiling: float = math.inf) -> Series:
    """Growth of a counter a second, over half a second or more; where it steps back it was reset: nothing is known."""
    result = Series()
    since: tuple[float, float] | None = None
    # Some counters are read once a second, and late when the machine is busy.
    longest = max(GAP_S, 4 * RATE_WINDOW_S, 2.5 * _step(sorted(counter.t)))
    for t, value in sorted(zip(counter.t, counter.v)):
        if since is None or value < since[1] or t - since[0] > longest:
            since = (t, value)
        elif t - since[0] >= RATE_WINDOW_S - 0.01:
            result.add(t, min(ceiling, (value - since[1]) / (t - since[0]) * factor))
            since = (t, value)
    return result


def scaled(series: Series, factor: float, positive: bool = False) -> Series:
    """The series in another unit; a log axis can only show what is above zero."""
    result = Series()
    for t, value in zip(series.t, series.v):
        if not positive or value > 0:
            result.add(t, value * factor)
    return result


def _pressure(cell: Cell, which: str) -> Series:
    """Percent of the time stalled: from the exact counter where the kernel has it, else the ten-second average."""
    exact = cell.samples.series.get(f"psi_{which}_us", Series())
    if len(exact) > 1:
        return rate(exact, 100 / 1e6, 100.0)
    return cell.samples.series.get(f"psi_{which}_avg10", Series())


def scratch_disk(cells: list[Cell]) -> str:
    """The disk that was written most; stacked devices are left out, they count the same bytes again."""
    written: Counter[str] = Counter()
    for cell in cells:
        for disk, series in cell.samples.disks.items():
            if not disk.startswith(("dm-", "loop", "md")) and len(series):
                written[disk] += max(series.v) - min(series.v)
    return written.most_common(1)[0][0] if written else ""


def placed(comparison: Comparison) -> list[tuple[Column, Cell]]:
    return [(column, cell) for column in comparison.columns for cell in column.cells]


Cells = list[tuple[Column, Cell]]


def _panel(
    cells: Cells, words: str, unit: str, make: Any, log: bool = False, dash: str = "solid", note: str = ""
) -> Panel:
    """A strip with a curve for each cell that `make` finds anything in."""
    curves = [(column, cell, made, dash, note) for column, cell in cells if len(made := make(cell))]
    return Panel(words, curves, log, unit)


def _moves(strip: Panel) -> bool:
    """Whether any curve ever leaves zero."""
    return any(any(series.v) for _, _, series, _, _ in strip.series)


def _figure_of(cell: Cell, name: str) -> Series:
    return cell.samples.series.get(name, Series())


def _swap_panels(cells: Cells) -> list[Panel]:
    """What is free of the swap, what goes out and comes in, and what it costs to encrypt: nothing where it is zero."""

    def pages(name: str) -> Any:
        return lambda cell: rate(_figure_of(cell, name), PAGE_MIB)

    def cpu(group: str) -> Any:
        return lambda cell: rate(cell.samples.threads.get(group, Series()), 100 / 1e3)

    def both(words: str, unit: str, solid: tuple[str, Any], dotted: tuple[str, Any]) -> tuple[Panel, Panel]:
        return (
            _panel(cells, words, unit, solid[1], note=solid[0]),
            _panel(cells, "", unit, dotted[1], dash="dot", note=dotted[0]),
        )

    with_swap = [(column, cell) for column, cell in cells if any(_figure_of(cell, "SwapTotal").v)]
    free = _panel(with_swap, "Swap free, MiB", "MiB", lambda cell: scaled(_figure_of(cell, "SwapFree"), 1 / 1024))
    out, back = both(
        "Swap, MiB/s: out solid, in dotted", "MiB/s", ("out", pages("pswpout")), ("in", pages("pswpin"))
    )
    crypt, reclaim = both(
        "CPU of kcryptd solid, kswapd dotted, % of one processor",
        "%",
        ("kcryptd", cpu("kcryptd")),
        ("kswapd", cpu("kswapd")),
    )
    strips = [free]
    if _moves(out) or _moves(back):
        strips.append(out)
        out.series += back.series if _moves(back) else []
    if _moves(crypt):
        strips.append(crypt)
        crypt.series += reclaim.series
    return strips


def panels(comparison: Comparison) -> list[Panel]:
    """The strips that have something to show."""
    cells = placed(comparison)
    caches = distinct([name for _, cell in cells for name in cell.samples.series if name.startswith("cache:")])
    disk = scratch_disk([cell for _, cell in cells])

    def kib(name: str) -> Any:
        return lambda cell: scaled(_figure_of(cell, name), 1 / 1024)

    strips = [
        _panel(cells, f"{label(name[6:], 40)}: slab held, MiB", "MiB", kib(name)) for name in caches[:MAX_CACHE_PANELS]
    ]
    strips += [
        _panel(cells, f"{words}, MiB", "MiB", kib(name))
        for name, words in (("SUnreclaim", "Unreclaimable slab (SUnreclaim)"), ("MemAvailable", "MemAvailable"))
    ]
    strips.append(_panel(cells, "Engine slabs: live objects, % of what is held", "%", lambda cell: cell.engine_slab))
    strips += _swap_panels(cells)
    strips.append(
        _panel(
            cells,
            "Workqueue canary delay, ms (log)",
            "ms",
            lambda cell: scaled(_figure_of(cell, "canary_ms"), 1, True),
            True,
        )
    )
    pressure = _panel(
        cells,
        "Memory pressure (PSI), % of time stalled: full solid, some dotted",
        "%",
        lambda cell: _pressure(cell, "full"),
        note="full",
    )
    pressure.series += _panel(cells, "", "%", lambda cell: _pressure(cell, "some"), dash="dot", note="some").series
    strips.append(pressure)
    if disk:
        strips.append(
            _panel(
                cells,
                f"Written to {label(disk, 40)}, MiB/s",
                "MiB/s",
                lambda cell: rate(cell.samples.disks.get(disk, Series()), 512 / 2**20),
            )
        )
    return [strip for strip in strips if strip.series]


def who(cell: Cell, column: Column) -> str:
    """Column and, where there are several, the repeat."""
    return label(column.label, 60) + repeat_words(column, cell)


def event_words(event: Event) -> list[str]:
    """What a reader wants to know of an event, in lines: whom, how long, why."""
    fields = event.fields
    lines = []
    victim = obj(fields.get("victim"))
    if victim:
        pid = num(victim.get("pid"))
        place = ", ".join(text(victim.get(name)) for name in ("role", "cgroup") if text(victim.get(name)))
        lines.append(
            f"victim {text(victim.get('comm')) or '?'}"
            + (f" (pid {pid:.0f})" if pid is not None else "")
            + (f", {place}" if place else "")
        )
    for name, words in (
        ("task", "task {}"),
        ("pool", "pool {}"),
        ("constraint", "constraint {}"),
        ("trigger", "triggered by {}"),
        ("name", "{}"),
        ("role", "role {}"),
        ("reason", "{}"),
        ("broken_by", "broken by {}"),
        ("errno", "refused: {}"),
    ):
        if text(fields.get(name)):
            lines.append(words.format(text(fields[name])))
    for name, words in (
        ("seconds", "for {} s"),
        ("in_flight", "{} in flight"),
        ("pending", "{} pending"),
        ("lost", "{} records lost"),
    ):
        value = num(fields.get(name))
        if value is not None:
            lines.append(words.format(number(value)))
    if event.active:
        lines.append(f"active: {', '.join(event.active)}")
    return lines


def event_name(event: Event) -> str:
    return KINDS[event.kind].name if event.kind in KINDS else event.kind


def _brief(event: Event) -> str:
    words = event_words(event)
    return f"{seconds(event.t)} {event_name(event)}" + (f": {words[0]}" if words else "")


def _wrapped(words: str) -> list[str]:
    """In lines short enough for the label to find room beside its mark instead of on top of it."""
    return [label(piece) for piece in wrap(one_line(words, 3 * HOVER_COLUMNS), HOVER_COLUMNS)]


def hover(event: Event, near: list[Event], place: str) -> str:
    """Label of one marker, and of its neighbours: where markers lie on top of each other only one can be reached."""
    raw = event.raw.split("\n", 1)[0]
    lines = [f"<b>{label(event_name(event))}</b> at {seconds(event.t)}", place]
    lines += [piece for words in event_words(event) for piece in _wrapped(words)] + [
        f"<i>{piece}</i>" for piece in _wrapped(raw)
    ]
    if near:
        lines.append(f"<br>and {len(near)} more close by:")
        lines += [label(_brief(other), HOVER_COLUMNS) for other in near[:NEIGHBOURS]]
        lines += ["\N{HORIZONTAL ELLIPSIS}"] if len(near) > NEIGHBOURS else []
    return "<br>".join(lines)


def lane_cells(comparison: Comparison) -> list[tuple[Column, Cell]]:
    return placed(comparison)[:MAX_LANES]


def _phases(cell: Cell) -> list[Event]:
    """Phases of the cell as events; the log repeats them, so only one source is used."""
    listed = [
        Event(t, "phase", "", {"name": text(phase.get("name"))})
        for phase in map(obj, seq(cell.data.get("phases")))
        if (t := num(phase.get("t"))) is not None
    ]
    return listed or [event for event in cell.events if event.kind == "phase"]


def drawn_events(cell: Cell) -> list[Event]:
    """What gets a marker, no more than a browser can bear."""
    counts: Counter[str] = Counter()
    kept = []
    for event in sorted(
        _phases(cell) + [e for e in cell.events if e.kind in KINDS and e.kind != "phase"], key=lambda e: e.t
    ):
        counts[event.kind] += 1
        if counts[event.kind] <= MAX_MARKERS:
            kept.append(event)
    return kept


def time_range(comparison: Comparison, lanes: list[tuple[Column, Cell]]) -> tuple[float, float]:
    times = [t for _, cell in lanes for series in cell.samples.series.values() for t in (min(series.t), max(series.t))]
    times += [event.t for _, cell in lanes for event in drawn_events(cell)]
    low, high = (min(times), max(times)) if times else (0.0, 1.0)
    return _within(low, high, (-LONGEST_S, LONGEST_S))


def _symbol(event: Event) -> str:
    """That of its kind, and an open one for what was tried in vain."""
    open_one = "-open" if event.fields.get("errno") is not None else ""
    return KINDS[event.kind].symbol + open_one


def _height(kind: str, lane: int, share: float) -> float:
    """Where marks of a kind lie in a lane of which they have this share, below the bars of its workloads."""
    return (KINDS[kind].offset + 0.5) * share - 0.5 - lane


def _markers(lanes: list[tuple[Column, Cell]], span: float, share: float) -> list[dict[str, Any]]:
    """One trace a cell and kind, so that colour is the arm and shape the kind."""
    traces = []
    for lane, (column, cell) in enumerate(lanes):
        events = drawn_events(cell)
        for kind in distinct([event.kind for event in events]):
            own = [event for event in events if event.kind == kind]
            near = [
                [o for o in events if o is not e and o.kind != "phase" and abs(o.t - e.t) <= span / 120]
                if kind != "phase"
                else []
                for e in own
            ]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [round(event.t, 3) for event in own],
                    "y": [_height(kind, lane, share)] * len(own),
                    "yaxis": "y",
                    "showlegend": False,
                    "hoverinfo": "text",
                    "text": [hover(event, others, who(cell, column)) for event, others in zip(own, near)],
                    "legendgroup": column.label,
                    "meta": {"kind": kind, "cell": lane},
                    "marker": {
                        "symbol": [_symbol(event) for event in own],
                        "size": 11 if kind == "phase" else 10,
                        "color": token(column),
                        "line": {"width": 1.5, "color": token(column)},
                    },
                }
            )
    return traces


def _loads(cell: Cell) -> list[tuple[str, list[tuple[float, float]]]]:
    """Those that get a bar."""
    return [(name, spans[:MAX_BARS]) for name, spans in list(cell.loads().items())[:MAX_LOADS]]


def _within(begin: float, end: float, axis_range: tuple[float, float]) -> tuple[float, float]:
    """As much of it as the time axis shows: a bar that leaves the axis by far cannot be drawn at all."""
    low, high = axis_range
    return min(max(begin, low), high), min(max(end, low), high)


def most_loads(lanes: Cells) -> int:
    return max((len(_loads(cell)) for _, cell in lanes), default=0)


def _load_bars(lanes: Cells, lane_px: float, axis_range: tuple[float, float]) -> list[dict[str, Any]]:
    """Named bars along the top of a lane: when each of several workloads was under way."""
    height = LOAD_PX / lane_px
    return [
        {
            "type": "bar",
            "orientation": "h",
            "base": [_within(*span, axis_range)[0] for span in spans],
            "x": [end - begin for begin, end in (_within(*span, axis_range) for span in spans)],
            "y": [0.5 - (row + 0.7) * height - lane] * len(spans),
            "text": [label(name, 60)] + [""] * (len(spans) - 1),
            "width": 0.9 * height,
            "yaxis": "y",
            "showlegend": False,
            "legendgroup": column.label,
            "hoverinfo": "text",
            "hovertext": [
                f"<b>{label(name, 60)}</b> active from {seconds(begin)} to {seconds(end)}<br>{who(cell, column)}"
                for begin, end in spans
            ],
            "textposition": "inside",
            "insidetextanchor": "start",
            "constraintext": "none",
            "textangle": 0,
            "insidetextfont": {"size": 9, "color": "@ink"},
            "marker": {"color": token(column), "opacity": 0.3, "line": {"width": 0}},
        }
        for lane, (column, cell) in enumerate(lanes)
        for row, (name, spans) in enumerate(_loads(cell))
    ]


NOTHING = {"type": "scatter", "x": [None], "y": [None], "yaxis": "y", "hoverinfo": "skip"}


def arm_legend(columns: list[Column]) -> list[dict[str, Any]]:
    return [
        NOTHING
        | {
            "mode": "lines",
            "name": label(column.label, 60),
            "legendgroup": column.label,
            "line": {"color": token(column), "width": 3},
        }
        for column in columns
    ]


def _loud(comparison: Comparison) -> list[Column]:
    """The columns whose curves are shown from the start."""
    if len(comparison.columns) <= MANY_COLUMNS:
        return comparison.columns
    keys = distinct([column.key for column in comparison.columns])
    return [column for key in keys for column in ends([one for one in comparison.columns if one.key == key])]


def loud_arms(comparison: Comparison) -> list[str]:
    return distinct([one_line(column.arm, 40) for column in _loud(comparison)])


def quiet(comparison: Comparison) -> set[str]:
    """The labels of the columns whose curves wait for a click on their arm."""
    loud = {column.label for column in _loud(comparison)}
    return {column.label for column in comparison.columns} - loud


def hush(comparison: Comparison, traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The traces with those curves put away; marks of events stay, each in its lane."""
    waiting = quiet(comparison)
    return [
        trace | {"visible": "legendonly"} if trace["legendgroup"] in waiting and trace["mode"] != "markers" else trace
        for trace in traces
    ]


def _legend(comparison: Comparison, lanes: list[tuple[Column, Cell]]) -> list[dict[str, Any]]:
    """Arms by colour, then kinds of events by shape."""
    met = {event.kind for _, cell in lanes for event in drawn_events(cell)}
    return arm_legend(comparison.columns) + [
        NOTHING
        | {
            "mode": "markers",
            "name": kind.name,
            "legendgroup": f"kind {name}",
            "marker": {"symbol": kind.symbol, "size": 9, "color": "@soft", "line": {"width": 1.5, "color": "@soft"}},
        }
        for name, kind in KINDS.items()
        if name in met
    ]


def axis_id(row: int) -> str:
    """Name of the y axis of a row, counted from 0."""
    return f"y{row + 1}" if row else "y"


def points_a_trace(traces: int) -> int:
    """How finely each of so many curves of one figure may be drawn."""
    return max(100, min(MAX_POINTS, FIGURE_POINTS // max(1, traces)))


def lines(strips: list[Panel], first_row: int = 0, limit: int = MAX_POINTS) -> list[dict[str, Any]]:
    """The curves of the strips, each strip in a row of its own."""
    traces = []
    for row, strip in enumerate(strips, first_row):
        for column, cell, series, dash, note in strip.series:
            x, y = line(series, limit)
            place, unit = who(cell, column), f"{strip.unit} {note}".rstrip()
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(x) == 1 else "lines",
                    "x": x,
                    "y": y,
                    "yaxis": axis_id(row),
                    "name": place,
                    "legendgroup": column.label,
                    "showlegend": False,
                    "connectgaps": False,
                    "line": {"color": token(column), "dash": dash, "width": 1.1 if len(column.cells) > 1 else 1.8},
                    "opacity": 0.75 if len(column.cells) > 1 else 1.0,
                    "hovertemplate": f"%{{y:.3~f}} {unit} at %{{x:.2f}} s<extra>{place}</extra>",
                }
            )
    return traces


def guides(lanes: list[tuple[Column, Cell]]) -> list[dict[str, Any]]:
    """Thin lines that carry a kill or a lockup down to the curves; of many, the first of each cell."""
    severe = [
        (token(column), [event for event in drawn_events(cell) if KINDS[event.kind].guide]) for column, cell in lanes
    ]
    if sum(len(events) for _, events in severe) > MAX_GUIDES:
        severe = [(colour, events[:1]) for colour, events in severe]
    moments = distinct([(colour, round(event.t, 2)) for colour, events in severe for event in events])
    return [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": t,
            "x1": t,
            "y0": 0,
            "y1": 1,
            "layer": "below",
            "opacity": 0.45,
            "line": {"color": colour, "width": 1, "dash": "dot"},
        }
        for colour, t in moments
    ]


def separators(lanes: int) -> list[dict[str, Any]]:
    return [
        {
            "type": "line",
            "xref": "paper",
            "yref": "y",
            "x0": 0,
            "x1": 1,
            "y0": 0.5 - edge,
            "y1": 0.5 - edge,
            "layer": "below",
            "line": {"color": "@grid", "width": 1},
        }
        for edge in range(lanes + 1)
    ]


def axis(**more: Any) -> dict[str, Any]:
    return {
        "gridcolor": "@grid",
        "zeroline": False,
        "linecolor": "@grid",
        "tickcolor": "@grid",
        "fixedrange": True,
        "tickfont": {"size": 11, "color": "@soft"},
        "automargin": False,
    } | more


def _decades(strip: Panel) -> dict[str, Any]:
    """A log axis over whole decades: with one label on it nobody can read a value."""
    values = [value for _, _, series, _, _ in strip.series for value in series.v]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return {
        "type": "log",
        "dtick": max(1, math.ceil((high - low) / 5)),
        "exponentformat": "none",
        "range": [low, max(high, low + 1)],
    }


def _phase_names(lanes: list[tuple[Column, Cell]], low: float, high: float, share: float) -> list[dict[str, Any]]:
    """The names beside the marks, where there is room for them."""
    if len(lanes) > MANY_LANES:
        return []
    notes = []
    for lane, (_, cell) in enumerate(lanes):
        marks = _phases(cell)
        for mark, following in zip(marks, [*marks[1:], None]):
            words = label(text(mark.fields.get("name")), 16)
            width = (high - low) * 0.012 * len(words)
            at_edge = high - mark.t < width
            if following is None or following.t - mark.t > width:
                notes.append(
                    {
                        "text": words,
                        "x": mark.t,
                        "y": _height("phase", lane, share),
                        "xref": "x",
                        "yref": "y",
                        "xanchor": "right" if at_edge else "left",
                        "xshift": -2 if at_edge else 2,
                        "showarrow": False,
                        "font": {"size": 10, "color": "@soft"},
                    }
                )
    return notes


def title(words: str, top: float) -> dict[str, Any]:
    return {
        "text": f"<b>{words}</b>",
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "y": top,
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 3,
        "showarrow": False,
        "font": {"size": 12, "color": "@ink"},
    }


def layout_of(height: float, margin_left: int) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": margin_left, "r": 14, "t": TOP_PX, "b": BOTTOM_PX},
        "autosize": True,
        "paper_bgcolor": "@paper",
        "plot_bgcolor": "@paper",
        "hovermode": "closest",
        "hoverdistance": 16,
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "@ink"},
        "hoverlabel": {
            "align": "left",
            "bgcolor": "@hover",
            "bordercolor": "@soft",
            "namelength": -1,
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "@ink"},
        },
    }


def _lane_label(cell: Cell, column: Column) -> str:
    return label(column.label, 28) + repeat_words(column, cell)


def time_axis(comparison: Comparison, lowest_row: int) -> dict[str, Any]:
    """The same stretch of time in every figure, so that one can be read against the other."""
    low, high = time_range(comparison, lane_cells(comparison))
    margin = (high - low or 1.0) * 0.015
    return axis(
        range=[low - margin, high + margin],
        anchor=axis_id(lowest_row),
        fixedrange=False,
        title={"text": "seconds since the start line", "font": {"size": 12, "color": "@soft"}, "standoff": 8},
        showspikes=True,
        spikemode="across",
        spikesnap="cursor",
        spikethickness=1,
        spikedash="solid",
        spikecolor="@soft",
    )


LEGEND = {"orientation": "h", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "font": {"size": 12}}


def rows_height(heights: list[float]) -> float:
    return sum(heights) + SPACE_PX * (len(heights) - 1)


def domains(heights: list[float]) -> list[list[float]]:
    """Where rows of these heights lie on paper, from the top."""
    inner, top, found = rows_height(heights), 0.0, []
    for height in heights:
        found.append([max(0.0, 1 - (top + height) / inner), 1 - top / inner])
        top += height + SPACE_PX
    return found


def place_strips(layout: dict[str, Any], strips: list[Panel], places: list[list[float]], first_row: int = 0) -> None:
    """An axis and a title for each strip."""
    for row, (strip, domain) in enumerate(zip(strips, places), first_row):
        scale = _decades(strip) if strip.log else {"rangemode": strip.rangemode, "nticks": 5}
        layout[axis_id(row).replace("y", "yaxis")] = axis(domain=domain, **scale)
        layout["annotations"].append(title(strip.title, domain[1]))


def timeline(comparison: Comparison) -> dict[str, Any] | None:
    """All arms over one time axis: events in lanes on top, then a strip for each figure."""
    lanes, strips = lane_cells(comparison), panels(comparison)
    if not strips and not any(drawn_events(cell) for _, cell in lanes):
        return None
    marks_px = LANE_PX if len(lanes) <= MANY_LANES else SMALL_LANE_PX
    lane_px = marks_px + LOAD_PX * most_loads(lanes)
    share = marks_px / lane_px
    heights = [lane_px * len(lanes) + 8] + [PANEL_PX] * len(strips)
    low, high = time_range(comparison, lanes)
    names = [_lane_label(cell, column) for column, cell in lanes]
    layout = layout_of(
        rows_height(heights) + TOP_PX + BOTTOM_PX, max(64, min(280, 14 + 7 * max(map(len, names))))
    )
    layout |= {
        "shapes": guides(lanes) + separators(len(lanes)),
        "annotations": _phase_names(lanes, low, high, share),
        "legend": LEGEND,
        "xaxis": time_axis(comparison, len(strips)),
    }
    places = domains(heights)
    layout["yaxis"] = axis(
        domain=places[0],
        range=[0.5 - len(lanes), 0.5],
        tickvals=[-lane for lane in range(len(lanes))],
        ticktext=names,
        showgrid=False,
        ticks="",
    )
    place_strips(layout, strips, places[1:], 1)
    # Markers last: they are drawn on top.
    data = _legend(comparison, lanes) + lines(strips, 1) + _markers(lanes, high - low, share)
    return {"data": _load_bars(lanes, lane_px, (low, high)) + hush(comparison, data), "layout": layout}


def _peak_cell(column: Column) -> Cell | None:
    """The repeat that came nearest to the edge."""
    cells = [cell for cell in column.cells if cell.samples.peak_slab]
    return max(cells, key=lambda cell: cell.samples.peak_weight) if cells else None


def slab_peak(comparison: Comparison) -> dict[str, Any] | None:
    """Who held the slab memory when most of it was held."""
    shown = [(column, cell) for column in comparison.columns if (cell := _peak_cell(column))][:BAR_ARMS]
    largest: Counter[str] = Counter()
    for _, cell in shown:
        for name, row in cell.samples.peak_slab.items():
            largest[name] = max(largest[name], row.held_kib)
    names = [name for name, _ in largest.most_common(TOP_CACHES)]
    if not names:
        return None
    traces = []
    for column, cell in shown:
        rows = [cell.samples.peak_slab.get(name) for name in names]
        used = [
            ""
            if row is None or row.utilisation is None
            else f"{number(row.held_kib / 1024)} MiB, {row.utilisation:.0f}% used"
            for row in rows
        ]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "y": list(range(len(names))),
                "name": label(column.label, 60),
                "x": [row.held_kib / 1024 if row else 0 for row in rows],
                "marker": {"color": token(column)},
                "text": used,
                "textposition": "outside",
                "textangle": 0,
                "cliponaxis": False,
                "textfont": {"size": 11, "color": "@ink"},
                "hoverinfo": "text",
                "hovertext": [
                    f"<b>{label(name, 60)}</b><br>{who(cell, column)} at {seconds(cell.samples.peak_t)}<br>"
                    + (
                        f"{number(row.active)} of {number(row.objects)} objects of {number(row.size)} B active"
                        if row
                        else "no objects"
                    )
                    for name, row in zip(names, rows)
                ],
            }
        )
    peak = max(largest.values()) / 1024
    layout = layout_of(
        len(names) * (14 * len(shown) + 12) + TOP_PX + BOTTOM_PX, 14 + 7 * max(len(label(name, 28)) for name in names)
    )
    layout |= {
        "barmode": "group",
        "bargap": 0.25,
        "bargroupgap": 0.08,
        "showlegend": len(shown) > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "traceorder": "normal"},
        "xaxis": axis(
            title={"text": "MiB held", "font": {"size": 12, "color": "@soft"}, "standoff": 8}, range=[0, peak * 1.3]
        ),
        "yaxis": axis(
            range=[len(names) - 0.45, -0.55],
            tickvals=list(range(len(names))),
            showgrid=False,
            ticktext=[label(name, 28) for name in names],
        ),
    }
    return {"data": traces, "layout": layout}


def peak_notes(comparison: Comparison) -> list[str]:
    """When each arm's slab peak was, and in which repeat."""
    return [
        f"{column.label}: {seconds(cell.samples.peak_t)}"
        + (f" in repeat {cell.repeat}" if len(column.cells) > 1 else "")
        for column in comparison.columns
        if (cell := _peak_cell(column))
    ]


def left_out(comparison: Comparison) -> list[str]:
    """What the figures do not show because there is too much of it."""
    cells = [cell for _, cell in placed(comparison)]
    events = sum(e.kind in KINDS and e.kind != "phase" for cell in cells[:MAX_LANES] for e in cell.events)
    drawn = sum(e.kind != "phase" for cell in cells[:MAX_LANES] for e in drawn_events(cell))
    caches = {name for cell in cells for name in cell.samples.series if name.startswith("cache:")}
    counts = (
        (len(cells) - MAX_LANES, "event lane"),
        (events - drawn, "event marker"),
        (len(caches) - MAX_CACHE_PANELS, "watched cache"),
        (len(peak_notes(comparison)) - BAR_ARMS, "arm among the slab bars", "arms among the slab bars"),
    )
    return [plural(count, *names) for count, *names in counts if count > 0]
