# SPDX-License-Identifier: MIT
"""Cells in real guests: what each way to end looks like in the record."""
import gzip
import json
import os
import shutil
import time

import pytest

from conftest import (assert_console_events_once, assert_nothing_left, cell, default_kernel, headroom, journal, lines, only_run,
                      small)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """The project's first promise, once for all tests that look at it: `snapshot`, before and after."""
    directory = tmp_path_factory.mktemp("first") / "results"
    done = headroom("run", "snapshot", "--seed", 42, "--out", directory)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    return only_run(directory), done


def test_before_runs_out_of_memory_and_names_its_victims(first_run):
    before = cell(first_run[0], "001-before-1")
    assert before["verdict"] in ("oom", "panic")
    assert before["metrics"]["oom_kills"] >= 1
    assert before["victims"], "every victim is named"
    assert {v["role"] for v in before["victims"]} <= {"workload", "bystander"}
    assert before["metrics"]["cache_peak_kib"]["kcopyd_job"] > 150 * 1024
    assert before["mitigations"]["cow-limit"]["state"] == "off"
    assert before["mitigations"]["cow-limit"]["exercised"] is True


def test_after_finishes_with_every_block_verified(first_run):
    after = cell(first_run[0], "002-after-1")
    assert after["verdict"] == "ok", after["reason"]
    assert after["metrics"]["data_verified"] is True
    assert after["metrics"]["snapshots_verified"] == 8
    assert after["metrics"]["oom_kills"] == 0
    assert after["metrics"]["cache_peak_kib"]["kcopyd_job"] < 64 * 1024
    assert after["mitigations"]["cow-limit"]["state"] == "on"
    assert after["mitigations"]["cow-limit"]["exercised"] is True


@pytest.fixture(scope="module")
def run_on_two_kernels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    done = headroom("run", small(directory), "--kernel", "6.1", "--kernel", "6.12", "--arms", "after", "--seed", 5, "--json",
                    "--out", directory / "results")
    assert done.returncode == 0, done.stderr
    return only_run(directory / "results"), json.loads(done.stdout)


def test_each_arm_runs_on_each_kernel(run_on_two_kernels):
    run, told = run_on_two_kernels
    plan = json.loads((run / "run.json").read_text())
    assert [(row["cell"], row["kernel"]) for row in plan["plan"]] == [("001-after-6.1-1", "6.1"), ("002-after-6.12-1", "6.12")]
    assert [k["spec"] for k in plan["kernels"]] == ["6.1", "6.12"] and "kernel" not in plan
    for kernel, row, said in zip(plan["kernels"], plan["plan"], told["cells"], strict=True):
        record = cell(run, row["cell"])
        assert record["verdict"] == "ok", record["reason"]
        assert record["machine"]["kernel"] == kernel["version"] == said["kernel"]
        assert kernel["version"].startswith(row["kernel"] + ".")
        # What the guest's own kernel said of itself.
        assert f"Linux version {kernel['version']} " in record["machine"]["kernel_banner"]
        assert kernel["version"] in kernel["source"]
    assert_nothing_left(run)


def test_kernels_do_not_differ_in_what_is_pinned(run_on_two_kernels):
    run, _ = run_on_two_kernels
    old, new = (cell(run, name)["settings"] for name in ("001-after-6.1-1", "002-after-6.12-1"))
    # 6.12 would have it on.
    assert old["lru_gen.enabled"] == new["lru_gen.enabled"] == "0x0000"


def test_a_run_on_two_kernels_has_a_column_for_each(run_on_two_kernels):
    run, _ = run_on_two_kernels
    compared = json.loads(headroom("compare", run, "--json", "-").stdout)
    kernels = [k["version"] for k in json.loads((run / "run.json").read_text())["kernels"]]
    assert [(arm["arm"], arm["kernel"]) for arm in compared["arms"]] == [("after", kernel) for kernel in kernels]
    assert all(kernel in (run / "report.html").read_text() for kernel in kernels)


def test_the_oom_counter_and_the_log_agree(first_run):
    run, _ = first_run
    for name in ("001-before-1", "002-after-1"):
        kills = [e for e in lines(run, name, "events.jsonl") if e["kind"] in ("oom-kill", "memcg-oom-kill")]
        assert len(kills) == cell(run, name)["metrics"]["oom_kills"]
        assert cell(run, name)["oom"]["agree"] is True
        assert_console_events_once(run, name)


