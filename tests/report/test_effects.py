# SPDX-License-Identifier: MIT
"""What each mitigation does: which arms are a pair, what is said of it, and what is never averaged away."""
import json
import re

import pytest
from generate import SWAP_ARMS, SWAP_KERNELS, SWAP_MITIGATIONS
from hostile import TEXT

from reports import effects, html, machine, markdown, tables

ONE = ("before", "only-swap-limit", "without-swap-limit", "after")
QUEUE = ("before", "only-crypt-workqueue", "without-crypt-workqueue", "after")
SLAB = "slab_unreclaimable_peak_kib"


def cell_file(path, arm, repeat):
    return next((path / "cells").glob(f"*-{arm}-{repeat}")) / "cell.json"


def set_values(path, arm, name, values):
    """A metric in each repeat of an arm; without a value it is absent."""
    for repeat, value in enumerate(values, 1):
        file = cell_file(path, arm, repeat)
        data = json.loads(file.read_text())
        data["metrics"] = {key: old for key, old in data["metrics"].items() if key != name}
        data["metrics"] |= {} if value is None else {name: value}
        file.write_text(json.dumps(data))


def set_mitigation(path, arm, name, repeats=3, **fields):
    for repeat in range(1, repeats + 1):
        file = cell_file(path, arm, repeat)
        data = json.loads(file.read_text())
        data["mitigations"].setdefault(name, {}).update(fields)
        file.write_text(json.dumps(data))


def set_cells(path, arm, repeats=3, **fields):
    for repeat in range(1, repeats + 1):
        file = cell_file(path, arm, repeat)
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def set_option(path, name, value):
    for file in (path / "cells").glob("*/cell.json"):
        data = json.loads(file.read_text())
        data["options"]["swap-crypt"][name] = value
        file.write_text(json.dumps(data))


def pairs(comparison):
    return [pair for group in effects.groups(comparison) for pair in group.pairs]


def effect(pair, name):
    return next(one for one in pair.effects if one.metric.name == name)


def shown(pair, name, divisor=1.0):
    return effects.shown(effect(pair, name), divisor)


@pytest.fixture
def throttled(new_swap_run):
    """`without-swap-limit` and `after`, which both come to their end, with any values of one metric."""

    def make(off, on, name=SLAB):
        path = new_swap_run(arms=ONE, repeats=len(off), step=4.0)
        set_values(path, "without-swap-limit", name, off)
        set_values(path, "after", name, on)
        return path

    return make


def test_pairs_of_each_mitigation(swap_runs, compared):
    found = pairs(compared(swap_runs[1]))
    wanted = [
        pair
        for name in SWAP_MITIGATIONS
        for pair in (
            (name, "alone", "before", f"only-{name}"),
            (name, "on top of all others", f"without-{name}", "after"),
        )
    ]
    assert [(pair.mitigation, pair.kind, pair.off.arm, pair.on.arm) for pair in found] == wanted
    assert all(pair.on.baseline is pair.off for pair in found)


def test_two_kernels_keep_apart(swap_runs, compared):
    found = effects.groups(compared(*swap_runs))
    assert [group.name for group in found] == list(SWAP_KERNELS.values())
    for group, kernel in zip(found, SWAP_KERNELS.values()):
        assert len(group.pairs) == 8
        kernels = {cell.section("machine")["kernel"] for pair in group.pairs for cell in pair.off.cells + pair.on.cells}
        assert kernels == {kernel}


def test_two_kernels_of_one_run_keep_apart(swap_run_on_two_kernels, compared):
    found = effects.groups(compared(swap_run_on_two_kernels))
    assert [group.name for group in found] == list(SWAP_KERNELS.values())
    for group, kernel in zip(found, SWAP_KERNELS.values()):
        kernels = {cell.section("machine")["kernel"] for pair in group.pairs for cell in pair.off.cells + pair.on.cells}
        assert len(group.pairs) == 8 and kernels == {kernel}


def test_other_options_keep_apart(new_swap_run, compared):
    first, second = (new_swap_run(name, arms=ONE, step=4.0) for name in "ab")
    set_option(second, "swap_pct", "71")
    assert [group.name for group in effects.groups(compared(first, second))] == [
        "swap-crypt.swap_pct=142",
        "swap-crypt.swap_pct=71",
    ]


