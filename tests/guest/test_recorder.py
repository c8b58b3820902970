# SPDX-License-Identifier: MIT
"""What the flight recorder lives through, and what its record says of it."""
import pytest

from conftest import assert_console_events_once, cell, headroom, lines, only_run


def test_a_flooded_kernel_log_loses_nothing_uncounted(results):
    done = headroom("run", "klog-flood", "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    record = cell(run, "001-after-1")
    log = (run / "cells/001-after-1/kmsg.log").read_text().splitlines()
    sequence = [int(line.split(",", 2)[1]) for line in log if line[:1].isdigit()]
    lost, dropped = record["samples"]["kmsg_lost"], record["samples"]["kmsg_dropped"]
    # By the kernel's own numbers: every line is in the record, was overwritten before it was read, or gave way in the box.
    assert sequence == sorted(set(sequence))
    assert len(sequence) + lost + dropped == sequence[-1] - sequence[0] + 1
    assert sequence[-1] > record["metrics"]["flood_lines"] == 200000
    assert dropped > 0, "the flood is larger than the room for it"
    assert record["samples"]["box_lost"] == 0
    told = sum(e["lost"] for e in lines(run, "001-after-1", "events.jsonl") if e["kind"] == "kmsg-lost")
    assert told == lost


# Short on the others: what differs there is the kernel's words.
@pytest.mark.parametrize("kernel, starve_s", [("default", 10), ("5.10", 2), ("6.12", 2), ("7.2", 2)])
def test_starvation_clock_steps_and_the_oom_of_all_but_itself(results, kernel, starve_s):
    done = headroom("run", "recorder-trial", "--kernel", kernel, "--set", f"recorder-trial.starve_s={starve_s}",
                    "--set", "recorder-trial.clock_steps=4", "--out", results, "--no-report", timeout=1800)
    assert done.returncode == 0, done.stderr
    run, name = only_run(results), "001-before-1"
    record, samples = cell(run, name), lines(run, name, "samples.jsonl")

    # Days forward and back: no tick came late or twice for it.
    times = [s["t"] for s in samples]
    assert times == sorted(times) and times[-1] - times[0] < 60

    # Ten ticks a second were left out, and the sample behind them says so.
    starved = max(samples, key=lambda s: s["missed"])
    assert starved["missed"] == pytest.approx(10 * starve_s, abs=4)
    assert record["samples"]["late_max_ms"] == pytest.approx(1000 * starve_s, abs=400)
    assert sum(s["missed"] for s in samples) == record["samples"]["missed"]

    # Four tasks, the hook that started them, and the bystander; the recorder goes on.
    victims = record["victims"]
    assert len({v["pid"] for v in victims}) == len(victims) == record["metrics"]["oom_kills"] == 6
    assert [v["role"] for v in victims].count("workload") == 5 and [v["role"] for v in victims].count("bystander") == 1
    assert {v["constraint"] for v in victims} == {"memcg"}
    assert record["oom"]["agree"] is True, record["oom"]
    assert samples[-1]["t"] > max(v["t"] for v in victims) + 1
    assert sum(assert_console_events_once(run, name).values()) >= 6
