# SPDX-License-Identifier: MIT
"""`headroom copy` as a user types it: contents, holes, going on, refusals, bad options."""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HEADROOM = Path(__file__).resolve().parents[2] / "build/headroom"
COPIED, DIFFERENT, USAGE, REFUSED, FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130
MIB = 1 << 20
TIMEOUT_S = 60
TMPFS = Path("/dev/shm")

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


def run(*arguments: object, cwd: Path) -> Result:
    return subprocess.run([HEADROOM, "copy", *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
                          timeout=TIMEOUT_S, check=False)


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where the engine takes O_DIRECT, and where it cannot."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access(TMPFS, os.W_OK):
        pytest.skip("no /dev/shm to write to")
    path = TMPFS / f"headroom-test-{os.getpid()}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def make_file(path: Path, pieces: dict[int, int], size: int) -> bytes:
    """Random bytes, `pieces` of them: offset to length; holes elsewhere."""
    content = bytearray(size)
    with path.open("wb") as f:
        f.truncate(size)
        for offset, length in pieces.items():
            data = random.Random(offset).randbytes(length)
            f.seek(offset)
            f.write(data)
            content[offset : offset + length] = data
    return bytes(content)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def result_of(done: Result) -> dict[str, object]:
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


# --- Contents ---


@pytest.mark.parametrize(
    ("pieces", "size"),
    [
        ({}, 0),
        ({0: 1}, 1),
        ({0: 4096}, 4096),
        ({0: 12345}, 12345),
        ({}, 5 * MIB + 17),
        ({0: 20 * MIB}, 20 * MIB),
        ({3 * MIB: 100, 9 * MIB: 2 * MIB}, 30 * MIB + 1),
        ({0: MIB, 30 * MIB - 5: 5}, 30 * MIB),
        ({i * 256 * 1024: 4096 for i in range(60)}, 16 * MIB),
    ],
)
def test_the_copy_is_what_the_source_is_and_holes_are_holes(folder: Path, pieces: dict[int, int], size: int) -> None:
    source, dest = folder / "source", folder / "dest"
    content = make_file(source, pieces, size)
    done = run("--verify", "--json", source, dest, cwd=folder)
    assert done.returncode == COPIED, done.stderr
    assert dest.read_bytes() == content
    # A file system may keep a block or two more.
    assert allocated(dest) <= allocated(source) + 64 * 1024
    found = result_of(done)
    assert (found["outcome"], found["size_bytes"], found["differing_bytes"]) == ("copied", size, 0)
    assert found["data_bytes"] + found["holes_bytes"] == size  # type: ignore[operator]
    assert not (folder / "dest.headroom-copy").exists()


def test_a_copy_from_one_file_system_to_another(tmp_path: Path, folder: Path) -> None:
    source, dest = tmp_path / "source", folder / "dest"
    content = make_file(source, {0: 3 * MIB + 77, 9 * MIB: MIB}, 11 * MIB + 3)
    assert run("--verify", source, dest, cwd=folder).returncode == COPIED
    assert dest.read_bytes() == content


def test_force_overwrites_and_leaves_nothing_of_what_was_there(folder: Path) -> None:
    source, dest = folder / "source", folder / "dest"
    content = make_file(source, {MIB: MIB}, 4 * MIB)
    make_file(dest, {0: 9 * MIB}, 9 * MIB)
    assert run(source, dest, cwd=folder).returncode == REFUSED
    assert dest.stat().st_size == 9 * MIB
    assert run("--force", source, dest, cwd=folder).returncode == COPIED
    assert dest.read_bytes() == content


def test_the_copy_can_be_read_by_nobody_who_cannot_read_the_source(tmp_path: Path) -> None:
    make_file(tmp_path / "source", {0: 10}, 10)
    (tmp_path / "source").chmod(0o600)
    assert run("source", "dest", cwd=tmp_path).returncode == COPIED
    assert (tmp_path / "dest").stat().st_mode & 0o777 == 0o600


def test_plain_lines_without_a_terminal_and_nothing_but_json_on_stdout(tmp_path: Path) -> None:
    make_file(tmp_path / "source", {0: MIB}, MIB)
    done = run("source", "dest", cwd=tmp_path)
    assert done.stdout == ""
    assert "\r" not in done.stderr
    assert "copied 1 MiB" in done.stderr


# --- Going on ---


def slowly(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The throttle has it sleep for a second before each part, so that there is time to stop it."""
    return subprocess.Popen([HEADROOM, "copy", "--throttle", "1", *arguments, "source", "dest"], cwd=folder,
                            stderr=subprocess.PIPE, text=True)


def wait_for_state(folder: Path, process: subprocess.Popen[str], least: int) -> None:
    """Until the state file says that so many bytes are done."""
    deadline = time.monotonic() + TIMEOUT_S
    state = folder / "dest.headroom-copy"
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        if state.exists() and json.loads(state.read_text())["done"] >= least:
            return
        time.sleep(0.01)
    raise AssertionError("it has not come that far")


def end(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, err


PIECES = {0: 40 * MIB, 50 * MIB: 14 * MIB, 70 * MIB + 123: 9 * MIB}
SIZE = 80 * MIB + 5


def test_after_kill_9_it_goes_on_where_it_was(folder: Path) -> None:
    content = make_file(folder / "source", PIECES, SIZE)
    process = slowly(folder)
    wait_for_state(folder, process, 8 * MIB)
    assert end(process, signal.SIGKILL)[0] == -signal.SIGKILL
    state = folder / "dest.headroom-copy"
    done_bytes = json.loads(state.read_text())["done"]
    # What is done is not done again: this stays, and would be found by whoever compares.
    with (folder / "dest").open("r+b") as f:
        f.seek(MIB)
        f.write(bytes(100))
    refused = run("source", "dest", cwd=folder)
    assert refused.returncode == REFUSED
    assert "--resume" in refused.stderr
    wrong = run("--resume", "--verify", "--json", "source", "dest", cwd=folder)
    assert wrong.returncode == DIFFERENT, wrong.stderr
    found = result_of(wrong)
    assert found["resumed_at_bytes"] == done_bytes
    assert 90 <= found["differing_bytes"] <= 100  # type: ignore[operator]
    with (folder / "dest").open("r+b") as f:
        f.seek(MIB)
        f.write(content[MIB : MIB + 100])
    assert (folder / "dest").read_bytes() == content
    assert not state.exists()


def test_killed_at_any_time_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    content = make_file(tmp_path / "source", {0: 24 * MIB, 30 * MIB: MIB}, 32 * MIB + 1)
    for delay_ms in (0, 3, 10, 30, 100, 700):
        process = slowly(tmp_path, "--force")
        time.sleep(delay_ms / 1000)
        end(process, signal.SIGKILL)
        done = run("--resume", "--verify", "source", "dest", cwd=tmp_path)
        assert done.returncode == COPIED, done.stderr
        assert (tmp_path / "dest").read_bytes() == content
        (tmp_path / "dest").unlink()


def test_an_interrupt_keeps_what_is_done(folder: Path) -> None:
    content = make_file(folder / "source", PIECES, SIZE)
    process = slowly(folder)
    wait_for_state(folder, process, 0)
    code, err = end(process, signal.SIGINT)
    assert code == INTERRUPTED
    assert "go on with --resume" in err
    assert json.loads((folder / "dest.headroom-copy").read_text())["done"] > 0
    assert run("--resume", "--verify", "source", "dest", cwd=folder).returncode == COPIED
    assert (folder / "dest").read_bytes() == content


def test_it_does_not_go_on_with_another_source_or_destination(tmp_path: Path) -> None:
    make_file(tmp_path / "source", {0: 30 * MIB}, 30 * MIB)
    process = slowly(tmp_path)
    wait_for_state(tmp_path, process, 0)
    end(process, signal.SIGINT)
    state = (tmp_path / "dest.headroom-copy").read_text()
    (tmp_path / "dest").rename(tmp_path / "other")
    (tmp_path / "dest").touch()
    done = run("--resume", "source", "dest", cwd=tmp_path)
    assert (done.returncode, "not the one" in done.stderr) == (REFUSED, True)
    (tmp_path / "other").rename(tmp_path / "dest")
    with (tmp_path / "source").open("r+b") as f:
        f.write(b"changed")
    done = run("--resume", "source", "dest", cwd=tmp_path)
    assert (done.returncode, "has changed" in done.stderr) == (REFUSED, True)
    assert (tmp_path / "dest.headroom-copy").read_text() == state
    assert run("--force", "--verify", "source", "dest", cwd=tmp_path).returncode == COPIED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "headroom.copy-state/1"}', '{"schema": 1}', "\0" * 5000])
def test_a_damaged_state_is_refused(tmp_path: Path, text: str) -> None:
    make_file(tmp_path / "source", {0: MIB}, MIB)
    (tmp_path / "dest.headroom-copy").write_text(text)
    for options in ([], ["--resume"]):
        done = run(*options, "source", "dest", cwd=tmp_path)
        assert (done.returncode, "damaged" in done.stderr) == (REFUSED, True), done.stderr
    assert not (tmp_path / "dest").exists()
    assert run("--force", "source", "dest", cwd=tmp_path).returncode == COPIED


def test_resume_where_nothing_was_begun_begins(tmp_path: Path) -> None:
    make_file(tmp_path / "source", {0: MIB}, MIB)
    assert run("--resume", "source", "dest", cwd=tmp_path).returncode == COPIED
    # It has ended, so nothing says what the destination is.
    done = run("--resume", "source", "dest", cwd=tmp_path)
    assert (done.returncode, "nothing says" in done.stderr) == (REFUSED, True)


def test_the_state_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    make_file(tmp_path / "source", {0: 30 * MIB}, 30 * MIB)
    process = slowly(tmp_path, "--state", "kept")
    deadline = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "kept").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    end(process, signal.SIGINT)
    assert not (tmp_path / "dest.headroom-copy").exists()
    assert run("--resume", "--state", "kept", "--verify", "source", "dest", cwd=tmp_path).returncode == COPIED
    assert not (tmp_path / "kept").exists()


def test_a_source_that_is_written_to_meanwhile_is_told(tmp_path: Path) -> None:
    make_file(tmp_path / "source", {0: 30 * MIB}, 30 * MIB)
    process = slowly(tmp_path)
    wait_for_state(tmp_path, process, 0)
    with (tmp_path / "source").open("r+b") as f:
        f.write(b"changed")
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, "changed while it was copied" in err) == (DIFFERENT, True)


def test_two_copies_do_not_write_to_one_file(tmp_path: Path) -> None:
    make_file(tmp_path / "source", {0: 30 * MIB}, 30 * MIB)
    process = slowly(tmp_path)
    wait_for_state(tmp_path, process, 0)
    done = run("--force", "source", "dest", cwd=tmp_path)
    assert (done.returncode, "another copy" in done.stderr) == (REFUSED, True)
    end(process, signal.SIGKILL)


# --- Refusals ---


def test_the_same_file_is_refused_by_any_name(tmp_path: Path) -> None:
    make_file(tmp_path / "source", {0: MIB}, MIB)
    (tmp_path / "hard").hardlink_to(tmp_path / "source")
    (tmp_path / "soft").symlink_to("source")
    for name in ("source", "hard", "soft", "./source"):
        done = run("--force", "source", name, cwd=tmp_path)
        assert (done.returncode, "same file" in done.stderr) == (REFUSED, True)
    assert (tmp_path / "source").stat().st_size == MIB


@pytest.mark.parametrize("kind", ["none", "folder", "fifo", "device"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    make_file(tmp_path / "file", {0: 10}, 10)
    odd = tmp_path / "odd"
    if kind == "folder":
        odd.mkdir()
    elif kind == "fifo":
        os.mkfifo(odd)
    elif kind == "device":
        odd = Path("/dev/zero")
    assert run(odd, "dest", cwd=tmp_path).returncode == REFUSED
    if kind != "none":
        assert run("file", odd, cwd=tmp_path).returncode == REFUSED
    assert not (tmp_path / "dest").exists()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    make_file(tmp_path / "source", {0: 10}, 10)
    done = run("source", "none/dest", cwd=tmp_path)
    assert (done.returncode, "none/dest: No such file" in done.stderr) == (REFUSED, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read it")
def test_a_source_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    make_file(tmp_path / "source", {0: 10}, 10)
    (tmp_path / "source").chmod(0)
    assert run("source", "dest", cwd=tmp_path).returncode == REFUSED
    assert not (tmp_path / "dest").exists()


# --- A disk that is full ---


@pytest.fixture
def small(tmp_path: Path) -> Callable[[str], Result]:
    """Runs a shell script in a mount namespace where `small` is a file system of 8 MiB."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=8m", "none", tmp_path], check=False,
                      capture_output=True).returncode:
        pytest.skip("mount namespaces cannot be had")
    (tmp_path / "small").mkdir()

    def in_it(script: str) -> Result:
        script = f"set -e; mount -t tmpfs -o size=8m none small; headroom() {{ '{HEADROOM}' \"$@\"; }}; set +e; {script}"
        return subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True,
                              timeout=TIMEOUT_S, check=False)

    return in_it


