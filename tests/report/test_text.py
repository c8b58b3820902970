# SPDX-License-Identifier: MIT
"""Numbers as people read them, and text that stays text."""
import math

import pytest

from reports import text
from reports.charts import label
from reports.markdown import escape


@pytest.mark.parametrize(
    "value, wanted",
    [
        (0, "0"),
        (3, "3"),
        (54110, "54,110"),
        (1234.5, "1,234"),
        (999.7, "1,000"),
        (97.13, "97.1"),
        (9.456, "9.46"),
        (0.5, "0.5"),
        (0.01234, "0.0123"),
        (1e-9, "1e-09"),
        (1e300, "1e+300"),
        (-6.24, "\u22126.24"),
        (math.inf, "\u2013"),
        (98, "98"),
    ],
)
def test_number(value, wanted):
    assert text.number(value) == wanted


def test_measured_numbers_have_three_digits():
    assert [text.number(value, True) for value in (98, 20.0, 512, 0, 1500)] == ["98.0", "20.0", "512", "0", "1,500"]


@pytest.mark.parametrize(
    "value, unit, wanted",
    [
        (346852, "KiB", "339 MiB"),
        (550, "ms", "550 ms"),
        (4900, "ms", "4.90 s"),
        (97.1, "%", "97.1%"),
        (3, "count", "3"),
        (12, "furlongs", "12 furlongs"),
        (1024**5, "KiB", "1,048,576 TiB"),
        (0, "KiB", "0 KiB"),
    ],
)
def test_quantity(value, unit, wanted):
    assert text.quantity(value, unit) == wanted


@pytest.mark.parametrize(
    "value, wanted",
    [
        (0.121, "\u00f78.26"),
        (1.35, "\u00d71.35"),
        (1.001, "\u00d71.00"),
        (0.001, "\u00f71,000"),
        (0, ""),
        (math.inf, ""),
    ],
)
def test_ratio(value, wanted):
    assert text.ratio(value) == wanted


def test_clean_shows_what_hides():
    assert text.clean("a\0b\x1b[31m\x7f\x85\u202e\ud800\nc") == "a\u2400b\u241b[31m\u2421\ufffd\ufffd\ufffd\nc"
    assert text.one_line("a\n b\t c" * 100, 20) == "a b ca b ca b ca b " + "\u2026"


def test_plotly_text_is_inert():
    shown = label("<b>%{x}</b><a href='javascript:1'>&lt;")
    assert "<" not in shown and "%{" not in shown and "&amp;lt;" in shown


def test_markdown_text_is_inert():
    assert escape("a|b\n<img src=x> [l](u) `c`") == r"a\|b \<img src=x\> \[l\](u) \`c\`"
