# SPDX-License-Identifier: MIT
"""Reads a run directory (docs/record.md) into plain objects.

A record is written by a machine that was dying at the time, so nothing in it is taken for granted: a line that cannot
be read is counted as a loss and the next one is tried, a field of the wrong type counts as absent, and a file that is
missing leaves its part of the report empty. Only the series that a report draws are kept, so that a day's samples fit
in memory.
"""
from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

# These two verdicts say something about us or about the machine's equipment, and nothing about the kernel under test.
NO_OUTCOME = ("skipped", "broken")
# How a cell ended that came to its end: in a guest, on the machine itself.
ENDED_ITSELF = ("guest", "cell")
# A flood of events would make the page unreadable before it told anybody anything more.
MAX_EVENTS = 20000
# A cell has a handful of cgroups and of groups of threads; a record with more of them is damaged.
MAX_GROUPS = 64
# Whole numbers up to this a float holds exactly.
MAX_EXACT = 2**53
# Readings of the cgroups or threads nearer to each other than this are one reading that several samples repeat.
SAME_READING_S = 0.01


class Unreadable(Exception):
    """A file without which there is nothing to report; the message names it."""


def _measured(value: float | None) -> TypeGuard[float]:
    """Whether there is a figure. A record's own are finite, but their sums and products can leave a float's range."""
    return value is not None and math.isfinite(value)


def percent(part: float | None, whole: float) -> float | None:
    """Nothing where there is no part, no whole, or a sum that left a float's range."""
    share = 100 * part / whole if part is not None and 0 < whole < math.inf else None
    return share if _measured(share) else None


@dataclass
class Series:
    """One figure over time."""

    t: array = field(default_factory=lambda: array("d"))
    v: array = field(default_factory=lambda: array("d"))

    def add(self, t: float, value: float | None) -> None:
        if _measured(value):
            self.t.append(t)
            self.v.append(value)

    def __len__(self) -> int:
        return len(self.t)


@dataclass(slots=True)
class SlabRow:
    """One cache at one moment."""

    active: float
    objects: float
    size: float
    held_kib: float

    @property
    def utilisation(self) -> float | None:
        """Bytes in use over bytes held, in percent."""
        return 100 * self.active * self.size / (self.held_kib * 1024) if self.held_kib > 0 else None


@dataclass
class CacheFacts:
    """What the event slab-caches says of a cache."""

    slack: float | None  # so many free objects at most count as active
    merged: list[str]  # other caches whose objects are in its line


@dataclass
class SlabTotal:
    """All caches together at one moment."""

    held_kib: float
    active_kib: float  # the most that can be in use
    least_kib: float | None  # the least; absent without the event slab-caches

    @property
    def active_pct(self) -> float | None:
        return percent(self.active_kib, self.held_kib)

    @property
    def least_pct(self) -> float | None:
        return percent(self.least_kib, self.held_kib)


@dataclass
class Shrink:
    """The event slab-shrunk: all caches before and after the CPUs gave back what they kept."""

    t: float
    before: dict[str, SlabRow]
    after: dict[str, SlabRow]
    not_shrunk: float | None


@dataclass
class CacheSeries:
    """One cache over time."""

    held_kib: Series = field(default_factory=Series)
    active: Series = field(default_factory=Series)
    objects: Series = field(default_factory=Series)


@dataclass
class Samples:
    """What the sampler saw, as far as a report shows it."""

    lines: int = 0
    corrupt: int = 0
    cut_off: bool = False
    series: dict[str, Series] = field(default_factory=dict)
    disks: dict[str, Series] = field(default_factory=dict)  # sectors written, a counter
    groups: dict[str, dict[str, Series]] = field(default_factory=dict)  # cgroup -> figure -> bytes or count
    threads: dict[str, Series] = field(default_factory=dict)  # group of kernel threads -> ms of CPU, a counter
    read_t: dict[str, float] = field(default_factory=dict)  # when cgroups and threads were read last
    peak_t: float | None = None
    peak_weight: float = -1.0
    peak_slab: dict[str, SlabRow] = field(default_factory=dict)

    def add(self, name: str, t: float, value: float | None) -> None:
        if _measured(value):
            self.series.setdefault(name, Series()).add(t, value)


