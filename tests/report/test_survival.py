# SPDX-License-Identifier: MIT
"""How long it lasted: the estimate against published figures, what is a failure and when, and what is claimed."""
import json
import math
from itertools import combinations

import pytest
from generate import write_lines
from hostile import TEXT, make_hostile

from reports import html, machine, markdown, survival
from reports.survival import Life, kaplan_meier, log_rank, median, median_interval

# Weeks of remission of 42 leukaemia patients (Freireich et al., Blood 21, 1963), the example of many textbooks;
# + is censored.
DRUG = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"


def lives(words):
    return [Life(float(word.rstrip("+")), not word.endswith("+")) for word in words.split()]


def by_arm(comparison):
    return {arm.column.arm: arm for arm in survival.arms(comparison)}


def cell_of(path, arm, repeat):
    return next((path / "cells").glob(f"*-{arm}-{repeat}"))


@pytest.fixture
def give_events():
    """Replaces the events of a cell."""

    def give(cell_path, *events):
        write_lines(cell_path / "events.jsonl", [{"raw": ""} | event for event in events])

    return give


def test_published_estimate():
    steps = kaplan_meier(lives(DRUG))
    assert [step.t for step in steps] == [6, 7, 10, 13, 16, 22, 23]
    assert [step.at_risk for step in steps] == [21, 17, 15, 12, 11, 7, 6]
    assert [round(step.share, 3) for step in steps] == [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448]
    errors = [0.0764, 0.0869, 0.0963, 0.1068, 0.1141, 0.1282, 0.1346]
    assert [step.error for step in steps] == pytest.approx(errors, abs=2e-4)


def test_published_medians():
    drug, placebo = kaplan_meier(lives(DRUG)), kaplan_meier(lives(PLACEBO))
    assert median(drug) == 23 and median_interval(drug) == (13, None)
    assert median(placebo) == 8 and median_interval(placebo) == (4, 11)


def test_published_log_rank():
    """Observed 9, expected 19.25 on the drug; chi-squared 16.79 on one degree of freedom."""
    both = lives(DRUG) + lives(PLACEBO)
    assert sum(survival._scores(both)[:21]) == pytest.approx(9 - 19.25, abs=0.005)
    p, test = log_rank(lives(DRUG), lives(PLACEBO))
    assert p == pytest.approx(1 / 10000) and "9,999 permutations drawn" in test
    assert log_rank(lives(DRUG), lives(PLACEBO)) == (p, test), "a report must repeat"


def test_band_by_hand():
    """One of four failed: 3/4, Greenwood's sum 1/(4*3), log(-log) transformed."""
    (step,) = kaplan_meier(lives("5 9+ 9+ 9+"))
    reach = 1.959964 * math.sqrt(1 / 12) / -math.log(0.75)
    assert (step.low, step.high) == pytest.approx((0.75 ** math.exp(reach), 0.75 ** math.exp(-reach)))
    assert 0 < step.low < 0.75 < step.high < 1


def test_no_band_under_three_nor_where_all_failed():
    assert all(step.low is None for step in kaplan_meier(lives("5 9+")))
    last = kaplan_meier(lives("5 6 7"))[-1]
    assert (last.share, last.low, last.high) == (0, None, None)


def test_censored_at_a_failure_was_still_at_risk():
    (step,) = kaplan_meier(lives("5 5+"))
    assert (step.at_risk, step.share) == (2, 0.5)


@pytest.mark.parametrize(
    "a, b, wanted",
    [
        ("1 2 3", "9+ 9+ 9+", 2 / 20),
        ("1 2 3 4", "9+ 9+ 9+ 9+", 2 / 70),
        ("1 1 1", "1 1 1", 1.0),
        ("1 2", "9+ 9+ 9+", None),
        ("9+ 9+ 9+", "9+ 9+ 9+", None),
    ],
)
def test_exact_log_rank(a, b, wanted):
    result = log_rank(lives(a), lives(b))
    assert result == (None if wanted is None else (pytest.approx(wanted), "log-rank, exact"))


def test_exact_log_rank_is_that_over_all_deals():
    """Observed less expected, counted anew for each deal from the risk sets."""
    every = lives("2 3+ 5 8+ 4 9 9+ 7")

    def statistic(chosen):
        total = 0.0
        for t in {life.t for life in every if life.failed}:
            at_risk = [i for i, life in enumerate(every) if life.t >= t]
            deaths = [i for i in at_risk if every[i].failed and every[i].t == t]
            total += len(set(deaths) & chosen) - len(deaths) * len(set(at_risk) & chosen) / len(at_risk)
        return abs(total)

    deals = [statistic(set(deal)) for deal in combinations(range(8), 4)]
    wanted = sum(one >= statistic({0, 1, 2, 3}) - 1e-9 for one in deals) / 70
    assert log_rank(every[:4], every[4:])[0] == pytest.approx(wanted)


