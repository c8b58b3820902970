# SPDX-License-Identifier: MIT
"""Several workloads in one guest, and several scenarios in one go."""
import json
import signal
import time

from conftest import assert_nothing_left, cell, guests_of, headroom, lines, only_run, small, start, wait_until


def test_loads_begin_one_after_the_other_and_stop_together(results):
    done = headroom("run", "storm", "--kernel", "6.1", "--arms", "after", "--set", "storm.with=churn,snapshot", "--set", "storm.until=snapshot",
                    "--set", "scenario.ramp_s=4", "--memory", "512", "--out", results, "--no-report")
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    record = cell(run, "001-after-1")
    assert record["verdict"] == "ok" and record["metrics"]["data_verified"] is True
    told = {(event["kind"], event["workload"]): event["t"]
            for event in lines(run, "001-after-1", "events.jsonl") if event["kind"] in ("load-begin", "load-end")}
    assert 3.5 < told["load-begin", "snapshot-cow"] - told["load-begin", "cgroup-churn"] < 8
    stop = next(event["t"] for event in lines(run, "001-after-1", "events.jsonl") if event["kind"] == "told-to-stop")
    # Who follows goes on until the other has ended, and not much longer.
    assert told["load-end", "snapshot-cow"] <= stop <= told["load-end", "cgroup-churn"] < stop + 15
    assert record["metrics"]["groups_made"] > 0
    assert_nothing_left(run)


def test_a_suite_that_was_killed_is_taken_up(results, tmp_path):
    scenarios = [small(tmp_path, name=name) for name in ("one", "two")]
    program = start("run", *scenarios, "--arms", "after", "--out", results)
    suite = wait_until(lambda: next(iter(results.glob("*-suite")), None), 60, "the suite's directory")
    # In the second scenario.
    wait_until(lambda: any("cell-start" in path.read_text() for path in suite.glob("*-two/journal.jsonl")), 120, "the second has begun")
    wait_until(lambda: guests_of(suite), 30, "its guest runs")
    time.sleep(1)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    resumed = headroom("resume", suite)
    assert resumed.returncode == 0, resumed.stderr
    names = json.loads((suite / "suite.json").read_text())["runs"]
    assert [name.split("-", 1)[1] for name in names] == ["one", "two"]
    for name in names:
        last = json.loads((suite / name / "journal.jsonl").read_text().splitlines()[-1])
        assert last["event"] == "run-end" and last["status"] == "complete"
    page = (suite / "report.html").read_text()
    assert all(f'href="{name}/report.html"' in page and (suite / name / "report.html").is_file() for name in names)
    assert_nothing_left(suite)
