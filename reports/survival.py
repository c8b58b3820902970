# SPDX-License-Identifier: MIT
"""How long it lasted: the time from the start line to the failure that made the verdict, over the repeats of an arm.

A cell whose load came to its end without a failure is censored there: it lasted at least as long, and nobody knows how
much longer. A failure whose moment is not on record is no survivor: the arm's curve is then drawn from the others and
called too high, and neither a median nor a test is made of it.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from reports import charts, stats
from reports.analysis import Column, Comparison, failure_moment, repeat_words
from reports.charts import label
from reports.model import Cell, num, obj, seq, text
from reports.text import NOT_MEASURED, number, one_line, plural, probability, seconds

DRAWS = 9999
SEED = 1
Z = 1.959964  # of 95 %
SHORTEST_S, LONGEST_S = 1e-3, 1e9  # beyond these a record is damaged
CURVE_PX, RISK_PX, LEGEND_PX = 300, 22, 24
TICKS = 7
REASONS_SHOWN = 4


@dataclass
class Life:
    """How long one cell lasted, and whether it failed then."""

    t: float
    failed: bool
    place: str = ""
    words: str = ""


@dataclass
class Step:
    """The estimate from one moment of failure until the next."""

    t: float
    at_risk: int
    failed: int
    share: float  # that lasts longer
    error: float  # Greenwood's standard error of the share
    low: float | None = None
    high: float | None = None


def _band(share: float, spread: float) -> tuple[float, float] | None:
    """95 % by log(-log), which stays between none and all; nothing where all have failed."""
    if not 0 < share < 1:
        return None
    reach = Z * math.sqrt(spread) / -math.log(share)
    return share ** math.exp(reach), share ** math.exp(-reach)


def kaplan_meier(lives: Sequence[Life]) -> list[Step]:
    """A step for each moment of failure; a cell censored at that moment was still at risk. No band under three."""
    steps, share, spread = [], 1.0, 0.0
    for t in sorted({life.t for life in lives if life.failed}):
        at_risk = sum(life.t >= t for life in lives)
        failed = sum(life.failed and life.t == t for life in lives)
        share *= 1 - failed / at_risk
        spread += failed / (at_risk * (at_risk - failed)) if failed < at_risk else 0.0
        band = _band(share, spread) if len(lives) >= stats.MIN_REPEATS else None
        steps.append(Step(t, at_risk, failed, share, share * math.sqrt(spread), *(band or ())))
    return steps


def median(steps: Sequence[Step]) -> float | None:
    """When half have failed; nothing where it never comes to that."""
    return next((step.t for step in steps if step.share <= 0.5 + 1e-12), None)


def median_interval(steps: Sequence[Step]) -> tuple[float | None, float | None] | None:
    """Where the band's edges cross one half; an edge that never does has no end. Nothing without a band."""
    if not any(step.low is not None for step in steps):
        return None
    low = next((step.t for step in steps if step.low is None or step.low <= 0.5), None)
    high = next((step.t for step in steps if step.high is not None and step.high <= 0.5), None)
    return low, high


def _scores(lives: Sequence[Life]) -> list[float]:
    """Of each cell its failure less what the pooled hazard up to its end led to expect. Their sum over one arm is the
    log-rank statistic, observed less expected."""
    hazard, total = [], 0.0
    for step in kaplan_meier(lives):
        total += step.failed / step.at_risk
        hazard.append((step.t, total))
    return [life.failed - max((sum_ for t, sum_ in hazard if t <= life.t), default=0.0) for life in lives]


def log_rank(a: Sequence[Life], b: Sequence[Life]) -> tuple[float, str] | None:
    """Two-sided p and the test's name: all ways of dealing the cells to two arms, or a seeded sample of them."""
    if not stats.enough(a, b) or not any(life.failed for life in (*a, *b)):
        return None
    scores = _scores([*a, *b])
    if stats.few_deals(len(a), len(b)):
        return stats.permutation(scores[: len(a)], scores[len(a) :]), "log-rank, exact"
    dealt = np.random.default_rng(SEED).permuted(np.tile(scores, (DRAWS, 1)), axis=1)[:, : len(a)].sum(axis=1)
    beyond = int((np.abs(dealt) >= abs(sum(scores[: len(a)])) - 1e-9).sum())
    return (beyond + 1) / (DRAWS + 1), f"log-rank, {DRAWS:,} permutations drawn"