@dataclass
class Event:
    t: float
    kind: str
    raw: str
    fields: dict[str, Any]

    @property
    def active(self) -> list[str]:
        """The workloads that were under way, where there are several and the record says so."""
        return [name for name in seq(self.fields.get("active"))[:MAX_GROUPS] if text(name)]


@dataclass
class Cell:
    path: Path
    name: str
    arm: str
    repeat: int
    data: dict[str, Any]
    run: "Run"
    samples: Samples = field(default_factory=Samples)
    events: list[Event] = field(default_factory=list)
    events_corrupt: int = 0
    events_left_out: int = 0
    wq_trace: dict[str, Any] = field(default_factory=dict)  # what the workqueue tracepoints came to
    caches: dict[str, CacheFacts] = field(default_factory=dict)
    shrink: Shrink | None = None
    engine_slab: Series = field(default_factory=Series)  # live objects, % of the memory held for them
    replaced_by: str = ""

    @property
    def verdict(self) -> str:
        return text(self.data.get("verdict")) or "broken"

    @property
    def reason(self) -> str:
        return text(self.data.get("reason"))

    @property
    def interrupted(self) -> bool:
        return self.data.get("interrupted") is True

    @property
    def counted(self) -> bool:
        """Whether the cell's outcome and metrics enter the statistics."""
        return not self.interrupted and not self.replaced_by and self.verdict not in NO_OUTCOME

    @property
    def scenario(self) -> str:
        return text(self.data.get("scenario")) or text(self.run.data.get("scenario"))

    @property
    def finished(self) -> bool:
        """Whether the load ran to its end; "elapsed" of one that died is the time to its death, not a good result."""
        if self.verdict in ("ok", "corrupt"):
            return True
        if self.verdict not in ("oom", "lockup") or self.ended_by not in ENDED_ITSELF:
            return False
        if self.metric("elapsed_s") is None:
            return False
        return not any(text(victim.get("role")) == "workload" for victim in self.victims())

    @property
    def ended_by(self) -> str:
        return text(self.section("host").get("ended_by"))

    @property
    def machine_died(self) -> bool:
        """Whether the machine itself was gone, or had to be ended, before the cell was over."""
        return self.ended_by in ("panic", "hang", "deadline", "qemu", "died")

    def section(self, name: str) -> dict[str, Any]:
        return obj(self.data.get(name))

    @property
    def kernel(self) -> dict[str, Any]:
        """What run.json says of the cell's own kernel: the only one, or that of the version which the cell has."""
        version = self.section("machine").get("kernel")
        several = [obj(kernel) for kernel in seq(self.run.data.get("kernels"))]
        return next((one for one in several if one.get("version") == version), self.run.section("kernel"))

    @property
    def watched(self) -> list[str]:
        """Slab caches that the scenario is about."""
        return [name for name in seq(self.section("watch").get("caches")) if isinstance(name, str)]

    def metric(self, name: str) -> float | None:
        return num(self.section("metrics").get(name))

    @property
    def doubtful_kills(self) -> str:
        """Why the counts of OOM kills cannot all be right; empty where they can, or where the record does not say."""
        oom = self.section("oom")
        if oom.get("agree") is not False:
            return ""
        return f"the counts of OOM kills do not agree: {text(oom.get('why')) or 'the record does not say why'}"

    def findings(self) -> list[tuple[float | None, str]]:
        """What the workloads found out that is no figure."""
        listed = [obj(finding) for finding in seq(self.data.get("findings"))]
        return [(num(finding.get("t")), words) for finding in listed if (words := text(finding.get("text")))]

    def loads(self) -> dict[str, list[tuple[float, float]]]:
        """When each of several workloads was under way; one that never ended was until the record ends."""
        found: dict[str, list[tuple[float, float]]] = {}
        begun: dict[str, float] = {}
        spans = []
        for event in self.events:
            name = text(event.fields.get("workload"))
            if event.kind == "load-begin" and name and len(begun) < MAX_GROUPS:
                begun.setdefault(name, event.t)
            elif event.kind == "load-end" and name in begun:
                spans.append((begun.pop(name), event.t, name))
        spans += [(t, max(t, self.last_seen or t), name) for name, t in begun.items()]
        for begin, end, name in sorted(spans):
            if _measured(end - begin):
                found.setdefault(name, []).append((begin, end))
        return found

    @property
    def last_seen(self) -> float | None:
        """When the record ends."""
        times = [event.t for event in self.events]
        times += [max(series.t) for series in self.samples.series.values() if len(series)]
        return max(times, default=None)

    def victims(self) -> list[dict[str, Any]]:
        """Tasks killed: the cell's own list, else what the classified log says."""
        listed = [obj(victim) for victim in seq(self.data.get("victims"))]
        if listed:
            return listed
        return [
            {
                "t": event.t,
                "constraint": "memcg" if event.kind == "memcg-oom-kill" else "global",
                **obj(event.fields.get("victim")),
            }
            for event in self.events
            if event.kind in ("oom-kill", "memcg-oom-kill")
        ]


