# SPDX-License-Identifier: MIT
"""Lays arms side by side: which cells belong together, what each metric says, and what may be called a difference.

A column is an arm on one machine configuration. Cells of the same column are repeats of each other; each column is
compared with the baseline of its own configuration, so that a mitigation is never credited with a change of kernel.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from reports import stats
from reports.model import Cell, Run, num, obj, seq, text
from reports.text import one_line, plural, seconds

LABEL_LENGTH = 100
FIXED_COLOURS = ("before", "after")
COLOURS = 10  # there are; later columns share them
COUNT_UNITS = {"", "1", "count", "events", "kills", "lockups", "reports", "tasks"}
# Sums over a cell's life, which is over early where the cell died.
SUMS = {
    "psi_memory_full_s",
    "psi_memory_some_s",
    "swap_out_mib",
    "swap_in_mib",
    "refaults",
    "thread_cpu_s",
    "allocation_stalls",
    "direct_scans",
}
# Counts that a machine's own end cuts short; the end of a load that was killed does not.
FAILURE_COUNTS = {"oom_kills", "wq_lockups", "hung_tasks"}
SUFFIX_UNITS = {"s": "s", "ms": "ms", "us": "us", "kib": "KiB", "mib": "MiB", "pct": "%"}
# The kinds of events that mark the moment of each failure; the later ones where there is none of the first.
FAILURE_EVENTS = {
    "panic": (("panic",), ("oops", "bug")),
    "oom": (("oom-kill", "memcg-oom-kill"),),
    "hung": (("hung-task",),),
    "deadlock": (("deadlock",), ("hung-task",)),
    "lockup": (("wq-lockup", "soft-lockup", "hard-lockup", "rcu-stall"),),
    "stuck": (("deadline", "stuck"),),
}
LOCKUP_MS = 30_000  # a canary that waits so long gives the verdict lockup
# Verdicts and outcomes whose names alone say too little.
VERDICT_WORDS = {"livelock": "livelock (alive, no progress)"}
OUTCOME_WORDS = {"premature-oom": "premature oom (over half of swap free)", "throttled": "throttled but alive"}


@dataclass
class Column:
    """The repeats of one arm on one configuration."""

    key: tuple[str, ...]
    arm: str
    cells: list[Cell] = field(default_factory=list)
    label: str = ""
    baseline: "Column | None" = None
    colour: int = 0
    options: dict[str, str] = field(default_factory=dict)  # of its configuration

    @property
    def counted(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.counted]

    @property
    def standing(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.interrupted and not cell.replaced_by]

    @property
    def verdicts(self) -> Counter[str]:
        """Verdicts of the cells that stand; interrupted and replaced ones are listed elsewhere."""
        return Counter(cell.verdict for cell in self.standing)

    @property
    def outcomes(self) -> Counter[str]:
        """The same in words, with what the record says beside the verdict."""
        return Counter(outcome_words(cell) for cell in self.standing)

    @property
    def failures(self) -> int:
        return sum(1 for cell in self.counted if cell.verdict != "ok")

    @property
    def shown(self) -> Cell | None:
        """The cell that stands for the column where only one can be shown: its first counted, else its first."""
        return next(iter(self.counted or self.cells), None)


@dataclass
class Figure:
    """One metric of one column, and how it compares with the baseline column."""

    kind: str  # number, count, flag
    values: list[float | bool] = field(default_factory=list)
    of: int = 0  # counted cells, measured or not
    died: int = 0  # cells that did not finish and have no value
    never: int = 0  # cells that rank behind every time, because they never came to what is timed
    bound: str = ""  # "at least" or "at most": a cell that died may have gone further after its last sample
    median: float | None = None  # inf: most cells never came to what is timed
    interval: tuple[float, float] | None = None
    ratio: float | None = None
    direction: str = ""  # better, worse, changed, same
    p: float | None = None
    test: str = ""

    @property
    def ranks(self) -> list[float]:
        """All that can be ranked: measured values, and infinity for each cell that never came to what is timed."""
        return [float(value) for value in self.values] + [math.inf] * self.never

    @property
    def complete(self) -> bool:
        """Whether every counted cell has its say; a test over the survivors only would be a lie."""
        return len(self.values) + self.never == self.of

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < stats.ALPHA


@dataclass
class Metric:
    name: str
    label: str
    unit: str
    better: str
    figures: list[Figure] = field(default_factory=list)

    @property
    def times_the_end(self) -> bool:
        """A time that means something only for a cell which came to its end."""
        return self.name.startswith("elapsed") or "to finish" in self.label.lower()

    @property
    def times_failure(self) -> bool:
        """A time that a cell without a failure outlived."""
        return self.name == "time_to_failure_s"

    @property
    def never(self) -> str:
        """What is said of a cell that never came to what is timed."""
        return "did not fail" if self.times_failure else "did not finish"


@dataclass
class Comparison:
    runs: list[Run]
    columns: list[Column]
    metrics: list[Metric]
    problems: list[str]

    @property
    def cells(self) -> list[Cell]:
        return [cell for run in self.runs for cell in run.cells]

    @property
    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(column.key[0] for column in self.columns))

    @property
    def tests(self) -> int:
        return sum(1 for metric in self.metrics for figure in metric.figures if figure.p is not None)


Flats = dict[int, dict[str, float | bool | None]]  # id of a cell -> its metrics


def distinct(values: list[Any]) -> list[Any]:
    """The values without repetition, in order of first appearance."""
    return list(dict.fromkeys(values))


def plain(value: object) -> str:
    """A scalar of the record as text; nothing for what is absent."""
    if value is None or isinstance(value, (dict, list)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def flat_options(cell: Cell) -> dict[str, str]:
    """`snapshot-cow.snapshots` -> `8`."""
    return {
        f"{section}.{name}": plain(value)
        for section, options in cell.section("options").items()
        for name, value in obj(options).items()
    }


def _switched(runs: list[Run]) -> set[str]:
    """Options that a mitigation sets: they tell arms apart, not configurations."""
    entries = [entry for run in runs for cell in run.cells for entry in cell.section("mitigations").values()]
    return {text(obj(entry).get("option")) for entry in entries}


def _key(cell: Cell, options: dict[str, str]) -> tuple[str, ...]:
    machine = cell.section("machine")
    memory, cpus = plain(machine.get("memory_mib")), plain(machine.get("cpus"))
    return (
        cell.scenario,
        plain(machine.get("kernel")),
        plain(machine.get("where")),
        plain(machine.get("accel")),
        f"{memory} MiB" if memory else "",
        plural(int(cpus), "CPU") if cpus.isdigit() and len(cpus) < 6 else cpus,
        ", ".join(f"{name}={value}" for name, value in sorted(options.items())),
    )


def _arm_order(runs: list[Run]) -> list[str]:
    """The unmitigated arm is the baseline wherever there is one; the others follow as they were asked for or met."""
    asked = [arm for run in runs for arm in seq(run.section("options").get("arms")) if isinstance(arm, str)]
    met = distinct([cell.arm for run in runs for cell in run.cells])
    rest = sorted((arm for arm in met if arm not in asked), key=lambda arm: arm == "after")
    ordered = [arm for arm in distinct(asked + rest) if arm in met]
    return sorted(ordered, key=lambda arm: arm != "before")


def _options_label(column: Column, columns: list[Column]) -> str:
    """Those options alone in which configurations of one arm differ."""
    peers = [other.options for other in columns]
    return ", ".join(
        f"{name}={column.options.get(name, 'unset')}"
        for name in sorted(column.options.keys() | set().union(*peers))
        if len({peer.get(name) for peer in peers}) > 1
    )


def _varying(columns: list[Column]) -> list[int]:
    """The parts of a column's key, but for the options, that are not the same in all columns."""
    return [index for index in range(6) if len({column.key[index] for column in columns}) > 1]


