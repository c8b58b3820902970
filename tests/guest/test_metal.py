# SPDX-License-Identifier: MIT
"""--on metal, on the one machine that may die of it: a guest, in which the program is started by hand."""
import os
import re
import shlex
import shutil
import subprocess
import time

import pytest

from conftest import assert_nothing_left, cell, default_kernel, headroom, journal, lines, only_run, small

QEMU = "qemu-system-x86_64"
# What a machine has and a run may change: it must be the same afterwards.
STATE = """state() {
    for file in /proc/sys/kernel/hung_task_timeout_secs /proc/sys/kernel/watchdog_thresh /proc/sys/vm/panic_on_oom \\
        /sys/module/dm_snapshot/parameters/* /sys/module/workqueue/parameters/watchdog_thresh; do
        [ ! -f "$file" ] || echo "$file $(cat "$file")"
    done
    ls /dev/mapper /sys/fs/cgroup
    losetup -a
    cat /proc/swaps
    grep -c . /proc/mounts
}
"""
# What cannot be the same: there is no emulator to tell of, and a scratch disk of our own.
NOT_ON_METAL = {"machine.accel", "host.boot_s", "host.qemu_status"}
ONLY_ON_METAL = {"host.status", "settings.loop.direct_io"}


def paths(value, prefix=""):
    """Where something stands in a record; what is named by the machine (caches, victims) counts as one."""
    if not isinstance(value, dict) or prefix in ("metrics.cache_peak_kib.", "metrics.cache_peak_objects.", "machine.config."):
        return {prefix.rstrip(".")}
    return {path for name, item in value.items() for path in paths(item, f"{prefix}{name}.")}


class Machine:
    """A guest like that of a run from outside, with a shell in it and a disk to write on."""

    def __init__(self, directory):
        self.dir = directory
        self.data = directory / "data"
        self.data.mkdir()

    def like(self, *run):
        """Carry out the run from outside; the machine is the one that it used."""
        wrapper = self.dir / "bin" / QEMU
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nfor arg; do printf "%s\\n" "$arg"; done >{self.dir}/argv\nexec {shutil.which(QEMU)} "$@"\n')
        wrapper.chmod(0o755)
        return headroom("run", *run, "--no-report", env=os.environ | {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"})

    def argv(self):
        # The console's own is kept, the monitor, the black box and the scratch disk are the run's.
        argv, given = [QEMU], iter((self.dir / "argv").read_text().splitlines())
        for word in given:
            value = next(given) if word in ("-chardev", "-mon", "-object", "-device", "-drive", "-append") else ""
            if "id=qmp" in value or word == "-mon" or "id=box" in value or "memdev=box" in value:
                continue
            if value.startswith("file,id=console"):
                value = "stdio,id=console,signal=off"
            if "/scratch" in value:
                value = re.sub("file=.*", f"file={self.dir}/disk", value)
            argv += [word, f"{value} headroom.shell" if word == "-append" else value] if value else [word]
        return argv

    def run(self, script, seconds):
        """Run a shell script there, in the directory of the data, and take the data out again."""
        (self.data / "go").write_text(script)
        disk = self.dir / "disk"
        subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", self.data, disk, "1G"], check=True)
        with subprocess.Popen(self.argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as guest:
            try:
                os.set_blocking(guest.stdout.fileno(), False)
                said, deadline = b"", time.monotonic() + seconds
                typed = False
                while guest.poll() is None and time.monotonic() < deadline:
                    said += guest.stdout.read() or b""
                    if not typed and b"# " in said.split(b"exec /bin/sh")[-1] and b"exec /bin/sh" in said:
                        guest.stdin.write(b"mkdir /run/data; mount -t ext4 /dev/vdb /run/data; sh /run/data/go\n")
                        guest.stdin.flush()
                        typed = True
                    time.sleep(0.1)
                assert guest.poll() == 0, said.decode(errors="replace")[-2000:]
            finally:
                guest.kill()
        out = self.dir / "out"
        out.mkdir()
        subprocess.run(["/sbin/debugfs", "-R", f"rdump / {shlex.quote(str(out))}", disk], check=True, capture_output=True)
        return out


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_a_guest_as_metal_gives_the_record_that_it_gives_from_outside(machine, results, tmp_path):
    scenario = small(machine.data)
    shutil.copyfile(default_kernel("config"), machine.data / "config")
    done = machine.like(scenario, "--arms", "after", "--seed", 5, "--out", results)
    assert done.returncode == 0, done.stderr
    assert_nothing_left(results)
    out = machine.run(f"""{STATE}
mount -t cgroup2 none /sys/fs/cgroup
mount -t tracefs none /sys/kernel/tracing
cd /run/data
cp -r /lib/modules/$(uname -r) modules
mv config modules
mount -o bind modules /lib/modules/$(uname -r)
modprobe dm-snapshot
state >state.before
headroom run ./small.ini --on metal --arms after --seed 5 --out refused --no-report 2>refused.err </dev/null
echo $? >refused.status
headroom run ./small.ini --on metal --yes --arms after --seed 5 --out results --no-report >out 2>err </dev/null
echo $? >status
state >state.after
headroom run ./small.ini --on metal --yes --arms after --seed 6 --out killed --no-report >killed.out 2>killed.err </dev/null &
while ! ls /dev/mapper | grep -q snap; do sleep 0.2; done
sleep 1
kill -9 $!
sleep 1
state >state.killed
headroom resume killed/* --no-report >resumed.out 2>resumed.err </dev/null
echo $? >resumed.status
state >state.resumed
cd /
umount /lib/modules/$(uname -r) /run/data
poweroff -f
""", 240)
    assert (out / "refused.status").read_text() == "2\n" and "--yes" in (out / "refused.err").read_text()
    assert not (out / "refused").exists()
    assert (out / "status").read_text() == "0\n", (out / "err").read_text()
    outside, inside = cell(only_run(results), "001-after-1"), cell(only_run(out / "results"), "001-after-1")
    assert inside["verdict"] == outside["verdict"] == "ok"
    assert inside["machine"]["where"] == "metal" and inside["machine"]["kernel"] == outside["machine"]["kernel"]
    assert paths(inside) - ONLY_ON_METAL == {p for p in paths(outside) if not p.startswith(tuple(NOT_ON_METAL))}
    kinds = [{event["kind"] for event in lines(only_run(where), "001-after-1", "events.jsonl") if event["source"] == "harness"}
             for where in (out / "results", results)]
    assert kinds[0] == kinds[1]
    before = (out / "state.before").read_text()
    assert (out / "state.after").read_text() == before
    # Killed, nothing was put back; who takes it up does that first.
    assert (out / "state.killed").read_text() != before
    assert (out / "resumed.status").read_text() == "0\n", (out / "resumed.err").read_text()
    assert (out / "state.resumed").read_text() == before
    run = only_run(out / "killed")
    ended = [(line["cell"], line.get("interrupted")) for line in journal(run) if line["event"] == "cell-end"]
    assert ended == [("001-after-1", "yes"), ("002-after-1", None)]
    assert not list(run.glob("cells/*/undo.log")) and not list(run.glob("cells/*/work"))
    assert_nothing_left(run)
