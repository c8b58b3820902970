# SPDX-License-Identifier: MIT
"""The copy engine on real block devices in real guests, beside the kernel's dm-snapshot, whose stores are its own."""
import pytest

from conftest import cell, headroom, lines, only_run

SMALL_COW = """[scenario]
summary = a small cell for the tests
memory = 256
run_s = 60
verify_s = 60
bystander = 8
expect-after = ok
[engine-cow]
snapshots = 3
origin_mib = {origin_mib}
limit_mib = {limit_mib}
{options}
"""


def run_one(directory, arm, *, origin_mib=16, limit_mib=64, options="", kernel="default"):
    scenario = directory / "small-cow.ini"
    scenario.write_text(SMALL_COW.format(origin_mib=origin_mib, limit_mib=limit_mib, options=options))
    done = headroom("run", scenario, "--kernel", kernel, "--arms", arm, "--out", directory / "results", "--no-report")
    return done, only_run(directory / "results")


@pytest.mark.parametrize("kernel, options", [
    ("6.1", "kernel_pct = 30"),
    ("6.12", "kernel_pct = 30\nchunk_kib = 16\npattern = seq\nqueue_depth = 64"),
    ("7.2", "durable = no"),
])
def test_engine_and_kernel_go_on_with_what_the_other_has_written(tmp_path, kernel, options):
    """The kernel writes a part, the engine the rest, and each reads all snapshots; or the engine begins."""
    done, run = run_one(tmp_path, "after", kernel=kernel, options=options)
    record = cell(run, "001-after-1")
    assert done.returncode == 0, record["reason"]
    metrics = record["metrics"]
    assert metrics["data_verified"] is True and metrics["snapshots_verified"] == 3
    chunk_kib = 16 if "chunk_kib" in options else 4
    chunks = 16 * 1024 // chunk_kib
    assert metrics["chunks_copied"] == chunks - (chunks * 30 // 100 if "kernel_pct" in options else 0)


def test_without_bounds_its_memory_runs_out_and_the_snapshots_are_right_all_the_same(tmp_path):
    done, run = run_one(tmp_path, "before", origin_mib=64, limit_mib=24)
    assert done.returncode == 0, done.stderr
    record = cell(run, "001-before-1")
    assert record["verdict"] == "oom", record["reason"]
    kills = [event for event in lines(run, "001-before-1", "events.jsonl") if event["kind"] == "memcg-oom-kill"]
    assert kills and kills[0]["victim"]["comm"] == "hr-engine" and kills[0]["victim"]["cgroup"] == "/headroom/engine"
    assert record["metrics"]["snapshots_verified"] == 3
    mitigations = record["mitigations"]
    assert all(mitigations[name]["state"] == "off" for name in ("engine-cow-limit", "engine-staging-cap"))
    # With chunks this small its jobs take the memory before what they stage comes to the cap.
    assert mitigations["engine-cow-limit"]["exercised"]


def test_what_is_staged_without_a_cap_is_more_than_the_cap_would_allow(tmp_path):
    done, run = run_one(tmp_path, "before", origin_mib=64, limit_mib=40, options="chunk_kib = 64")
    assert done.returncode == 0, done.stderr
    cap = cell(run, "001-before-1")["mitigations"]["engine-staging-cap"]
    assert cap["state"] == "off" and cap["exercised"], cap["evidence"]


@pytest.mark.parametrize("damage", ["origin", "snapshot"])
def test_a_block_that_is_wrong_is_found(tmp_path, damage):
    done, run = run_one(tmp_path, "after", options=f"damage = {damage}")
    record = cell(run, "001-after-1")
    assert done.returncode == 1 and record["verdict"] == "corrupt", record["reason"]
