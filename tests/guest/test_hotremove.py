# SPDX-License-Identifier: MIT
"""Memory that is taken away in a real guest, while four threads wait for each other."""
import pytest
from conftest import assert_nothing_left, cell, headroom, lines, only_run


def events(run, name):
    return lines(run, name, "events.jsonl")


def test_the_four_threads_are_named_and_let_go(results):
    done = headroom("run", "hotremove-deadlock", "--kernel", "6.1", "--arms", "before,only-core-to-file", "--out", results)
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    stuck, fine = cell(run, "001-before-1"), cell(run, "002-only-core-to-file-1")
    assert stuck["verdict"] == "deadlock"
    order = ["hr-victim", "the pipe of the core", "hr-core-helper", "cgroup_mutex", "hr-lru-gen", "mem_hotplug_lock", "hr-offline", "pages that are in use"]
    at = [stuck["reason"].index(name) for name in order]
    assert at == sorted(at), stuck["reason"]
    assert stuck["metrics"]["deadlocked"] is True and stuck["metrics"]["drain_ms"] < 10_000
    assert stuck["metrics"]["bystander_wait_ms"] > 5000
    assert fine["verdict"] == "ok" and fine["metrics"]["deadlocked"] is False and fine["metrics"]["offline_errno"] == 0
    assert stuck["metrics"]["retry_ms"] > 0, "the same block goes when nobody is in the way"
    told = [event for event in events(run, "001-before-1") if event["kind"].startswith("deadlock")]
    assert [step["comm"] for step in told[0]["steps"]] == ["hr-victim", "hr-core-helper", "hr-lru-gen", "hr-offline"]
    assert "dump_user_range" in told[0]["steps"][0]["stack"] and told[0]["steps"][2]["where"] == "get_online_mems"
    assert told[1]["drained"] and told[1]["drain_ms"] == stuck["metrics"]["drain_ms"]
    assert "deadlock" in (run / "report.html").read_text()
    assert_nothing_left(run)


def test_a_supervisor_that_reads_before_it_signals_never_signals(results):
    done = headroom("run", "hotremove-supervisor", "--kernel", "6.1", "--arms", "before,only-supervisor-signals-first", "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    steps = next(event for event in events(run, "001-before-1") if event["kind"] == "deadlock")["steps"]
    assert [(step["comm"], step["waits"]) for step in steps] == [
        ("hr-offline", "the signal of its supervisor"), ("hr-supervisor", "cgroup_mutex"), ("hr-lru-gen", "mem_hotplug_lock")]
    fine = cell(run, "002-only-supervisor-signals-first-1")
    assert fine["metrics"]["deadlocked"] is False and fine["metrics"]["offline_s"] < 30, "ended by its supervisor, not by us at 40 s"
    assert_nothing_left(run)


@pytest.mark.parametrize("pin", ["direct", "core"])
def test_a_page_that_is_held_keeps_its_block_and_no_other(results, tmp_path, pin):
    scenario = tmp_path / "pinned.ini"
    scenario.write_text(f"""[scenario]
memory = 512
dimms = 2
dimm_mib = 128
cpus = 2
run_s = 150
arms = bound
[arm bound]
offline-bound = 20000
[mem-offline]
ratio_pct = 100
rounds = 1
stressors = 0
pin = {pin}
pin_hold_ms = 45000
""")
    done = headroom("run", scenario, "--kernel", "6.1", "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    tries = {event["block"]: event for event in events(run, "001-bound-1") if event["kind"] == "offline"}
    held = next(event["block"] for event in events(run, "001-bound-1") if event["kind"] == "pin")
    refused = tries.pop(held)
    assert refused["errno"] == "EINTR" and refused["ended"] and refused["reason"] == "signal backoff" and refused["failed"] > 0
    assert "errno" not in tries.popitem()[1] and not tries
    metrics = cell(run, "001-bound-1")["metrics"]
    assert metrics["offlined"] == 1 and metrics["refused_eintr"] == 1 and metrics["left_offline"] == 0
    assert_nothing_left(run)


def test_the_selftest_takes_its_share_of_all_blocks(results):
    done = headroom("run", "mem-on-off-10", "--kernel", "6.1", "--arms", "before", "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    tries = [event for event in events(run, "001-before-1") if event["kind"] == "offline"]
    went = [event for event in tries if "errno" not in event]
    assert len(went) == 2, "a tenth of eleven or so, rounded up"
    assert cell(run, "001-before-1")["metrics"]["left_offline"] == 0


def test_a_dimm_goes_and_comes_back(results):
    """The cell itself checks each place where memory is accounted; here, that the record says what happened."""
    done = headroom("run", "dimm-unplug", "--kernel", "6.1", "--set", "dimm-unplug.rounds=2", "--out", results)
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    got = cell(run, "001-before-1")
    metrics, seen = got["metrics"], events(run, "001-before-1")
    assert got["verdict"] == "ok", got["reason"]
    assert metrics["rounds"] == 2 and metrics["unplugged_mib"] == 512
    assert metrics["left_offline"] == 0 and metrics["not_back"] == 0
    out = [e for e in seen if e["kind"] == "unplug"]
    assert [e["dimm"] for e in out if "errno" not in e] == [0, 1], "another one each time"
    assert metrics["unplugs_refused"] == sum("errno" in e for e in out)
    back = [e for e in seen if e["kind"] == "plug"]
    assert [(e["dimm"], e["mib"]) for e in back] == [(0, 256), (1, 256)] and not any("errno" in e for e in back)
    assert 0 < metrics["unplug_p50_ms"] <= metrics["unplug_max_ms"]
    assert metrics["plug_max_ms"] == max(e["took_ms"] for e in back)
    # The recorder saw the memory go and come, by itself.
    movable = [s["zone_movable"]["managed_kib"] for s in lines(run, "001-before-1", "samples.jsonl")]
    assert max(movable) - min(movable) >= 256 * 1024 and movable[-1] == max(movable)
    assert_nothing_left(run)


def test_without_dimms_there_is_nothing_to_unplug(results):
    done = headroom("run", "dimm-unplug", "--kernel", "6.1", "--set", "scenario.dimms=0", "--out", results)
    got = cell(only_run(results), "001-before-1")
    assert got["verdict"] == "skipped" and "scenario.dimms" in got["reason"], done.stderr
