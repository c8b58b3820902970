# SPDX-License-Identifier: MIT
"""Peaks of memory while a build runs in a group, in the rows of the table that seed 002 was judged by."""
from __future__ import annotations

import csv
from dataclasses import dataclass

from reports.analysis import Column, Comparison, flat_metrics, flat_options
from reports.model import Cell
from reports.published import SOURCE
from reports.text import NOT_MEASURED

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


def _percent(before: float | None, after: float | None) -> str:
    """How much less `after` is, in the table's whole numbers; more is negative."""
    if not before or after is None:
        return NOT_MEASURED
    return f"{100 * (before - after) / before:.0f}%"


def _kib(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def _nth(column: Column, index: int) -> Cell | None:
    return column.counted[index] if index < len(column.counted) else None


def _value(cell: Cell | None, name: str) -> float | None:
    value = flat_metrics(cell).get(name) if cell else None
    return None if value is None or isinstance(value, bool) else value


def _rows(columns: list[Column]) -> list[Row]:
    rows = []
    for name, label in ROWS.values():
        for repeat in range(max(len(column.counted) for column in columns)):
            values = [_value(_nth(column, repeat), name) for column in columns]
            if any(value is not None for value in values):
                reductions = [_percent(values[0], value) for value in values[1:]]
                rows.append(Row(label, str(repeat + 1), [_kib(value) for value in values], reductions))
    return rows


def _published() -> list[Row]:
    with SOURCE.open(encoding="utf-8", newline="") as stream:
        found = [row for row in csv.DictReader(stream) if row["metric"] in ROWS and row["source"] == "Rao"]
    rows = []
    for row in found:
        before, after = (float(row[side]) / UNITS[row["unit"]] for side in ("before", "after"))
        values = [_kib(before), _kib(after), f"{row['change_pct'].removeprefix('-')}%"]
        rows.append(Row(ROWS[row["metric"]][1], row["workload"], values, []))
    return sorted(rows, key=lambda row: [label for _, label in ROWS.values()].index(row.label))


def table(comparison: Comparison) -> Peaks | None:
    """The table, where a build was among the loads."""
    columns = [
        column
        for column in comparison.columns
        if any(_value(cell, "meminfo_slab_peak_kib") is not None for cell in column.counted)
    ]
    if not columns:
        return None
    first = columns[0].counted[0]
    every = flat_options(first).get("build-load.sample_s", "")
    return Peaks(f"{every} s" if every else NOT_MEASURED, columns[0].label, columns, _rows(columns), _published())