def test_arms(repeats, compared):
    arms = by_arm(compared(repeats))
    before, after = arms["before"], arms["after"]
    assert [life.failed for life in before.lives + after.lives] == [True] * 4 + [False] * 4
    assert all(19 < life.t < 23 for life in after.lives), "censored at the end of the load"
    assert after.p == (pytest.approx(2 / 70), "log-rank, exact") and before.p is None


@pytest.mark.parametrize(
    "verdict, events, wanted",
    [
        ("oom", [("panic", 3), ("memcg-oom-kill", 5), ("oom-kill", 7)], 5),
        ("panic", [("oom-kill", 3), ("panic", 6)], 6),
        ("panic", [("oops", 4)], 4),
        ("lockup", [("hung-task", 2), ("rcu-stall", 6), ("wq-lockup", 8)], 6),
        ("hung", [("wq-lockup", 2), ("hung-task", 6)], 6),
        ("deadlock", [("hung-task", 4), ("deadlock", 6)], 6),
        ("deadlock", [("hung-task", 4)], 4),
        ("stuck", [("deadline", 7)], 7),
        ("corrupt", [("corrupt", 8)], None),
        ("oom", [("oom-kill", -1)], 0),
    ],
)
def test_the_moment_is_that_of_what_made_the_verdict(new_run, compared, edit, give_events, verdict, events, wanted):
    path = new_run(arms=["before"], repeats=2)
    cell = cell_of(path, "before", 1)
    edit(cell / "cell.json", verdict=verdict, victims=[], phases=[], metrics={}, host={"ended_by": "guest"})
    give_events(cell, *({"kind": kind, "t": t} for kind, t in events))
    arm = by_arm(compared(path))["before"]
    if wanted is None:
        assert len(arm.lives) == 1 and arm.untimed == [f"{cell.name}: {verdict}"]
    else:
        assert arm.lives[0].t == wanted and arm.lives[0].failed


@pytest.mark.parametrize(
    "verdict, fields, wanted, how",
    [
        ("oom", {"victims": [{"t": 8.5}, {"t": 4.5}]}, 4.5, "by the list of victims"),
        ("livelock", {"metrics": {"time_to_failure_s": 6.5}}, 6.5, "by the verdict"),
        ("hung", {"host": {"ended_by": "hang"}}, 9.0, "by the end of the record"),
        ("panic", {"host": {"ended_by": "panic"}}, 9.0, "by the end of the record"),
        ("stuck", {"host": {"ended_by": "guest"}}, None, ""),
        ("lockup", {}, None, ""),
    ],
)
def test_a_moment_that_no_event_tells(new_run, compared, edit, give_events, verdict, fields, wanted, how):
    path = new_run(arms=["before"], repeats=2)
    cell = cell_of(path, "before", 1)
    edit(cell / "cell.json", **{"verdict": verdict, "victims": [], "phases": [], "metrics": {}} | fields)
    (cell / "samples.jsonl").write_text("")
    give_events(cell, {"kind": "start", "t": 0}, {"kind": "warn", "t": 9.0})
    arm = by_arm(compared(path))["before"]
    assert [life.t for life in arm.lives[:-1]] == ([] if wanted is None else [wanted])
    assert wanted is None or how in arm.lives[0].words


def test_a_lockup_that_the_canary_alone_saw(new_run, compared, edit, give_events):
    path = new_run(arms=["before"], repeats=2)
    cell = cell_of(path, "before", 1)
    edit(cell / "cell.json", verdict="lockup", phases=[])
    give_events(cell, {"kind": "start", "t": 0})
    canary = [{"t": t, "canary": {"n": 0, "pending_ms": ms}} for t, ms in ((5, 20000), (15, 30000), (20, 35000))]
    write_lines(cell / "samples.jsonl", canary)
    assert by_arm(compared(path))["before"].lives[0].t == 15


def test_found_behind_the_load_counts_at_its_end(new_run, compared, edit, give_events):
    path = new_run(arms=["before"], repeats=2)
    cell = cell_of(path, "before", 1)
    edit(cell / "cell.json", verdict="hung", phases=[{"name": "run", "t": 0}, {"name": "cool-down", "t": 20}])
    give_events(cell, {"kind": "hung-task", "t": 33})
    life = by_arm(compared(path))["before"].lives[0]
    assert (life.t, life.failed) == (20, True) and "behind the load" in life.words


def test_nothing_is_claimed_of_an_arm_with_a_failure_that_nobody_timed(new_run, compared, edit):
    path = new_run(repeats=3)
    edit(cell_of(path, "after", 1) / "cell.json", verdict="corrupt")
    comparison = compared(path)
    after = by_arm(comparison)["after"]
    assert after.failed == 1 and not after.whole and after.p is None
    row = survival.rows(survival.arms(comparison))[1]
    assert (row.failed, row.lasted, row.median, row.p) == ("1", "2", "\u2013", "")
    assert "002-after-1: corrupt" in row.remark
    curves = survival.figure(comparison, survival.arms(comparison))["data"]
    assert "dot" in [trace.get("line", {}).get("dash") for trace in curves]