def test_a_copy_that_cannot_fit_is_not_begun(tmp_path: Path, small: Callable[[str], Result]) -> None:
    make_file(tmp_path / "source", {0: 20 * MIB}, 20 * MIB)
    done = small("headroom copy source small/dest; code=$?; ls small; exit $code")
    assert done.returncode == REFUSED
    assert "no space left: 20 MiB are needed, 8 MiB are there" in done.stderr
    assert done.stdout == ""


def test_a_disk_that_fills_up_is_told_and_gone_on_from(tmp_path: Path, small: Callable[[str], Result]) -> None:
    make_file(tmp_path / "source", {0: 3 * MIB, 40 * MIB: 3 * MIB}, 50 * MIB)
    # The first data takes a second, because of the throttle; meanwhile others take the room.
    done = small(
        "headroom copy --throttle 1 --state kept source small/dest & "
        "while ! [ -e kept ]; do sleep 0.01; done; head -c 8M /dev/zero >small/other 2>/dev/null; wait $!; echo $?; "
        "rm small/other; headroom copy --resume --state kept --verify source small/dest; echo $?; cmp source small/dest"
    )
    assert done.stdout.split() == [str(FAILED), str(COPIED)], done.stderr
    assert done.returncode == 0
    assert "small/dest: no space left" in done.stderr
    assert "make room and go on with --resume" in done.stderr


