# SPDX-License-Identifier: MIT
"""Words and numbers as people read them.

Everything that comes out of a record may hold anything at all: a kernel log line carries whatever a process chose as
its name. `clean` is what stands between such text and a terminal, a page or a Markdown table.
"""
from __future__ import annotations

import math

NOT_MEASURED = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
ARROW = "\N{RIGHTWARDS ARROW}"
BOUND_SIGNS = {"at least": "\N{GREATER-THAN OR EQUAL TO}", "at most": "\N{LESS-THAN OR EQUAL TO}"}

_UNPRINTABLE = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_UNPRINTABLE |= {0x7F: 0x2421} | {code: 0xFFFD for code in range(0x80, 0xA0)}
# Marks that turn the direction of writing can make a line read as something that it is not.
_UNPRINTABLE |= {code: 0xFFFD for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_UNPRINTABLE |= {code: 0xFFFD for code in range(0xD800, 0xE000)}

# unit as recorded -> (name shown, factor to the next unit, the next unit)
_UNITS = {
    "b": ("B", 1024, "kib"),
    "bytes": ("B", 1024, "kib"),
    "kib": ("KiB", 1024, "mib"),
    "mib": ("MiB", 1024, "gib"),
    "gib": ("GiB", 1024, "tib"),
    "tib": ("TiB", 0, ""),
    "kib/s": ("KiB/s", 1024, "mib/s"),
    "mib/s": ("MiB/s", 1024, "gib/s"),
    "gib/s": ("GiB/s", 0, ""),
    "ns": ("ns", 1000, "us"),
    "us": ("\N{MICRO SIGN}s", 1000, "ms"),
    "ms": ("ms", 1000, "s"),
    "s": ("s", 0, ""),
    "pct": ("%", 0, ""),
    "percent": ("%", 0, ""),
    "%": ("%", 0, ""),
    "count": ("", 0, ""),
    "1": ("", 0, ""),
    "bool": ("", 0, ""),
    "": ("", 0, ""),
}


def clean(value: object) -> str:
    """The text with control, direction and surrogate characters made visible."""
    return str(value).translate(_UNPRINTABLE)


def one_line(value: object, limit: int = 200) -> str:
    """The first `limit` characters on one line, with an ellipsis where something is left out."""
    line = " ".join(clean(value).split())
    return line if len(line) <= limit else line[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def number(value: float, measured: bool = False) -> str:
    """Three significant digits, thousands parted. Whole numbers stay whole, unless they are measured: 98.0 then."""
    if not math.isfinite(value):
        return NOT_MEASURED
    size = abs(value)
    if size >= 1e15:
        shown = f"{value:.3g}"
    elif size >= 999.5 or size == 0 or (float(value).is_integer() and not measured):
        shown = f"{value:,.0f}"
    else:
        digits = 2 - math.floor(math.log10(size))
        shown = f"{value:.{digits}f}" if digits <= 6 else f"{value:.3g}"
        if digits > 0 and "e" not in shown and size < 1:
            shown = shown.rstrip("0").rstrip(".")
    return shown.replace("-", MINUS, 1) if value < 0 else shown


def scale(unit: str, largest: float) -> tuple[float, str]:
    """Divisor and name of the unit in which `largest` reads best, so that all figures of a row share one unit."""
    name, factor, following = _UNITS.get(unit.lower(), (unit, 0, ""))
    divisor = 1.0
    while factor and math.isfinite(largest) and abs(largest) / divisor >= factor:
        divisor *= factor
        name, factor, following = _UNITS[following]
    return divisor, name


def quantity(value: float, unit: str) -> str:
    """One figure with its unit."""
    divisor, name = scale(unit, value)
    shown = number(value / divisor)
    return f"{shown}{'' if name in ('', '%') else ' '}{name}" if name else shown


def seconds(value: float | None) -> str:
    """A point on the time axis: a tenth of a second is all that a reader can use."""
    if value is None:
        return NOT_MEASURED
    shown = f"{value:,.1f}" if abs(value) < 1e12 else f"{value:.3g}"
    return shown.replace("-", MINUS, 1) + " s"


def ratio(value: float) -> str:
    """0.121 reads as "8.26 times less": a division sign says so in two characters."""
    if not value > 0 or not math.isfinite(value):
        return ""
    if abs(value - 1) < 0.005:
        return "\N{MULTIPLICATION SIGN}1.00"
    sign, size = ("\N{MULTIPLICATION SIGN}", value) if value > 1 else ("\N{DIVISION SIGN}", 1 / value)
    return sign + (f"{size:,.0f}" if size >= 100 else f"{size:.1f}" if size >= 10 else f"{size:.2f}")


def interval(low: str, high: str, bound: str) -> str:
    """Of a figure that is a bound, only the edge that it is a bound of: the other one may lie further out."""
    if bound:
        return BOUND_SIGNS[bound] + (low if bound == "at least" else high)
    return f"[{low}, {high}]"


def probability(value: float, test: str) -> str:
    """A p-value with no more digits than it deserves, and the test that it is from."""
    shown = "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"
    return f"{shown} ({test})"


def plural(count: int, one: str, many: str = "") -> str:
    """`3 OOM kills`, `1 OOM kill`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
