# SPDX-License-Identifier: MIT
"""What each mitigation does: pairs of arms that differ in one mitigation alone, off against on.

A mitigation is seen alone (`before` against `only-X`) and on top of all others (`without-X` against `after`). Both arms
of a pair come from the same runs and the same configuration, and every cell that counts has to have the mitigation in
the state that its arm stands for: what a kernel has for good, or does not have, was not switched.
"""
from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from reports import stats
from reports.analysis import (
    Column,
    Comparison,
    Figure,
    Flats,
    Metric,
    compare_figures,
    configuration,
    distinct,
    flat_metrics,
    make_figure,
    verdict_test,
    verdict_words,
)
from reports.model import obj, text
from reports.tables import mitigation_state, never_words, survivors_words, value_of
from reports.text import ARROW, BOUND_SIGNS, NOT_MEASURED, interval, probability, ratio, scale

# What a mitigation is there for, in the order in which it is told; of these a report shows those that it has.
KEY_METRICS = (
    "slab_unreclaimable_peak_kib",
    "swap_in_flight_peak",
    "standstill_max_ms",
    "elapsed_s",
    "time_to_failure_s",
    "oom_kills",
    "swap_out_mib_s",
    "psi_memory_full_s",
)
ALONE, ON_TOP = "alone", "on top of all others"


@dataclass
class Effect:
    """One metric with the mitigation off and on."""

    metric: Metric
    off: Figure
    on: Figure

    @property
    def complete(self) -> bool:
        """Whether every cell of both sides has its say."""
        return self.off.complete and self.on.complete

    @property
    def ratio(self) -> float | None:
        """Off over on; nothing where cells are missing, or would have to be left out."""
        return stats.ratio_of_medians(self.off.ranks, self.on.ranks) if self.complete and self.on.direction else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return stats.bootstrap_ratio(self.off.ranks, self.on.ranks) if self.ratio else None

    @property
    def bound(self) -> str:
        """What it means for the ratio that one side may have gone further; if both may have, there is no ratio."""
        if bool(self.off.bound) == bool(self.on.bound):
            return ""
        return self.off.bound or {"at least": "at most", "at most": "at least"}[self.on.bound]

    @property
    def apart(self) -> bool:
        """Whether every value of one side lies beyond every value of the other."""
        return max(self.off.ranks) < min(self.on.ranks) or max(self.on.ranks) < min(self.off.ranks)

    @property
    def words(self) -> tuple[str, str]:
        """What switching the mitigation on did, no louder than the repeats allow, and the tone in which to say it."""
        if self.off.median is None or self.on.median is None:
            return "", "same"
        if not self.complete:
            return "not in every cell", "same"
        if not self.on.direction:
            return "cannot be told", "same"
        if not stats.enough(self.off.ranks, self.on.ranks):
            return "too few repeats", "same"
        direction = {"changed": "differs"}.get(self.on.direction, self.on.direction)
        if self.on.significant:
            return f"{direction}*", self.on.direction
        if self.apart:
            return f"{direction} in every repeat", self.on.direction
        return ("unchanged" if direction == "same" else "unclear"), "same"


@dataclass
class Pair:
    """The cells with a mitigation off and those with it on."""

    mitigation: str
    kind: str
    off: Column
    on: Column
    why_not: str = ""  # why nothing was switched between them
    remark: str = ""
    effects: list[Effect] = field(default_factory=list)

    @property
    def verdict_p(self) -> tuple[float, str] | None:
        return None if self.why_not else verdict_test(self.on)


@dataclass
class Group:
    """All pairs of one configuration."""

    name: str
    pairs: list[Pair]

    @property
    def metrics(self) -> list[Metric]:
        """Those that any pair has a figure of."""
        met = {effect.metric.name: effect.metric for pair in self.pairs for effect in pair.effects}
        return [met[name] for name in KEY_METRICS if name in met]