# --- Options ---


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["source"],
        ["source", "dest", "more"],
        ["--none", "source", "dest"],
        ["--throttle", "0", "source", "dest"],
        ["--throttle", "101", "source", "dest"],
        ["--throttle", "-1", "source", "dest"],
        ["--throttle", "10%", "source", "dest"],
        ["--throttle", "", "source", "dest"],
        ["--resume", "--force", "source", "dest"],
        ["source", "x" * 5000],
    ],
)
def test_bad_options_are_usage(tmp_path: Path, arguments: list[str]) -> None:
    make_file(tmp_path / "source", {0: 10}, 10)
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == USAGE
    assert done.stderr
    assert os.listdir(tmp_path) == ["source"]


def test_help_names_every_option(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert done.returncode == COPIED
    for option in ("--resume", "--verify", "--throttle", "--force", "--state", "--json"):
        assert option in done.stdout


# --- Devices ---


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[[str, int], Path]]:
    """Makes a block device of a file."""
    if os.geteuid() or not Path("/dev/loop-control").exists() or not shutil.which("losetup"):
        pytest.skip("loop devices cannot be had")
    made = []

    def make(name: str, size: int) -> Path:
        make_file(tmp_path / name, {0: size}, size)
        done = subprocess.run(["losetup", "--find", "--show", tmp_path / name], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no loop device: {done.stderr}")
        made.append(done.stdout.strip())
        return Path(made[-1])

    yield make
    for device in made:
        subprocess.run(["losetup", "--detach", device], check=False)


def test_a_device_is_copied_from(tmp_path: Path, loop_device: Callable[[str, int], Path]) -> None:
    device = loop_device("image", 16 * MIB)
    assert run("--verify", "--throttle", "50", device, "back", cwd=tmp_path).returncode == COPIED
    assert (tmp_path / "back").read_bytes() == (tmp_path / "image").read_bytes()


def test_the_device_guard_is_asked(tmp_path: Path, loop_device: Callable[[str, int], Path]) -> None:
    make_file(tmp_path / "source", {0: MIB}, MIB)
    device = loop_device("image", 4 * MIB)
    subprocess.run(["mkswap", device], check=True, capture_output=True)
    before = device.read_bytes()
    done = run("--state", "kept", "source", device, cwd=tmp_path)
    assert (done.returncode, "signature of swap" in done.stderr) == (REFUSED, True), done.stderr
    assert run(device, device, cwd=tmp_path).returncode == REFUSED
    assert device.read_bytes() == before
    assert not (tmp_path / "kept").exists()


def test_a_file_onto_a_disk(tmp_path: Path, loop_device: Callable[[str, int], Path]) -> None:
    content = make_file(tmp_path / "source", {MIB: 2 * MIB, 9 * MIB: 12345}, 12 * MIB + 512)
    device = loop_device("image", 16 * MIB)
    device.write_bytes(b"\xaa" * (16 * MIB))
    done = run("--verify", "--json", "--state", "kept", "source", device, cwd=tmp_path)
    assert done.returncode == COPIED, done.stderr
    now = device.read_bytes()
    assert now[: len(content)] == content
    # Whole blocks are written; what is behind them is not ours.
    assert now[len(content) + 4096 :] == b"\xaa" * (len(now) - len(content) - 4096)


def test_a_disk_with_something_on_it_is_only_gone_on_with(tmp_path: Path, loop_device: Callable[[str, int], Path]) -> None:
    make_file(tmp_path / "source", {}, 40 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", tmp_path / "source"], check=True)
    with (tmp_path / "source").open("r+b") as f:
        f.seek(MIB)
        f.write(random.Random(1).randbytes(30 * MIB))
    content = (tmp_path / "source").read_bytes()
    device = loop_device("image", 48 * MIB)
    command = [HEADROOM, "copy", "--throttle", "1", "--state", "kept", "source", device]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not (tmp_path / "kept").exists() or not json.loads((tmp_path / "kept").read_text())["done"]:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.kill()
    (tmp_path / "kept").rename(tmp_path / "aside")
    done = run("--state", "kept", "source", device, cwd=tmp_path)
    assert (done.returncode, "signature of ext" in done.stderr) == (REFUSED, True), done.stderr
    (tmp_path / "aside").rename(tmp_path / "kept")
    done = run("--resume", "--verify", "--state", "kept", "source", device, cwd=tmp_path)
    assert done.returncode == COPIED, done.stderr
    assert device.read_bytes()[: len(content)] == content


def test_a_disk_that_is_too_small_or_held_is_refused(tmp_path: Path, loop_device: Callable[[str, int], Path]) -> None:
    make_file(tmp_path / "source", {0: 2 * MIB}, 2 * MIB)
    small_one, used = loop_device("small", MIB), loop_device("used", 4 * MIB)
    before = small_one.read_bytes(), used.read_bytes()
    done = run("--state", "kept", "source", small_one, cwd=tmp_path)
    assert (done.returncode, "only 1048576" in done.stderr) == (REFUSED, True), done.stderr
    held = os.open(used, os.O_RDONLY | os.O_EXCL)
    try:
        done = run("--state", "kept", "source", used, cwd=tmp_path)
    finally:
        os.close(held)
    assert (done.returncode, "in use" in done.stderr) == (REFUSED, True)
    assert (small_one.read_bytes(), used.read_bytes()) == before
    assert not (tmp_path / "kept").exists()
    assert run("--force", "source", used, cwd=tmp_path).returncode == USAGE
