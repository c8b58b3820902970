# SPDX-License-Identifier: MIT
"""`headroom shield`: a command that has what it did not ask for, and is otherwise the command that it is."""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from served import HEADROOM, TIMEOUT_S

MLOCK_ONLY = ("--without", "io-flusher,oom-protect")
USAGE, REFUSED = 2, 3
# Threads of its own, with stacks of 8 MiB of which hardly anything is used.
THREADS = """
import threading, time
for _ in range(8):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
time.sleep(60)
"""


def shield(*arguments: object, timeout: float = TIMEOUT_S, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HEADROOM, "shield", *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
                          check=False, **options)  # type: ignore[call-overload,no-any-return]


def status_of(pid: int, key: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return line.split(":", 1)[1].strip()
    raise AssertionError(f"no {key}")


def report_at(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    until = time.monotonic() + TIMEOUT_S
    while not path.exists() or not path.read_text().endswith("\n"):
        assert time.monotonic() < until, "no report"
        time.sleep(0.02)
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("command", [[sys.executable, "-c", THREADS], [shutil.which("busybox"), "sleep", "60"]],
                         ids=["threads", "static"])
def test_its_memory_is_locked_and_what_it_takes_later_too(tmp_path: Path, command: list[str]) -> None:
    report = tmp_path / "report"
    p = subprocess.Popen([HEADROOM, "shield", *MLOCK_ONLY, "--json", "--report", report, "--", *command])
    try:
        found = report_at(report)
        assert (found["pid"], found["in_force"], found["protections"]["mlock"]["state"]) == (p.pid, True, "on")
        locked_kib = int(status_of(p.pid, "VmLck").split()[0])
        assert locked_kib > 0
        if command[0] == sys.executable:
            assert found["threads"] == 9
            assert locked_kib > 8 * 8192  # the stacks are
            assert int(status_of(p.pid, "VmRSS").split()[0]) < locked_kib / 2  # and take no memory
        assert status_of(p.pid, "TracerPid") == "0"
        looked = shield("--pid", p.pid, *MLOCK_ONLY, "--json")
        assert looked.returncode == 0 and json.loads(looked.stdout)["in_force"]
    finally:
        p.kill()
        p.wait(TIMEOUT_S)


def test_the_command_is_the_process_that_was_started(tmp_path: Path) -> None:
    done = shield(*MLOCK_ONLY, "--report", tmp_path / "r", "--", "sh", "-c", "echo $$; echo >&2 $PPID; exit 7")
    assert done.returncode == 7
    assert int(done.stderr.splitlines()[0]) == os.getpid()
    p = subprocess.Popen([HEADROOM, "shield", *MLOCK_ONLY, "--report", tmp_path / "r", "--", "sleep", "60"])
    time.sleep(0.3)
    p.send_signal(signal.SIGTERM)
    assert p.wait(TIMEOUT_S) == -signal.SIGTERM
    # What is in its arguments is its own.
    assert shield(*MLOCK_ONLY, "--settle", 0, "--", "echo", "--require", "--pid").stdout == "--require --pid\n"


def test_a_command_that_goes_to_the_background_is_warned_of() -> None:
    done = shield(*MLOCK_ONLY, "--", "sh", "-c", "sleep 0.1 >&- 2>&- & exit 0")
    assert done.returncode == 0
    # The follower holds our standard error until it has told.
    assert "gone to the background" in done.stderr and "mlock on" in done.stderr


def test_what_is_required_and_cannot_be_had_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    limited = shield("--require", *MLOCK_ONLY, "--", "touch", touched,
                     preexec_fn=lambda: __import__("resource").setrlimit(8, (0, 0)), user=65534)
    if limited.returncode == REFUSED:
        assert "mlock is not in force" in limited.stderr
        assert not touched.exists()
    else:  # this user may not even look into the folder, or run what is there
        assert limited.returncode == 126 or "ermission" in limited.stderr
    done = shield("--settle", 0, "--require", "--", "touch", touched)
    assert (done.returncode == 0) == touched.exists()
    assert done.returncode in (0, REFUSED)
    if done.returncode == REFUSED:
        assert "is not in force: not applied" in done.stderr
        # And without --require it is run, and told.
        done = shield("--settle", 0, "--", "touch", touched)
        assert done.returncode == 0 and touched.exists() and "off (not applied" in done.stderr


def test_usage_and_what_cannot_be_run(tmp_path: Path) -> None:
    for arguments in ((), ("--pid", "0"), ("--pid", "x"), ("--pid", "1", "--", "true"), ("--without", "x", "true"),
                      ("--settle", "-1", "true"), ("--nonsense",)):
        assert shield(*arguments).returncode == USAGE, arguments
    assert shield("--pid", 4194304 + 1).returncode == REFUSED
    assert shield("--", tmp_path / "nosuch").returncode == 127
    (tmp_path / "text").write_text("no program")
    assert shield("--", tmp_path / "text").returncode == 126
    mine = shield("--pid", os.getpid())
    assert mine.returncode == 1 and "mlock off" in mine.stdout