def _same_runs(off: Column, on: Column) -> tuple[Column, Column] | None:
    """Both sides as far as the same runs made them: between two runs the machine was another one."""
    runs = {id(cell.run) for cell in off.cells} & {id(cell.run) for cell in on.cells}
    if not runs:
        return None
    first, second = (replace(side, cells=[cell for cell in side.cells if id(cell.run) in runs]) for side in (off, on))
    second.baseline = first
    return first, second


def _not_as_its_arm(name: str, column: Column, wanted: str) -> str:
    """What stands against the cells of one side being what their arm says."""
    entries = [obj(cell.section("mitigations").get(name)) for cell in column.counted]
    wrong = [one for one in entries if one.get("built_in") is True or text(one.get("state")) != wanted]
    states = Counter(mitigation_state(one) or "state not on record" for one in wrong)
    if not entries:
        return "no cell counts"
    return ", ".join(
        f"{words} in {n} of {len(entries)}" if n < len(entries) else words for words, n in states.most_common()
    )


def _why_not(name: str, off: Column, on: Column) -> str:
    """Why the two arms are no pair, in which every cell has to be what its arm says."""
    sides = [(side, _not_as_its_arm(name, side, wanted)) for side, wanted in ((off, "off"), (on, "on"))]
    if sides[0][1] == sides[1][1]:
        return sides[0][1]
    return "; ".join(f"{side.arm}: {words}" for side, words in sides if words)


def _remark(name: str, on: Column) -> str:
    idle = sum(obj(cell.section("mitigations").get(name)).get("exercised") is False for cell in on.counted)
    return f"not exercised in {idle} of {len(on.counted)}" if idle else ""


def _effects(metrics: list[Metric], flats: Flats, off: Column, on: Column) -> list[Effect]:
    found = []
    for metric in metrics:
        kind = metric.figures[0].kind
        before, after = (make_figure(metric, column, flats, kind) for column in (off, on))
        if before.median is None and after.median is None:
            continue
        compare_figures(metric, before, after)
        found.append(Effect(metric, before, after))
    return found


def _pairs(comparison: Comparison, columns: list[Column], flats: Flats) -> list[Pair]:
    """The pairs of one configuration, by mitigation."""
    arms = {column.arm: column for column in columns}
    cells = [cell for column in columns for cell in column.cells]
    known = {metric.name: metric for metric in comparison.metrics}
    metrics = [known[name] for name in KEY_METRICS if name in known and known[name].figures[0].kind != "flag"]
    pairs = []
    for name in distinct([name for cell in cells for name in cell.section("mitigations")]):
        for kind, off, on in ((ALONE, "before", f"only-{name}"), (ON_TOP, f"without-{name}", "after")):
            sides = _same_runs(arms[off], arms[on]) if off in arms and on in arms else None
            if sides:
                pair = Pair(name, kind, *sides, _why_not(name, *sides), _remark(name, sides[1]))
                pair.effects = [] if pair.why_not else _effects(metrics, flats, *sides)
                pairs.append(pair)
    return pairs


def groups(comparison: Comparison) -> list[Group]:
    """The pairs of each configuration that has any."""
    flats = {id(cell): flat_metrics(cell) for cell in comparison.cells}
    found = []
    for key in distinct([column.key for column in comparison.columns]):
        pairs = _pairs(comparison, [column for column in comparison.columns if column.key == key], flats)
        if pairs:
            found.append(Group(configuration(comparison.columns, key), pairs))
    return found


@dataclass
class Shown:
    """One field of the table."""

    off: str
    on: str
    ratio: str
    interval: str
    n: str
    p: str
    words: str
    mark: str

    @property
    def change(self) -> str:
        return f"{self.ratio} {self.words}".strip()

    @property
    def note(self) -> str:
        parts = [f"95% {self.interval}" if self.interval else "", self.n, self.p]
        # A line may end after a part, not inside it.
        return ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts if part)

    @property
    def values(self) -> str:
        return f"{self.off} {ARROW} {self.on}"