def test_an_option_that_a_mitigation_sets_keeps_no_arms_apart(new_swap_run, compared):
    path = new_swap_run(arms=QUEUE, step=4.0)
    comparison = compared(path)
    assert [column.label for column in comparison.columns] == list(QUEUE)
    assert [column.baseline and column.baseline.arm for column in comparison.columns] == [None, *["before"] * 3]
    found = [pair for pair in pairs(comparison) if pair.mitigation == "crypt-workqueue"]
    assert [(pair.kind, pair.why_not) for pair in found] == [("alone", ""), ("on top of all others", "")]
    (row,) = [row for row in tables.settings(comparison)[0] if row.name == "option swap-crypt.write_workqueue"]
    assert row.values == ["no", "yes", "no", "yes"], "it is still told"


def test_an_option_that_a_mitigation_sets_is_in_no_label(new_swap_run, compared):
    first, second = (new_swap_run(name, arms=QUEUE, step=4.0) for name in "ab")
    set_option(second, "swap_pct", "71")
    comparison = compared(first, second)
    assert [group.name for group in effects.groups(comparison)] == [
        "swap-crypt.swap_pct=142",
        "swap-crypt.swap_pct=71",
    ]
    assert [column.label for column in comparison.columns] == [
        f"{arm} \u00b7 swap-crypt.swap_pct={size}" for size in (142, 71) for arm in QUEUE
    ]


def test_one_cell_that_names_the_option_is_enough(new_swap_run, compared):
    first, second = (new_swap_run(name, arms=QUEUE, step=4.0) for name in "ab")
    for path, arms in ((first, QUEUE), (second, QUEUE[1:])):
        for arm in arms:
            set_mitigation(path, arm, "crypt-workqueue", option=None)
    assert [column.label for column in compared(first, second).columns] == list(QUEUE)


@pytest.mark.parametrize("option", [TEXT, None, [], {}, True, 7, ""])
def test_options_that_cannot_be_read(new_swap_run, compared, option):
    path = new_swap_run(arms=QUEUE, step=4.0)
    for arm in QUEUE:
        set_mitigation(path, arm, "crypt-workqueue", option=option)
    assert len({column.key for column in compared(path).columns}) == 2


def test_a_pair_comes_from_the_same_runs(new_swap_run, compared):
    alone = new_swap_run("a", arms=["before"], step=4.0), new_swap_run("b", arms=["only-swap-limit"], step=4.0)
    assert pairs(compared(*alone)) == []
    both = new_swap_run("c", arms=["before", "only-swap-limit"], step=4.0)
    (pair,) = pairs(compared(*alone, both))
    assert {cell.run.path for cell in pair.off.cells + pair.on.cells} == {both}
    (pair,) = pairs(compared(both, new_swap_run("d", arms=["before", "only-swap-limit"], seed=3, step=4.0)))
    assert len(pair.off.cells) == len(pair.on.cells) == 6, "repeats of the same two arms"


def test_what_is_no_mitigation_is_no_pair(new_run, new_swap_run, compared):
    assert pairs(compared(new_run(arms=["before", "after", "only-x", "without-x"]))) == []
    assert pairs(compared(new_swap_run("a", arms=["before", "after"], step=4.0))) == []
    assert pairs(compared(new_swap_run("b", arms=["only-reserves", "without-reserves"], step=4.0))) == []


def test_off_over_on(throttled, compared):
    (_, pair) = pairs(compared(throttled([300000, 310000, 320000], [60000, 61000, 62000])))
    one = effect(pair, SLAB)
    assert one.ratio == pytest.approx(310 / 61) and one.interval == (300 / 62, 320 / 60)
    assert one.on.p == pytest.approx(0.1) and one.words == ("better in every repeat", "better")
    told = effects.shown(one, 1024.0)
    assert (told.off, told.on, told.ratio, told.interval) == ("303", "59.6", "\u00d75.08", "[\u00d74.84, \u00d75.33]")
    assert (told.n, told.p) == ("n = 3 + 3", "p = 0.10 (Mann-Whitney)")


