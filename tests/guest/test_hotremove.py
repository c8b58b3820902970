# SPDX-License-Identifier: MIT
"""Memory that is taken away in a real guest, while four threads wait for each other."""
from conftest import assert_nothing_left, cell, headroom, only_run


def test_the_four_threads_are_named_and_let_go(results):
    done = headroom("run", "hotremove-deadlock", "--kernel", "6.1", "--arms", "before,only-core-to-file", "--out", results)
    assert done.returncode == 0, done.stderr
    run = only_run(results)
    stuck, fine = cell(run, "001-before-1"), cell(run, "002-only-core-to-file-1")
    assert stuck["verdict"] == "deadlock"
    order = ["hr-victim", "the pipe of the core", "headroom", "cgroup_mutex", "hr-lru-gen", "mem_hotplug_lock", "hr-offline", "pages that are in use"]
    at = [stuck["reason"].index(name) for name in order]
    assert at == sorted(at), stuck["reason"]
    assert stuck["metrics"]["deadlocked"] is True and stuck["metrics"]["drain_ms"] < 10_000
    assert stuck["metrics"]["bystander_wait_ms"] > 5000
    assert fine["verdict"] == "ok" and fine["metrics"]["deadlocked"] is False and fine["metrics"]["offline_errno"] == 0
    assert stuck["metrics"]["retry_ms"] > 0, "the same block goes when nobody is in the way"
    assert "deadlock" in (run / "report.html").read_text()
    assert_nothing_left(run)
