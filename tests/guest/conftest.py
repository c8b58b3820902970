# SPDX-License-Identifier: MIT
"""Runs of the real program, with guests of a real kernel. Everything below a test's own directory."""
import collections
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
HEADROOM = TOP / "build/headroom"

# A guest that is over in a quarter of a minute: small devices, the same code.
SMALL = """[scenario]
summary = a small cell for the tests
memory = 320
run_s = {run_s}
bystander = {bystander}
panic_on_oom = {panic_on_oom}
expect-after = ok
{extra}
[snapshot-cow]
snapshots = 2
origin_mib = 16
{options}
"""


def small(directory, *, run_s=30, bystander=8, panic_on_oom="no", extra="", options="", name="small"):
    path = directory / f"{name}.ini"
    path.write_text(SMALL.format(run_s=run_s, bystander=bystander, panic_on_oom=panic_on_oom, extra=extra,
                                 options=options))
    return path


def headroom(*argv, timeout=600, **kwargs):
    return subprocess.run([str(HEADROOM), *map(str, argv)], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, **kwargs)


def start(*argv, **kwargs):
    return subprocess.Popen([str(HEADROOM), *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            stdin=subprocess.DEVNULL, **kwargs)


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


def guests_of(directory):
    """Process ids of QEMUs whose command line names a file below the directory."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if argv.startswith(b"qemu-system") and str(directory).encode() in argv:
            found.append(int(entry.name))
    return found


def assert_nothing_left(directory):
    wait_until(lambda: not guests_of(directory), 5, "no guest is left running")
    for name in ("box", "scratch"):
        assert not list(directory.glob(f"**/cells/*/{name}")), f"a cell's {name} was left behind"


def default_kernel(part="vmlinuz"):
    """The path of the kernel that "default" stands for, or of another part of it."""
    answer = subprocess.run([TOP / "runtime/guest/kernel.sh", "--cache", TOP / "build/cache", "default"],
                            capture_output=True, text=True, check=True, timeout=600).stdout
    return dict(line.split("=", 1) for line in answer.splitlines())[part]


def only_run(directory):
    runs = list(directory.iterdir())
    assert len(runs) == 1, runs
    return runs[0]


def cell(run, name):
    return json.loads((run / "cells" / name / "cell.json").read_text())


def lines(run, name, file):
    return [json.loads(line) for line in (run / "cells" / name / file).read_text().splitlines()]


def journal(run):
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def event_key(event):
    """What tells an event of the kernel from another of its kind, wherever it was read."""
    victim = event.get("victim", {})
    return (event["kind"], victim.get("pid"), victim.get("comm"), event.get("task"), event.get("reason"), event.get("seconds"))


def assert_console_events_once(run, name):
    """Every event that stands in the serial console's log is in the record, as often as it stands there."""
    console = headroom("events", run / "cells" / name / "console.log")
    assert console.returncode == 0, console.stderr
    seen = collections.Counter(event_key(json.loads(line)) for line in console.stdout.splitlines())
    told = collections.Counter(event_key(e) for e in lines(run, name, "events.jsonl") if e["source"] != "harness")
    assert {key: told[key] for key in seen} == seen
    return seen


@pytest.fixture
def results(tmp_path):
    """A directory for one test's results; whatever the test did, no guest survives it."""
    directory = tmp_path / "results"
    yield directory
    for pid in guests_of(tmp_path):
        os.kill(pid, signal.SIGKILL)