@dataclass
class Run:
    path: Path
    data: dict[str, Any]
    cells: list[Cell] = field(default_factory=list)
    no_record: list[tuple[str, str]] = field(default_factory=list)  # (cell, why there is nothing to read)
    journal_corrupt: int = 0
    status: str = ""
    number: int = 1  # its place among the runs compared

    def section(self, name: str) -> dict[str, Any]:
        return obj(self.data.get(name))


def num(value: object) -> float | None:
    """The value as a finite float; booleans, texts and numbers beyond a float's range are not numbers here."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: object) -> int | None:
    """The value as a number of things: neither a part of one nor less than none."""
    number = num(value)
    return int(number) if number is not None and number.is_integer() and 0 <= number <= MAX_EXACT else None


def text(value: object) -> str:
    return value if isinstance(value, str) else ""


def obj(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def seq(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _parse(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = _parse(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    if value is None:
        raise Unreadable(f"{path}: not a JSON object")
    return value


def _lines(path: Path) -> Iterator[tuple[dict[str, Any] | None, bool]]:
    """Each line as an object (None: corrupt) and whether the line is whole. A missing file has no lines."""
    try:
        with path.open("rb") as stream:
            for line in stream:
                # A panic can leave a block of NULs where the last lines would have been.
                if line.strip(b"\0 \t\r\n"):
                    yield _parse(line.decode("utf-8", "replace")), line.endswith(b"\n")
    except OSError:
        return


def _slab_row(value: object) -> SlabRow | None:
    row = seq(value)[:4]
    if len(row) < 4:
        return None
    active, objects, size, held = row
    # Nearly all rows are whole numbers, and there are a hundred of them in each sample: a short way for those.
    if type(active) is type(objects) is type(size) is type(held) is int and min(row) >= 0 and max(row) <= MAX_EXACT:
        return SlabRow(active, objects, size, held)
    figures = [num(figure) for figure in row]
    return None if None in figures or min(figures) < 0 else SlabRow(*figures)


def _slab_rows(group: dict[str, Any]) -> dict[str, SlabRow]:
    return {name: row for name, value in group.items() if (row := _slab_row(value))}


def slab_total(rows: dict[str, SlabRow], caches: dict[str, CacheFacts]) -> SlabTotal:
    """Adds up all caches. Of a cache that the record does not describe, all objects may be free."""
    held = active = least = 0.0
    for name, row in rows.items():
        held += row.held_kib
        active += row.active * row.size / 1024
        facts = caches.get(name)
        if facts and facts.slack is not None and row.active > facts.slack:
            least += (row.active - facts.slack) * row.size / 1024
    return SlabTotal(held, active, least if caches else None)


def _take_slab(samples: Samples, t: float, sample: dict[str, Any], cell: Cell) -> None:
    """Watched caches and the sum of all over time; all caches when the kernel held most that it cannot give back."""
    if not isinstance(sample.get("slab"), dict):
        return
    group = sample["slab"]
    for name in cell.watched:
        row = seq(group.get(name))
        # A cache without objects is not listed: it holds nothing.
        samples.add(f"cache:{name}", t, num(row[3]) if len(row) >= 4 else 0.0)
    rows = _slab_rows(group)
    if rows:
        total = slab_total(rows, cell.caches)
        for name in ("held_kib", "active_kib", "active_pct", "least_pct"):
            samples.add(f"slab_{name}", t, getattr(total, name))
    weight = num(obj(sample.get("mem")).get("SUnreclaim"))
    if weight is not None and weight > samples.peak_weight:
        samples.peak_t, samples.peak_weight, samples.peak_slab = t, weight, rows


def _reading(samples: Samples, t: float, sample: dict[str, Any], name: str) -> tuple[float, dict[str, Any]]:
    """The groups that the sample adds, and when they were read, which is before the sample. A sample can lack them, or
    repeat those of the sample before."""
    reading = obj(sample.get(name))
    groups = obj(reading.get("groups"))
    t -= (num(reading.get("age_ms")) or 0.0) / 1000
    if not groups or t - samples.read_t.get(name, -math.inf) < SAME_READING_S:
        return t, {}
    samples.read_t[name] = t
    return t, groups


def _take_groups(samples: Samples, t: float, sample: dict[str, Any]) -> None:
    """Memory of the cgroups."""
    t, groups = _reading(samples, t, sample, "cgroups")
    for group, figures in groups.items():
        if group not in samples.groups and len(samples.groups) >= MAX_GROUPS:
            continue
        for name in ("kernel", "slab", "nr_dying_descendants", "nr_descendants"):
            value = num(obj(figures).get(name))
            if value is not None and value >= 0:
                samples.groups.setdefault(group, {}).setdefault(name, Series()).add(t, value)


def _take_threads(samples: Samples, t: float, sample: dict[str, Any]) -> None:
    """CPU time of kernel threads."""
    t, groups = _reading(samples, t, sample, "threads")
    for group, figures in groups.items():
        value = num(obj(figures).get("cpu_ms"))
        if value is not None and value >= 0 and (group in samples.threads or len(samples.threads) < MAX_GROUPS):
            samples.threads.setdefault(group, Series()).add(t, value)


def _take_canary(samples: Samples, t: float, canary: dict[str, Any]) -> None:
    delays = [delay for delay in (num(canary.get("max_ms")), num(canary.get("pending_ms"))) if delay is not None]
    if delays:
        samples.add("canary_ms", t, max(delays))


def _take_sample(samples: Samples, sample: dict[str, Any], cell: Cell) -> bool:
    t = num(sample.get("t"))
    if t is None:
        return False
    memory, counters = obj(sample.get("mem")), obj(sample.get("vm"))
    for name in ("SUnreclaim", "MemAvailable", "SwapTotal", "SwapFree"):
        samples.add(name, t, num(memory.get(name)))
    for name in ("pswpin", "pswpout"):
        samples.add(name, t, num(counters.get(name)))
    pressure = obj(obj(sample.get("psi")).get("memory"))
    for name in ("some_us", "full_us", "some_avg10", "full_avg10"):
        samples.add(f"psi_{name}", t, num(pressure.get(name)))
    _take_slab(samples, t, sample, cell)
    _take_groups(samples, t, sample)
    _take_threads(samples, t, sample)
    _take_canary(samples, t, obj(sample.get("canary")))
    for disk, row in obj(sample.get("disk")).items():
        if len(seq(row)) >= 4:
            samples.disks.setdefault(disk, Series()).add(t, num(row[3]))
    return True


def _read_samples(cell: Cell) -> Samples:
    samples = Samples()
    for sample, whole in _lines(cell.path / "samples.jsonl"):
        if sample is not None and _take_sample(samples, sample, cell):
            samples.lines += 1
        else:
            samples.corrupt += 1
            samples.cut_off = not whole
    for name in cell.watched:
        # Never listed at all: the cache may be merged into another one, so "0" would be a guess.
        if not any(samples.series.get(f"cache:{name}", Series()).v):
            samples.series.pop(f"cache:{name}", None)
    return samples


def read_caches(cell: Cell, names: list[str]) -> dict[str, CacheSeries]:
    """Some caches over time. Which ones matter is known when all cells have been read, and to keep all takes too much
    memory, so this reads the samples once more."""
    found = {name: CacheSeries() for name in names}
    for sample, _whole in _lines(cell.path / "samples.jsonl"):
        t = num(sample.get("t")) if sample else None
        if sample is None or t is None or not isinstance(sample.get("slab"), dict):
            continue
        for name, series in found.items():
            value = sample["slab"].get(name)
            row = SlabRow(0, 0, 0, 0) if value is None else _slab_row(value)
            if row:
                series.held_kib.add(t, row.held_kib)
                series.active.add(t, row.active)
                series.objects.add(t, row.objects)
    return {name: series for name, series in found.items() if any(series.held_kib.v)}


def _cache_facts(entry: dict[str, Any]) -> CacheFacts:
    slack = num(entry.get("slack"))
    merged = [name for name in seq(entry.get("merged")) if isinstance(name, str)]
    return CacheFacts(slack if slack is not None and slack >= 0 else None, merged)


def _take_event(cell: Cell, t: float, entry: dict[str, Any]) -> None:
    """The events of which a report needs more than their place on the time axis."""
    if entry["kind"] == "wq-trace":
        cell.wq_trace = entry
    elif entry["kind"] == "slab-caches":
        cell.caches = {name: _cache_facts(obj(facts)) for name, facts in obj(entry.get("caches")).items()}
    elif entry["kind"] == "slab-shrunk":
        before, after = (_slab_rows(obj(obj(entry.get(name)).get("slab"))) for name in ("before", "after"))
        if before and after:
            cell.shrink = Shrink(t, before, after, num(entry.get("not_shrunk")))
    elif entry["kind"] == "engine-slab":
        live, held = num(entry.get("live_kib")), num(entry.get("held_kib"))
        if live is not None and held:
            cell.engine_slab.add(t, 100 * live / held)


def _read_events(cell: Cell) -> None:
    for entry, _whole in _lines(cell.path / "events.jsonl"):
        t = num(entry.get("t")) if entry else None
        if entry is None or t is None or not text(entry.get("kind")):
            cell.events_corrupt += 1
            continue
        _take_event(cell, t, entry)
        if len(cell.events) >= MAX_EVENTS:
            cell.events_left_out += 1
        else:
            cell.events.append(Event(t, text(entry["kind"]), text(entry.get("raw")), entry))
    cell.events.sort(key=lambda event: event.t)


def _read_cell(path: Path, run: Run, planned: dict[str, Any]) -> Cell:
    data = _read_json(path / "cell.json")
    repeat = num(data.get("repeat")) or num(planned.get("repeat")) or 1
    cell = Cell(path, path.name, text(data.get("arm")) or text(planned.get("arm")) or "?", int(repeat), data, run)
    # Events first: they say what the slab figures of the samples mean.
    _read_events(cell)
    cell.samples = _read_samples(cell)
    return cell


def _read_journal(run: Run) -> set[str]:
    """How the run ended, and the cells that were started."""
    started = set()
    for entry, _whole in _lines(run.path / "journal.jsonl"):
        if entry is None:
            run.journal_corrupt += 1
            continue
        event = text(entry.get("event"))
        if event == "cell-start":
            started.add(text(entry.get("cell")))
        elif event == "run-end":
            run.status = text(entry.get("status"))
        elif event in ("run-start", "resume"):
            run.status = "not ended"
    return started


def _cell_paths(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in (path / "cells").iterdir() if entry.is_dir())
    except OSError:
        return []


def load_run(path: Path, problems: list[str]) -> Run:
    """Reads one run directory; what could not be read is added to `problems`, one line a file."""
    try:
        data = _read_json(path / "run.json")
    except Unreadable as error:
        problems.append(str(error))
        data = {}
    run = Run(path, data)
    started = _read_journal(run)
    plan = {text(entry.get("cell")): entry for entry in map(obj, seq(data.get("plan"))) if text(entry.get("cell"))}
    paths = {entry.name: entry for entry in _cell_paths(path)}
    for name, cell_path in paths.items():
        try:
            run.cells.append(_read_cell(cell_path, run, plan.get(name, {})))
        except Unreadable as error:
            problems.append(str(error))
            run.no_record.append((name, "cell.json cannot be read"))
    for name in plan:
        if name not in paths:
            run.no_record.append((name, "started, left no record" if name in started else "planned, never started"))
    replaced = {text(entry.get("replaces")): name for name, entry in plan.items() if text(entry.get("replaces"))}
    for cell in run.cells:
        cell.replaced_by = replaced.get(cell.name, "")
    return run
