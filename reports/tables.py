# SPDX-License-Identifier: MIT
"""Rows of the report's tables as plain texts, shared by the HTML page and the Markdown."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from reports import stats
from reports.analysis import Comparison, Figure, Metric, distinct, flat_options, mixed_settings, plain
from reports.model import ENDED_ITSELF, Cell, num, obj, seq, text
from reports.text import BOUND_SIGNS, NOT_MEASURED, interval, number, plural, probability, quantity, ratio, scale, seconds


@dataclass
class Shown:
    """One field of the metrics table."""

    value: str
    unit: str = ""
    title: str = ""
    change: str = ""
    mark: str = ""  # better, worse, changed, same: the colour of `change`
    note: str = ""  # n, interval, p


def value_of(metric: Metric, figure: Figure, divisor: float) -> tuple[str, str]:
    """Text and explanation of one figure; the unit stands with the row."""
    if figure.kind == "flag":
        yes, n = sum(figure.values), len(figure.values)
        if n == 0:
            return NOT_MEASURED, "not measured"
        if yes not in (0, n):
            return f"{yes} of {n} yes", ""
        return ("yes" if yes else "no") + ("" if figure.complete else f" in {n} of {figure.of}"), ""
    if figure.median is None:
        return NOT_MEASURED, "not measured"
    if math.isinf(figure.median):
        of = f" in {figure.never} of {figure.of}" if figure.of > 1 else ""
        title = "nothing failed" if metric.times_failure else "the load did not come to its end"
        return f"{metric.never}{of}", f"{title}, so it has no such time"
    sign = BOUND_SIGNS.get(figure.bound)
    mark = f"{sign}\N{THIN SPACE}" if sign else ""
    title = f"{figure.bound}: a cell that died may have gone further after its last sample" if sign else ""
    return mark + number(figure.median / divisor, figure.kind == "number"), title


def never_words(metric: Metric, figure: Figure) -> str:
    """How many cells are in the median without a value of their own, where the median does not say so itself."""
    told = figure.never == 0 or figure.median is None or math.isinf(figure.median)
    return "" if told else f"{figure.never} {metric.never}"


def survivors_words(figure: Figure) -> str:
    """How many cells the median lacks because they did not live to have a value."""
    return "" if figure.median is None or not figure.died else f"{figure.died} that did not finish left out"


def _note(metric: Metric, figure: Figure, divisor: float) -> str:
    parts = []
    if figure.of >= stats.MIN_REPEATS or (figure.of > 1 and not figure.complete):
        n = len(figure.values) + figure.never
        parts.append(f"n = {n}" if figure.complete else f"n = {n} of {figure.of}")
    parts += [words] if (words := never_words(metric, figure) or survivors_words(figure)) else []
    if figure.interval:
        edges = (number(edge / divisor, figure.kind == "number") for edge in figure.interval)
        parts.append(f"95% {interval(*edges, figure.bound)}")
    if figure.p is not None:
        parts.append(probability(figure.p, figure.test))
    # A line may end after a part, not inside it.
    return ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


def _change(figure: Figure) -> tuple[str, str]:
    """The word for a change, and how loudly it may be said: with enough repeats only if it is significant."""
    if figure.direction in ("", "same"):
        return ("unchanged" if figure.direction else ""), "same"
    size = ratio(figure.ratio) if figure.ratio else ""
    if figure.p is not None and not figure.significant:
        return f"{size} unclear".strip(), "same"
    word = figure.direction if figure.direction != "changed" else ""
    star = "*" if figure.significant else ""
    return f"{size} {word}{star}".strip(), figure.direction


def shown(metric: Metric) -> tuple[str, list[Shown]]:
    """The unit of the row and its fields, one a column."""
    finite = [
        abs(figure.median) for figure in metric.figures if figure.median is not None and math.isfinite(figure.median)
    ]
    divisor, unit = scale(metric.unit, max(finite, default=0.0)) if metric.figures[0].kind != "flag" else (1.0, "")
    fields = []
    for figure in metric.figures:
        value, title = value_of(metric, figure, divisor)
        change, mark = _change(figure)
        fields.append(Shown(value, unit, title, change, mark, _note(metric, figure, divisor)))
    return unit, fields


def _tally(values: list[str]) -> str:
    """Distinct values, with counts where repeats disagree."""
    kinds = distinct([value for value in values if value])
    if len(kinds) <= 1:
        return "".join(kinds)
    if len(kinds) == len(values) > 2:
        return f"{kinds[0]} (each of the {len(values)} repeats differs)"
    return "; ".join(f"{kind} ({values.count(kind)} of {len(values)})" for kind in kinds)


@dataclass
class MitigationRow:
    name: str
    arm: int
    column: str
    requested: str
    read_back: str
    state: str
    exercised: str
    evidence: str


def mitigation_state(entry: dict[str, Any]) -> str:
    """The state in words where nothing could be switched."""
    state = plain(entry.get("state"))
    if entry.get("built_in") is True and state in ("on", "off", "absent"):
        return "in this kernel for good" if state == "on" else "not in this kernel"
    return "absent (no such knob here)" if state == "absent" else state


def _exercised(value: object) -> str:
    return (
        {True: "yes", False: "not exercised"}.get(value, "cannot be told")
        if value is None or isinstance(value, bool)
        else ""
    )


def mitigations(comparison: Comparison) -> list[MitigationRow]:
    """Requested, read back, proved: a row for each mitigation and column."""
    names = distinct([name for cell in comparison.cells for name in cell.section("mitigations")])
    rows = []
    for name in names:
        for column in comparison.columns:
            found = [obj(cell.section("mitigations").get(name)) for cell in column.counted or column.cells]
            found = [one for one in found if one]
            if found:
                rows.append(
                    MitigationRow(
                        name,
                        column.colour,
                        column.label,
                        *(
                            _tally([plain(one.get(part)) for one in found]) for part in ("requested", "read_back")
                        ),
                        _tally([mitigation_state(one) for one in found]),
                        _tally([_exercised(one.get("exercised")) for one in found]),
                        _tally([plain(one.get("evidence")) for one in found]),
                    )
                )
    return rows


@dataclass
class Row:
    """A name and a value a column; one value where all columns agree."""

    name: str
    values: list[str]

    @property
    def same(self) -> bool:
        return len(set(self.values)) <= 1


def _per_column(comparison: Comparison, name: str, get: Any) -> Row:
    return Row(name, [_tally([get(cell) for cell in column.counted or column.cells]) for column in comparison.columns])


def settings(comparison: Comparison) -> tuple[list[Row], list[Row]]:
    """Settings and options that differ between columns, and those that were pinned."""
    rows = []
    for section, get in (("", lambda cell: cell.section("settings")), ("option ", flat_options)):
        names = distinct([name for cell in comparison.cells for name in get(cell)])
        rows += [
            _per_column(comparison, section + name, lambda cell, n=name, g=get: plain(g(cell).get(n))) for name in names
        ]
    return [row for row in rows if not row.same], [row for row in rows if row.same]


def _detector(entry: dict[str, Any]) -> str:
    if not entry:
        return ""
    more = [
        f"{name.rpartition('_')[0]} {plain(value)} {name.rpartition('_')[2]}"
        if name.endswith(("_s", "_ms"))
        else f"{name} {plain(value)}"
        for name, value in entry.items()
        if name not in ("present", "why") and plain(value)
    ]
    head = "present" if entry.get("present") is True else "absent" if entry.get("present") is False else "not told"
    why = f": {text(entry.get('why'))}" if text(entry.get("why")) else ""
    return ", ".join([head + why, *more])


def detectors(comparison: Comparison) -> list[Row]:
    """Which alarms existed: "0 lockups" without a detector is no result."""
    names = distinct([name for cell in comparison.cells for name in cell.section("detectors")])
    return [
        _per_column(comparison, name, lambda cell, n=name: _detector(obj(cell.section("detectors").get(n))))
        for name in names
    ]


def environment(comparison: Comparison) -> list[Row]:
    """Where it ran."""
    machine, config = ("kernel", "kernel_banner", "cmdline", "where"), "config"

    def host(cell: Cell, name: str) -> str:
        size = num(cell.run.section("host").get(name)) if name.endswith("_mib") else None
        return quantity(size, "MiB") if size is not None else plain(cell.run.section("host").get(name))

    def memory(cell: Cell) -> str:
        size, total = (num(cell.section("machine").get(name)) for name in ("memory_mib", "memtotal_kib"))
        parts = [quantity(size, "MiB")] if size is not None else []
        return "".join(parts) + (f" ({quantity(total, 'KiB')} MemTotal)" if total is not None else "")

    def acceleration(cell: Cell) -> str:
        used, why = plain(cell.section("machine").get("accel")), plain(
            obj(cell.run.data.get("host")).get("accel_reason")
        )
        return f"{used} ({why})" if used and why else used

    rows = [
        _per_column(comparison, name.replace("_", " "), lambda cell, n=name: plain(cell.section("machine").get(n)))
        for name in machine
    ]
    rows.append(_per_column(comparison, "kernel package", lambda cell: plain(cell.kernel.get("source"))))
    rows.append(_per_column(comparison, "acceleration", acceleration))
    rows.append(_per_column(comparison, "CPUs", lambda cell: plain(cell.section("machine").get("cpus"))))
    rows.append(_per_column(comparison, "memory", memory))
    for name in distinct([name for cell in comparison.cells for name in obj(cell.section("machine").get(config))]):
        rows.append(
            _per_column(comparison, name, lambda cell, n=name: plain(obj(cell.section("machine").get(config)).get(n)))
        )
    for name in distinct([name for run in comparison.runs for name in run.section("host") if name != "accel_reason"]):
        rows.append(
            _per_column(
                comparison, f"host {name.removesuffix('_mib').replace('_', ' ')}", lambda cell, n=name: host(cell, n)
            )
        )
    rows.append(_per_column(comparison, "headroom", lambda cell: plain(cell.run.data.get("version"))))
    rows.append(_per_column(comparison, "started (UTC)", lambda cell: plain(cell.run.data.get("started_utc"))))
    return [row for row in rows if any(row.values)]


# Bucket 0 of a histogram is under 1 us, each one after it twice as wide.
HISTOGRAM_MAX = 64
BARS = "".join(chr(0x2581 + height) for height in range(8))


@dataclass
class WorkerRow:
    """One work function: how long its works waited for a kernel worker, and how long they ran."""

    function: str
    waits: str
    wait_max: str
    wait_median: str
    histogram: str
    runs: str
    run_max: str
    run_total: str


@dataclass
class Workers:
    """What the workqueue tracepoints of one cell came to."""

    arm: int
    column: str
    cell: str
    facts: list[str]
    pools: list[str]
    by_wait: list[WorkerRow]
    by_run: list[WorkerRow]


def _histogram(value: object) -> list[float]:
    counts = [num(count) for count in seq(value)[:HISTOGRAM_MAX]]
    return [count if count is not None and count > 0 else 0.0 for count in counts]


def _bars(counts: list[float]) -> str:
    """A bar a bucket, as high as the logarithm of its count: the few long waits are what matters."""
    most = math.log1p(max(counts, default=0.0))
    return "".join(
        BARS[min(7, int(math.log1p(count) / most * 7.999))] if count else "\N{MIDDLE DOT}" for count in counts
    )


def _median_bucket(counts: list[float]) -> str:
    """The upper bound of the bucket in which the median lies."""
    half, seen = sum(counts) / 2, 0.0
    for index, count in enumerate(counts):
        seen += count
        if count and seen >= half:
            return f"< {quantity(2.0**index, 'us')}"
    return NOT_MEASURED


def _ms(value: object) -> str:
    shown = num(value)
    return NOT_MEASURED if shown is None else quantity(shown, "ms")


def _worker_row(entry: dict[str, Any]) -> WorkerRow:
    waits, runs = num(entry.get("wait_n")), num(entry.get("run_n"))
    counts = _histogram(entry.get("wait_histogram"))
    return WorkerRow(
        text(entry.get("function")) or "?",
        _count(waits),
        _ms(entry.get("wait_max_ms")) if waits else NOT_MEASURED,
        _median_bucket(counts),
        _bars(counts),
        _count(runs),
        _ms(entry.get("run_max_ms")) if runs else NOT_MEASURED,
        _ms(entry.get("run_total_ms")) if runs else NOT_MEASURED,
    )


def _worker_pool(entry: dict[str, Any]) -> str:
    cpu = num(entry.get("cpu"))
    name = "unbound" if cpu == -1 else "?" if cpu is None else f"CPU {cpu:.0f}"
    name += ", high priority" if entry.get("highpri") is True else ""
    counts = _histogram(entry.get("wait_histogram"))
    return (
        f"{name}: {_count(num(entry.get('wait_n')))} waits, median {_median_bucket(counts)},"
        f" longest {_ms(entry.get('wait_max_ms'))}"
    )


def workers(comparison: Comparison) -> list[Workers]:
    """A table a cell whose workqueues were traced."""
    found = []
    for column in comparison.columns:
        for cell in column.cells:
            trace = cell.wq_trace
            if not trace:
                continue
            count = {name: num(trace.get(name)) for name in ("events", "lost", "stalls", "threshold_ms", "buffers_kib")}
            facts = [f"{_count(count['events'])} events, {_count(count['lost'])} lost"]
            if count["stalls"] is not None and count["threshold_ms"] is not None:
                facts.append(f"{plural(int(count['stalls']), 'wait')} over {_ms(count['threshold_ms'])}")
            if count["buffers_kib"] is not None:
                facts.append(f"{quantity(count['buffers_kib'], 'KiB')} of the machine's memory for buffers")
            if text(trace.get("error")):
                facts = [f"not traced: {text(trace.get('error'))}"]
            found.append(
                Workers(
                    column.colour,
                    column.label,
                    cell.name,
                    facts,
                    [_worker_pool(obj(pool)) for pool in seq(trace.get("pools"))],
                    *([_worker_row(obj(row)) for row in seq(trace.get(key))[:10]] for key in ("by_wait", "by_run")),
                )
            )
    return found


@dataclass
class LossRow:
    column: str
    arm: int
    cell: str
    taken: str
    missed: str
    late_max: str
    dropped: str
    kmsg_lost: str
    kmsg_dropped: str
    box_lost: str
    corrupt: str
    notes: list[str] = field(default_factory=list)
    lossy: bool = False


LOST = ("missed", "dropped", "kmsg_lost", "kmsg_dropped", "box_lost")
LOSSES = ("taken", "late_max_ms", *LOST)


def _count(value: float | None) -> str:
    return NOT_MEASURED if value is None else number(value)


def _cell_notes(cell: Cell) -> list[str]:
    notes = []
    if cell.interrupted:
        notes.append("interrupted, not in the statistics")
    if cell.replaced_by:
        notes.append(f"replaced by {cell.replaced_by}, not in the statistics")
    elif cell.verdict in ("skipped", "broken") and not cell.interrupted:
        notes.append(f"{cell.verdict}, not in the statistics")
    if not cell.samples.lines:
        notes.append("no samples")
    if cell.samples.cut_off:
        notes.append("last sample line cut off")
    if cell.events_left_out:
        notes.append(f"{plural(cell.events_left_out, 'event')} not read")
    if cell.doubtful_kills:
        notes.append(cell.doubtful_kills)
    if cell.ended_by not in ("", *ENDED_ITSELF):
        notes.append(f"ended by {cell.ended_by}")
    return notes


def losses(comparison: Comparison) -> list[LossRow]:
    """A row a cell, also for those that left nothing."""
    rows = []
    for column in comparison.columns:
        for cell in column.cells:
            counts = {name: num(cell.section("samples").get(name)) for name in LOSSES}
            late = counts["late_max_ms"]
            corrupt = cell.samples.corrupt + cell.events_corrupt
            rows.append(
                LossRow(
                    column.label,
                    column.colour,
                    cell.name,
                    _count(counts["taken"]),
                    _count(counts["missed"]),
                    NOT_MEASURED if late is None else quantity(late, "ms"),
                    *(_count(counts[name]) for name in ("dropped", "kmsg_lost", "kmsg_dropped", "box_lost")),
                    _count(corrupt),
                    _cell_notes(cell),
                    bool(corrupt or any(counts[name] for name in LOST)),
                )
            )
    return rows


def other_losses(comparison: Comparison) -> list[str]:
    """Losses that belong to a run and not to a cell that can be shown, and reasons for doubt."""
    notes = [f"{cell} ({run.path.name}): {why}" for run in comparison.runs for cell, why in run.no_record]
    notes += [
        f"{run.path.name}: {plural(run.journal_corrupt, 'corrupt journal line')}"
        for run in comparison.runs
        if run.journal_corrupt
    ]
    notes += [
        f"{run.path.name}: the run is {run.status}" for run in comparison.runs if run.status not in ("", "complete")
    ]
    for column in comparison.columns:
        mixed = mixed_settings(column)
        if mixed:
            notes.append(f"{column.label}: repeats differ in {', '.join(mixed)}, so they are not repeats of one thing")
    return notes + comparison.problems


def phases(cell: Cell) -> str:
    """`setup −6.2 s for 6.2 s, run 0.0 s for 20.1 s, verify 20.1 s`."""
    marks = [(text(obj(phase).get("name")) or "?", num(obj(phase).get("t"))) for phase in seq(cell.data.get("phases"))]
    known = [(name, t) for name, t in marks if t is not None]
    parts = []
    for index, (name, t) in enumerate(known):
        following = known[index + 1][1] if index + 1 < len(known) else None
        parts.append(f"{name} at {seconds(t)}" + (f" for {seconds(following - t)}" if following is not None else ""))
    return ", ".join(parts)
