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
groups = 200
{options}
"""


@pytest.fixture(scope="module")
def churned(tmp_path_factory):
    directory = tmp_path_factory.mktemp("churn")
    scenario = directory / "churn.ini"
    scenario.write_text(CHURN.format(options="workers = 2\nlive = 4\ntasks = 1\ndentries = 20\ninodes = 2\npin_pct = 10"))
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


@pytest.mark.parametrize("method", ["libcgroup", "shell"])
def test_the_same_can_be_done_as_others_do_it(results, tmp_path, method):
    scenario = tmp_path / "churn.ini"
    scenario.write_text(CHURN.format(options=f"method = {method}"))
    done = headroom("run", scenario, "--kernel", "6.1", "--arms", "after", "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    metrics = cell(only_run(results), "001-after-1")["metrics"]
    assert metrics["groups_made"] == 200 and metrics["groups_removed_s"] > 0 and metrics["dying_left"] == 0


def test_what_was_asked_for_and_not_done_in_time_is_stuck(results, tmp_path):
    scenario = tmp_path / "churn.ini"
    scenario.write_text(CHURN.format(options="rate = 1").replace("run_s = 60", "run_s = 12"))
    done = headroom("run", scenario, "--kernel", "6.1", "--arms", "after", "--out", results, "--no-report")
    assert done.returncode == 1, done.stderr
    assert cell(only_run(results), "001-after-1")["verdict"] == "stuck"


def test_the_kernel_keeps_its_promises(results):
    done = headroom("run", "kmem-checks", "--kernel", "6.1", "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    told = {e["raw"].split()[0]: e["raw"] for e in lines(run, "001-after-1", "events.jsonl") if e["kind"] == "assertion"}
    assert len(told) == 6
    assert cell(run, "001-after-1")["metrics"]["kmem_checks_held"] == 6, told
