# SPDX-License-Identifier: MIT
"""Figures of slab memory over time, of all caches and of the ones that matter, and of what cgroups were charged for.

Slabinfo counts objects that CPUs keep for themselves as active, so in use are at least `active - slack` and at most
`active` (docs/record.md, Slab). Only after all caches were shrunk is the figure exact.
"""
from __future__ import annotations

from collections import Counter
from typing import Any

from reports import charts
from reports.analysis import Column, Comparison, distinct
from reports.charts import Panel, label
from reports.model import CacheSeries, Cell, Series, read_caches
from reports.shrink import cache_name, exact
from reports.text import one_line, seconds

MAX_CACHES = 6  # that can be picked
MAX_GROUP_PANELS = 6
GROUP_PANEL_PX = 84
LEGEND_PX, TOP_PX = 22, 46
MIB = 1 / 1024  # of a KiB

AT_MOST, AT_LEAST = "in use at most", "in use at least"

Figure = dict[str, Any]


def _merged(comparison: Comparison, name: str) -> list[str]:
    return distinct([other for cell in comparison.cells if (own := cell.caches.get(name)) for other in own.merged])


def caches_that_matter(comparison: Comparison) -> list[str]:
    """The watched ones, under the name that slabinfo has them, and then the largest at the peak."""
    largest: Counter[str] = Counter()
    for cell in comparison.cells:
        for name, row in cell.samples.peak_slab.items():
            largest[name] = max(largest[name], row.held_kib)
    listed = {name for cell in comparison.cells for name in cell.watched if f"cache:{name}" in cell.samples.series}
    home = {other: name for cell in comparison.cells for name, facts in cell.caches.items() for other in facts.merged}
    watched = [
        name if name in listed else home.get(name, "") for cell in comparison.cells for name in cell.watched
    ]
    names = [name for name in watched if name in listed or name in largest]
    return distinct(names + [name for name, _ in largest.most_common()])[:MAX_CACHES]


def _strip(
    comparison: Comparison, title: str, unit: str, curves: list[tuple[str, str, Any]], rangemode: str = "tozero"
) -> Panel:
    """A strip with one or more curves a cell: (dash, note, how to get it)."""
    strip = Panel(title, unit=unit, rangemode=rangemode)
    for column, cell in charts.lane_cells(comparison):
        for dash, note, get in curves:
            if len(series := get(cell)):
                strip.series.append((column, cell, series, dash, note))
    return strip


def _series(name: str, factor: float = 1.0) -> Any:
    return lambda cell: charts.scaled(cell.samples.series.get(name, Series()), factor)


def _figure(
    comparison: Comparison, strips: list[Panel], panel_px: float = charts.PANEL_PX, share: int = 1
) -> Figure:
    """The strips below each other, with the arms that have a curve in the legend; one of `share` that are alike."""
    heights = [panel_px] * len(strips)
    height = charts.rows_height(heights)
    # The legend stands above the title of the first strip.
    layout = charts.layout_of(height + TOP_PX + charts.BOTTOM_PX, 64)
    layout["margin"]["t"] = TOP_PX
    layout |= {
        "shapes": charts.guides(charts.lane_cells(comparison)),
        "annotations": [],
        "legend": charts.LEGEND | {"y": 1 + LEGEND_PX / height},
        "xaxis": charts.time_axis(comparison, len(strips) - 1),
    }
    charts.place_strips(layout, strips, charts.domains(heights))
    drawn = {id(column) for strip in strips for column, *_ in strip.series}
    columns = [column for column in comparison.columns if id(column) in drawn]
    limit = charts.points_a_trace(share * sum(len(strip.series) for strip in strips))
    data = charts.arm_legend(columns) + charts.lines(strips, 0, limit)
    return {"data": charts.hush(comparison, data), "layout": layout}


def _band(column: Column, cell: Cell, row: int, limit: int) -> Figure | None:
    """What lies between the least and the most that can be in use, as closed outlines that gaps keep apart."""
    least, most = (cell.samples.series.get(name, Series()) for name in ("slab_least_pct", "slab_active_pct"))
    x: list[float | None] = []
    y: list[float | None] = []
    for below, above in zip(charts.split_at_gaps(least), charts.split_at_gaps(most)):
        share = max(2, limit * len(above) // max(1, len(most)))
        outline = charts.thin(above, share) + charts.thin(below, share)[::-1]
        x += [round(t, 3) for t, _ in outline] + [None]
        y += [float(f"{value:.5g}") for _, value in outline] + [None]
    if not x:
        return None
    return {
        "type": "scatter",
        "mode": "none",
        "x": x,
        "y": y,
        "yaxis": charts.axis_id(row),
        "fill": "toself",
        "fillcolor": f"{charts.token(column)}-band",
        # Those of repeats lie on each other.
        "opacity": 1 / len(column.cells),
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": column.label,
    }


def _exact_mark(column: Column, cell: Cell, row: int) -> Figure | None:
    """The exact figure, at the moment of the shrink."""
    total = exact(cell.shrink) if cell.shrink else None
    if cell.shrink is None or total is None or total.active_pct is None:
        return None
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [round(cell.shrink.t, 3)],
        "y": [float(f"{total.active_pct:.5g}")],
        "yaxis": charts.axis_id(row),
        "showlegend": False,
        "legendgroup": column.label,
        "hoverinfo": "text",
        "text": [
            f"<b>exactly {total.active_pct:.1f}%</b> in use after the shrink at {seconds(cell.shrink.t)}"
            f"<br>{charts.who(cell, column)}"
        ],
        "marker": {
            "symbol": "diamond",
            "size": 11,
            "color": charts.token(column),
            "line": {"width": 1.5, "color": "@ink"},
        },
    }


