# SPDX-License-Identifier: MIT
"""Peaks of memory while a build runs in a group, in the rows of the table that seed 002 was judged by."""
from __future__ import annotations

import csv
from dataclasses import dataclass

from reports.analysis import Column, Comparison, flat_metrics, flat_options
from reports.model import Cell
from reports.published import SOURCE
from reports.text import BOUND_SIGNS, NOT_MEASURED

# Published metric -> ours, in the order of the table.
ROWS = {
    "memory.kmem.usage_in_bytes_peak": ("build_kernel_peak_kib", "kernel memory of the group"),
    "memory.usage_in_bytes_peak": ("build_memory_peak_kib", "all memory of the group"),
    "meminfo_Slab_peak": ("meminfo_slab_peak_kib", "slab of the machine"),
    "meminfo_Slab": ("meminfo_slab_start_kib", "slab of the machine, before the build"),
}
UNITS = {"bytes": 1024.0, "kB": 1.0}  # published unit -> how many are a KiB


@dataclass
class Row:
    label: str
    repeat: str
    values: list[str]
    reductions: list[str]
    unit: str = "KiB"


@dataclass
class Peaks:
    every: str
    baseline: str
    columns: list[Column]
    rows: list[Row]
    published: list[Row]


@dataclass
class Peak:
    kib: float | None
    least: bool = False  # of a cell that died: it may have gone further

    @property
    def shown(self) -> str:
        sign = BOUND_SIGNS["at least"] if self.least else ""
        return NOT_MEASURED if self.kib is None else f"{sign}{self.kib:,.0f}"


def _percent(before: Peak, after: Peak) -> str:
    """How much less `after` is, in the table's whole numbers; more is negative. Of two bounds nothing is known."""
    if not before.kib or after.kib is None or (before.least and after.least):
        return NOT_MEASURED
    sign = BOUND_SIGNS["at least"] if before.least else BOUND_SIGNS["at most"] if after.least else ""
    return f"{sign}{100 * (before.kib - after.kib) / before.kib:.0f}%"


def _by_repeat(column: Column) -> dict[tuple[int, int], Cell]:
    """A column's cells by the number of their repeat; where several runs are in a column, by which of them it is, too."""
    found: dict[tuple[int, int], Cell] = {}
    for cell in column.counted:
        found[cell.repeat, sum(key[0] == cell.repeat for key in found)] = cell
    return found


def _peak(cell: Cell | None, name: str) -> Peak:
    value = flat_metrics(cell).get(name) if cell else None
    if cell is None or value is None or isinstance(value, bool):
        return Peak(None)
    return Peak(value, "peak" in name and not cell.finished)


def _rows(columns: list[Column]) -> list[Row]:
    rows = []
    cells = [_by_repeat(column) for column in columns]
    repeats = sorted(set().union(*cells))
    for name, label in ROWS.values():
        for repeat in repeats:
            # Of one repeat, which have the same data: one that a column lacks leaves a gap there.
            values = [_peak(column.get(repeat), name) for column in cells]
            if any(value.kib is not None for value in values):
                reductions = [_percent(values[0], value) for value in values[1:]]
                rows.append(Row(label, str(repeat[0]), [value.shown for value in values], reductions))
    return rows


def _published() -> list[Row]:
    with SOURCE.open(encoding="utf-8", newline="") as stream:
        found = [row for row in csv.DictReader(stream) if row["metric"] in ROWS and row["source"] == "Rao"]
    rows = []
    for row in found:
        before, after = (float(row[side]) / UNITS[row["unit"]] for side in ("before", "after"))
        values = [Peak(before).shown, Peak(after).shown, f"{row['change_pct'].removeprefix('-')}%"]
        rows.append(Row(ROWS[row["metric"]][1], row["workload"], values, []))
    return sorted(rows, key=lambda row: [label for _, label in ROWS.values()].index(row.label))


def table(comparison: Comparison) -> Peaks | None:
    """The table, where a build was among the loads."""
    columns = [
        column
        for column in comparison.columns
        if any(_peak(cell, "meminfo_slab_peak_kib").kib is not None for cell in column.counted)
    ]
    if not columns:
        return None
    first = columns[0].counted[0]
    every = flat_options(first).get("build-load.sample_s", "")
    return Peaks(f"{every} s" if every else NOT_MEASURED, columns[0].label, columns, _rows(columns), _published())
