# SPDX-License-Identifier: MIT
"""Memory that is taken away and given back: what went, what was refused and why, how long it took, and what each
block and DIMM went through.

An event `offline`, `online`, `unplug` or `plug` is one try, told at its end. Those of older records have words alone
and are none here.
"""
from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from reports import charts, stats, tables
from reports.analysis import Column, Comparison, Metric, distinct, make_figure, place, plain
from reports.charts import label
from reports.model import Cell, Event, num, percent, text, whole
from reports.tables import Shown
from reports.text import NOT_MEASURED, one_line, plural, quantity, seconds

Figure = dict[str, Any]
Rows = list[tuple[Metric, str, list[Shown]]]

# kind of event -> the field that numbers the thing, the thing's name, whether it goes
KINDS = {
    "offline": ("block", "memory{}", True),
    "online": ("block", "memory{}", False),
    "unplug": ("dimm", "DIMM {}", True),
    "plug": ("dimm", "DIMM {}", False),
}
BLOCKS, DIMMS = "offline", "unplug"

# name, label, unit, kind of figure
SUMMARY = (
    ("tries", "tries", "", "count"),
    ("went", "went", "", "count"),
    ("refused", "refused", "", "count"),
    ("took_p50_ms", "time of those that went, median", "ms", "number"),
    ("took_p90_ms", "time of those that went, 90th percentile", "ms", "number"),
    ("took_p99_ms", "time of those that went, 99th percentile", "ms", "number"),
    ("took_max_ms", "time of those that went, longest", "ms", "number"),
    ("refused_s", "time spent in refused tries", "s", "number"),
)
BLOCK_ROWS = (
    ("rounds", "rounds", "", "count"),
    *SUMMARY,
    ("offlined_gib_min", "memory taken away", "GiB/min", "number"),
    ("pause_max_s", "longest pause of a block that refused", "s", "number"),
    ("left_offline", "blocks left offline", "", "count"),
)
DIMM_ROWS = tuple(row for row in SUMMARY if row[0] not in ("took_p90_ms", "took_p99_ms"))

MAX_REFUSALS = 30
MAX_CELLS, MAX_LANES, MAX_TRIES, MAX_CELL_TRIES = 24, 48, 12_000, 2000
LANE_PX, LEGEND_PX = 24, 30
SHORTEST_MS = 0.001  # that a log axis shows
FEW_DECADES, MOST_DECADES = 3, 10
FEW_POINTS = 40  # of a curve, so few that each has a mark
SHORT_BAR = 1 / 150  # of the time axis; a mouse finds a mark there, but no bar


@dataclass
class Look:
    """How the tries with one result are drawn."""

    colour: str
    symbol: str
    hatch: str = ""


WENT = Look("@good", "triangle-right")
REFUSED = {
    "EBUSY": Look("@bad", "x", "/"),
    "EINTR": Look("@mixed", "diamond", "\\"),
    "EAGAIN": Look("@ink", "triangle-up", "x"),
    "ENOMEM": Look("@ink", "star", "+"),
    "EINVAL": Look("@ink", "square", "-"),
}
BACK = (("back", "@ink", "circle-open"), ("not back", "@bad", "circle-x"))
OTHER = Look("@soft", "hexagon", ".")


@dataclass
class Try:
    """One attempt to take a thing away, or to give it back."""

    event: Event
    thing: str
    order: tuple[str, int]
    took_ms: float | None
    refusal: str  # the errno; empty where it went

    @property
    def away(self) -> bool:
        return KINDS[self.event.kind][2]

    @property
    def begin(self) -> float:
        return self.event.t - (self.took_ms or 0.0) / 1000

    @property
    def ended(self) -> bool:
        """By us, at its bound."""
        return self.event.fields.get("ended") is True

    @property
    def result(self) -> str:
        if not self.refusal:
            return "went"
        return f"refused: {self.refusal}" if self.refusal in REFUSED else "refused otherwise"

    @property
    def look(self) -> Look:
        return REFUSED.get(self.refusal, OTHER) if self.refusal else WENT

    def words(self, name: str) -> str:
        return one_line(text(self.event.fields.get(name)), 80)

    def amount(self, name: str) -> float | None:
        value = num(self.event.fields.get(name))
        return value if value is not None and value >= 0 else None