def configuration(columns: list[Column], key: tuple[str, ...]) -> str:
    """What tells a configuration from the others that are compared; nothing where there is one."""
    twins = [column for column in columns if column.key[:6] == key[:6]]
    parts = [key[index] or "unknown" for index in _varying(columns)]
    if len({column.key for column in twins}) > 1:
        parts.append(_options_label(next(column for column in twins if column.key == key), twins))
    return one_line(" \N{MIDDLE DOT} ".join(parts), LABEL_LENGTH)


def _label(columns: list[Column]) -> None:
    """A column is named by its arm and by whatever else tells it from the others."""
    varying = _varying(columns)
    for column in columns:
        twins = [other for other in columns if other.arm == column.arm and other.key[:6] == column.key[:6]]
        parts = ([column.key[index] for index in varying if column.key[index]] or ["unknown"] * bool(varying)) + [
            column.arm
        ]
        if len(twins) > 1:
            parts.append(_options_label(column, twins))
        column.label = one_line(" \N{MIDDLE DOT} ".join(parts), LABEL_LENGTH)
    for index, column in enumerate(columns):
        same = sum(other.label == column.label for other in columns[:index])
        # A label stands for its column in every output, so no two may be the same.
        if same:
            column.label += f" ({same + 1})"


def _set_baselines(columns: list[Column]) -> None:
    """The first arm of the same configuration; where every configuration has one arm only, the very first column."""
    groups: dict[tuple[str, ...], list[Column]] = {}
    for column in columns:
        groups.setdefault(column.key, []).append(column)
    alone = all(len(group) == 1 for group in groups.values())
    for group in groups.values():
        for column in group:
            first = columns[0] if alone else group[0]
            column.baseline = None if column is first else first