@pytest.mark.parametrize(
    "off, on, words, interval",
    [
        ([5, 5.2], [1, 1.2], "too few repeats", False),
        ([5], [1], "too few repeats", False),
        ([5, 5.2, 5.4, 5.6], [1, 1.2, 1.4, 1.6], "better*", True),
        ([1, 1.2, 1.4, 1.6], [5, 5.2, 5.4, 5.6], "worse*", True),
        ([1, 1.2, 1.4], [5, 5.2, 5.4], "worse in every repeat", True),
        ([1, 3, 5], [2, 4, 6], "unclear", True),
        ([2, 3, 4], [2, 3, 4], "unchanged", True),
        ([5, 5.2, None], [1, 1.2, 1.4], "not in every cell", False),
        ([5, 5.2, 5.4], [1, None, None], "not in every cell", False),
        ([5, 5.2, "5.4"], [1, 1.2, 1.4], "not in every cell", False),
        ([5, 5.2, float("nan")], [1, 1.2, 1.4], "not in every cell", False),
        ([None, None, None], [1, 1.2, 1.4], "", False),
        ([5, 5.2, 5.4], [0, 1.2, 1.4], "better in every repeat", False),
        ([0.5, 0.5, 0.5], [0, 0, 0], "better in every repeat", False),
    ],
)
def test_no_louder_than_the_repeats_allow(throttled, compared, off, on, words, interval):
    (_, pair) = pairs(compared(throttled(off, on, "standstill_max_ms")))
    one = effect(pair, "standstill_max_ms")
    assert one.words[0] == words and (one.interval is not None) == interval
    complete = None not in off + on and all(isinstance(value, (int, float)) and value == value for value in off + on)
    assert (one.ratio is not None) == (complete and sorted(on)[len(on) // 2] > 0)
    assert "inf" not in str(effects.shown(one, 1.0)) and "nan" not in str(effects.shown(one, 1.0))


def test_cells_that_did_not_finish_are_not_averaged_away(swap_runs, compared):
    pair = pairs(compared(swap_runs[0]))[0]
    told = shown(pair, "elapsed_s")
    assert told.off == "did not finish in 3 of 3" and float(told.on) > 30
    assert (told.ratio, told.interval, told.words) == ("", "", "better in every repeat")
    failed = shown(pair, "time_to_failure_s")
    assert failed.on == "did not fail in 3 of 3" and failed.words == "better in every repeat" and failed.ratio == ""


def test_one_cell_that_did_not_finish_is_told(throttled, compared, edit):
    path = throttled([30, 31, 32], [20, 21, 22], "elapsed_s")
    edit(cell_file(path, "after", 1), verdict="hung")
    (_, pair) = pairs(compared(path))
    told = shown(pair, "elapsed_s")
    assert (told.off, told.on) == ("31.0", "22.0"), "it ranks last: the median is not that of the survivors"
    assert told.n == "n = 3 + 3, on: 1 did not finish" and told.interval == "" and told.words == "unclear"


def test_what_died_early_is_a_bound(new_swap_run, compared):
    path = new_swap_run(arms=ONE, step=4.0)
    set_values(path, "before", SLAB, [300, 310, 320])
    set_values(path, "only-swap-limit", SLAB, [60, 61, 62])
    told = shown(pairs(compared(path))[0], SLAB)
    assert told.off.startswith("\u2265") and told.ratio == "\u2265\u00d75.08" and told.words == "better in every repeat"
    set_values(path, "only-swap-limit", SLAB, [600, 610, 620])
    told = shown(pairs(compared(path))[0], SLAB)
    assert (told.ratio, told.interval, told.p, told.words) == ("", "", "", "cannot be told"), "it died on its way up"


@pytest.mark.parametrize("off", [[300, 310, 320], [60, 61, 62], [30, 31, 32]])
def test_where_both_sides_died_early_nothing_is_known(new_swap_run, compared, off):
    path = new_swap_run(arms=("before", "only-crypt-workqueue"), step=4.0)
    set_values(path, "before", SLAB, off)
    set_values(path, "only-crypt-workqueue", SLAB, [60, 61, 62])
    comparison = compared(path)
    (pair,) = pairs(comparison)
    told = shown(pair, SLAB)
    assert told.off.startswith("\u2265") and told.on.startswith("\u2265")
    assert (told.ratio, told.interval, told.p, told.words) == ("", "", "", "cannot be told")
    data = json.loads(machine.render(comparison))["effects"][0]["metrics"][SLAB]
    assert {data[name] for name in ("ratio_off_on", "ratio_interval", "ratio_bound", "apart")} == {None}
    assert data["on"]["p"] is data["on"]["direction"] is data["on"]["ratio"] is None


def test_outcomes_of_a_pair(swap_runs, compared):
    (group, _) = effects.groups(compared(*swap_runs))
    row = effects.table(group).rows[0]
    assert row.outcomes == "2 of 3 premature oom (over half of swap free), 1 of 3 oom \u2192 3 of 3 ok"
    assert row.outcomes_p == "p = 0.10 (Fisher)" and row.remark == ""


def test_what_the_kernel_lacks_was_not_switched(swap_runs, compared):
    old, new = ([pair for pair in pairs(compared(run)) if pair.mitigation == "crypt-split"] for run in swap_runs)
    assert [pair.why_not for pair in old] == ["absent (no such knob here)"] * 2
    assert all(pair.effects == [] and pair.verdict_p is None for pair in old)
    assert [pair.why_not for pair in new] == ["", ""] and all(pair.effects for pair in new)


def test_what_the_kernel_has_for_good_was_not_switched(new_swap_run, compared):
    path = new_swap_run(arms=("before", "only-throttle-removal"), step=4.0)
    (pair,) = pairs(compared(path))
    assert pair.why_not == "in this kernel for good" and pair.effects == []


@pytest.mark.parametrize(
    "arm, fields, why_not",
    [
        ("only-swap-limit", {"state": "failed"}, "only-swap-limit: failed"),
        ("only-swap-limit", {"state": None}, "only-swap-limit: state not on record"),
        ("only-swap-limit", {"state": TEXT}, f"only-swap-limit: {TEXT}"),
        ("before", {"state": "on"}, "before: on"),
        ("before", {"state": ["off"]}, "before: state not on record"),
        ("before", {"built_in": True}, "before: not in this kernel"),
        ("before", {"built_in": "yes"}, ""),
    ],
)
def test_a_pair_has_to_be_what_its_arms_say(new_swap_run, compared, arm, fields, why_not):
    path = new_swap_run(arms=ONE, step=4.0)
    set_mitigation(path, arm, "swap-limit", **fields)
    assert [pair.why_not for pair in pairs(compared(path))] == [why_not, ""]


def test_one_cell_in_which_it_failed_spoils_the_pair(new_swap_run, compared):
    path = new_swap_run(arms=ONE, step=4.0)
    set_mitigation(path, "after", "swap-limit", repeats=1, state="failed")
    assert pairs(compared(path))[1].why_not == "after: failed in 1 of 3"


def test_broken_cells_are_told_and_not_counted(new_swap_run, compared):
    path = new_swap_run(arms=ONE, step=4.0)
    set_cells(path, "after", verdict="broken")
    pair = pairs(compared(path))[1]
    assert pair.why_not == "after: no cell counts" and pair.effects == []
    assert effects.table(effects.groups(compared(path))[0]).rows[1].outcomes.endswith("3 of 3 broken")


def test_what_was_not_exercised_is_told(new_swap_run, compared):
    path = new_swap_run(arms=ONE, step=4.0)
    set_mitigation(path, "only-swap-limit", "swap-limit", repeats=2, exercised=False)
    row = effects.table(effects.groups(compared(path))[0]).rows[0]
    assert row.remark == "not exercised in 2 of 3" and row.pair.effects


def test_built_in_mitigations_in_the_table_of_all(swap_runs, compared):
    rows = {(row.name, row.column): row for row in tables.mitigations(compared(swap_runs[0]))}
    row = rows["throttle-removal", "before"]
    assert (row.state, row.requested, row.read_back) == ("in this kernel for good", "in the kernel", "absent")
    assert row.exercised == "cannot be told" and "throttle_vm_writeout" in row.evidence
    assert rows["crypt-split", "after"].state == "absent (no such knob here)"
    both = rows["reserves", "after"]
    assert (both.state, both.requested, both.read_back) == ("on", "x4/200", "10924/200")


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"state": "on", "built_in": True}, "in this kernel for good"),
        ({"state": "off", "built_in": True}, "not in this kernel"),
        ({"state": "absent", "built_in": True}, "not in this kernel"),
        ({"state": "failed", "built_in": True}, "failed"),
        ({"state": "on", "built_in": False}, "on"),
        ({"state": "on", "built_in": 1}, "on"),
        ({"built_in": True}, ""),
        ({"state": {}}, ""),
    ],
)
def test_state_in_words(entry, words):
    assert tables.mitigation_state(entry) == words


def test_effects_in_every_form(swap_runs, compared):
    comparison = compared(*swap_runs)
    source = html.render(comparison)
    section = source[source.index('id="effects"') : source.index('id="time"')]
    assert section.count('<tr class="pair">') == 16 and all(kernel in section for kernel in SWAP_KERNELS.values())
    words = re.sub(r"<[^>]*>", "|", section)
    assert "better in every repeat" in words and "not switched: absent (no such knob here)" in words
    assert re.search(r"\u2265\u00d7\d\.\d\d better in every repeat", words) and "95%\u00a0[\u00d73." in words

    lines = markdown.render(comparison).split("## What each mitigation does")[1].split("##")[0].splitlines()
    rows = [line for line in lines if line.startswith("| swap-limit")]
    assert len(rows) == 2 * 2 * 9, "the outcome and eight metrics"
    assert any(re.search(r"before \|.*did not finish in 3 of 3.*better in every repeat", row) for row in rows)
    assert {line.replace("\\|", "").count("|") for line in lines if line} == {len(effects.FLAT_HEAD) + 1}

    data = json.loads(machine.render(comparison))
    found = {(one["mitigation"], one["off"], one["on"]): one for one in data["effects"]}
    assert len(data["effects"]) == len(found) == 16
    one = found["swap-limit", "6.1.0-42-amd64 \u00b7 before", "6.1.0-42-amd64 \u00b7 only-swap-limit"]
    assert set(one["metrics"]) == set(effects.KEY_METRICS)
    flight = one["metrics"]["swap_in_flight_peak"]
    assert flight["ratio_off_on"] > 20 and flight["ratio_bound"] == "at least" and flight["on"]["median"] <= 64
    slab = one["metrics"][SLAB]
    assert slab["ratio_interval"][0] < slab["ratio_off_on"] < slab["ratio_interval"][1]
    assert (slab["ratio_bound"], slab["apart"], slab["on"]["p"]) == ("at least", True, pytest.approx(0.1))
    assert slab["ratio_off_on"] == pytest.approx(1 / slab["on"]["ratio"]), "against off, whatever the column's baseline"
    elapsed = one["metrics"]["elapsed_s"]
    assert elapsed["off"]["did_not_finish"] == 3 and elapsed["ratio_off_on"] is None
    absent = found["crypt-split", "6.1.0-42-amd64 \u00b7 before", "6.1.0-42-amd64 \u00b7 only-crypt-split"]
    assert absent["switched"] is False and absent["metrics"] == {} and absent["why_not"].startswith("absent")
    assert data["statistics"]["tests_of_effects"] == effects.tests(effects.groups(comparison)) > 50