def _end_of_load(cell: Cell) -> float | None:
    """By the phase that followed it, else by the time that the load took."""
    phases = [obj(phase) for phase in seq(cell.data.get("phases"))]
    names = [text(phase.get("name")) for phase in phases]
    after = phases[names.index("run") + 1 :] if "run" in names else []
    elapsed = cell.metric("elapsed_s")
    ended = num(after[0].get("t")) if after else None
    end = elapsed if elapsed is not None and cell.finished else ended
    return end if end is not None and 0 <= end <= LONGEST_S else None


@dataclass
class Arm:
    """The repeats of one column."""

    column: Column
    lives: list[Life] = field(default_factory=list)
    untimed: list[str] = field(default_factory=list)  # failures at an unknown moment
    endless: list[str] = field(default_factory=list)  # cells that did not fail, and whose load's end is not on record
    p: tuple[float, str] | None = None

    @property
    def steps(self) -> list[Step]:
        return kaplan_meier(self.lives)

    @property
    def failed(self) -> int:
        return sum(life.failed for life in self.lives) + len(self.untimed)

    @property
    def whole(self) -> bool:
        """Whether every cell that counts has its say."""
        return not self.untimed and not self.endless


def _life(column: Column, cell: Cell) -> Life | str:
    """How long the cell lasted, or why nobody can tell."""
    place, end = one_line(column.label + repeat_words(column, cell), 60), _end_of_load(cell)
    if cell.verdict == "ok":
        return cell.name if end is None else Life(end, False, place, "its load came to its end")
    t, how = failure_moment(cell)
    if t is None or t > LONGEST_S:
        return f"{cell.name}: {cell.verdict}"
    # What shows behind the load came about in it at the latest, and cannot come about later than others could fail.
    behind = end is not None and t > end
    words = "; ".join(part for part in (cell.verdict, how, "found behind the load" if behind else "") if part)
    return Life(max(0.0, end if behind else t), True, place, words)


def _arm(column: Column) -> Arm:
    arm = Arm(column)
    for cell in column.counted:
        life = _life(column, cell)
        if isinstance(life, Life):
            arm.lives.append(life)
        else:
            (arm.endless if cell.verdict == "ok" else arm.untimed).append(life)
    return arm


def arms(comparison: Comparison) -> list[Arm]:
    """One for each column; nothing where no cell failed, or where nothing was repeated."""
    found = [_arm(column) for column in comparison.columns]
    if not any(arm.failed for arm in found) or all(len(arm.column.counted) < 2 for arm in found):
        return []
    by_column = {id(arm.column): arm for arm in found}
    for arm in found:
        base = by_column.get(id(arm.column.baseline))
        if base and base.whole and arm.whole:
            arm.p = log_rank(base.lives, arm.lives)
    return found


@dataclass
class Row:
    """What the table says of an arm."""

    colour: int
    column: str
    n: str
    failed: str
    lasted: str
    median: str
    p: str
    remark: str


def _interval_words(arm: Arm) -> str:
    interval = median_interval(arm.steps)
    if not interval or interval[0] is None:
        return ""
    low, high = interval
    return f", 95% {seconds(low)} " + ("or more" if high is None else f"to {seconds(high)}")


def _median_words(arm: Arm) -> str:
    if not arm.whole or not arm.lives:
        return NOT_MEASURED
    half = median(arm.steps)
    return ("not reached" if half is None else seconds(half)) + _interval_words(arm)


def _names(found: list[str]) -> str:
    rest = len(found) - REASONS_SHOWN
    return ", ".join(found[:REASONS_SHOWN]) + (f" and {plural(rest, 'other')}" if rest > 0 else "")


