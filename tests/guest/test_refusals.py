# SPDX-License-Identifier: MIT
"""Wrong calls: one clear line, exit 2 (usage) or 3 (a need is not met), nothing started and nothing written."""
import os
import shutil

import pytest

from conftest import TOP, default_kernel, guests_of, headroom, small

BAD_FILES = {
    "unknown-section": ("[snapshot-cow]\n[snapshots]\n", ":2: unknown section [snapshots]"),
    "unknown-key": ("[snapshot-cow]\nsnapshot = 8\n", ":2: unknown option 'snapshot'"),
    "bad-value": ("[snapshot-cow]\nsnapshots = lots\n", ":2: snapshots = 'lots': must be a whole number from 1 to 64"),
    "too-little-memory": ("[scenario]\nmemory = 64\n[snapshot-cow]\n", ":2: memory = '64': must be"),
    "no-workload": ("[scenario]\nmemory = 768\n", "no workload"),
    "not-an-assignment": ("[snapshot-cow]\nsnapshots 8\n", ":2: "),
    "binary": ("[snapshot-cow]\n\0\0\0", "not a text file"),
    "bad-arm": ("[snapshot-cow]\n[arm x]\nno-limit = on\n", "unknown mitigation 'no-limit'"),
}

BAD_CALLS = {
    "no-scenario": (["run"], 2, "no scenario"),
    "unknown-scenario": (["run", "snapshoot"], 2, "unknown scenario 'snapshoot'"),
    "unknown-command": (["rum"], 2, "unknown command 'rum'"),
    "unknown-option": (["run", "snapshot", "--kernal", "6.1"], 2, "--help"),
    "unknown-arm": (["run", "snapshot", "--arms", "before,aftr"], 2, "unknown arm 'aftr'"),
    "arm-twice": (["run", "snapshot", "--arms", "before,before"], 2, "twice"),
    "bad-repeat": (["run", "snapshot", "--repeat", "0"], 2, "--repeat 0: must be"),
    "bad-memory": (["run", "snapshot", "--memory", "100"], 2, "--memory 100: must be"),
    "too-much-memory": (["run", "snapshot", "--memory", "1000000"], 3, "--memory MIB makes it smaller"),
    "bad-set": (["run", "snapshot", "--set", "snapshot-cow.snapshots=1000"], 2, "must be a whole number"),
    "unknown-kernel": (["run", "snapshot", "--kernel", "9.99"], 3, "9.99"),
    "kernel-twice": (["run", "snapshot", "--kernel", "6.1", "--kernel", "6.1"], 2, "--kernel 6.1: named twice"),
    "no-kernel": (["run", "snapshot", "--kernel", ""], 2, "--kernel must not be empty"),
    "nine-kernels": (["run", "snapshot", *[x for n in range(9) for x in ("--kernel", f"6.{n}")]], 2, "8 kernels at most"),
    "modules-of-two": (["run", "snapshot", "--kernel", "/a", "--kernel", "/b", "--modules", "/c"], 2, "a single --kernel"),
    "second-kernel-unknown": (["run", "snapshot", "--kernel", "6.1", "--kernel", "9.99"], 3, "9.99"),
    "not-a-kernel": (["run", "snapshot", "--kernel", str(TOP / "Makefile")], 3, "not a bzImage"),
    "missing-kernel": (["run", "snapshot", "--kernel", "/nonexistent/vmlinuz"], 3, "/nonexistent/vmlinuz"),
    "bad-on": (["run", "snapshot", "--on", "moon"], 2, "--on moon: must be guest or metal"),
    "metal-with-kernel": (["run", "snapshot", "--on", "metal", "--yes", "--kernel", "6.12"], 2, "--on metal: the kernel"),
    "metal-without-asking": (["run", "snapshot", "--on", "metal"], 2, "--yes says that this machine may be driven"),
    "bad-accel": (["run", "snapshot", "--accel", "xen"], 2, "must be kvm or tcg"),
    "resume-nothing": (["resume"], 2, "one directory"),
    "resume-no-run": (["resume", "/nonexistent"], 3, "not the directory of a run"),
    "list-what": (["list", "everything"], 2, "must be one of"),
    "compare-nothing": (["compare", "/nonexistent"], 2, "/nonexistent"),
}


