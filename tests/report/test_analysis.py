# SPDX-License-Identifier: MIT
"""What belongs together, what is compared, and what may be called a difference."""
import json
import re

import pytest

from reports import analysis, html, machine, markdown, tables


def figures(comparison, name):
    return next(metric for metric in comparison.metrics if metric.name == name).figures


def set_metric(path, cell, **metrics):
    file = path / "cells" / cell / "cell.json"
    data = json.loads(file.read_text())
    data["metrics"] |= metrics
    file.write_text(json.dumps(data))


def test_columns_and_baseline(pair, compared):
    comparison = compared(pair)
    before, after = comparison.columns
    assert [before.label, after.label] == ["before", "after"]
    assert before.baseline is None and after.baseline is before


def test_summary_in_words(pair, compared):
    assert analysis.summary(compared(pair)) == [
        "snapshot on 6.1.0-42-amd64: before = panic after 10.0 s (3 OOM kills); after = ok in 21.5 s, data verified"
    ]


@pytest.mark.parametrize("repeats", [1, 2])
def test_nothing_is_a_difference_under_three_repeats(new_run, compared, repeats):
    comparison = compared(new_run(repeats=repeats))
    assert comparison.tests == 0
    assert all(
        figure.p is None and figure.interval is None for metric in comparison.metrics for figure in metric.figures
    )
    assert analysis.verdict_test(comparison.columns[1]) is None
    assert not any("*" in field.change for metric in comparison.metrics for field in tables.shown(metric)[1])
    said = " ".join(field.change for metric in comparison.metrics for field in tables.shown(metric)[1])
    assert "better" not in said and "worse" not in said


def test_three_repeats_get_n_and_interval(new_run, compared):
    figure = figures(compared(new_run(repeats=3)), "slab_unreclaimable_peak_kib")[1]
    assert figure.p == pytest.approx(0.1) and not figure.significant and figure.interval
    assert tables._change(figure)[0].endswith("unclear")


def test_four_repeats_can_be_significant(repeats, compared):
    comparison = compared(repeats)
    figure = figures(comparison, "slab_unreclaimable_peak_kib")[1]
    assert figure.significant and figure.direction == "better" and figure.ratio == pytest.approx(0.19, abs=0.02)
    assert analysis.verdict_test(comparison.columns[1])[0] == pytest.approx(2 / 70)


def test_dying_early_is_no_good_time(repeats, compared):
    before, after = figures(compared(repeats), "elapsed_s")
    assert before.never == 4 and before.values == [] and before.median == float("inf")
    assert after.direction == "better" and after.ratio is None and after.p == pytest.approx(2 / 70)


def test_one_of_three_that_did_not_finish_is_told(new_run, compared, edit):
    path = new_run(repeats=3)
    edit(path / "cells/002-after-1/cell.json", verdict="hung")
    comparison = compared(path)
    metric = next(metric for metric in comparison.metrics if metric.name == "elapsed_s")
    after = metric.figures[1]
    assert after.never == 1 and after.median == max(after.values) and after.interval is None
    assert "1 did not finish" in tables.shown(metric)[1][1].note.replace("\u00a0", " ")


def test_not_to_fail_is_no_missing_time_of_failure(new_run, compared, edit):
    path = new_run(repeats=4)
    for repeat in range(1, 5):
        set_metric(path, f"{2 * repeat - 1:03d}-before-{repeat}", time_to_failure_s=9.0 + repeat)
        units = {"time_to_failure_s": {"unit": "s", "better": "more", "label": "time to the first failure"}}
        edit(path / f"cells/{2 * repeat:03d}-after-{repeat}/cell.json", units=units)
    comparison = compared(path)
    metric = next(metric for metric in comparison.metrics if metric.name == "time_to_failure_s")
    before, after = metric.figures
    assert after.never == 4 and after.complete and after.direction == "better" and after.p == pytest.approx(2 / 70)
    assert tables.shown(metric)[1][1].value == "did not fail in 4 of 4"
    arms = json.loads(machine.render(comparison))["metrics"]["time_to_failure_s"]["arms"]
    assert (arms["after"]["did_not_fail"], arms["after"]["did_not_finish"], arms["after"]["median"]) == (4, 0, None)
    edit(path / "cells/002-after-1/cell.json", verdict="corrupt")
    assert not figures(compared(path), "time_to_failure_s")[1].complete, "it failed, and nobody knows when"