def _remark(arm: Arm) -> str:
    left_out = Counter(
        "interrupted" if cell.interrupted else "replaced" if cell.replaced_by else cell.verdict
        for cell in arm.column.cells
        if not cell.counted
    )
    parts = [f"{n} {why}, not counted" for why, n in left_out.items()]
    if arm.untimed:
        parts.append(f"failed nobody knows when, so the curve is too high: {_names(arm.untimed)}")
    if arm.endless:
        parts.append(f"the end of the load is not on record: {_names(arm.endless)}")
    if arm.column.baseline and arm.whole and len(arm.lives) < stats.MIN_REPEATS:
        parts.append("too few repeats for a difference")
    return "; ".join(parts)


def rows(found: list[Arm]) -> list[Row]:
    """A row for each arm."""
    return [
        Row(
            arm.column.colour,
            arm.column.label,
            f"{len(arm.column.counted)}",
            f"{arm.failed}",
            f"{len(arm.column.counted) - arm.failed}",
            _median_words(arm),
            probability(*arm.p) if arm.p else "",
            _remark(arm),
        )
        for arm in found
    ]


def tests(found: list[Arm]) -> int:
    return sum(arm.p is not None for arm in found)


def _ticks(last: float) -> list[float]:
    """Round moments from the start line to the last."""
    if last < SHORTEST_S:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(last / (TICKS - 1)))
    step = next((power * part for part in (1, 2, 5) if power * part * (TICKS - 1) >= last), power * 10)
    return [step * index for index in range(int(last / step) + 1)]


def _stairs(arm: Arm) -> tuple[list[float], list[float]]:
    """The curve from the start line to the last cell's end."""
    last = max(life.t for life in arm.lives)
    points = [(0.0, 1.0), *((step.t, step.share) for step in arm.steps)]
    points += [(last, points[-1][1])] if last > points[-1][0] else []
    return [t for t, _ in points], [100 * share for _, share in points]


def _curve(arm: Arm) -> dict[str, Any]:
    x, y = _stairs(arm)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "yaxis": "y",
        "legendgroup": arm.column.label,
        "showlegend": False,
        "hoverinfo": "skip",
        "line": {"shape": "hv", "color": charts.token(arm.column), "width": 2, "dash": "solid" if arm.whole else "dot"},
    }


def _band_trace(arm: Arm) -> list[dict[str, Any]]:
    """The band, there and back as one outline; it ends where all have failed, and there is none where cells lack."""
    edges = [step for step in arm.steps if step.low is not None and step.high is not None]
    if not edges or not arm.whole:
        return []
    ends = [step.t for step in arm.steps[1:]] + [max(life.t for life in arm.lives)]
    outline: list[tuple[float, float]] = []
    for step, end in zip(edges, ends):
        outline += [(step.t, step.high), (end, step.high)]
    for step, end in reversed(list(zip(edges, ends))):
        outline += [(end, step.low), (step.t, step.low)]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [t for t, _ in outline],
            "y": [100 * share for _, share in outline],
            "yaxis": "y",
            "fill": "toself",
            "fillcolor": f"{charts.token(arm.column)}-band",
            "line": {"width": 0},
            "legendgroup": arm.column.label,
            "showlegend": False,
            "hoverinfo": "skip",
        }
    ]


def _height_at(arm: Arm, t: float) -> float:
    return 100 * next((step.share for step in reversed(arm.steps) if step.t <= t), 1.0)


def _marks(arm: Arm) -> list[dict[str, Any]]:
    """Where each cell failed or was censored."""
    traces = []
    for failed, symbol, size in ((True, "circle", 7), (False, "line-ns-open", 12)):
        lives = [life for life in arm.lives if life.failed == failed]
        if not lives:
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [life.t for life in lives],
                "y": [_height_at(arm, life.t) for life in lives],
                "yaxis": "y",
                "legendgroup": arm.column.label,
                "showlegend": False,
                "cliponaxis": False,
                "hoverinfo": "text",
                "text": [f"<b>{label(life.place)}</b> at {seconds(life.t)}<br>{label(life.words)}" for life in lives],
                "marker": {
                    "symbol": symbol,
                    "size": size,
                    "color": charts.token(arm.column),
                    "line": {"width": 2 if not failed else 0, "color": charts.token(arm.column)},
                },
            }
        )
    return traces