def _try(event: Event) -> Try | None:
    if event.kind not in KINDS:
        return None
    field, name, _away = KINDS[event.kind]
    index = whole(event.fields.get(field))
    if index is None:
        return None
    errno = event.fields.get("errno")
    refusal = "" if errno is None else one_line(plain(errno), 40) or "?"
    one = Try(event, name.format(index), (field, index), None, refusal)
    one.took_ms = one.amount("took_ms")
    return one


def tries(cell: Cell, *kinds: str) -> list[Try]:
    """Those of some kinds, in order of time."""
    return [one for event in cell.events if event.kind in (kinds or KINDS) and (one := _try(event))]


def _total_s(found: list[Try]) -> float | None:
    """Nothing where one of them was not measured."""
    total = sum(math.inf if one.took_ms is None else one.took_ms for one in found) / 1000
    return total if math.isfinite(total) else None


def _summary(cell: Cell, kind: str) -> dict[str, float | None]:
    found = tries(cell, kind)
    if not found:
        return {}
    refused = [one for one in found if one.refusal]
    took = [one.took_ms for one in found if not one.refusal and one.took_ms is not None]
    pauses = [ms / 1000 for one in found if (ms := one.amount("pause_ms")) is not None]
    figures = {
        "tries": len(found),
        "went": len(found) - len(refused),
        "refused": len(refused),
        "refused_s": _total_s(refused),
        "pause_max_s": max(pauses, default=None),
        "took_max_ms": max(took, default=None),
    }
    figures |= {f"took_p{share}_ms": stats.percentile(took, share) for share in (50, 90, 99)}
    return figures | {name: cell.metric(name) for name in ("rounds", "offlined_gib_min", "left_offline")}


def _rows(comparison: Comparison, kind: str, rows: tuple[tuple[str, str, str, str], ...]) -> Rows:
    flats = {id(cell): _summary(cell, kind) for cell in comparison.cells}
    if not any(flats.values()):
        return []
    found = []
    for name, words, unit, sort in rows:
        metric = Metric(name, words, unit, "none")
        metric.figures = [make_figure(metric, column, flats, sort) for column in comparison.columns]
        found.append((metric, *tables.shown(metric)))
    return found


def blocks(comparison: Comparison) -> Rows:
    """What came of the tries to take a block offline, medians of the repeats; nothing where no record tells."""
    return _rows(comparison, BLOCKS, BLOCK_ROWS)


def dimms(comparison: Comparison) -> Rows:
    """The same of whole DIMMs."""
    return _rows(comparison, DIMMS, DIMM_ROWS)


@dataclass
class Refusal:
    """How one sort of refusals spreads over the arms, all repeats of an arm together."""

    errno: str
    reason: str
    stood: str
    counts: list[str]


def _share(count: int, of: int) -> str:
    share = percent(count, of)
    if share is None:
        return NOT_MEASURED
    return f"{count:,} ({share:.1f}%)" if count else "0"


def refusals(comparison: Comparison, kind: str = BLOCKS) -> list[Refusal]:
    """By errno, what the kernel said, and where those stood that were ended by us; shares are of all tries."""
    every: Counter[tuple[str, str, str]] = Counter()
    arms = []
    for column in comparison.columns:
        found = [one for cell in column.counted for one in tries(cell, kind)]
        own = Counter(
            (one.refusal, one.words("reason") or NOT_MEASURED, (one.words("where") or "?") if one.ended else "")
            for one in found
            if one.refusal
        )
        arms.append((own, len(found)))
        every += own
    rows = [
        Refusal(*key, [_share(own[key], of) for own, of in arms]) for key, _ in every.most_common(MAX_REFUSALS)
    ]
    rest = [key for key, _ in every.most_common()[MAX_REFUSALS:]]
    if rest:
        counts = [_share(sum(own[key] for key in rest), of) for own, of in arms]
        rows.append(Refusal(f"{plural(len(rest), 'other sort')}", "", "", counts))
    return rows