def test_without_such_arms_no_section(pair, compared):
    comparison = compared(pair)
    source = html.render(comparison)
    assert effects.groups(comparison) == [] and 'id="effects"' not in source and "#effects" not in source
    assert "What each mitigation does" not in markdown.render(comparison)


BAD = (TEXT, None, [], {}, True, "5", -3, 0, 10**400, 1e308, 1e-308, float("nan"), float("inf"))


def test_hostile_effects(new_swap_run, compared):
    path = new_swap_run(arms=SWAP_ARMS, step=4.0)
    for index, file in enumerate(sorted((path / "cells").glob("*/cell.json"))):
        data = json.loads(file.read_text())
        data["metrics"] |= {name: BAD[(index + place) % len(BAD)] for place, name in enumerate(effects.KEY_METRICS)}
        entries = data["mitigations"]
        entries["swap-limit"]["exercised"] = BAD[index % len(BAD)]
        entries["reserves"] |= {"requested": TEXT, "read_back": BAD[index % len(BAD)], "evidence": TEXT}
        entries[TEXT] = {"state": TEXT, "built_in": True}
        if index % 3 == 0:
            data |= {"mitigations": entries | {"crypt-split": TEXT}, "units": TEXT, "outcome": TEXT}
        file.write_text(json.dumps(data))
    comparison = compared(path)
    assert pairs(comparison) and json.loads(machine.render(comparison))["effects"]
    source = html.render(comparison)
    assert "<img" not in source and "<script>window.owned" not in source
    assert not re.search(r"(?<!\\)[<>]", markdown.render(comparison))


@pytest.mark.parametrize("mitigations", [TEXT, [], None, {"swap-limit": TEXT}, {"swap-limit": []}, {}])
def test_mitigations_that_cannot_be_read(new_swap_run, compared, mitigations):
    path = new_swap_run(arms=ONE, step=4.0)
    set_cells(path, "only-swap-limit", mitigations=mitigations)
    found = pairs(compared(path))
    assert [pair.why_not for pair in found] == ["only-swap-limit: state not on record", ""]