def _at_risk(found: list[Arm], ticks: list[float]) -> list[dict[str, Any]]:
    """Under each tick, how many cells were still under way."""
    return [
        {
            "type": "scatter",
            "mode": "text",
            "x": ticks,
            "y": [-row] * len(ticks),
            "yaxis": "y2",
            "text": [f"{sum(life.t >= t for life in arm.lives)}" for t in ticks],
            "textfont": {"size": 11, "color": charts.token(arm.column)},
            "showlegend": False,
            "hoverinfo": "skip",
            "cliponaxis": False,
        }
        for row, arm in enumerate(found)
    ]


def figure(comparison: Comparison, found: list[Arm]) -> dict[str, Any] | None:
    """The curves of all arms, and under them the numbers at risk."""
    drawn = [arm for arm in found if arm.lives]
    if not drawn:
        return None
    last = max(life.t for arm in drawn for life in arm.lives)
    ticks, heights = _ticks(last), [CURVE_PX, RISK_PX * len(drawn) + 8]
    names = [label(arm.column.label, 28) for arm in drawn]
    places = charts.domains(heights)
    layout = charts.layout_of(
        charts.rows_height(heights) + charts.TOP_PX + charts.BOTTOM_PX + LEGEND_PX,
        max(64, min(280, 14 + 7 * max(map(len, names)))),
    )
    layout |= {
        "legend": charts.LEGEND | {"y": 1.04},
        "annotations": [charts.title("Still at risk", places[1][1])],
        "xaxis": charts.axis(
            range=[-0.02 * ticks[-1], max(last, ticks[-1]) * 1.03],
            anchor="y2",
            tickvals=ticks,
            ticktext=[number(t) for t in ticks],
            title={"text": "seconds since the start line", "font": {"size": 12, "color": "@soft"}, "standoff": 8},
        ),
        "yaxis": charts.axis(
            domain=places[0],
            range=[-4, 104],
            tickvals=[0, 25, 50, 75, 100],
            ticksuffix="%",
        ),
        "yaxis2": charts.axis(
            domain=places[1],
            range=[0.6 - len(drawn), 0.6],
            tickvals=[-row for row in range(len(drawn))],
            ticktext=names,
            showgrid=False,
            ticks="",
        ),
    }
    curves = charts.arm_legend([arm.column for arm in drawn])
    curves += [trace for arm in drawn for trace in (*_band_trace(arm), _curve(arm))]
    data = charts.hush(comparison, curves) + [trace for arm in drawn for trace in _marks(arm)] + _at_risk(drawn, ticks)
    return {"data": data, "layout": layout}


FLAT_HEAD = ["arm", "n", "failed", "lasted to their load's end", "median time to failure"]
FLAT_HEAD += ["against the baseline", "remarks"]


def flat_rows(comparison: Comparison) -> list[list[str]]:
    """The same as texts."""
    return [
        [row.column, row.n, row.failed, row.lasted, row.median, row.p or NOT_MEASURED, row.remark]
        for row in rows(arms(comparison))
    ]


def as_json(found: list[Arm]) -> list[dict[str, Any]]:
    """For programs; an arm of which not every failure could be timed has no median."""
    return [
        {
            "arm": arm.column.label,
            "n": len(arm.column.counted),
            "failed": arm.failed,
            "not_timed": arm.untimed + arm.endless,
            "median_s": median(arm.steps) if arm.whole else None,
            "median_interval_s": median_interval(arm.steps) if arm.whole else None,
            "p": arm.p[0] if arm.p else None,
            "test": arm.p[1] if arm.p else None,
            "cells": [{"t": life.t, "failed": life.failed} for life in arm.lives],
            "steps": [asdict(step) for step in arm.steps],
        }
        for arm in found
    ]
