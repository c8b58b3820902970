# SPDX-License-Identifier: MIT
"""The comparison as Markdown, for a mail or an issue: summary, verdicts, metrics, mitigations."""
from __future__ import annotations

import re

from reports import analysis, deadlock, effects, memory, shrink, survival, tables
from reports.analysis import Comparison
from reports.text import NOT_MEASURED, one_line

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def escape(value: object) -> str:
    """Text of a record that stays text: on one line, its markup inert."""
    return _SPECIAL.sub(r"\\\1", one_line(value, 400))


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def _metric_rows(found: memory.Rows) -> list[list[str]]:
    rows = []
    for metric, unit, fields in found:
        row = [escape(metric.label), escape(unit)]
        for field in fields:
            row.append(
                escape(field.value)
                + (f" ({escape(field.change)})" if field.change else "")
                + (f"; {escape(field.note)}" if field.note else "")
            )
        rows.append(row)
    return rows


def _verdict_rows(comparison: Comparison) -> list[list[str]]:
    rows = []
    for column in comparison.columns:
        shown = column.shown
        rows.append(
            [escape(column.label), escape(analysis.verdict_words(column)), escape(shown.reason if shown else "")]
        )
    return rows


def _deadlocks(comparison: Comparison) -> list[str]:
    found = deadlock.found(comparison)
    lines = [
        f"- {escape(cycle.place)}, found at {cycle.found}: {escape('; '.join(cycle.words))}."
        f" {escape(' '.join([cycle.broken, cycle.drained]))}"
        for cycle in found.cycles
    ]
    more = [f"- {found.left_out} more are left out"] if found.left_out else []
    return ["## Deadlocks", "", *lines, *more, ""] if lines else []


def _memory(comparison: Comparison, labels: list[str]) -> list[str]:
    lines = []
    for head, rows in (("blocks offline", memory.blocks(comparison)), ("DIMMs unplugged", memory.dimms(comparison))):
        lines += _table([head, "unit", *labels], _metric_rows(rows)) if rows else []
    for thing, kind in (("block", memory.BLOCKS), ("DIMM", memory.DIMMS)):
        rows = [
            [escape(value) for value in (row.errno, row.reason, row.stood, *row.counts)]
            for row in memory.refusals(comparison, kind)
        ]
        lines += _table([f"refused {thing}s", "the kernel", "stood in", *labels], rows) if rows else []
    return ["## Memory taken away", "", *lines] if lines else []


def render(comparison: Comparison) -> str:
    """The whole text."""
    labels = [escape(column.label) for column in comparison.columns]
    lines = [f"# headroom: {escape(', '.join(comparison.scenarios))}", ""]
    for line in analysis.summary(comparison):
        lines += [escape(line) + ".", ""]
    lines += ["## Verdicts", "", *_table(["arm", "verdict", "reason"], _verdict_rows(comparison))]
    if comparison.metrics:
        rows = _metric_rows([(metric, *tables.shown(metric)) for metric in comparison.metrics])
        lines += ["## Metrics", "", *_table(["metric", "unit", *labels], rows)]
    lasted = survival.flat_rows(comparison)
    if lasted:
        rows = [[escape(value) for value in row] for row in lasted]
        lines += ["## How long it lasted", "", *_table(survival.FLAT_HEAD, rows)]
    found = effects.flat_rows(effects.groups(comparison))
    if found:
        rows = [[escape(value) for value in row] for row in found]
        lines += ["## What each mitigation does", "", *_table(effects.FLAT_HEAD, rows)]
    mitigations = tables.mitigations(comparison)
    if mitigations:
        head = ["mitigation", "arm", "state", "requested", "read back", "exercised", "evidence"]
        rows = [
            [
                escape(value or NOT_MEASURED)
                for value in (
                    row.name,
                    row.column,
                    row.state,
                    row.requested,
                    row.read_back,
                    row.exercised,
                    row.evidence,
                )
            ]
            for row in mitigations
        ]
        lines += ["## Mitigations", "", *_table(head, rows)]
    lines += _deadlocks(comparison) + _memory(comparison, labels)
    shrunk = shrink.rows(comparison)
    if shrunk:
        head = ["arm", "cell", "held before", "after", "given back", "as counted", "at least"]
        head += ["exactly, of before", "exactly, of after", "bound"]
        lines += ["## Slab, exactly", "", *_table(head, [[escape(value) for value in row.totals] for row in shrunk])]
    found_out = [
        f"- {escape(column.label)}, {escape(cell.name)}: {escape(words)}"
        for column in comparison.columns
        for cell in column.cells
        for _, words in cell.findings()
    ]
    if found_out:
        lines += ["## What the workloads found out", "", *found_out, ""]
    losses = tables.other_losses(comparison) + [
        f"{row.cell}: {', '.join(row.notes)}" for row in tables.losses(comparison) if row.notes
    ]
    if losses:
        lines += ["## Losses and remarks", "", *[f"- {escape(line)}" for line in losses], ""]
    return "\n".join(lines)