def over_time(comparison: Comparison) -> Figure | None:
    """All caches together: what they hold, and how much of it is in use."""
    strips = [
        _strip(
            comparison,
            "Slab in all caches together, MiB: held solid, in use at most dotted",
            "MiB",
            [("solid", "held", _series("slab_held_kib", MIB)), ("dot", AT_MOST, _series("slab_active_kib", MIB))],
        ),
        _strip(
            comparison,
            "In use, % of the slab held: at most solid, at least dotted, exactly \N{BLACK DIAMOND}",
            "%",
            [("solid", AT_MOST, _series("slab_active_pct")), ("dot", AT_LEAST, _series("slab_least_pct"))],
            "normal",
        ),
    ]
    if not strips[0].series:
        return None
    figure = _figure(comparison, strips)
    lanes = charts.lane_cells(comparison)
    limit = charts.points_a_trace(4 * len(lanes))
    bands = [band for column, cell in lanes if (band := _band(column, cell, 1, limit))]
    marks = [mark for column, cell in lanes if (mark := _exact_mark(column, cell, 1))]
    # Bands below the curves, marks above them.
    figure["data"] = charts.hush(comparison, bands) + figure["data"] + marks
    return figure


def _cache_strips(comparison: Comparison, found: dict[int, dict[str, CacheSeries]], name: str) -> list[Panel]:
    def get(part: str, factor: float = 1.0) -> Any:
        return lambda cell: charts.scaled(getattr(found[id(cell)].get(name, CacheSeries()), part), factor)

    return [
        _strip(comparison, f"{label(name, 60)}: held, MiB", "MiB", [("solid", "held", get("held_kib", MIB))]),
        _strip(
            comparison,
            "Objects: active solid, all there is room for dotted",
            "objects",
            [("solid", "active", get("active")), ("dot", "room", get("objects"))],
        ),
    ]


def by_cache(comparison: Comparison) -> tuple[list[str], list[Figure]]:
    """The caches that can be picked, and a figure of each."""
    names = caches_that_matter(comparison)
    found = {id(cell): read_caches(cell, names) for _, cell in charts.lane_cells(comparison)}
    names = [name for name in names if any(name in caches for caches in found.values())]
    figures = [_figure(comparison, _cache_strips(comparison, found, name), share=len(names)) for name in names]
    return [one_line(cache_name(name, _merged(comparison, name)), 160) for name in names], figures


def _group(name: str, part: str, factor: float = 1.0) -> Any:
    return lambda cell: charts.scaled(cell.samples.groups.get(name, {}).get(part, Series()), factor)


def _largest(comparison: Comparison, group: str, parts: tuple[str, ...]) -> float:
    return max((max(_group(group, part)(cell).v, default=0) for cell in comparison.cells for part in parts), default=0)


def _groups_that_matter(comparison: Comparison) -> list[str]:
    """Those that were ever charged for kernel memory; where there are too many, the largest."""
    groups = distinct([group for cell in comparison.cells for group in cell.samples.groups])
    sizes = {group: size for group in groups if (size := _largest(comparison, group, ("kernel", "slab"))) > 0}
    kept = sorted(sizes, key=lambda group: -sizes[group])[:MAX_GROUP_PANELS]
    return [group for group in sizes if group in kept]


def cgroups(comparison: Comparison) -> Figure | None:
    """Kernel memory and slab that each cgroup was charged for, and removed cgroups that still hold some."""
    strips = [
        _strip(
            comparison,
            f"{label(group, 60)}: kernel memory solid, slab dotted, MiB",
            "MiB",
            [("solid", "kernel", _group(group, "kernel", 2**-20)), ("dot", "slab", _group(group, "slab", 2**-20))],
        )
        for group in _groups_that_matter(comparison)
    ]
    if _largest(comparison, "/", ("nr_dying_descendants",)) > 0:
        curves = [
            ("solid", "dying", _group("/", "nr_dying_descendants")),
            ("dot", "living", _group("/", "nr_descendants")),
        ]
        title = "Cgroups, in all: removed and not freed (dying) solid, living dotted"
        strips.append(_strip(comparison, title, "cgroups", curves))
    strips = [strip for strip in strips if strip.series]
    return _figure(comparison, strips, GROUP_PANEL_PX) if strips else None