@pytest.mark.parametrize(
    "name, died, lived, told",
    [
        ("psi_memory_full_s", 4, 20, False),
        ("psi_memory_full_s", 20, 4, True),
        ("swap_out_mib", 100, 900, False),
        ("standstill_max_ms", 10, 40, False),
        ("standstill_max_ms", 40, 10, True),
        ("swap_free_min_kib", 400, 100, False),
        ("swap_free_min_kib", 100, 400, True),
        ("swap_out_mib_s", 4, 20, True),
        ("thread_cpu_s.kcryptd", 4, 20, False),
        ("thread_cpu_s.kcryptd", 20, 4, True),
        ("allocation_stalls", 100, 900, False),
        ("direct_scans", 100, 900, False),
    ],
)
def test_an_early_death_turns_no_comparison_around(new_run, compared, name, died, lived, told):
    path = new_run(repeats=3)
    whole, _, part = name.partition(".")
    for repeat in range(1, 4):
        for cell, value in ((f"{2 * repeat - 1:03d}-before", died), (f"{2 * repeat:03d}-after", lived)):
            value += repeat / 10
            set_metric(path, f"{cell}-{repeat}", **{whole: {part: value} if part else value})
    after = figures(compared(path), name)[1]
    assert (after.direction != "", after.ratio is not None, after.p is not None) == (told,) * 3


@pytest.mark.parametrize("name", ["psi_memory_full_s", "standstill_max_ms", "swap_free_min_kib"])
def test_two_early_deaths_cannot_be_compared(new_run, compared, edit, name):
    path = new_run(repeats=3)
    for repeat in range(1, 4):
        set_metric(path, f"{2 * repeat - 1:03d}-before-{repeat}", **{name: 20 + repeat})
        set_metric(path, f"{2 * repeat:03d}-after-{repeat}", **{name: 4 + repeat})
        edit(path / f"cells/{2 * repeat:03d}-after-{repeat}/cell.json", verdict="panic")
    comparison = compared(path)
    before, after = figures(comparison, name)
    assert before.bound == after.bound != ""
    assert (after.direction, after.ratio, after.p) == ("", None, None)
    metric = next(metric for metric in comparison.metrics if metric.name == name)
    assert tables.shown(metric)[1][1].change == ""


def test_survivors_alone_are_not_tested(repeats, compared):
    before, after = figures(compared(repeats), "write_mib_s")
    assert before.values == [] and not before.complete and after.p is None and after.direction == ""


@pytest.mark.parametrize("better", ["more", "less"])
def test_what_is_known_of_survivors_alone_is_no_change(new_run, compared, edit, better):
    path = new_run(repeats=3)
    for repeat in (1, 2, 3):
        set_metric(path, f"{2 * repeat - 1:03d}-before-{repeat}", write_mib_s=5.0 + repeat)
    for repeat in (1, 2):
        set_metric(path, f"{2 * repeat:03d}-after-{repeat}", write_mib_s=None, data_verified=None)
        edit(path / f"cells/{2 * repeat:03d}-after-{repeat}/cell.json", verdict="panic")
    edit(path / "cells/001-before-1/cell.json", units={"write_mib_s": {"unit": "MiB/s", "better": better}})
    comparison = compared(path)
    after = figures(comparison, "write_mib_s")[1]
    assert (after.direction, after.ratio, after.p, after.interval) == ("", None, None, None)
    shown = {metric.name: tables.shown(metric)[1][1] for metric in comparison.metrics}
    note = shown["write_mib_s"].note.replace("\u00a0", " ")
    assert note == "n = 1 of 3, 2 that did not finish left out" and shown["write_mib_s"].change == ""
    assert shown["data_verified"].value == "yes in 1 of 3"
    elapsed = shown["elapsed_s"]
    assert elapsed.value == "did not finish in 2 of 3", "the median of three, of whom two never did"