def test_samples_come_ten_a_second_and_losses_are_counted(first_run):
    run, _ = first_run
    samples = lines(run, "002-after-1", "samples.jsonl")
    record = cell(run, "002-after-1")
    assert len(samples) == record["samples"]["taken"]
    assert sum(s["missed"] for s in samples) == record["samples"]["missed"]
    assert samples[0]["t"] < 0, "a baseline before the start line"
    span = samples[-1]["t"] - samples[0]["t"]
    assert len(samples) + record["samples"]["missed"] == pytest.approx(span * 10, abs=3)
    for key in ("mem", "vm", "psi", "disk", "canary"):
        assert key in samples[5], f"{key} is in every sample"
    with_slab = [s["t"] for s in samples if "slab" in s]
    assert with_slab[0] == samples[0]["t"] and with_slab[-1] == samples[-1]["t"]
    # Once a second at least, but where the machine was too busy for it.
    assert sorted(b - a for a, b in zip(with_slab, with_slab[1:]))[len(with_slab) // 2] < 1.3
    assert any("dm" in s and len(s["dm"]["targets"]) == 8 for s in samples)


def test_slab_figures_are_exact_within_the_error_they_claim(first_run):
    run, _ = first_run
    events = lines(run, "002-after-1", "events.jsonl")
    (caches,) = [e["caches"] for e in events if e["kind"] == "slab-caches"]
    (shrunk,) = [e for e in events if e["kind"] == "slab-shrunk"]
    assert shrunk["not_shrunk"] == 0 and len(caches) > 50
    # Nobody copies any more: what is gone after the shrink was free before, and counted as in use.
    before, after = (shrunk[when]["slab"]["kcopyd_job"][0] for when in ("before", "after"))
    assert 0 <= before - after <= caches["kcopyd_job"]["slack"]
    metrics = cell(run, "002-after-1")["metrics"]
    assert 0 < metrics["slab_utilisation_least_pct"] < metrics["slab_utilisation_pct"] <= 100
    assert 0 < metrics["slab_utilisation_exact_pct"] <= 100


def test_the_most_specific_detector_speaks_first(first_run):
    detectors = cell(first_run[0], "002-after-1")["detectors"]
    thresholds = [detectors[name].get("threshold_s") for name in ("rcu-stall", "soft-lockup", "hung-task")]
    assert None not in thresholds and thresholds == sorted(set(thresholds))
    assert detectors["wq-watchdog"] == {"present": False, "why": "CONFIG_WQ_WATCHDOG not set"}
    assert detectors["offline-reasons"]["present"] is True


def test_cgroups_are_watched_each_for_itself(first_run):
    # The tear-down removes them, and what was just removed may be dying.
    (end,) = [p["t"] for p in cell(first_run[0], "002-after-1")["phases"] if p["name"] == "teardown"]
    seen = [s["cgroups"]["groups"] for s in lines(first_run[0], "002-after-1", "samples.jsonl")
            if "cgroups" in s and s["t"] < end]
    assert {"/", "/headroom", "/headroom/workload", "/headroom/bystander", "/headroom/harness"} == set(seen[-1])
    most = {name: {key: max(groups[name].get(key, 0) for groups in seen) for key in ("anon", "slab")} for name in seen[-1]}
    assert most["/headroom/bystander"]["anon"] > 100 << 20 > most["/headroom/harness"]["anon"]
    assert most["/headroom"]["anon"] >= most["/headroom/bystander"]["anon"]
    assert 0 < most["/headroom/workload"]["slab"] <= most["/"]["slab"]
    assert seen[-1]["/"]["nr_dying_descendants"] == 0


def test_the_run_ends_with_verdicts_and_a_report(first_run):
    run, done = first_run
    assert "before" in done.stdout and "after" in done.stdout
    assert f"report: {run}/report.html" in done.stdout
    report = (run / "report.html").read_text()
    assert "kcopyd_job" in report
    assert [e["event"] for e in journal(run)] == ["run-start", "cell-start", "cell-end", "cell-start", "cell-end", "run-end"]
    assert_nothing_left(run)


def test_a_panicking_guest_is_recorded_up_to_its_last_moment(results, tmp_path):
    # A process that holds more than the machine has, and a kernel told to panic rather than to kill.
    scenario = small(tmp_path, bystander=900, panic_on_oom="yes")
    done = headroom("run", scenario, "--arms", "before", "--out", results)
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    record = cell(run, "001-before-1")
    assert record["verdict"] == "panic"
    assert "panic_on_oom" in record["reason"]
    assert record["host"]["ended_by"] == "panic"
    panic = [e for e in lines(run, "001-before-1", "events.jsonl") if e["kind"] == "panic"]
    assert len(panic) == 1
    assert "out_of_memory" in " ".join(panic[0]["stack"])
    last = lines(run, "001-before-1", "samples.jsonl")[-1]
    assert 0 <= panic[0]["t"] - last["t"] < 1
    assert_nothing_left(results)


def test_a_bystander_that_is_killed_is_named(results, tmp_path):
    scenario = small(tmp_path, bystander=900)
    done = headroom("run", scenario, "--arms", "before", "--out", results, "--json", "--no-report")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["cells"][0]["verdict"] == "oom"
    victims = cell(only_run(results), "001-before-1")["victims"]
    assert [(v["comm"], v["role"], v["cgroup"]) for v in victims] == [("bystander", "bystander", "/headroom/bystander")]
    assert not (only_run(results) / "report.html").exists()


def test_a_full_cow_device_is_an_outcome_of_its_own(results, tmp_path):
    scenario = small(tmp_path, options="cow_mib = 2")
    done = headroom("run", scenario, "--arms", "after", "--out", results, "--no-report")
    assert done.returncode == 4
    record = cell(only_run(results), "001-after-1")
    assert record["verdict"] == "broken"
    assert record["outcome"] == "snapshot-overflow"


@pytest.mark.parametrize("options", ["damage = origin", "damage = snapshot", "damage = snapshot\npersistent = no"])
def test_a_block_that_is_wrong_is_found(results, tmp_path, options):
    scenario = small(tmp_path, options=options)
    done = headroom("run", scenario, "--arms", "after", "--out", results, "--no-report")
    assert done.returncode == 1, "not the expected ok"
    record = cell(only_run(results), "001-after-1")
    assert record["verdict"] == "corrupt", record["reason"]
    assert record["metrics"]["data_verified"] is False


@pytest.mark.parametrize("options", ["persistent = no\npattern = random\nwriters = 3\ndirect = yes",
                                     "write_snapshots = first-after\nblock_kib = 4096",
                                     "write_snapshots = all-parallel\nprefill = zero\nchunk_kib = 64"])
def test_every_form_of_the_load_verifies(results, tmp_path, options):
    scenario = small(tmp_path, options=options)
    done = headroom("run", scenario, "--arms", "after", "--out", results, "--no-report")
    record = cell(only_run(results), "001-after-1")
    assert done.returncode == 0, record["reason"]
    assert record["metrics"]["data_verified"] is True


@pytest.mark.parametrize("kernel", ["5.10", "6.12", "7.2"])
def test_other_debian_kernels_run_the_same_cell(results, tmp_path, kernel):
    done = headroom("run", small(tmp_path), "--arms", "after", "--kernel", kernel, "--out", results, timeout=1800)
    assert done.returncode == 0, done.stderr
    record = cell(only_run(results), "001-after-1")
    assert record["verdict"] == "ok", record["reason"]
    assert record["machine"]["kernel"].startswith(kernel)
    assert record["settings"]["dm_snapshot.snapshot_cow_threshold"] == "2048"


def test_a_kernel_that_cannot_mount_its_disk_ends_as_broken_with_its_last_words(results, tmp_path):
    lone = tmp_path / "vmlinuz-lone"
    shutil.copy(default_kernel(), lone)  # without its modules it finds no disk
    empty = tmp_path / "no-modules"
    empty.mkdir()
    begin = time.monotonic()
    done = headroom("run", small(tmp_path), "--kernel", lone, "--modules", empty, "--arms", "after", "--out", results,
                    "--no-report")
    if done.returncode == 3:  # refused before it is started is as good
        assert not results.exists()
        return
    assert done.returncode == 4
    assert time.monotonic() - begin < 60
    record = cell(only_run(results), "001-after-1")
    assert record["verdict"] == "broken"
    assert "did not boot" in record["reason"]
    assert "vda" in record["reason"], "the console's last words"
    assert_nothing_left(results)


def test_a_kernel_that_says_nothing_ends_as_broken_within_its_bound(results, tmp_path):
    # A bzImage whose payload is garbage: the processor runs into nowhere without a word.
    image = bytearray(open(default_kernel(), "rb").read())
    setup = (image[0x1f1] or 4) + 1
    image[setup * 512:] = gzip.compress(b"not a kernel") + bytes(len(image) - setup * 512 - 32)
    mute = tmp_path / "vmlinuz-mute"
    mute.write_bytes(image)
    begin = time.monotonic()
    done = headroom("run", small(tmp_path), "--kernel", mute, "--arms", "after", "--out", results, "--no-report",
                    "--accel", "tcg")
    assert done.returncode == 4, done.stderr
    assert time.monotonic() - begin < 75
    assert "did not boot" in cell(only_run(results), "001-after-1")["reason"]
    assert_nothing_left(results)


# What happens to the first guest: it is made to wait in its first process, for ever; or dies of what emulation does.
CHANCES = {
    "hung while it booted": """
    for i in "${!args[@]}"; do [ "${args[i]}" != -append ] || args[i+1]+=" headroom.shell loglevel=7"; done""",
    "ran into a breakpoint that was not there any more": """
    for arg in "$@"; do [[ $arg != *id=console,path=* ]] || echo "[ 2.5] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI" >"${arg##*path=}"; done
    exit 0""",
}


@pytest.mark.parametrize("chance", CHANCES)
def test_a_guest_that_fails_by_chance_while_it_boots_is_started_once_more(results, tmp_path, chance):
    real, begun = shutil.which("qemu-system-x86_64"), tmp_path / "begun"
    wrapper = tmp_path / "bin/qemu-system-x86_64"
    wrapper.parent.mkdir()
    wrapper.write_text(f"""#!/bin/bash
args=("$@")
if [[ "$*" == *id=box* ]] && mkdir {begun} 2>/dev/null; then # not the probe of the accelerator
{CHANCES[chance]}
fi
exec {real} "${{args[@]}}"
""")
    wrapper.chmod(0o755)
    done = headroom("run", small(tmp_path), "--arms", "after", "--accel", "tcg", "--out", results, "--no-report",
                    env=os.environ | {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr
    assert chance in done.stderr and "it is started again" in done.stderr
    run = only_run(results)
    assert cell(run, "001-after-1")["verdict"] == "ok"
    assert [line["cell"] for line in journal(run) if line["event"] == "boot-again"] == ["001-after-1"]
    assert_nothing_left(results)


def test_workqueue_tracepoints_tell_who_waited(tmp_path, results):
    scenario = small(tmp_path, extra="wq_trace = yes\nwq_trace_ms = 5")
    done = headroom("run", scenario, "--arms", "before", "--seed", 5, "--out", results)
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    record, events = cell(run, "001-before-1"), lines(run, "001-before-1", "events.jsonl")
    assert record["detectors"]["wq-trace"] == {"present": True, "threshold_s": 0.005}
    (trace,) = [e for e in events if e["kind"] == "wq-trace"]
    assert trace["lost"] == trace["losses"] == 0 and trace["left_out"]["bad"] == 0
    assert trace["events"] > 500 and trace["buffers_kib"] >= 2 * 4096
    names = {f["function"] for f in trace["by_wait"] + trace["by_run"]}
    assert "do_work [dm_mod]" in names, names
    for entry in trace["by_wait"] + trace["pools"]:
        assert sum(entry["wait_histogram"]) == entry["wait_n"]
    longest = max(p["wait_max_ms"] for p in trace["pools"])
    assert longest <= record["metrics"]["wq_trace_max_ms"]
    stalls = [e for e in events if e["kind"] == "wq-stall"]
    assert len(stalls) == trace["stalls_written"] >= 1
    assert all(e["waited_ms"] >= 5 and e.get("hog_ms", 0) <= e["waited_ms"] for e in stalls)