def assert_one_line(done, code, words):
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error" in line or words in line]
    assert len(errors) == 1, done.stderr
    assert words in errors[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_scenario_file_is_refused_with_its_line(results, tmp_path, name):
    text, words = BAD_FILES[name]
    path = tmp_path / f"{name}.ini"
    path.write_text(text)
    done = headroom("run", path, "--out", results)
    assert_one_line(done, 2, words)
    assert str(path) in done.stderr
    assert not results.exists()


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_wrong_call_says_what_is_wrong(results, tmp_path, name):
    argv, code, words = BAD_CALLS[name]
    if argv[0] == "run":
        argv = [*argv, "--out", str(results)]
    done = headroom(*argv)
    if name != "unknown-command":  # that one shows the commands there are
        assert_one_line(done, code, words)
    else:
        assert done.returncode == code and words in done.stderr
    assert not results.exists()
    assert not guests_of(tmp_path)


def test_one_kernel_by_two_names_is_refused(results):
    path = default_kernel()
    done = headroom("run", "snapshot", "--kernel", "default", "--kernel", path, "--out", results)
    assert_one_line(done, 2, "one column")
    assert "--kernel default" in done.stderr and path in done.stderr
    assert not results.exists()


def path_without(tmp_path, program):
    """A PATH that has everything but one program."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for folder in os.environ["PATH"].split(":") + ["/usr/sbin", "/sbin"]:
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if name != program and not (directory / name).exists():
                (directory / name).symlink_to(os.path.join(folder, name))
    return str(directory)


@pytest.mark.parametrize("program", ["qemu-system-x86_64", "fio"])
def test_a_missing_program_is_named_with_what_installs_it(results, tmp_path, program):
    done = headroom("run", "snapshot", "--out", results, env={**os.environ, "PATH": path_without(tmp_path, program)})
    assert_one_line(done, 3, f"{program} is not installed")
    assert "make deps" in done.stderr
    assert not results.exists()


def test_a_full_disk_is_seen_before_anything_is_started(tmp_path):
    # /dev/shm is a file system of its own that is smaller than any cell's devices when the scenario is made large.
    free = shutil.disk_usage("/dev/shm").free
    out = f"/dev/shm/headroom-test-{os.getpid()}"
    scenario = small(tmp_path)
    mib = min(free // (1 << 20) + 64, 1 << 20)
    done = headroom("run", scenario, "--set", f"snapshot-cow.origin_mib={mib}", "--out", out)
    assert_one_line(done, 3, "MiB are free")
    assert not os.path.exists(out)


def test_an_unwritable_place_is_named(tmp_path):
    done = headroom("run", small(tmp_path), "--out", "/proc/headroom")
    assert done.returncode == 3
    assert "/proc/headroom" in done.stderr


def damaged(name, text):
    def damage(run):
        (run / name).write_text(text)
    return damage


@pytest.mark.parametrize("damage", [damaged("run.json", ""), damaged("run.json", "{}"), damaged("run.json", "\0\1"),
                                    damaged("run.json", '{"schema": "headroom.run/1", "plan": 7}')])
def test_a_corrupted_run_is_not_resumed(tmp_path, damage):
    run = tmp_path / "run"
    run.mkdir()
    damage(run)
    for command in ("resume", "compare"):
        done = headroom(command, run)
        assert done.returncode == 3, (command, done.stderr)
        assert str(run) in done.stderr
        assert "Traceback" not in done.stderr


def test_dry_run_shows_the_plan_and_writes_nothing(results):
    done = headroom("run", "snapshot", "--repeat", 2, "--dry-run", "--out", results, "--kernel", "9.99")
    assert done.returncode == 0
    assert "003-" in done.stdout and "snapshot_cow_threshold=4294967295" in done.stdout
    assert "qemu-system-x86_64" in done.stdout
    assert not results.exists()


def test_dry_run_shows_each_arm_on_each_kernel(results):
    done = headroom("run", "snapshot", "--dry-run", "--out", results, "--kernel", "6.1", "--kernel", "9.99")
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("cell ")] == [
        "001-before-6.1-1", "002-after-6.1-1", "003-before-9.99-1", "004-after-9.99-1"]


@pytest.mark.parametrize("command", ["run", "resume", "list", "doctor", "compare", "events"])
def test_every_command_explains_itself(command):
    done = headroom(command, "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout
