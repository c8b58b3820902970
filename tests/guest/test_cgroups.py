# SPDX-License-Identifier: MIT
"""Cgroups that come and go in real guests, and what the kernel promises about their memory."""
import pytest

from conftest import assert_nothing_left, cell, headroom, lines, only_run

CHURN = """[scenario]
summary = a small churn for the tests
memory = 320
run_s = 60
bystander = 8
expect-before = ok
expect-after = ok
[cgroup-churn]
groups = {groups}
{options}
"""


def churn_text(options, groups=200):
    return CHURN.format(options=options, groups=groups)


@pytest.fixture(scope="module")
def churned(tmp_path_factory):
    directory = tmp_path_factory.mktemp("churn")
    scenario = directory / "churn.ini"
    scenario.write_text(churn_text(options="workers = 2\nlive = 4\ntasks = 1\ndentries = 20\ninodes = 2\npin_pct = 10"))
    done = headroom("run", scenario, "--kernel", "6.1", "--arms", "before,after", "--out", directory / "results")
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    return only_run(directory / "results")


def test_groups_come_and_go_and_leave_nothing(churned):
    for name in ("001-before-1", "002-after-1"):
        metrics = cell(churned, name)["metrics"]
        assert metrics["groups_made"] == 200
        assert metrics["groups_removed_s"] > 0
        for what in ("mkdir", "rmdir", "attach"):
            assert 0 < metrics[f"{what}_p50_us"] <= metrics[f"{what}_p99_us"] <= metrics[f"{what}_max_us"]
        assert metrics["dying_left"] == 0
    assert_nothing_left(churned)


def test_what_somebody_else_holds_keeps_a_group_dying(churned):
    """One group in ten has a page in a file that is held until the end; all are gone when it is."""
    peak = cell(churned, "002-after-1")["metrics"]["dying_cgroups_peak"]
    assert 10 <= peak <= 200 / 10 + 8


def test_accounting_is_switched_at_boot_and_proved(churned):
    before, after = (cell(churned, name) for name in ("001-before-1", "002-after-1"))
    assert "cgroup.memory=nokmem" in before["machine"]["cmdline"].split()
    assert "cgroup.memory" not in after["machine"]["cmdline"]
    assert (before["mitigations"]["kmem-accounting"]["state"], before["mitigations"]["kmem-accounting"]["read_back"]) == ("off", "nokmem")
    assert (after["mitigations"]["kmem-accounting"]["state"], after["mitigations"]["kmem-accounting"]["read_back"]) == ("on", "default")
    assert after["mitigations"]["slab-sharing"]["state"] == "on"


def test_the_tear_down_is_complete(churned):
    for name in ("001-before-1", "002-after-1"):
        kinds = {e["kind"] for e in lines(churned, name, "events.jsonl") if e["source"] == "harness"}
        assert "done" in kinds and not kinds & {"undo-failed", "fail", "stuck"}


def churn(tmp_path, results, options, arms="after", groups=200):
    """One run of a churn with these options."""
    scenario = tmp_path / "churn.ini"
    scenario.write_text(churn_text(options, groups))
    done = headroom("run", scenario, "--kernel", "6.1", "--arms", arms, "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    return only_run(results)


def test_groups_can_be_made_through_libcgroup(results, tmp_path):
    metrics = cell(churn(tmp_path, results, "method = libcgroup\ntasks = 1"), "001-after-1")["metrics"]
    assert metrics["groups_made"] == 200 and metrics["groups_removed_s"] > 0 and metrics["dying_left"] == 0


def test_every_kind_of_kernel_memory_is_charged(results, tmp_path):
    """A hundred groups live at the same time, in each a process of two threads that holds some of everything."""
    loads = "live = 100\ntasks = 2\npopulation = threads\nstay = yes\nentry = clone\ndepth = 2\ncontrollers = all\nmigrate = yes\n"
    loads += "dentries = 5\ninodes = 2\npipes = 2\nsockets = 2\nepolls = 2\npercpu = 2\nstacks = 3"
    run = churn(tmp_path, results, loads, groups=120)
    metrics = cell(run, "001-after-1")["metrics"]
    assert metrics["groups_made"] == 120 and metrics["dying_left"] == 0
    assert metrics["slab_per_group_kib"] > 20 and metrics["charged_per_group_kib"] > 20
    assert "attach_p50_us" not in metrics, "nobody was moved"
    seen = [one["cgroups"]["groups"] for one in lines(run, "001-after-1", "samples.jsonl") if one.get("cgroups", {}).get("groups")]
    most = {part: max(groups.get("/headroom/churn", {}).get(part, 0) for groups in seen) for part in ("kernel_stack", "percpu", "slab")}
    assert most["kernel_stack"] >= 100 * 8 * 4096, "eight threads of each group"
    assert most["percpu"] >= 100 * 4 * 2 * 1024, "two maps of each of two threads, on two processors"


def test_reclaim_frees_groups_that_only_page_cache_keeps(results, tmp_path):
    options = "rate = 40\ntasks = 1\nentry = clone\npin_pct = 50\npin = cache\nsettle_s = 2"
    run = churn(tmp_path, results, options, arms="without-dying-reclaim,after", groups=400)
    kept, reclaimed = cell(run, "001-without-dying-reclaim-1"), cell(run, "002-after-1")
    assert kept["metrics"]["dying_cgroups_peak"] > 2 * reclaimed["metrics"]["dying_cgroups_peak"]
    assert kept["metrics"]["dying_cgroups_peak"] >= 100, "of 200 that were pinned"
    assert reclaimed["metrics"]["reclaims"] > 5 and "reclaims" not in kept["metrics"]
    assert [one["mitigations"]["dying-reclaim"]["state"] for one in (kept, reclaimed)] == ["off", "on"]
    assert reclaimed["mitigations"]["dying-reclaim"]["exercised"] is True


def test_a_dentry_that_is_open_does_not_keep_a_group_where_slabs_are_shared(results, tmp_path):
    """Since 5.9 the object goes to the parent with its charge, and the group can die."""
    options = "tasks = 1\nentry = clone\npin_pct = 50\npin = dentry"
    metrics = cell(churn(tmp_path, results, options), "001-after-1")["metrics"]
    assert metrics["dying_cgroups_peak"] < 20, "100 were pinned"


def test_what_is_left_over_is_said(results, tmp_path):
    run = churn(tmp_path, results, "leaks = yes\nleak_kib = 0\ntasks = 1")
    (said,) = [finding["text"] for finding in cell(run, "001-after-1")["findings"]]
    assert said.startswith("cgroup-churn: left over 1") and "(0 KiB allowed for each)" in said
    assert "returned_s" not in cell(run, "001-after-1")["metrics"]


def test_the_ways_to_make_groups_are_timed_in_one_guest(results):
    short = ["--set", "churn-rates.rounds=3", "--set", "churn-rates.groups=100", "--set", "churn-rates.slow_groups=5"]
    done = headroom("run", "churn-rates", "--kernel", "6.1", *short, "--set", "churn-rates.stress_s=2", "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    metrics = cell(only_run(results), "001-after-1")["metrics"]
    assert metrics["raw_groups_s"] > metrics["libcgroup_groups_s"] > 0
    for way in ("cgcreate", "shell"):
        assert metrics[f"{way}_groups_s"] > 0 and metrics[f"raw_to_{way}"] > 1.5


def test_a_build_fills_a_row_of_the_table(results):
    done = headroom("run", "cgroup-build", "--kernel", "6.1", "--arms", "after", "--set", "build-load.time_s=12", "--set", "build-load.jobs=4", "--out", results)
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    metrics = cell(run, "001-after-1")["metrics"]
    assert metrics["build_memory_peak_kib"] > metrics["build_kernel_peak_kib"] > metrics["build_slab_peak_kib"] > 0
    assert metrics["meminfo_slab_peak_kib"] >= metrics["meminfo_slab_start_kib"] > metrics["build_slab_peak_kib"]
    assert metrics["units_s"] > 0
    rows = (run / "cells/001-after-1/tools/build.csv").read_text().splitlines()
    assert rows[0].startswith("t_s,memory_current_kib") and 3 <= len(rows) - 1 <= 5
    assert "Peaks while a build ran in a group" in (run / "report.html").read_text()


def test_what_was_asked_for_and_not_done_in_time_is_stuck(results, tmp_path):
    scenario = tmp_path / "churn.ini"
    scenario.write_text(churn_text(options="rate = 1\nlive = 5").replace("run_s = 60", "run_s = 12"))
    done = headroom("run", scenario, "--kernel", "6.1", "--arms", "after", "--out", results, "--no-report")
    assert done.returncode == 1, done.stderr
    stuck = cell(only_run(results), "001-after-1")
    assert stuck["verdict"] == "stuck"
    (said,) = [finding["text"] for finding in stuck["findings"]]
    assert "did not come to its end" in said and "nothing was looked for" in said
    assert "dying_leaked" not in stuck["metrics"] and "settle_s" not in stuck["metrics"]


PROMISES = """[scenario]
summary = the assertions beside a small churn
memory = 512
run_s = 180
[kmem-checks]
[cgroup-churn]
groups = 100000
time_s = 20
tasks = 1
entry = clone
dentries = 20
"""


def test_the_kernel_keeps_its_promises_while_groups_come_and_go(results, tmp_path):
    scenario = tmp_path / "promises.ini"
    scenario.write_text(PROMISES)
    done = headroom("run", scenario, "--kernel", "6.1", "--arms", "after", "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    found = [finding["text"] for finding in cell(run, "001-after-1")["findings"]]
    told = [text for text in found if text.startswith("kmem-checks: ")]
    assert len(told) == 6 and all(" held: " in text and text in done.stderr for text in told), told
    assert cell(run, "001-after-1")["metrics"]["kmem_checks_held"] == 6
    # Each workload has a group for its processes, and one for the groups that it makes.
    groups = lines(run, "001-after-1", "samples.jsonl")[-1]["cgroups"]["groups"]
    own = {"/headroom/workload/kmem-checks", "/headroom/workload/cgroup-churn", "/headroom/kmem", "/headroom/churn"}
    assert own <= set(groups)
    assert groups["/headroom/churn"]["current"] > 0
    (over,) = [text for text in found if text.startswith("cgroup-churn: ")]
    assert "0 groups dying" in over
