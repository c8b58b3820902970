# SPDX-License-Identifier: MIT
"""Nothing is lost and nothing is left when headroom, or QEMU, is ended in the middle."""
import os
import random
import signal
import time

import pytest

from conftest import assert_nothing_left, cell, guests_of, headroom, journal, only_run, small, start, wait_until

MOMENTS = 5


def has_cell_started(results):
    def look():
        return results.exists() and any((d / "journal.jsonl").exists() and "cell-start" in (d / "journal.jsonl").read_text()
                                        for d in results.iterdir())
    return look


def ended_cells(run):
    return {e["cell"]: e for e in journal(run) if e["event"] == "cell-end"}


def assert_complete(run):
    """Every arm has a cell that is whole, the report can be made of it."""
    whole = [c for c, e in ended_cells(run).items() if "interrupted" not in e]
    assert {c.split("-", 1)[1] for c in whole} == {"before-1", "after-1"}, ended_cells(run)
    assert journal(run)[-1]["event"] == "run-end"
    assert journal(run)[-1]["status"] == "complete"
    compared = headroom("compare", run, "--json", "-")
    assert compared.returncode == 0, compared.stderr
    assert_nothing_left(run)


def test_ctrl_c_ends_the_guest_and_leaves_a_readable_result(results, tmp_path):
    program = start("run", small(tmp_path), "--out", results)
    wait_until(has_cell_started(results), 60, "a cell has started")
    wait_until(lambda: guests_of(results), 30, "the guest runs")
    time.sleep(random.uniform(1, 9))
    program.send_signal(signal.SIGINT)
    begin = time.monotonic()
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 130, errors
    assert time.monotonic() - begin < 30
    run = only_run(results)
    assert_nothing_left(results)
    assert journal(run)[-1] | {"status": "interrupted"} == journal(run)[-1]
    assert cell(run, "001-before-1")["interrupted"] is True
    assert "headroom resume" in errors
    resumed = headroom("resume", run)
    assert resumed.returncode == 0, resumed.stderr
    assert_complete(run)


# The moments are drawn anew each time; a failure prints its own.
@pytest.mark.parametrize("number", range(MOMENTS))
def test_kill_9_at_any_moment_costs_one_cell_at_most(results, tmp_path, number):
    delay = random.uniform(0.2, 28)
    print(f"killed after {delay:.2f} s")
    program = start("run", small(tmp_path), "--out", results, "--no-report")
    wait_until(has_cell_started(results), 60, "a cell has started")
    try:
        program.wait(delay)
    except Exception:
        program.kill()
    program.communicate(timeout=30)
    wait_until(lambda: not guests_of(results), 5, "no orphaned guest")
    run = only_run(results)
    before = {c for c, e in ended_cells(run).items() if "interrupted" not in e}
    resumed = headroom("resume", run, "--no-report")
    assert resumed.returncode == 0, resumed.stderr
    assert before <= set(ended_cells(run)), "what was complete is still there"
    cut = [e for e in ended_cells(run).values() if "interrupted" in e]
    assert len(cut) <= 1
    for entry in cut:
        assert cell(run, entry["cell"])["verdict"] == "broken"
    assert_complete(run)


# Before its kernel has come up, and while the cell runs.
@pytest.mark.parametrize("delay", [0.3, 8])
def test_a_killed_qemu_costs_its_cell_and_the_run_goes_on(results, tmp_path, delay):
    program = start("run", small(tmp_path), "--out", results, "--no-report")
    wait_until(has_cell_started(results), 60, "a cell has started")
    pid = wait_until(lambda: guests_of(results), 30, "the guest runs")[0]
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    program.communicate(timeout=120)
    assert program.returncode == 4
    run = only_run(results)
    assert cell(run, "001-before-1")["interrupted"] is True
    assert cell(run, "002-after-1")["verdict"] == "ok"
    assert headroom("resume", run, "--no-report").returncode == 0
    assert_complete(run)


def test_a_complete_run_is_not_run_again(results, tmp_path):
    assert headroom("run", small(tmp_path), "--arms", "after", "--out", results, "--no-report").returncode == 0
    run = only_run(results)
    stamp = (run / "cells/001-after-1/cell.json").stat().st_mtime_ns
    begin = time.monotonic()
    assert headroom("resume", run, "--no-report").returncode == 0
    assert time.monotonic() - begin < 10
    assert (run / "cells/001-after-1/cell.json").stat().st_mtime_ns == stamp


def test_one_run_is_taken_up_by_one_program_at_a_time(results, tmp_path):
    program = start("run", small(tmp_path), "--arms", "after", "--out", results, "--no-report")
    wait_until(has_cell_started(results), 60, "a cell has started")
    second = headroom("resume", only_run(results))
    assert second.returncode == 3
    assert "another headroom" in second.stderr
    program.communicate(timeout=120)
    assert program.returncode == 0