@pytest.mark.parametrize("ended_by, bound", [("panic", "at least"), ("hang", "at least"), ("guest", "")])
def test_kills_of_a_machine_that_died_may_have_been_more(new_run, compared, edit, ended_by, bound):
    path = new_run(repeats=3)
    for repeat in (1, 2, 3):
        cell = f"{2 * repeat - 1:03d}-before-{repeat}"
        edit(path / "cells" / cell / "cell.json", host={"ended_by": ended_by})
        set_metric(path, cell, oom_kills=0)
        set_metric(path, f"{2 * repeat:03d}-after-{repeat}", oom_kills=3)
    before, after = figures(compared(path), "oom_kills")
    assert before.bound == bound and (after.p is None) == (bound != "")


def test_two_arms_that_mostly_did_not_finish_are_not_unchanged(new_run, compared, edit):
    path = new_run(repeats=4)
    for repeat in (1, 2, 3):
        edit(path / f"cells/{2 * repeat:03d}-after-{repeat}/cell.json", verdict="panic")
    comparison = compared(path)
    metric = next(metric for metric in comparison.metrics if metric.name == "elapsed_s")
    shown = tables.shown(metric)[1][1]
    assert shown.value == "did not finish in 3 of 4" and shown.change == ""
    assert "p = 1.00" in shown.note.replace("\u00a0", " ")


def test_interval_of_a_bound_has_one_edge(new_run, compared):
    path = new_run(repeats=3)
    for repeat in (1, 2, 3):
        set_metric(path, f"{2 * repeat - 1:03d}-before-{repeat}", wq_delay_max_ms=600 + repeat, swap_free_min_kib=repeat)
    metrics = {metric.name: tables.shown(metric)[1][0].note for metric in compared(path).metrics}
    assert metrics["wq_delay_max_ms"].endswith("95%\u00a0\u2265601")
    assert metrics["swap_free_min_kib"].endswith("95%\u00a0\u22643.00")


def test_as_much_as_at_least_as_much_is_not_unchanged(new_run, compared):
    path = new_run(repeats=3)
    for repeat in (1, 2, 3):
        for cell in (f"{2 * repeat - 1:03d}-before-{repeat}", f"{2 * repeat:03d}-after-{repeat}"):
            set_metric(path, cell, wq_delay_max_ms=40 + repeat)
    before, after = figures(compared(path), "wq_delay_max_ms")
    assert before.bound and before.median == after.median and (after.direction, after.p) == ("", None)


def test_median_time_of_failure_says_of_how_many(new_run, compared, edit):
    path = new_run(arms=["before"], repeats=3)
    edit(path / "cells/001-before-1/cell.json", verdict="ok")
    assert "(median of 2)" in analysis.summary(compared(path))[0]


def test_every_p_has_its_test(repeats, compared):
    comparison = compared(repeats)
    texts = [markdown.render(comparison), html.render(comparison).split("<script")[0]]
    for words in texts:
        assert re.findall(r"p (?:=|<|&lt;) [0-9.]+", words.replace("\\", "").split("* marks")[0])
        for rest in re.split(r"p (?:=|<|&lt;|\\<) [0-9.]+", words.replace("\u00a0", " ").split("* marks")[0])[1:]:
            assert rest.startswith((" (Mann-Whitney)", " (Poisson)", " (Fisher)", " (log-rank, exact)")), rest[:40]
    assert json.loads(machine.render(comparison))["arms"][1]["failures_test"] == "Fisher"


