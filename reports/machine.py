# SPDX-License-Identifier: MIT
"""The comparison for programs: schema headroom.compare/1. What was not measured is null, as in the record."""
from __future__ import annotations

import json
import math
from typing import Any

from reports import analysis, effects, shrink, stats, survival, tables
from reports.analysis import Column, Comparison, Figure, Metric
from reports.model import num, text


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _figure(metric: Metric, figure: Figure) -> dict[str, Any]:
    return {
        "n": len(figure.values),
        "of": figure.of,
        "did_not_finish": 0 if metric.times_failure else figure.never,
        "did_not_fail": figure.never if metric.times_failure else 0,
        "median": _finite(figure.median),
        "interval": list(figure.interval) if figure.interval else None,
        "values": figure.values,
        "bound": figure.bound or None,
        "ratio": figure.ratio,
        "direction": figure.direction or None,
        "p": figure.p,
        "test": figure.test or None,
        "significant": figure.significant if figure.p is not None else None,
    }


def _metric(metric: Metric, columns: list[Column]) -> dict[str, Any]:
    return {
        "label": metric.label,
        "unit": metric.unit,
        "better": metric.better,
        "kind": metric.figures[0].kind,
        "arms": {column.label: _figure(metric, figure) for column, figure in zip(columns, metric.figures)},
    }


def _arm(column: Column) -> dict[str, Any]:
    test = analysis.verdict_test(column)
    expected = analysis.expectation(column)
    names = ("scenario", "kernel", "where", "accel", "memory", "cpus", "options")
    return {
        "label": column.label,
        "arm": column.arm,
        **dict(zip(names, column.key)),
        "baseline": column.baseline.label if column.baseline else None,
        "verdicts": dict(column.verdicts),
        "counted": len(column.counted),
        "failures": column.failures,
        "failures_p": test[0] if test else None,
        "failures_test": test[1] if test else None,
        "expected": expected[0] if expected else None,
        "expectation_held": expected[1] if expected else None,
        "cells": [
            {
                "cell": cell.name,
                "run": cell.run.path.name,
                "repeat": cell.repeat,
                "verdict": cell.verdict,
                "outcome": text(cell.data.get("outcome")) or None,
                "reason": cell.reason,
                "counted": cell.counted,
                "finished": cell.finished,
                "doubtful_kills": cell.doubtful_kills or None,
                "slab": shrink.as_json(cell),
            }
            for cell in column.cells
        ],
    }


def _effect(effect: effects.Effect) -> dict[str, Any]:
    return {
        "off": _figure(effect.metric, effect.off),
        "on": _figure(effect.metric, effect.on),
        "ratio_off_on": effect.ratio,
        "ratio_bound": effect.bound or None,
        "ratio_interval": list(effect.interval) if effect.interval else None,
        "apart": effect.apart if effect.complete and effect.on.direction else None,
    }


def _pairs(found: list[effects.Group]) -> list[dict[str, Any]]:
    """Each mitigation off against on; what `on` has of ratio and p is against `off`."""
    return [
        {
            "mitigation": pair.mitigation,
            "kind": pair.kind,
            "off": pair.off.label,
            "on": pair.on.label,
            "switched": not pair.why_not,
            "why_not": pair.why_not or None,
            "remark": pair.remark or None,
            "outcomes_off": dict(pair.off.outcomes),
            "outcomes_on": dict(pair.on.outcomes),
            "failures_p": test[0] if (test := pair.verdict_p) else None,
            "failures_test": test[1] if test else None,
            "metrics": {effect.metric.name: _effect(effect) for effect in pair.effects},
        }
        for group in found
        for pair in group.pairs
    ]


def _losses(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "run": cell.run.path.name,
            "cell": cell.name,
            **{name: num(cell.section("samples").get(name)) for name in tables.LOSSES},
            "sample_lines": cell.samples.lines,
            "corrupt_lines": cell.samples.corrupt + cell.events_corrupt,
            "interrupted": cell.interrupted,
            "replaced_by": cell.replaced_by or None,
        }
        for cell in comparison.cells
    ]


def render(comparison: Comparison) -> str:
    """One JSON object."""
    found, lasted = effects.groups(comparison), survival.arms(comparison)
    return (
        json.dumps(
            {
                "schema": "headroom.compare/1",
                "summary": analysis.summary(comparison),
                "runs": [
                    {
                        "dir": str(run.path),
                        "scenario": text(run.data.get("scenario")),
                        "version": text(run.data.get("version")),
                        "started_utc": text(run.data.get("started_utc")),
                        "seed": _finite(num(run.data.get("seed"))),
                        "status": run.status or None,
                    }
                    for run in comparison.runs
                ],
                "arms": [_arm(column) for column in comparison.columns],
                "metrics": {metric.name: _metric(metric, comparison.columns) for metric in comparison.metrics},
                "effects": _pairs(found),
                "survival": survival.as_json(lasted),
                "statistics": {
                    "min_repeats": stats.MIN_REPEATS,
                    "alpha": stats.ALPHA,
                    "confidence": stats.CONFIDENCE,
                    "tests": comparison.tests,
                    "tests_of_effects": effects.tests(found),
                    "tests_of_survival": survival.tests(lasted),
                },
                "losses": _losses(comparison),
                "other_losses": tables.other_losses(comparison),
            },
            indent=1,
            allow_nan=False,
        )
        + "\n"
    )