def _curve(column: Column, took: list[float], refused: bool, limit: int) -> Figure:
    """Which share took at most so long."""
    values = sorted(max(SHORTEST_MS, ms) for ms in took)
    share = 100 / len(values)
    points = [(values[0], 0.0)] + [(ms, share * rank) for rank, ms in enumerate(values, 1)]
    kept = charts.thin(points, limit)
    words = f"the {plural(len(values), 'try', 'tries')} that {'were refused' if refused else 'went'}"
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(values) <= FEW_POINTS else "lines",
        "x": [float(f"{ms:.5g}") for ms, _ in kept],
        "y": [round(value, 3) for _, value in kept],
        "legendgroup": column.label,
        "showlegend": False,
        "line": {"shape": "hv", "color": charts.token(column), "width": 1.8, "dash": "dash" if refused else "solid"},
        "marker": {"symbol": "x-thin-open" if refused else "circle", "size": 5, "color": charts.token(column)},
        "hovertemplate": f"%{{y:.1f}}% of {words} took %{{x:,.4~g}} ms or less<extra>{label(column.label, 60)}</extra>",
    }


def _ticks(took: list[float]) -> dict[str, Any]:
    """On a log axis of time: whole decades, and parts of them where there are few."""
    low, high = (math.log10(max(SHORTEST_MS, ms)) for ms in (min(took), max(took)))
    parts = (1, 2, 5) if high - low <= FEW_DECADES else (1,)
    step = max(1, math.ceil((high - low) / MOST_DECADES))
    powers = range(math.floor(low), math.ceil(high) + 1, step)
    # From its text, because a damaged record's decade can lie beyond a float's range.
    values = [value for power in powers for part in parts if math.isfinite(value := float(f"{part}e{power}"))]
    return {"tickvals": values, "ticktext": [quantity(value, "ms") for value in values]}


def durations(comparison: Comparison) -> Figure | None:
    """How long tries took, all repeats of an arm together: those that went, and those that were refused."""
    sides = []
    for column in comparison.columns:
        found = [one for cell in column.counted for one in tries(cell, BLOCKS) if one.took_ms is not None]
        for refused in (False, True):
            took = [one.took_ms for one in found if bool(one.refusal) == refused and one.took_ms is not None]
            sides += [(column, took, refused)] if took else []
    if not sides:
        return None
    limit = charts.points_a_trace(len(sides))
    curves = [_curve(column, took, refused, limit) for column, took, refused in sides]
    drawn = [column for column in comparison.columns if any(column is side[0] for side in sides)]
    styles = [
        charts.NOTHING
        | {"mode": "lines", "name": name, "legendgroup": name, "line": {"color": "@soft", "width": 2, "dash": dash}}
        for name, dash in (("went", "solid"), ("refused", "dash"))
    ]
    height = 2 * charts.PANEL_PX + LEGEND_PX + charts.BOTTOM_PX
    layout = charts.layout_of(height, 64) | {
        "legend": charts.LEGEND,
        "xaxis": charts.axis(
            type="log",
            fixedrange=False,
            title={"text": "time that a try took", "font": {"size": 12, "color": "@soft"}, "standoff": 8},
            **_ticks([ms for _, took, _ in sides for ms in took]),
        ),
        "yaxis": charts.axis(range=[-2, 102], ticksuffix="%", nticks=6),
    }
    return {"data": charts.hush(comparison, charts.arm_legend(drawn) + styles + curves), "layout": layout}


# field, words, unit: what a label says besides the result
DETAILS = (
    ("round", "round {}", ""),
    ("mib", "{}", "MiB"),
    ("migrated", "{} pages moved", ""),
    ("failed", "{} attempts to move a page failed", ""),
    ("refusals", "refusals in a row: {}", ""),
    ("pause_ms", "left alone for {}", "ms"),
)


