# SPDX-License-Identifier: MIT
"""The slab allocator under groups that come and go, in a group with little memory: a real OOM killer, and real PSI."""
import pytest

from conftest import cell, headroom, lines, only_run

SMALL_SLAB = """[scenario]
summary = a small cell for the tests
memory = 256
run_s = 60
bystander = 8
expect-after = ok
[engine-slab]
groups = 400
limit_mib = {limit_mib}
time_s = {time_s}
{options}
"""


def run_one(directory, arm, *, limit_mib=40, time_s=6, options=""):
    scenario = directory / "small-slab.ini"
    scenario.write_text(SMALL_SLAB.format(limit_mib=limit_mib, time_s=time_s, options=options))
    done = headroom("run", scenario, "--arms", arm, "--out", directory / "results", "--no-report")
    run = only_run(directory / "results")
    return done, run, cell(run, f"001-{arm}-1")


def shares(run, arm):
    """How much of what is held are objects, over time."""
    return [event["live_kib"] / event["held_kib"] for event in lines(run, f"001-{arm}-1", "events.jsonl")
            if event["kind"] == "engine-slab"]


def test_groups_that_share_slabs_fill_them_and_stay_in_their_memory(tmp_path):
    done, run, record = run_one(tmp_path, "after", options="growth_stall_ms = 200\ngrowth_stall_every = 40")
    assert done.returncode == 0 and record["verdict"] == "ok", record["reason"]
    metrics, mitigations = record["metrics"], record["mitigations"]
    assert min(shares(run, "after")[-10:]) > 0.75 and metrics["engine_slab_utilisation_pct"] > 75
    assert metrics["objects_proved"] > 10000 and metrics["reparents"] > 400 and metrics["reparent_walked"] == 0
    assert metrics["engine_memory_peak_kib"] <= 40 * 1024
    for name in ("engine-slab-sharing", "engine-reparenting", "engine-emergency-objects", "engine-pcp-drain"):
        assert mitigations[name]["state"] == "on" and mitigations[name]["exercised"], mitigations[name]["evidence"]
    assert metrics["arenas_offlined"] > 0 and metrics["pcp_stuck"] == 0
    # There was room enough.
    assert mitigations["engine-trim"]["state"] == "on" and not mitigations["engine-trim"]["exercised"]


def test_groups_with_slabs_of_their_own_run_out_of_it(tmp_path):
    done, run, record = run_one(tmp_path, "before")
    assert done.returncode == 0 and record["verdict"] == "oom", record["reason"]
    kills = [event for event in lines(run, "001-before-1", "events.jsonl") if event["kind"] == "memcg-oom-kill"]
    assert kills and kills[0]["victim"]["comm"] == "hr-slab" and kills[0]["victim"]["cgroup"] == "/headroom/engine-slab"
    # The report of which this is the remedy has 45 to 65 %.
    assert 0.25 < shares(run, "before")[-1] < 0.65
    assert record["mitigations"]["engine-slab-sharing"]["exercised"]


def test_an_object_that_is_wrong_is_found(tmp_path):
    done, _, record = run_one(tmp_path, "after", options="damage = yes")
    assert done.returncode == 1 and record["verdict"] == "corrupt", record["reason"]


@pytest.mark.parametrize("arm, metric", [
    ("without-engine-reparenting", "reparent_walked"),
    ("without-engine-pcp-drain", "pcp_stuck"),
])
def test_what_is_left_out_is_missed(tmp_path, arm, metric):
    _, _, record = run_one(tmp_path, arm, limit_mib=64)
    name = arm.removeprefix("without-")
    assert record["verdict"] == "ok", record["reason"]
    assert record["mitigations"][name]["state"] == "off" and record["mitigations"][name]["exercised"]
    assert record["metrics"][metric] > 0
