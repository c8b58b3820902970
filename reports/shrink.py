# SPDX-License-Identifier: MIT
"""What the shrink of all slab caches showed: how much is in use exactly, and whether our bound for the error holds."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from reports.analysis import Comparison, repeat_words
from reports.model import CacheFacts, Cell, Shrink, SlabRow, SlabTotal, percent, slab_total
from reports.text import NOT_MEASURED, number, plural, quantity

CACHES_SHOWN = 5
MERGED_SHOWN = 4
NONE_LEFT = SlabRow(0, 0, 0, 0)  # a cache without objects is not listed
UNKNOWN = CacheFacts(None, [])


def cache_name(name: str, merged: list[str]) -> str:
    """`kmalloc-64 (with io, ext4_io_end)`: merged caches share a line of slabinfo."""
    if not merged:
        return name
    more = f" and {len(merged) - MERGED_SHOWN} more" if len(merged) > MERGED_SHOWN else ""
    return f"{name} (with {', '.join(merged[:MERGED_SHOWN])}{more})"


def exact(shrink: Shrink) -> SlabTotal | None:
    """All caches after the shrink; nothing is exact where a cache was left out, or may have been."""
    return slab_total(shrink.after, {}) if shrink.not_shrunk == 0 else None


def exact_of_before(shrink: Shrink) -> float | None:
    """Percent of the memory held before the shrink that was in use: what lay between the bounds of that moment."""
    surely = exact(shrink)
    return percent(surely.active_kib, slab_total(shrink.before, {}).held_kib) if surely else None


@dataclass
class CacheShrink:
    """What one cache gave back."""

    name: str
    freed_kib: float
    before: float  # objects counted as active
    after: float
    slack: float | None
    merged: list[str]

    @property
    def fewer(self) -> float:
        return self.before - self.after

    @property
    def within(self) -> bool | None:
        """Whether no more free objects were counted as active than the bound says."""
        return None if self.slack is None else self.fewer <= self.slack


def caches(cell: Cell, shrink: Shrink) -> list[CacheShrink]:
    """Every cache there was before, those first that gave back most."""
    found = []
    for name, row in shrink.before.items():
        left, facts = shrink.after.get(name, NONE_LEFT), cell.caches.get(name, UNKNOWN)
        freed = row.held_kib - left.held_kib
        found.append(CacheShrink(name, freed, row.active, left.active, facts.slack, facts.merged))
    return sorted(found, key=lambda one: -one.freed_kib)


@dataclass
class CacheRow:
    name: str
    freed: str
    before: str
    after: str
    fewer: str
    bound: str
    verdict: str
    beyond: bool


@dataclass
class CellRow:
    """All caches of a cell together, and the ones that gave back most."""

    arm: int
    column: str
    cell: str
    before: str
    after: str
    freed: str
    counted: str
    least: str
    exact_of_before: str
    exact: str
    check: str
    caches: list[CacheRow]

    @property
    def totals(self) -> list[str]:
        return [
            self.column,
            self.cell,
            self.before,
            self.after,
            self.freed,
            self.counted,
            self.least,
            self.exact_of_before,
            self.exact,
            self.check,
        ]


def _percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else quantity(value, "%")


def _cache_row(one: CacheShrink) -> CacheRow:
    words = {
        True: "within the bound",
        False: "MORE than the bound: objects were freed meanwhile, or the bound is wrong",
        None: "the record has no bound",
    }
    return CacheRow(
        cache_name(one.name, one.merged),
        quantity(one.freed_kib, "KiB"),
        number(one.before),
        number(one.after),
        number(one.fewer),
        NOT_MEASURED if one.slack is None else number(one.slack),
        words[one.within],
        one.within is False,
    )


def _check(found: list[CacheShrink]) -> str:
    """How the bound did in all caches, not only in those that are shown."""
    bounded = [one for one in found if one.within is not None]
    if not bounded:
        return NOT_MEASURED
    beyond = sum(one.within is False for one in bounded)
    return f"{beyond} of {plural(len(bounded), 'cache')} beyond it"


def rows(comparison: Comparison) -> list[CellRow]:
    """A row for each cell that came to its shrink."""
    found = []
    for column in comparison.columns:
        for cell in column.cells:
            if cell.shrink is None:
                continue
            before, after = slab_total(cell.shrink.before, cell.caches), slab_total(cell.shrink.after, {})
            surely, each = exact(cell.shrink), caches(cell, cell.shrink)
            found.append(
                CellRow(
                    column.colour,
                    column.label + repeat_words(column, cell),
                    cell.name,
                    quantity(before.held_kib, "KiB"),
                    quantity(after.held_kib, "KiB"),
                    quantity(before.held_kib - after.held_kib, "KiB"),
                    _percent(before.active_pct),
                    _percent(before.least_pct),
                    _percent(exact_of_before(cell.shrink)),
                    _percent(surely.active_pct if surely else None),
                    _check(each) + ("" if surely else "; not all caches were shrunk, so nothing is exact"),
                    [_cache_row(one) for one in each[:CACHES_SHOWN] if one.freed_kib > 0],
                )
            )
    return found


def as_json(cell: Cell) -> dict[str, Any] | None:
    """The same for programs."""
    if cell.shrink is None:
        return None
    before, after = slab_total(cell.shrink.before, cell.caches), slab_total(cell.shrink.after, {})
    surely, each = exact(cell.shrink), caches(cell, cell.shrink)
    figures = {
        "t": cell.shrink.t,
        "not_shrunk": cell.shrink.not_shrunk,
        "before_kib": before.held_kib,
        "after_kib": after.held_kib,
        "freed_kib": before.held_kib - after.held_kib,
        "utilisation_pct": before.active_pct,
        "least_pct": before.least_pct,
        "exact_of_before_pct": exact_of_before(cell.shrink),
        "exact_pct": surely.active_pct if surely else None,
    }
    return {
        # The sums of a damaged record can leave a float's range.
        **{name: value if value is not None and math.isfinite(value) else None for name, value in figures.items()},
        "beyond_bound": [one.name for one in each if one.within is False],
        "gave_back_most": [
            {
                "cache": one.name,
                "merged": one.merged,
                "freed_kib": one.freed_kib,
                "active_before": one.before,
                "active_after": one.after,
                "slack": one.slack,
                "within_bound": one.within,
            }
            for one in each[:CACHES_SHOWN]
            if one.freed_kib > 0
        ],
    }
