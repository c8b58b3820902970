# SPDX-License-Identifier: MIT
"""Figures that others published about the same mitigations: context for ours, never a measurement of ours."""
from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from reports.analysis import Comparison, Figure, Metric
from reports.text import ARROW, BOUND_SIGNS, MINUS, plural, quantity, ratio

SOURCE = Path(__file__).with_name("published-results.csv")

# Beginning of a scenario's name -> the source documents about its subject.
SCENARIOS = (
    ("snapshot", "000"),
    ("dmtest", "000"),
    ("parallel", "000"),
    ("swap", "003"),
    ("cgroup", "002"),
    ("kmem", "002"),
    ("slab", "002"),
    ("hotplug", "002"),
    ("hotremove", "002"),
    ("mem-", "002"),
    ("emergency", "001"),
    ("spl", "001"),
    ("shield", "004"),
    ("io-flusher", "004"),
    ("combined", "000 002 003"),
    ("storm", "000 002 003"),
    ("all", "000 002 003"),
)
# Published metric -> the metric of ours that measures the same thing here.
COMPARABLE = {
    "kcopyd_job_slab_peak": "cache_peak_kib.kcopyd_job",
    "write_time": "elapsed_s",
    "max_write_time": "elapsed_s",
    "total_run_time": "elapsed_s",
    "workqueue_lockup": "wq_delay_max_ms",
    "oom_kill": "oom_kills",
    "meminfo_Slab_peak": "slab_unreclaimable_peak_kib",
    "slab_utilisation_typical": "slab_utilisation_pct",
}


@dataclass
class Published:
    source: str
    date: str
    where: str
    what: str
    metric: str
    unit: str
    before: str
    after: str
    change: str
    note: str
    ours: str


def seeds_of(scenarios: list[str]) -> set[str]:
    """The source documents that are about any of these scenarios."""
    return {
        seed
        for scenario in scenarios
        for start, seeds in SCENARIOS
        if scenario.startswith(start)
        for seed in seeds.split()
    }


def _arrows(words: str) -> str:
    return words.replace("->", f" {ARROW} ").replace("  ", " ")


def _digits(figure: str) -> str:
    """As published, with the thousands parted."""
    return f"{int(figure):,}" if figure.isdigit() else figure


def _side(metric: Metric, figure: Figure) -> str:
    if figure.median is None:
        return "not measured"
    if math.isinf(figure.median):
        return metric.never
    return BOUND_SIGNS.get(figure.bound, "") + quantity(figure.median, metric.unit)


def _cells(figure: Figure) -> str:
    """How many cells stand behind a figure, of those that count."""
    return plural(figure.of, "cell") if figure.complete else f"{len(figure.values)} of {plural(figure.of, 'cell')}"


def _ours(comparison: Comparison, metric: Metric) -> str:
    """Our own change from `before` to `after`, in words: nobody shall read it as one series with the published one."""
    told = []
    for index, column in enumerate(comparison.columns):
        if column.arm != "after" or column.baseline is None or column.baseline.arm != "before":
            continue
        new, old = metric.figures[index], metric.figures[comparison.columns.index(column.baseline)]
        if new.median is None and old.median is None:
            continue
        change = f" ({ratio(new.ratio)})" if new.ratio and ratio(new.ratio) else ""
        place = "" if column.label == column.arm else f" [{column.label}]"
        told.append(
            f"our {metric.label}{place}: before {_side(metric, old)}, after "
            f"{_side(metric, new)}{change}, from {_cells(old)} and {_cells(new)}"
        )
    return "; ".join(told)


def published(comparison: Comparison) -> list[Published]:
    """The rows that concern the scenarios compared."""
    seeds = seeds_of(comparison.scenarios)
    metrics = {metric.name: metric for metric in comparison.metrics}
    with SOURCE.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["seed"] in seeds]
    result = []
    parallel = any("parallel" in scenario for scenario in comparison.scenarios)
    for row in rows:
        metric = metrics.get(COMPARABLE.get(row["metric"], ""))
        if row["seed"] == "000" and ("parallel" in row["workload"]) != parallel:
            metric = None  # the other one of the two published loads
        result.append(
            Published(
                row["source"],
                row["date"],
                ", ".join(part for part in (row["kernel"], row["platform"]) if part),
                _arrows(row["workload"] + (f", {row['variant']}" if row["variant"] else "")),
                row["metric"].replace("_", " "),
                row["unit"],
                _digits(row["before"]),
                _digits(row["after"]),
                row["change_pct"].replace("-", MINUS),
                _arrows(row["note"]),
                _ours(comparison, metric) if metric else "",
            )
        )
    return result