def _n(effect: Effect) -> str:
    """How many repeats stand behind each side, and how many of them never came to what is timed."""
    sides = [f"{len(side.ranks)}" + ("" if side.complete else f" of {side.of}") for side in (effect.off, effect.on)]
    never = [never_words(effect.metric, side) or survivors_words(side) for side in (effect.off, effect.on)]
    told = [f"{arm}: {words}" for arm, words in zip(("off", "on"), never) if words]
    return ", ".join([f"n = {sides[0]} + {sides[1]}", *told])


def shown(effect: Effect, divisor: float) -> Shown:
    """The texts of one field, in the unit of its column."""
    sign = BOUND_SIGNS.get(effect.bound, "")
    size = ratio(effect.ratio) if effect.ratio else ""
    words, mark = effect.words
    p = effect.on.p
    return Shown(
        *(value_of(effect.metric, side, divisor)[0] for side in (effect.off, effect.on)),
        sign + size if size else "",
        interval(*map(ratio, effect.interval), effect.bound) if effect.interval else "",
        _n(effect),
        probability(p, effect.on.test) if p is not None else "",
        words,
        mark,
    )


def _unit(group: Group, metric: Metric) -> tuple[float, str]:
    """Divisor and name of the unit in which all figures of a metric are told."""
    medians = [
        side.median
        for pair in group.pairs
        for effect in pair.effects
        if effect.metric is metric
        for side in (effect.off, effect.on)
        if side.median is not None and math.isfinite(side.median)
    ]
    return scale(metric.unit, max(map(abs, medians), default=0.0))


@dataclass
class Row:
    """A pair, and a field for each metric of its group."""

    pair: Pair
    outcomes: str
    outcomes_p: str
    fields: list[Shown | None]

    @property
    def remark(self) -> str:
        why_not = f"not switched: {self.pair.why_not}" if self.pair.why_not else ""
        return "; ".join(part for part in (why_not, self.pair.remark) if part)


@dataclass
class Table:
    name: str
    heads: list[tuple[str, str, str]]  # metric, its label, unit
    rows: list[Row]


def table(group: Group) -> Table:
    """The group as texts."""
    metrics = group.metrics
    units = {metric.name: _unit(group, metric) for metric in metrics}
    rows = []
    for pair in group.pairs:
        own = {effect.metric.name: shown(effect, units[effect.metric.name][0]) for effect in pair.effects}
        test = pair.verdict_p
        rows.append(
            Row(
                pair,
                f"{verdict_words(pair.off)} {ARROW} {verdict_words(pair.on)}",
                probability(*test) if test else "",
                [own.get(metric.name) for metric in metrics],
            )
        )
    return Table(group.name, [(metric.name, metric.label, units[metric.name][1]) for metric in metrics], rows)


def tests(found: list[Group]) -> int:
    """How many tests stand in the table."""
    pairs = [pair for group in found for pair in group.pairs]
    return sum(effect.on.p is not None for pair in pairs for effect in pair.effects) + sum(
        pair.verdict_p is not None for pair in pairs
    )


def flat_rows(found: list[Group]) -> list[list[str]]:
    """A row for each metric of each pair."""
    rows = []
    for group in map(table, found):
        for row in group.rows:
            pair = row.pair
            head = [pair.mitigation, pair.off.label, pair.on.label]
            outcomes = [verdict_words(pair.off), verdict_words(pair.on)]
            rows.append([*head, "outcome", "", *outcomes, "", "", "", row.outcomes_p, row.remark])
            for (_, label, unit), one in zip(group.heads, row.fields):
                if one:
                    rows.append([*head, label, unit, one.off, one.on, one.ratio, one.interval, one.n, one.p, one.words])
    return [[value or NOT_MEASURED for value in row] for row in rows]


FLAT_HEAD = ["mitigation", "off", "on", "metric", "unit", "median off", "median on"]
FLAT_HEAD += ["off / on", "95%", "n", "p", "on is"]
