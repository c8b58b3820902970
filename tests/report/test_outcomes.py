# SPDX-License-Identifier: MIT
"""Outcomes beyond the verdict's own name: in plain words wherever the report has words for a verdict."""
import json

import pytest
from hostile import TEXT

from reports import analysis, compare, html, machine, markdown

PREMATURE = "premature oom (over half of swap free)"
LIVELOCK = "livelock (alive, no progress)"
THROTTLED = "ok (throttled but alive)"
EACH = {"arms": ("only-crypt-split", "only-crypt-workqueue", "only-reserves"), "repeats": 1}


@pytest.mark.parametrize(
    "verdict, outcome, words",
    [
        ("oom", "premature-oom", PREMATURE),
        ("panic", "premature-oom", f"panic ({PREMATURE})"),
        ("ok", "throttled", THROTTLED),
        ("stuck", "throttled", "stuck (throttled but alive)"),
        ("livelock", None, LIVELOCK),
        ("oom", None, "oom"),
        ("broken", "snapshot-overflow", "broken"),
        ("ok", TEXT, "ok"),
        ("ok", ["throttled"], "ok"),
        ("ok", {"throttled": 1}, "ok"),
    ],
)
def test_outcome_in_words(new_run, edit, compared, verdict, outcome, words):
    path = new_run(arms=["before"])
    edit(path / "cells/001-before-1/cell.json", verdict=verdict, outcome=outcome)
    comparison = compared(path)
    assert analysis.verdict_words(comparison.columns[0]) == words
    assert html.cards(comparison)[0].outcome == words


def test_outcomes_in_every_form(new_swap_run, compared):
    comparison = compared(new_swap_run(**EACH))
    words = [PREMATURE, LIVELOCK, THROTTLED]
    assert [card.outcome for card in html.cards(comparison)] == words
    assert [card.tone for card in html.cards(comparison)] == ["bad", "bad", "mixed"]
    (line,) = analysis.summary(comparison)
    assert all(one in line for one in words)
    lines = compare.verdict_table(comparison).splitlines()[1:]
    assert all(one in shown for one, shown in zip(words, lines))
    verdicts = markdown.render(comparison).split("## Verdicts")[1].split("##")[0]
    assert all(f"| {one} |" in verdicts for one in words)
    source = html.render(comparison)
    assert all(f">{one}</div>" in source for one in words)


def test_outcomes_for_programs_are_as_recorded(new_swap_run, compared):
    arms = json.loads(machine.render(compared(new_swap_run(**EACH))))["arms"]
    assert [arm["verdicts"] for arm in arms] == [{"oom": 1}, {"livelock": 1}, {"ok": 1}]
    assert [arm["cells"][0]["outcome"] for arm in arms] == ["premature-oom", None, "throttled"]


def test_repeats_of_several_outcomes(swap_runs, compared):
    comparison = compared(swap_runs[0])
    before = comparison.columns[0]
    assert analysis.verdict_words(before) == f"2 of 3 {PREMATURE}, 1 of 3 oom"
    assert before.verdicts == {"oom": 3}, "a premature kill is an oom all the same"
    assert html.cards(comparison)[0].outcome == f"{PREMATURE} 2\u00d7, oom 1\u00d7"


def test_of_many_arms_before_and_after_are_told(swap_runs, compared):
    (line,) = analysis.summary(compared(swap_runs[0]))
    assert f"before = 2 of 3 {PREMATURE}, 1 of 3 oom, failing after" in line and "; after = 3 of 3 ok, in" in line
    assert line.endswith(f"8 other arms: 12 ok, 6 {THROTTLED}, 3 {LIVELOCK}, 2 {PREMATURE}, 1 oom")


def test_a_livelock_failed_when_the_record_says(new_swap_run, edit, compared):
    path = new_swap_run(**EACH)
    cell = path / "cells/002-only-crypt-workqueue-1/cell.json"
    edit(cell, metrics={"time_to_failure_s": 33.3, "elapsed_s": 99})
    assert f"{LIVELOCK} after 33.3 s" in analysis.summary(compared(path))[0]
    edit(cell, metrics={"time_to_failure_s": "33"})
    assert f"{LIVELOCK};" in analysis.summary(compared(path))[0], "not known when"