def hover(one: Try) -> str:
    """All that the record says of a try."""
    lines = [f"<b>{one.thing}</b> {one.event.kind}: {label(one.refusal or 'went')}"]
    when = seconds(one.event.t)
    lines.append(
        f"ended at {when}, time not measured"
        if one.took_ms is None
        else f"{seconds(one.begin)} to {when}, took {quantity(one.took_ms, 'ms')}"
    )
    if one.ended:
        lines.append("ended by us at its bound")
    for name, words in (("where", "stood in {}"), ("reason", "the kernel: {}")):
        lines += [words.format(label(one.words(name)))] if one.words(name) else []
    lines += [
        words.format(quantity(value, unit))
        for name, words, unit in DETAILS
        if (value := one.amount(name)) is not None
    ]
    return "<br>".join(lines)


def _kept(found: list[Try], limit: int) -> list[Try]:
    """In order of time, without the shortest where there are too many: nobody sees those."""
    order = sorted(range(len(found)), key=lambda index: -(found[index].took_ms or 0.0))
    return [found[index] for index in sorted(order[:limit])]


def _bars(found: list[Try], lanes: dict[str, int], low: float, high: float) -> Figure:
    """Tries with one result, from begin to end. One that a damaged record begins before all else is cut there."""
    look = found[0].look
    begins = [min(one.event.t, max(low, one.begin)) for one in found]
    seen = [one.event.t - begin for one, begin in zip(found, begins)]
    return {
        "type": "bar",
        "orientation": "h",
        "base": [round(begin, 4) for begin in begins],
        "x": [round(length, 4) for length in seen],
        "y": [-lanes[one.thing] for one in found],
        "width": 0.62,
        "showlegend": False,
        "legendgroup": found[0].result,
        "hoverinfo": "text",
        "hovertext": [hover(one) if length > (high - low) * SHORT_BAR else "" for one, length in zip(found, seen)],
        "marker": {
            "color": look.colour,
            "line": {"width": 1, "color": look.colour},
            "pattern": {"shape": look.hatch, "size": 6, "solidity": 0.35},
        },
    }