def test_partly_missing_metric_is_not_tested(new_run, compared):
    path = new_run(repeats=4)
    set_metric(path, "001-before-1", wq_delay_max_ms=None)
    before, after = figures(compared(path), "wq_delay_max_ms")
    assert len(before.values) == 3 and before.of == 4 and after.p is None and before.interval is None


def test_finished_despite_kills(new_run, compared, edit):
    path = new_run()
    cell = path / "cells/001-before-1/cell.json"
    edit(cell, verdict="oom", host={"ended_by": "guest"}, victims=[{"t": 1, "role": "bystander", "comm": "cron"}])
    assert figures(compared(path), "elapsed_s")[0].never == 0
    edit(cell, victims=[{"t": 1, "role": "workload", "comm": "fio"}])
    assert figures(compared(path), "elapsed_s")[0].never == 1
    edit(cell, victims=[{"t": 1, "role": "bystander", "comm": "cron"}])
    set_metric(path, "001-before-1", elapsed_s=None)
    assert figures(compared(path), "elapsed_s")[0].never == 1, "not over at the deadline"


def test_order_of_metrics_is_that_of_the_fullest_cell(new_run, compared, edit):
    path = new_run()
    units = {"oom_kills": {"unit": "", "better": "less", "label": "OOM kills"}}
    edit(path / "cells/001-before-1/cell.json", units=units)
    assert [metric.name for metric in compared(path).metrics][:3] == ["elapsed_s", "write_mib_s", "oom_kills"]


def test_broken_and_skipped_are_listed_and_not_counted(new_run, compared, edit):
    path = new_run(repeats=2)
    edit(path / "cells/001-before-1/cell.json", verdict="broken", reason="qemu died")
    column = compared(path).columns[0]
    assert column.verdicts == {"broken": 1, "panic": 1} and len(column.counted) == 1
    assert any("broken, not in the statistics" in note for row in tables.losses(compared(path)) for note in row.notes)


def test_extreme_of_a_dead_cell_is_a_bound(new_run, compared, edit):
    path = new_run()
    for cell in ("001-before-1", "002-after-1"):
        set_metric(path, cell, available_min_kib=4000, taken_gib_min=3.5)
        edit(path / "cells" / cell / "cell.json", units={"taken_gib_min": {"unit": "GiB/min"}})
    comparison = compared(path)
    bounds = {metric.name: [figure.bound for figure in metric.figures] for metric in comparison.metrics}
    assert bounds["cache_peak_kib.kcopyd_job"] == bounds["wq_delay_max_ms"] == ["at least", ""]
    assert bounds["taken_gib_min"] == ["", ""], "a rate a minute is no minimum"
    assert bounds["available_min_kib"] == ["at most", ""] and bounds["oom_kills"] == ["at least", ""]


def test_interrupted_cell_and_its_replacement_are_told_apart(new_run, compared, edit):
    path = new_run(repeats=2)
    edit(path / "cells/001-before-1/cell.json", interrupted=True)
    edit(path / "cells/003-before-2/cell.json", repeat=1)
    column = compared(path).columns[0]
    words = [analysis.repeat_words(column, cell) for cell in column.cells]
    assert words == [" #1 (interrupted)", " #1"] and column.verdicts == {"panic": 1}


def test_other_kernels_are_other_columns(new_run, compared, edit):
    first, second = new_run("a"), new_run("b")
    for cell in (second / "cells").iterdir():
        machine = json.loads((cell / "cell.json").read_text())["machine"]
        edit(cell / "cell.json", machine=machine | {"kernel": "6.12.0-1-amd64"})
    columns = compared(first, second).columns
    assert [column.label for column in columns] == [
        "6.1.0-42-amd64 \u00b7 before",
        "6.1.0-42-amd64 \u00b7 after",
        "6.12.0-1-amd64 \u00b7 before",
        "6.12.0-1-amd64 \u00b7 after",
    ]
    assert columns[3].baseline is columns[2] and columns[2].baseline is None


