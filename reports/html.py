# SPDX-License-Identifier: MIT
"""The report as one HTML file that needs nothing else, now or in ten years.

Records are not trusted. The template escapes every value; figures travel as JSON in which no `<` is left; and a content
security policy lets only the two scripts of this page run, and nothing be fetched.
"""
from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from reports import analysis, charts, deadlock, effects, memory, peaks, shrink, slabs, stats, survival, tables
from reports.analysis import Column, Comparison, place
from reports.model import Cell, Event, num, text
from reports.published import published
from reports.text import ARROW, NOT_MEASURED, clean, number, one_line, plural, probability, seconds

TEMPLATES = Path(__file__).with_name("templates")
EVENTS_SHOWN = 200
RAW_SHOWN = 4000
REASONS_SHOWN = 3
# Where not all can be listed, these go first.
SEVERE = {
    "panic",
    "oom-kill",
    "memcg-oom-kill",
    "hung-task",
    "soft-lockup",
    "wq-lockup",
    "wq-stall",
    "rcu-stall",
    "bug",
    "oops",
    "deadlock",
    "deadline",
}


@dataclass
class Card:
    """One arm at a glance."""

    column: Column
    arm: int
    outcome: str
    tone: str
    warnings: list[str]
    lines: list[str]
    facts: list[str]


@dataclass
class EventList:
    cell: Cell
    arm: int
    title: str
    events: list[tuple[str, str, str, bool, str]]  # time, kind, raw, severe, active workloads
    left_out: str


@dataclass
class VictimRow:
    arm: int
    where: str
    t: str
    pid: str
    comm: str
    role: str
    cgroup: str
    constraint: str