def test_what_does_not_count_is_left_out_and_told(new_run, compared, edit):
    path = new_run(repeats=4)
    edit(cell_of(path, "before", 1) / "cell.json", verdict="broken")
    edit(cell_of(path, "before", 2) / "cell.json", verdict="broken", interrupted=True)
    edit(cell_of(path, "after", 1) / "cell.json", verdict="skipped")
    comparison = compared(path)
    arms = by_arm(comparison)
    assert (len(arms["before"].lives), len(arms["after"].lives)) == (2, 3) and arms["after"].p is None
    before, after = survival.rows(survival.arms(comparison))
    assert before.remark == "1 broken, not counted; 1 interrupted, not counted"
    assert after.remark == "1 skipped, not counted"


def test_a_load_without_an_end_on_record(new_run, compared, edit):
    path = new_run(repeats=3)
    edit(cell_of(path, "after", 1) / "cell.json", metrics={}, phases=[{"name": "run", "t": 0}])
    after = by_arm(compared(path))["after"]
    assert after.endless == ["002-after-1"] and len(after.lives) == 2 and after.p is None


@pytest.mark.parametrize("repeats, tests", [(2, 0), (3, 1)])
def test_under_three_the_curve_is_drawn_and_no_difference_claimed(new_run, compared, repeats, tests):
    comparison = compared(new_run(repeats=repeats))
    found = survival.arms(comparison)
    assert survival.tests(found) == tests and survival.figure(comparison, found)
    section = markdown.render(comparison).split("## How long it lasted")[1].split("##")[0]
    assert ("too few repeats" in section) == (tests == 0) and ("log-rank, exact" in section) == (tests == 1)
    assert "not reached" in section


def test_no_section_without_a_failure_or_without_repeats(new_run, pair, compared):
    assert survival.arms(compared(pair)) == []
    comparison = compared(new_run(arms=["after"], repeats=3))
    assert survival.arms(comparison) == []
    assert "How long it lasted" not in html.render(comparison) + markdown.render(comparison)


def test_median_in_words(new_run, compared, edit, give_events):
    path = new_run(arms=["before"], repeats=5)
    for repeat, t in enumerate((4, 5, 6, 7, 8), 1):
        cell = cell_of(path, "before", repeat)
        edit(cell / "cell.json", phases=[])
        give_events(cell, {"kind": "panic", "t": t})
    (row,) = survival.rows(survival.arms(compared(path)))
    assert row.median == "6.0 s, 95% 4.0 s or more", "the band's upper edge ends above one half, where all failed"


def test_section_in_the_page(repeats, compared):
    source = html.render(compared(repeats))
    section = source.split('<section id="survival">')[1].split("</section>")[0]
    assert '<div id="lasted">' in section and "log-rank, exact" in section and "not reached" in section
    data = json.loads(machine.render(compared(repeats)))["survival"]
    assert [arm["failed"] for arm in data] == [4, 0] and data[1]["median_s"] is None
    assert data[0]["steps"][-1]["share"] == 0


def test_numbers_at_risk_stand_under_the_axis(repeats, compared):
    comparison = compared(repeats)
    figure = survival.figure(comparison, survival.arms(comparison))
    texts = [trace for trace in figure["data"] if trace["mode"] == "text"]
    assert [trace["text"][0] for trace in texts] == ["4", "4"] and texts[0]["text"][-1] == "0"
    assert figure["layout"]["yaxis2"]["ticktext"] == ["before", "after"]


@pytest.mark.parametrize(
    "last, wanted", [(0, [0, 1]), (10, [0, 2, 4, 6, 8, 10]), (61, [0, 20, 40, 60]), (1e-320, [0, 1])]
)
def test_ticks_are_round(last, wanted):
    assert survival._ticks(last) == wanted


@pytest.mark.parametrize("t", [1e308, -1e308, 10**400, TEXT, None])
def test_times_that_cannot_be(new_run, compared, edit, give_events, t):
    path = new_run(repeats=3)
    give_events(cell_of(path, "before", 1), {"kind": "panic", "t": t})
    phases = [{"name": "run"}, {"name": 7, "t": t}]
    edit(cell_of(path, "after", 1) / "cell.json", metrics={"elapsed_s": t}, phases=phases)
    comparison = compared(path)
    assert len(by_arm(comparison)["before"].lives) in (2, 3)
    assert "How long it lasted" in html.render(comparison) and json.loads(machine.render(comparison))


def test_hostile_record(tmp_path, new_run, compared):
    comparison = compared(make_hostile(tmp_path / "hostile"), new_run(repeats=3))
    figure = survival.figure(comparison, survival.arms(comparison))
    json.dumps(figure, allow_nan=False)
    # What plotly shows; the group of a legend is none of it.
    shown = [figure["layout"]["yaxis2"]["ticktext"]]
    shown += [trace.get(name, "") for trace in figure["data"] for name in ("name", "text")]
    assert "&lt;script" in str(shown) and "<script" not in str(shown) and "<img" not in str(shown)
