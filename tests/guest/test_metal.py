# SPDX-License-Identifier: MIT
"""--on metal, on the one machine that may die of it: a guest, in which the program is started by hand."""
import os
import re
import shlex
import shutil
import subprocess
import time

import pytest

from conftest import TOP, assert_nothing_left, cell, default_kernel, headroom, journal, lines, only_run, small

QEMU = "qemu-system-x86_64"
# What a machine has and a run may change: it must be the same afterwards.
STATE = """state() {
    for file in /proc/sys/kernel/hung_task_timeout_secs /proc/sys/kernel/watchdog_thresh /proc/sys/vm/panic_on_oom \\
        /sys/module/dm_snapshot/parameters/* /sys/module/workqueue/parameters/watchdog_thresh; do
        [ ! -f "$file" ] || echo "$file $(cat "$file")"
    done
    ls /dev/mapper /sys/fs/cgroup
    cat /sys/fs/cgroup/cgroup.subtree_control /sys/devices/system/memory/memory*/state
    losetup -a
    cat /proc/swaps
    grep -c . /proc/mounts
}
"""
# What a machine has that a guest is given when it boots.
PREPARE = """mount -t cgroup2 none /sys/fs/cgroup
mount -t tracefs none /sys/kernel/tracing
cd /run/data
cp -r /lib/modules/$(uname -r) modules
mv config modules
mount -o bind modules /lib/modules/$(uname -r)
modprobe dm-snapshot
"""
FINISH = """cd /
umount /lib/modules/$(uname -r) /run/data
poweroff -f
"""
HELD_MIB = 24  # what the program that looks after a cell locks, which a guest's has outside
# What cannot be the same: there is no emulator to tell of, and a scratch disk of our own.
NOT_ON_METAL = {"machine.accel", "host.boot_s", "host.qemu_status"}
# How long dying groups took to go: there when it took any time. How long blocks took: there when some moved.
BY_CHANCE = {f"{where}.{name}{part}"
             for name in ("settle_s", "dying_cgroups_half_life_s",
                          *(f"{what}_{which}_ms" for what in ("offline", "online") for which in ("p50", "p99", "max")))
             for where, part in (("metrics", ""), ("units", ".unit"), ("units", ".better"), ("units", ".label"))}
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
        wrapper.parent.mkdir(exist_ok=True)
        wrapper.write_text(f'#!/bin/sh\nfor arg; do printf "%s\\n" "$arg"; done >{self.dir}/argv\nexec {shutil.which(QEMU)} "$@"\n')
        wrapper.chmod(0o755)
        return headroom("run", *run, "--no-report", env=os.environ | {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"})

    def argv(self, spare):
        # The console's own is kept, the monitor, the black box and the scratch disk are the run's.
        argv, given = [QEMU], iter((self.dir / "argv").read_text().splitlines())
        for word in given:
            value = next(given) if word in ("-chardev", "-mon", "-object", "-device", "-drive", "-append") else ""
            if "id=box" in value:
                box_mib = int(value.rpartition("size=")[2]) >> 20
            if "id=qmp" in value or word == "-mon" or "id=box" in value or "memdev=box" in value:
                continue
            if value.startswith("file,id=console"):
                value = "stdio,id=console,signal=off"
            if "/scratch" in value:
                value = re.sub("file=.*", f"file={self.dir}/disk", value)
            argv += [word, f"{value} headroom.shell" if word == "-append" else value] if value else [word]
        # What the host keeps for a guest the machine has to keep itself, in memory that is locked: the black box, and us.
        memory = argv.index("-m") + 1
        argv[memory] = re.sub(r"(\d+)M", lambda m: f"{int(m[1]) + box_mib + HELD_MIB}M", argv[memory], count=1)
        argv[memory] = re.sub(r"maxmem=(\d+)M", lambda m: f"maxmem={int(m[1]) + box_mib + HELD_MIB}M", argv[memory])
        if spare:
            argv += ["-drive", f"if=virtio,format=raw,cache=unsafe,discard=unmap,file={spare}"]
        return argv

    def run(self, script, seconds, spare=None):
        """
        Run a shell script there, in the directory of the data, and take the data out again. `spare`: the image of
        another disk, /dev/vdc.
        """
        (self.data / "go").write_text(script)
        disk = self.dir / "disk"
        subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", self.data, disk, "1G"], check=True)
        with subprocess.Popen(self.argv(spare), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as guest:
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
    out = machine.run(f"""{STATE}{PREPARE}
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
{FINISH}""", 240)
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


def make_spare(machine):
    """The image of a disk with nothing on it."""
    spare = machine.dir / "spare"
    with spare.open("wb") as disk:
        disk.truncate(2 << 30)
    return spare


def test_a_disk_is_taken_when_it_is_free_and_cleared_also_after_a_kill(machine):
    scenario = small(machine.data)
    shutil.copyfile(default_kernel("config"), machine.data / "config")
    assert machine.like(scenario, "--arms", "after", "--out", machine.dir / "outside").returncode == 0
    spare = make_spare(machine)
    out = machine.run(f"""{STATE}{PREPARE}
state >state.before
refused() {{
    headroom run ./small.ini --on metal --yes --arms after --out refused --no-report "$@" 2>&1 </dev/null
    echo $?
}}
refused --device vdc >guard.name
refused --device /dev/vdb >guard.mounted
refused --device /dev/vdc --set snapshot-cow.origin_mib=3000 >guard.small
headroom run ./small.ini --on metal --yes --device /dev/vdc --arms after --seed 7 --out device --no-report >killed.out 2>killed.err </dev/null &
while ! ls /dev/mapper | grep -q snap; do sleep 0.2; done
kill -9 $!
sleep 1
refused --device /dev/vdc >guard.killed
headroom resume device/* --no-report >device.out 2>device.err </dev/null
echo $? >device.status
state >state.device
{FINISH}""", 240, spare)
    for name, status, why in (("name", 2, "whole path"), ("mounted", 3, "mounted on /run/data"), ("small", 3, "2048 MiB"),
                              ("killed", 3, "is built on it")):
        said = (out / f"guard.{name}").read_text()
        assert said.endswith(f"\n{status}\n") and why in said
    assert not (out / "refused").exists()
    assert (out / "device.status").read_text() == "0\n", (out / "device.err").read_text()
    assert (out / "state.device").read_text() == (out / "state.before").read_text()
    run = only_run(out / "device")
    ended = [(line["cell"], line.get("interrupted")) for line in journal(run) if line["event"] == "cell-end"]
    assert ended == [("001-after-1", "yes"), ("002-after-1", None)]
    assert cell(run, "002-after-1")["verdict"] == "ok"
    with spare.open("rb") as disk:
        assert disk.read(4 << 20).strip(b"\0") == b""
        disk.seek(-(4 << 20), os.SEEK_END)
        assert disk.read().strip(b"\0") == b""


@pytest.mark.parametrize("arm", ["before", "after"])
def test_storm_on_metal_gives_the_record_that_it_gives_from_outside(machine, results, arm):
    """On a disk of its own, as any load does that swaps: a file system under it would wait for memory, and we for it."""
    shutil.copyfile(TOP / "workloads/scenarios/storm.ini", machine.data / "storm.ini")
    shutil.copyfile(default_kernel("config"), machine.data / "config")
    # Both in a machine that was started for this arm, which is part of what it sets.
    # How it fails without its mitigations is chance (OOM kills, a livelock), and about one in eight does not fail.
    name = f"001-{arm}-1"
    for attempt in range(3 if arm == "before" else 1):
        done = machine.like("storm", "--arms", arm, "--seed", 7, "--out", results / str(attempt))
        assert done.returncode == 0, done.stderr
        outside = cell(only_run(results / str(attempt)), name)
        if outside["verdict"] != "ok":
            break
    out = machine.run(f"""{STATE}{PREPARE}
state >state.before
headroom run ./storm.ini --on metal --yes --device /dev/vdc --memory 448 --arms {arm} --seed 7 --out results --no-report >out 2>err </dev/null
echo $? >status
state >state.after
{FINISH}""", 420, make_spare(machine))
    assert (out / "status").read_text() == "0\n", (out / "err").read_text()
    assert (out / "state.after").read_text() == (out / "state.before").read_text()
    inside = cell(only_run(out / "results"), name)
    assert inside["machine"]["where"] == "metal"
    for part in ("settings", "mitigations"):
        assert paths(inside[part]) == paths(outside[part])
    # The same load, and no smaller: that is what decides, before chance does.
    assert inside["options"] == outside["options"] and inside["metrics"]["load_mib"] >= outside["metrics"]["load_mib"]
    states = [{what: m["state"] for what, m in record["mitigations"].items()} for record in (inside, outside)]
    assert states[0] == states[1]
    assert (outside["verdict"] == "ok") is (arm == "after"), outside["reason"]
    # One attempt in a machine whose memory is a little larger or smaller than that of a guest.
    assert inside["verdict"] == "ok" or (arm == "before" and inside["verdict"] not in ("broken", "corrupt")), inside["reason"]
    if arm == "after":
        assert paths(inside) - ONLY_ON_METAL - BY_CHANCE == {p for p in paths(outside) - BY_CHANCE if not p.startswith(tuple(NOT_ON_METAL))}
        assert inside["metrics"]["data_verified"] is True