def _marks(found: list[Try], lanes: dict[str, int], name: str, colour: str, symbol: str) -> Figure:
    """The ends of tries, where a mouse can find also the short ones."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [round(one.event.t, 4) for one in found],
        "y": [-lanes[one.thing] for one in found],
        "name": name,
        "legendgroup": name,
        "hoverinfo": "text",
        "text": [hover(one) for one in found],
        "marker": {"symbol": symbol, "size": 9, "color": colour, "line": {"width": 1, "color": "@paper"}},
    }


def _gone(found: list[Try], lanes: dict[str, int], end: float) -> tuple[list[tuple[float, float, int]], ...]:
    """When each thing was away: the stretches that it came back from, and those that were open at the end."""
    since: dict[str, float] = {}
    back: list[tuple[float, float, int]] = []
    for one in found:
        if one.refusal:
            continue
        if one.away:
            since.setdefault(one.thing, one.event.t)
        elif one.thing in since:
            back.append((since.pop(one.thing), one.begin, -lanes[one.thing]))
    return back, [(t, end, -lanes[thing]) for thing, t in since.items()]


def _held(cell: Cell, lanes: dict[str, int], end: float) -> list[tuple[float, float, int]]:
    """When a page that cannot be moved lay in each block."""
    since: dict[str, float] = {}
    held: list[tuple[float, float, int]] = []
    for event in cell.events:
        index = whole(event.fields.get("block"))
        thing = f"memory{index}"
        if event.kind not in ("pin", "unpin") or index is None or thing not in lanes:
            continue
        if event.kind == "pin":
            since.setdefault(thing, event.t)
        elif thing in since:
            held.append((since.pop(thing), event.t, -lanes[thing]))
    return held + [(t, end, -lanes[thing]) for thing, t in since.items()]


def _stretches(stretches: list[tuple[float, float, int]], name: str, dash: str, **style: Any) -> list[Figure]:
    if not stretches:
        return []
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [t for begin, end, _ in stretches for t in (round(begin, 4), round(end, 4), None)],
            "y": [y for _, _, lane in stretches for y in (lane, lane, None)],
            "name": name,
            "hoverinfo": "skip",
            "line": {"color": "@ink", "width": 1.5, "dash": dash} | style,
        }
    ]


@dataclass
class Histories:
    """A figure for each cell, and what they do not show."""

    names: list[str]
    figures: list[Figure]
    left_out: list[str]


def _lanes(found: list[Try]) -> dict[str, int]:
    """Of too many the ones that were tried most."""
    most = [thing for thing, _ in Counter(one.thing for one in found).most_common(MAX_LANES)]
    orders = {one.thing: one.order for one in found}
    return {thing: lane for lane, thing in enumerate(sorted(most, key=lambda thing: orders[thing]))}


def _history(column: Column, cell: Cell, axis: dict[str, Any], shown: list[Try], lanes: dict[str, int]) -> Figure:
    every = [one for one in tries(cell) if one.thing in lanes]
    end = max(event.t for event in cell.events)
    back, still = _gone(every, lanes, end)
    # Below all others, as wide as a lane.
    data = _stretches(_held(cell, lanes, end), "a page is held", "solid", color="@grid", width=LANE_PX - 4)
    data += _stretches(back, "away", "solid") + _stretches(still, "away to the end", "dot")
    away = [one for one in shown if one.away]
    by_result = [[one for one in away if one.result == result] for result in distinct([one.result for one in away])]
    by_result.sort(key=lambda found: found[0].result)
    data += [_bars(found, lanes, *axis["range"]) for found in by_result]
    for refused, (name, colour, symbol) in enumerate(BACK):
        found = [one for one in shown if not one.away and bool(one.refusal) == refused]
        data += [_marks(found, lanes, name, colour, symbol)] if found else []
    data += [
        _marks(found, lanes, found[0].result, found[0].look.colour, found[0].look.symbol) for found in by_result
    ]
    height = LANE_PX * max(2, len(lanes)) + LEGEND_PX + charts.BOTTOM_PX
    layout = charts.layout_of(height, 14 + 7 * max(map(len, lanes))) | {
        "barmode": "overlay",
        "shapes": charts.guides([(column, cell)]) + charts.separators(len(lanes)),
        "showlegend": True,
        "legend": charts.LEGEND,
        "xaxis": axis,
        "yaxis": charts.axis(
            range=[0.5 - len(lanes), 0.5],
            tickvals=[-lane for lane in lanes.values()],
            ticktext=list(lanes),
            showgrid=False,
            ticks="",
        ),
    }
    return {"data": data, "layout": layout}


def histories(comparison: Comparison) -> Histories:
    """What each block and DIMM went through."""
    cells = [(column, cell) for column, cell in charts.placed(comparison) if tries(cell)]
    if not cells:
        return Histories([], [], [])
    drawn, axis = cells[:MAX_CELLS], charts.time_axis(comparison, 0)
    limit = min(MAX_CELL_TRIES, MAX_TRIES // len(drawn))
    figures, dropped, things = [], 0, 0
    for column, cell in drawn:
        found = tries(cell)
        lanes = _lanes(found)
        inside = [one for one in found if one.thing in lanes]
        shown = _kept(inside, limit)
        dropped += len(inside) - len(shown)
        things += len({one.thing for one in found}) - len(lanes)
        figures.append(_history(column, cell, axis, shown, lanes))
    unread = sum(cell.events_left_out for _, cell in drawn)
    counts = (
        (len(cells) - len(drawn), "cell"),
        (things, "block that was tried least", "blocks that were tried least"),
        (dropped, "shortest try", "shortest tries"),
        (unread, "event that was not read", "events that were not read"),
    )
    left_out = [plural(count, *names) for count, *names in counts if count > 0]
    return Histories([one_line(place(column, cell), 160) for column, cell in drawn], figures, left_out)