def _free_colour(taken: dict[int, Column], own: set[int], first: int) -> int:
    """The next one that looks like none of its own configuration, as long as there are such."""
    free = (colour for colour in count(first) if colour not in taken)
    return next(colour for colour in free if colour % COLOURS not in own or len(own) >= COLOURS)


def _set_colours(columns: list[Column]) -> None:
    """`before` and `after` look the same in every report; the others take the colours that are left."""
    fixed: dict[int, Column] = {}
    for colour, arm in enumerate(FIXED_COLOURS):
        found = next((column for column in columns if column.arm == arm), None)
        if found:
            fixed[colour] = found
    taken: dict[int, Column] = dict(fixed)
    # Those of other configurations come next: where colours run short, it is not they that share one.
    for column in sorted(columns, key=lambda column: column.arm not in FIXED_COLOURS):
        own = {colour % COLOURS for colour, other in taken.items() if other.key == column.key}
        if not any(other is column for other in fixed.values()):
            taken[_free_colour(taken, own, len(FIXED_COLOURS) if fixed else 0)] = column
    for colour, column in taken.items():
        column.colour = colour


def make_columns(runs: list[Run]) -> list[Column]:
    """Sorts all cells into columns, configurations in order of appearance, arms in the order asked for."""
    columns: dict[tuple[tuple[str, ...], str], Column] = {}
    switched = _switched(runs)
    for number, run in enumerate(runs, 1):
        run.number = number
        for cell in run.cells:
            options = {name: value for name, value in flat_options(cell).items() if name not in switched}
            key = _key(cell, options)
            columns.setdefault((key, cell.arm), Column(key, cell.arm, options=options)).cells.append(cell)
    keys, arms = distinct([column.key for column in columns.values()]), _arm_order(runs)
    ordered = sorted(columns.values(), key=lambda column: (keys.index(column.key), arms.index(column.arm)))
    _label(ordered)
    _set_baselines(ordered)
    _set_colours(ordered)
    return ordered


def flat_metrics(cell: Cell) -> dict[str, float | bool | None]:
    """Metrics with objects taken apart: `cache_peak_kib.kcopyd_job`."""
    flat: dict[str, float | bool | None] = {}
    for name, value in cell.section("metrics").items():
        parts = {f"{name}.{part}": inner for part, inner in value.items()} if isinstance(value, dict) else {name: value}
        for part, inner in parts.items():
            flat[part] = inner if isinstance(inner, bool) else num(inner)
    return flat


def _infer_unit(name: str) -> str:
    """By the suffix that the record promises, where `units` is silent."""
    return SUFFIX_UNITS.get(name.rpartition("_")[2], "") if "_" in name else ""


def _describe(name: str, cells: list[Cell]) -> Metric:
    """Label, unit and direction from the first cell that describes the metric."""
    whole, _, part = name.partition(".")
    unit: dict[str, Any] = {}
    for cell in cells:
        units = cell.section("units")
        unit = obj(units.get(name)) or obj(units.get(whole))
        if unit:
            break
    label = text(unit.get("label")) or whole.replace("_", " ")
    return Metric(
        name,
        f"{label}: {part}" if part else label,
        text(unit.get("unit")) or _infer_unit(whole),
        text(unit.get("better")) or "none",
    )


def _bound(metric: Metric, cell: Cell) -> str:
    """What a death makes of an extreme, a sum or a count."""
    whole = metric.name.partition(".")[0]
    if cell.finished:
        return ""
    if whole in FAILURE_COUNTS:
        return "at least" if cell.machine_died else ""
    words = set(whole.split("_"))
    if metric.unit.endswith("/min"):
        words.discard("min")
    if words & {"peak", "max"} or whole in SUMS:
        return "at least"
    return "at most" if "min" in words else ""


def _never(metric: Metric, cell: Cell, value: float | bool | None) -> bool:
    """Whether the cell never came to what is timed: worse than any time to finish, better than any time to failure."""
    return (metric.times_the_end and not cell.finished) or (
        metric.times_failure and cell.verdict == "ok" and value is None
    )


def make_figure(metric: Metric, column: Column, flats: Flats, kind: str) -> Figure:
    """The metric over the cells of a column that count."""
    figure = Figure(kind, of=len(column.counted))
    for cell in column.counted:
        value = flats[id(cell)].get(metric.name)
        if _never(metric, cell, value):
            figure.never += 1
        elif value is not None and isinstance(value, bool) == (kind == "flag"):
            figure.values.append(value)
            figure.bound = figure.bound or _bound(metric, cell)
        elif not cell.finished:
            figure.died += 1
    if kind == "flag":
        figure.median = sum(figure.values) / len(figure.values) if figure.values else None
    elif figure.ranks:
        figure.median = stats.median(figure.ranks)
        figure.interval = stats.bootstrap_interval(figure.ranks) if figure.complete else None
    return figure


def _kind(metric: Metric, values: list[float | bool]) -> str:
    if values and all(isinstance(value, bool) for value in values):
        return "flag"
    whole = all(value >= 0 and float(value).is_integer() for value in values)
    return "count" if whole and metric.unit.lower() in COUNT_UNITS else "number"


def _direction(better: str, old: float, new: float) -> str:
    if old == new:
        # Two arms of which most cells never came to it need not have done so equally often.
        return "" if math.isinf(old) else "same"
    if better not in ("less", "more"):
        return "changed"
    return "better" if (new < old) == (better == "less") else "worse"


def _untold(old: Figure, new: Figure) -> bool:
    """Whether one that ended early could have gone past the other, had it lived; of two such nothing is known."""
    if not (old.bound or new.bound):
        return False
    # What is at least as much as the other's may be more.
    if (old.bound and new.bound) or old.median == new.median:
        return True
    early, other = (old, new) if old.bound else (new, old)
    return (early.median < other.median) == (early.bound == "at least")


def compare_figures(metric: Metric, old: Figure, new: Figure) -> None:
    """Fills in what `new` is, seen from `old`."""
    if old.median is None or new.median is None or _untold(old, new):
        return
    # A cell that has no value may be the one that died: nothing is said of those that are left.
    if not (old.complete and new.complete):
        return
    new.direction = _direction(metric.better, old.median, new.median)
    if new.kind != "flag" and old.median > 0 and math.isfinite(old.median) and math.isfinite(new.median):
        size = new.median / old.median
        new.ratio = size if math.isfinite(size) else None
    tests: dict[str, Callable[..., tuple[float, str] | None]] = {
        "flag": stats.compare_flags,
        "count": stats.compare_counts,
        "number": stats.compare_numbers,
    }
    result = tests[new.kind](
        old.values if new.kind == "flag" else old.ranks, new.values if new.kind == "flag" else new.ranks
    )
    if result:
        new.p, new.test = result
    elif new.direction in ("better", "worse"):
        # Of too few repeats for a test it is told which way the figure went, and no more.
        new.direction = "changed"


def make_metrics(columns: list[Column]) -> list[Metric]:
    """One metric a row, in the order in which the record describes them."""
    cells = [cell for column in columns for cell in column.cells]
    flats = {id(cell): flat_metrics(cell) for cell in cells}
    # The cell that measured most knows the order best; one that died early describes less.
    fullest = sorted(cells, key=lambda cell: -len(cell.section("units")))
    described = distinct([name for cell in fullest for name in cell.section("units")])
    names = distinct([name for flat in flats.values() for name in flat])
    first = {name: index for index, name in enumerate(described)}
    names.sort(key=lambda name: first.get(name, first.get(name.partition(".")[0], len(first))))
    metrics = []
    for name in names:
        metric = _describe(name, cells)
        values = [value for flat in flats.values() if (value := flat.get(name)) is not None]
        kind = _kind(metric, values)
        metric.figures = [make_figure(metric, column, flats, kind) for column in columns]
        for column, figure in zip(columns, metric.figures):
            if column.baseline:
                compare_figures(metric, metric.figures[columns.index(column.baseline)], figure)
        metrics.append(metric)
    return metrics


def compare(runs: list[Run], problems: list[str]) -> Comparison:
    """The whole comparison."""
    columns = make_columns(runs)
    return Comparison(runs, columns, make_metrics(columns), problems)


def verdict_test(column: Column) -> tuple[float, str] | None:
    """Whether the column fails more or less often than its baseline."""
    if column.baseline is None:
        return None
    outcomes = [[cell.verdict != "ok" for cell in side.counted] for side in (column.baseline, column)]
    return stats.compare_flags(*outcomes)


def outcome_words(cell: Cell) -> str:
    """The verdict in words, with what the record says beside it."""
    verdict, outcome = VERDICT_WORDS.get(cell.verdict, cell.verdict), text(cell.data.get("outcome"))
    beside = OUTCOME_WORDS.get(outcome, "")
    if cell.verdict == "oom" and outcome == "premature-oom":
        return beside
    return f"{verdict} ({beside})" if beside else verdict


def _canary_lockup(cell: Cell) -> float | None:
    """When the canary had waited for so long that it is a lockup."""
    series = cell.samples.series.get("canary_ms")
    return next((t for t, ms in zip(series.t, series.v) if ms >= LOCKUP_MS), None) if series else None


def failure_moment(cell: Cell) -> tuple[float | None, str]:
    """When the failure that gave the verdict was, and how that is known where no event tells."""
    for kinds in FAILURE_EVENTS.get(cell.verdict, ()):
        times = [event.t for event in cell.events if event.kind in kinds]
        if times:
            return min(times), ""
    if cell.verdict == "oom":
        times = [t for victim in cell.victims() if (t := num(victim.get("t"))) is not None]
        return min(times, default=None), "by the list of victims"
    if cell.verdict == "lockup":
        return _canary_lockup(cell), "by the canary"
    if cell.verdict == "livelock":
        return cell.metric("time_to_failure_s"), "by the verdict"
    if cell.verdict in ("panic", "hung", "stuck"):
        return cell.last_seen if cell.machine_died else None, "by the end of the record"
    return None, ""


def _cell_words(cell: Cell) -> str:
    """One cell's outcome: "panic after 9.1 s (3 OOM kills)"."""
    if cell.verdict in ("skipped", "broken"):
        return f"{cell.verdict} ({cell.reason})" if cell.reason else cell.verdict
    elapsed, verified = cell.metric("elapsed_s"), cell.section("metrics").get("data_verified")
    data = (
        {True: ", data verified", False: ", data NOT verified"}.get(verified, "") if isinstance(verified, bool) else ""
    )
    if cell.verdict == "ok":
        return outcome_words(cell) + (f" in {seconds(elapsed)}" if elapsed is not None else "") + data
    kills = cell.metric("oom_kills")
    extra = f" ({plural(int(kills), 'OOM kill')})" if kills else ""
    when, _how = failure_moment(cell)
    return outcome_words(cell) + (f" after {seconds(when)}" if when is not None else "") + extra


def verdict_words(column: Column) -> str:
    """`3 of 4 panic, 1 of 4 oom`; for a single cell the plain verdict."""
    total = len(column.standing)
    if total == 1:
        return next(iter(column.outcomes))
    return ", ".join(f"{n} of {total} {words}" for words, n in column.outcomes.most_common()) or "no outcome"


def column_words(column: Column) -> str:
    """What an arm came to, with the times that belong to it."""
    if len(column.standing) == 1:
        return _cell_words(column.standing[0])
    finished = [t for cell in column.counted if cell.verdict == "ok" and (t := cell.metric("elapsed_s")) is not None]
    failed = [t for cell in column.counted if cell.verdict != "ok" and (t := failure_moment(cell)[0]) is not None]
    parts = [verdict_words(column)]
    if failed:
        of = "" if len(failed) == len(column.counted) else f" of {len(failed)}"
        parts.append(f"failing after {seconds(stats.median(failed))} (median{of})")
    if finished and not failed:
        parts.append(f"in {seconds(stats.median(finished))} (median)")
    return ", ".join(parts)


def ends(columns: list[Column]) -> list[Column]:
    """Of many arms of a configuration the two that say most: `before` and `after`, or the ends of what was swept."""
    last = next((column for column in columns if column.arm == "after"), columns[-1])
    return [columns[0], last] if last is not columns[0] else [last]


def summary(comparison: Comparison) -> list[str]:
    """One line a configuration, in words; of many arms only `before` and `after`, or the ends, are told in full."""
    lines = []
    for key in distinct([column.key for column in comparison.columns]):
        columns = [column for column in comparison.columns if column.key == key]
        told = columns if len(columns) <= 4 else ends(columns)
        parts = [f"{column.arm} = {column_words(column)}" for column in told]
        rest = [column for column in columns if column not in told]
        if rest:
            counts = sum((column.outcomes for column in rest), Counter())
            parts.append(f"{len(rest)} other arms: " + ", ".join(f"{n} {words}" for words, n in counts.most_common()))
        where = f" on {key[1]}" if key[1] else ""
        lines.append(f"{key[0] or 'unknown scenario'}{where}: " + "; ".join(parts))
    return lines


def repeat_words(column: Column, cell: Cell) -> str:
    """What tells a cell from the others of its column; a replaced one has the number of its replacement."""
    number = f" #{cell.repeat}" if len(column.cells) > 1 else ""
    if any(other.run is not cell.run for other in column.cells):
        number = f" run {cell.run.number}{number}"
    return number + (" (interrupted)" if cell.interrupted else " (replaced)" if cell.replaced_by else "")


def place(column: Column, cell: Cell) -> str:
    """What a cell is called where it stands beside others."""
    return column.label + repeat_words(column, cell)


def expectation(column: Column) -> tuple[str, bool] | None:
    """What run.json expects of the arm, and whether every counted cell met it."""
    for cell in column.cells:
        wanted = [verdict for verdict in seq(cell.run.section("expect").get(column.arm)) if isinstance(verdict, str)]
        if wanted and column.counted:
            return " or ".join(wanted), all(other.verdict in wanted for other in column.counted)
    return None


def mixed_settings(column: Column) -> list[str]:
    """Settings that are not the same in all repeats of a column, which then are not repeats of one thing."""
    settings = [cell.section("settings") for cell in column.counted]
    names = distinct([name for one in settings for name in one])
    return [name for name in names if len({plain(one.get(name)) for one in settings}) > 1]