def test_two_kernels_of_one_run_are_as_two_runs(swap_runs, swap_run_on_two_kernels, compared):
    apart, together = (
        json.loads(machine.render(compared(*paths))) for paths in (swap_runs, [swap_run_on_two_kernels])
    )
    for arm in apart["arms"] + together["arms"]:
        for cell in arm["cells"]:
            del cell["cell"], cell["run"]
    assert len(together["arms"]) == 20 and len(together["effects"]) == 16
    for part in ("summary", "arms", "metrics", "effects", "statistics"):
        assert together[part] == apart[part], part


def test_each_kernel_of_a_run_has_its_own_package(swap_runs, swap_run_on_two_kernels, compared):
    for paths in (swap_runs, [swap_run_on_two_kernels]):
        comparison = compared(*paths)
        (packages,) = [row for row in tables.environment(comparison) if row.name == "kernel package"]
        assert packages.values == [f"linux-image-{column.key[1]}" for column in comparison.columns]


@pytest.mark.parametrize(("values", "pinned"), [(("0x0000", "0x0000"), True), (("0x0000", "0x0007"), False)])
def test_what_kernels_are_pinned_to_is_told(new_run, compared, edit, values, pinned):
    path = new_run()
    for name, kernel, value in zip(("001-before-1", "002-after-1"), ("6.1.0", "6.12.1"), values):
        file = path / f"cells/{name}/cell.json"
        record = json.loads(file.read_text())
        settings = record["settings"] | {"lru_gen.enabled": value}
        edit(file, settings=settings, machine=record["machine"] | {"kernel": kernel}, arm="before")
    (row,) = [row for row in tables.settings(compared(path))[pinned] if row.name == "lru_gen.enabled"]
    assert tuple(row.values) == values


def test_other_options_are_not_repeats(new_run, compared, edit):
    first, second = new_run("a"), new_run("b")
    for cell in (second / "cells").iterdir():
        edit(cell / "cell.json", options={"snapshot-cow": {"snapshots": "16", "chunk_kib": "4", "write_mib": "200"}})
    labels = [column.label for column in compared(first, second).columns]
    assert (
        labels[0] == "before \u00b7 snapshot-cow.snapshots=8" and labels[2] == "before \u00b7 snapshot-cow.snapshots=16"
    )


def test_same_options_in_two_runs_are_repeats(new_run, compared):
    columns = compared(new_run("a"), new_run("b", seed=7)).columns
    assert [len(column.cells) for column in columns] == [2, 2]
    assert [analysis.repeat_words(columns[0], cell) for cell in columns[0].cells] == [" run 1 #1", " run 2 #1"]


def test_before_is_the_baseline_in_any_order(new_run, compared):
    columns = compared(new_run("a", arms=["after"]), new_run("b", arms=["only-x", "before"])).columns
    assert [column.arm for column in columns] == ["before", "after", "only-x"] and columns[0].baseline is None


def test_mixed_settings_are_told(new_run, compared, edit):
    path = new_run(repeats=2)
    edit(path / "cells/001-before-1/cell.json", settings={"vm.dirty_ratio": "5"})
    assert any("repeats differ in" in note for note in tables.other_losses(compared(path)))


def test_settings_detectors_environment(pair, compared):
    comparison = compared(pair)
    differing, pinned = tables.settings(comparison)
    assert [(row.name, row.values) for row in differing] == [
        ("dm_snapshot.snapshot_cow_threshold", ["4294967295", "2048"])
    ]
    assert "vm.dirty_ratio" in [row.name for row in pinned]
    detectors = {row.name: row.values[0] for row in tables.detectors(comparison)}
    assert detectors["wq-watchdog"] == "absent: CONFIG_WQ_WATCHDOG not set"
    assert detectors["canary"] == "present, period 250 ms"
    environment = {row.name: row.values[0] for row in tables.environment(comparison)}
    assert environment["acceleration"] == "tcg (no kvm_intel or kvm_amd)" and environment["host memory"] == "16 GiB"
    assert tables.mitigations(comparison)[3].exercised == "not exercised"
