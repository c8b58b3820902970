# SPDX-License-Identifier: MIT
"""The front page over several scenarios: what each came to, in words and a few figures, and where the rest stands."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reports import analysis, charts, html, stats, tables
from reports.analysis import Column, Comparison, Metric
from reports.model import Run, load_run, num, obj, seq, text
from reports.text import NOT_MEASURED, plural

FILE = "suite.json"
# Of all metrics those that say most to who does not know the others: names, or how they begin.
HEADLINES = ("elapsed_s", "oom_kills", "slab_peak_kib", "standstill_max_ms", "wq_delay_max_ms", "offlined_gib_min")


@dataclass
class Side:
    """One arm of a scenario."""

    column: Column
    outcome: str
    tone: str
    words: str
    reason: str


@dataclass
class Part:
    """One scenario."""

    name: str
    summary: str
    link: str
    sides: list[Side]
    metrics: list[tuple[Metric, str, list[tables.Shown]]]
    cells: int
    wall_s: float | None
    problem: str


def _wall_s(run: Run) -> float | None:
    """All its guests together; nothing where one was not measured."""
    walls = [num(cell.section("host").get("wall_s")) for cell in run.cells]
    known = [wall for wall in walls if wall is not None]
    return sum(known) if known and len(known) == len(walls) else None


def _summary(run: Run) -> str:
    """What the scenario's file says of itself."""
    for line in text(run.data.get("scenario_text")).splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip() == "summary":
            return value.strip()
    return ""


def _side(card: html.Card) -> Side:
    column = card.column
    words = analysis.column_words(column)
    return Side(column, card.outcome, card.tone, words, card.lines[0] if card.lines else "")


def _metrics(comparison: Comparison) -> list[tuple[Metric, str, list[tables.Shown]]]:
    by_name = {metric.name: metric for metric in comparison.metrics}
    return [(by_name[name], *tables.shown(by_name[name])) for name in HEADLINES if name in by_name]


def _part(directory: Path, name: str, problems: list[str]) -> Part:
    path = directory / name
    run = load_run(path, problems)
    comparison = analysis.compare([run], problems)
    scenario = text(run.data.get("scenario")) or name
    link = quote(f"{name}/report.html") if (path / "report.html").is_file() else ""
    problem = "" if run.cells else "no cell was run, or none can be read"
    sides = [_side(card) for card in html.cards(comparison)]
    return Part(scenario, _summary(run), link, sides, _metrics(comparison), len(run.cells), _wall_s(run), problem)


def _failed(parts: list[Part], arm: str) -> tuple[int, int]:
    """Of the scenarios that have this arm: how many had a cell that failed, and how many there are."""
    columns = [side.column for part in parts for side in part.sides if side.column.arm == arm and side.column.counted]
    return sum(column.failures > 0 for column in columns), len(columns)


def sentences(parts: list[Part]) -> list[str]:
    """What a reader in a hurry has to know."""
    lines = []
    for arm, words in (("before", "Without the mitigations"), ("after", "With all of them")):
        failed, total = _failed(parts, arm)
        if total:
            verb = "no load failed" if not failed else f"{failed} of {plural(total, 'load')} failed"
            lines.append(f"{words} {verb if failed or total == 1 else f'none of {total} loads failed'}")
    walls = [part.wall_s for part in parts]
    cells = plural(sum(part.cells for part in parts), "cell")
    spent = f", {sum(wall for wall in walls if wall is not None) / 60:.1f} min of guests" if None not in walls else ""
    lines.append(f"{plural(len(parts), 'scenario')}, {cells}{spent}")
    return lines


def _machines(parts: list[Part]) -> list[str]:
    machines = [
        f"Linux {text(obj(cell.data.get('machine')).get('kernel')) or NOT_MEASURED}"
        for part in parts
        for side in part.sides
        for cell in side.column.cells
    ]
    return analysis.distinct(machines)


def read(directory: Path) -> list[str]:
    """The directories that suite.json names; only ones that lie in it."""
    data = json.loads((directory / FILE).read_text(encoding="utf-8"))
    names = [text(name) for name in seq(obj(data).get("runs"))]
    return [name for name in names if name and "/" not in name and not name.startswith(".")]


def render(directory: Path, problems: list[str]) -> str:
    """The whole page."""
    parts = [_part(directory, name, problems) for name in read(directory)]
    return html.environment().get_template("suite.html.j2").render(
        name=directory.name,
        parts=parts,
        sentences=sentences(parts),
        machines=_machines(parts),
        problems=problems,
        few=any(len(side.column.counted) < stats.MIN_REPEATS for part in parts for side in part.sides),
        min_repeats=stats.MIN_REPEATS,
        light=charts.theme(charts.LIGHT, False),
        dark=charts.theme(charts.DARK, True),
        arm_colours=len(charts.LIGHT),
    )