def script_json(value: Any) -> Markup:
    """JSON that cannot end its script element, whatever text is in it."""
    shown = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(shown.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _tone(column: Column) -> str:
    """ok, bad, mixed or none, for the colour of the word."""
    if not column.counted:
        return "none"
    if column.failures == 0 and any(text(cell.data.get("outcome")) == "throttled" for cell in column.counted):
        return "mixed"
    return "ok" if column.failures == 0 else "bad" if column.failures == len(column.counted) else "mixed"


def _reasons(column: Column) -> list[str]:
    """The reason lines, each once."""
    reasons = Counter(
        cell.reason for cell in column.cells if cell.reason and not cell.interrupted and not cell.replaced_by
    )
    total = sum(reasons.values())
    lines = [
        reason + (f" ({count} of {total})" if 1 < count < total else "")
        for reason, count in reasons.most_common(REASONS_SHOWN)
    ]
    rest = len(reasons) - len(lines)
    return lines + ([f"and {plural(rest, 'other reason')}"] if rest else [])


def _warnings(column: Column) -> list[str]:
    """What casts doubt on the verdict."""
    doubts = [(cell, cell.doubtful_kills) for cell in column.cells if cell.doubtful_kills]
    lines = [(f"{cell.name}: " if len(column.cells) > 1 else "") + doubt for cell, doubt in doubts[:REASONS_SHOWN]]
    rest = len(doubts) - len(lines)
    return lines + ([f"and {plural(rest, 'more cell')} in doubt"] if rest else [])


def _outcome(column: Column) -> str:
    outcomes = column.outcomes.most_common()
    if len(outcomes) == 1:
        return outcomes[0][0]
    return ", ".join(f"{words} {count}\N{MULTIPLICATION SIGN}" for words, count in outcomes) or "no outcome"


def _facts(column: Column) -> list[str]:
    facts = [plural(len(column.cells), "repeat")]
    if column.failures and len(column.counted) > 1:
        facts.append(f"{column.failures} of {len(column.counted)} failed")
    expected = analysis.expectation(column)
    if expected:
        facts.append(f"expected {expected[0]}: " + ("held" if expected[1] else "did not hold"))
    test = analysis.verdict_test(column)
    if test:
        facts.append(f"failures against baseline: {probability(*test)}")
    left_out = sum(1 for cell in column.cells if not cell.counted)
    if left_out:
        facts.append(f"{left_out} not counted")
    return facts


def cards(comparison: Comparison) -> list[Card]:
    return [
        Card(
            column,
            column.colour,
            _outcome(column),
            _tone(column),
            _warnings(column),
            _reasons(column),
            _facts(column),
        )
        for column in comparison.columns
    ]


def findings(comparison: Comparison) -> list[tuple[int, str, list[str]]]:
    """Of each cell that has any: its colour and name, and what its workloads found out."""
    return [
        (column.colour, place(column, cell), [f"{seconds(t)}: {words}" for t, words in found])
        for column in comparison.columns
        for cell in column.cells
        if (found := cell.findings())
    ]


def victims(comparison: Comparison) -> list[VictimRow]:
    """Every task that was killed, in order of time within its cell."""
    rows = []
    for column in comparison.columns:
        for cell in column.cells:
            for victim in sorted(cell.victims(), key=lambda one: num(one.get("t")) or 0.0):
                pid = num(victim.get("pid"))
                rows.append(
                    VictimRow(
                        column.colour,
                        place(column, cell),
                        seconds(num(victim.get("t"))),
                        NOT_MEASURED if pid is None else f"{pid:.0f}",
                        *(text(victim.get(name)) or NOT_MEASURED for name in ("comm", "role", "cgroup", "constraint")),
                    )
                )
    return rows


def _choose(events: list[Event]) -> tuple[list[Event], str]:
    """The events listed, severe ones first to stay, and what was left out."""
    if len(events) <= EVENTS_SHOWN:
        return events, ""
    order = sorted(range(len(events)), key=lambda i: (events[i].kind not in SEVERE, i))
    kept = sorted(order[:EVENTS_SHOWN])
    rest = Counter(events[i].kind for i in order[EVENTS_SHOWN:])
    return [events[i] for i in kept], ", ".join(f"{count:,} {kind}" for kind, count in rest.most_common(12))


def _raw(event: Event) -> str:
    if len(event.raw) > RAW_SHOWN:
        return event.raw[:RAW_SHOWN] + f"\n[{len(event.raw) - RAW_SHOWN:,} more characters]"
    return event.raw or ", ".join(
        f"{name} {shown}"
        for name, value in event.fields.items()
        if name not in ("t", "kind", "raw", "source", "seq") and (shown := analysis.plain(value))
    )


def event_lists(comparison: Comparison) -> list[EventList]:
    """The classified log of each cell, with the raw text."""

    def shown(event: Event) -> tuple[str, str, str, bool, str]:
        severe, active = event.kind in SEVERE, one_line(", ".join(event.active))
        return seconds(event.t), event.kind, _raw(event), severe, active

    lists = []
    for column in comparison.columns:
        for cell in column.cells:
            events, left_out = _choose(cell.events)
            lists.append(
                EventList(
                    cell,
                    column.colour,
                    place(column, cell),
                    [shown(event) for event in events],
                    left_out,
                )
            )
    return lists


def _repeat_rows(comparison: Comparison) -> list[dict[str, str]]:
    """What brings each run back."""
    return [
        {
            "name": (f"Run {run.number}: " if len(comparison.runs) > 1 else "") + run.path.name,
            "command": text(run.data.get("command")),
            "seed": analysis.plain(run.data.get("seed")),
            "file": text(run.data.get("scenario_file")),
            "text": text(run.data.get("scenario_text")),
        }
        for run in comparison.runs
    ]


def _context(comparison: Comparison, lasted: list[survival.Arm]) -> dict[str, Any]:
    metrics = [(metric, *tables.shown(metric)) for metric in comparison.metrics]
    differing, pinned = tables.settings(comparison)
    pairs = effects.groups(comparison)
    return {
        "comparison": comparison,
        "columns": comparison.columns,
        "arms": analysis.distinct([column.arm for column in comparison.columns]),
        "summary": analysis.summary(comparison),
        "cards": cards(comparison),
        "metrics": metrics,
        "effects": [effects.table(group) for group in pairs],
        "effect_tests": effects.tests(pairs),
        "lasted": survival.rows(lasted),
        "lasted_tests": survival.tests(lasted),
        "mitigations": tables.mitigations(comparison),
        "differing": differing,
        "pinned": pinned,
        "findings": findings(comparison),
        "peaks": peaks.table(comparison),
        "deadlocks": deadlock.found(comparison),
        "offlines": memory.blocks(comparison),
        "unplugs": memory.dimms(comparison),
        "refusals": [
            (head, found)
            for head, kind in (("block", memory.BLOCKS), ("DIMM", memory.DIMMS))
            if (found := memory.refusals(comparison, kind))
        ],
        "victims": victims(comparison),
        "detectors": tables.detectors(comparison),
        "workers": tables.workers(comparison),
        "losses": tables.losses(comparison),
        "other_losses": tables.other_losses(comparison),
        "environment": tables.environment(comparison),
        "events": event_lists(comparison),
        "published": published(comparison),
        "phases": [
            (column.colour, place(column, cell), shown)
            for column in comparison.columns
            for cell in column.cells
            if (shown := tables.phases(cell))
        ],
        "repeat": _repeat_rows(comparison),
        "shrunk": shrink.rows(comparison),
        "peak_notes": charts.peak_notes(comparison),
        "left_out": charts.left_out(comparison),
        "loads": charts.most_loads(charts.lane_cells(comparison)) > 0,
        "quiet": " and ".join(charts.loud_arms(comparison)) if charts.quiet(comparison) else "",
        "light": charts.theme(charts.LIGHT, False),
        "dark": charts.theme(charts.DARK, True),
        "min_repeats": stats.MIN_REPEATS,
        "alpha": number(stats.ALPHA),
        "arm_colours": len(charts.LIGHT),
        "few": any(len(column.counted) < stats.MIN_REPEATS for column in comparison.columns),
        "arrow": ARROW,
        "not_measured": NOT_MEASURED,
    }


def _finalize(value: Any) -> Any:
    """Every plain text that the template puts out goes through `clean`; autoescape follows."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def environment() -> Environment:
    """In which pages are made: every value escaped and cleaned, and none that is missing passed over."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )


def render(comparison: Comparison) -> str:
    """The whole page."""
    histories = memory.histories(comparison)
    caches, cache_figures = slabs.by_cache(comparison)
    lasted = survival.arms(comparison)
    figures = {
        "lasted": survival.figure(comparison, lasted),
        "offline_times": memory.durations(comparison),
        "blocks": histories.figures,
        "timeline": charts.timeline(comparison),
        "slab": charts.slab_peak(comparison),
        "slab_time": slabs.over_time(comparison),
        "slab_caches": cache_figures,
        "cgroup_time": slabs.cgroups(comparison),
    }
    drawn = any(figures.values())
    context = _context(comparison, lasted)
    # A carriage return would be normalised by the browser and the hash would no longer fit.
    plotly = get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n") if drawn else ""
    page_script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    themes = {"light": context["light"], "dark": context["dark"]}
    return environment().get_template("report.html.j2").render(
        **context,
        figures=figures,
        drawn=drawn,
        caches=caches,
        histories=histories,
        figures_json=script_json(figures),
        themes_json=script_json(themes),
        plotly=Markup(plotly),
        page_script=Markup(page_script),
        hashes=[_hash(plotly), _hash(page_script)],
    )
