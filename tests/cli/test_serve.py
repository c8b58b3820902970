# SPDX-License-Identifier: MIT
"""`headroom serve` and `headroom snap`: with the clients that people use, killed at any moment, and under attack."""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import FLUSH, FUA, HEADROOM, MIB, TIMEOUT_S, TRIM, WRITE, ZEROES, Client, Gone, Server, tool

USAGE, REFUSED = 2, 3
SIZE = 16 * MIB
BLOCK = 4096
# Of the tests that are short here and long in `make check-long`.
CRASHES = int(os.environ.get("HEADROOM_CRASHES", "3"))
HOSTILE_S = float(os.environ.get("HEADROOM_HOSTILE_S", "2"))
SEED = int(os.environ.get("HEADROOM_SEED", "1"))


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where the engine takes O_DIRECT, and where it maps."""
    if request.param == "disk":
        yield tmp_path
        return
    path = Path(f"/dev/shm/headroom-serve-{os.getpid()}")
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    s = Server(folder, size=SIZE)
    yield s
    s.kill()


def random_file(path: Path, size: int = SIZE, seed: int = 1) -> bytes:
    data = random.Random(seed).randbytes(size)
    path.write_bytes(data)
    return data


# --- Clients ---


def test_nbdinfo_sees_origin_and_snapshots(server: Server) -> None:
    assert server.snap("create", "monday").returncode == 0
    exports = {e["export-name"]: e for e in json.loads(tool("nbdinfo", "--json", "--list", server.uri()))["exports"]}
    assert set(exports) == {"origin", "monday"}
    assert exports["origin"]["export-size"] == exports["monday"]["export-size"] == SIZE
    assert not exports["origin"]["is_read_only"] and exports["monday"]["is_read_only"]
    for what in ("can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn", "can_df"):
        assert exports["origin"][what], what
    assert tool("nbdinfo", "--map", server.uri()).split() == ["0", str(SIZE), "0", "data"]


def test_nbdcopy_with_four_connections(server: Server) -> None:
    data = random_file(server.folder / "source")
    tool("nbdcopy", "--connections=4", server.folder / "source", server.uri())
    assert server.snap("create", "then").returncode == 0
    random_file(server.folder / "other", seed=2)
    tool("nbdcopy", "--connections=4", server.folder / "other", server.uri())
    for export, expected in (("then", data), ("origin", (server.folder / "other").read_bytes())):
        tool("nbdcopy", "--connections=4", server.uri(export), server.folder / "back")
        assert (server.folder / "back").read_bytes() == expected


def test_qemu_img_converts_both_ways(server: Server) -> None:
    source, image = server.folder / "source", server.folder / "image.qcow2"
    random_file(source)
    tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, server.uri())
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", server.uri("origin"), image)
    tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, source)
    tool("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri(), source)


def test_fio_verifies_what_it_has_written(server: Server) -> None:
    assert server.snap("create", "empty").returncode == 0
    tool("fio", "--name=v", "--ioengine=nbd", f"--uri={server.uri()}", "--rw=randwrite", "--bsrange=4k-256k",
         "--iodepth=32", f"--size={SIZE}", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--fsync=16")
    tool("nbdcopy", server.uri("empty"), server.folder / "back")
    assert not any((server.folder / "back").read_bytes())


def test_tcp_on_the_loopback(tmp_path: Path) -> None:
    s = Server(tmp_path, "origin", "--port", 0, size=SIZE)
    try:
        assert f'"export-size": {SIZE}' in tool("nbdinfo", "--json", f"nbd://127.0.0.1:{s.start['port']}")
        for line in Path("/proc/net/tcp").read_text().splitlines():
            if f":{s.start['port']:04X} 00000000:0000" in line:
                assert "0100007F:" in line
    finally:
        s.kill()


# --- Snapshots ---


def test_snapshots_of_different_times_and_the_end_of_each(server: Server) -> None:
    c = Client(server.socket)
    for i, name in enumerate("abc"):
        c.write(0, bytes([i + 1]) * BLOCK)
        assert server.snap("create", name).returncode == 0
    c.write(0, b"\xff" * BLOCK)
    for i, name in enumerate("abc"):
        old = Client(server.socket, name)
        assert old.read(0, BLOCK) == bytes([i + 1]) * BLOCK
        busy = server.snap("delete", name)
        assert busy.returncode == 1 and f"{name}: in use by 1 connections" in busy.stderr
        assert "in use" in server.snap("merge", name).stderr
        old.close()
    assert server.snap("delete", "a").returncode == 0
    assert not (server.stores / "a.snap").exists()
    assert server.snap("merge", "b").returncode == 0
    assert c.read(0, BLOCK) == b"\x02" * BLOCK  # at once
    server.wait_for_merge("b")
    assert not (server.stores / "b.snap").exists()
    assert Client(server.socket, "c").read(0, BLOCK) == b"\x03" * BLOCK
    with pytest.raises(Gone):
        Client(server.socket, "b")


def test_a_store_that_is_full_is_lost_alone(server: Server) -> None:
    c = Client(server.socket)
    c.write(0, b"x" * SIZE)
    assert server.snap("create", "small", "--size", 1).returncode == 0
    assert server.snap("create", "large").returncode == 0
    c.write(0, b"y" * SIZE)
    found = server.snapshots()
    assert (found["small"]["valid"], found["large"]["valid"]) == (False, True)
    assert Client(server.socket, "large").read(0, SIZE) == b"x" * SIZE
    with pytest.raises(Gone):
        Client(server.socket, "small")
    assert server.snap("delete", "small").returncode == 0


def test_persistent_snapshots_are_there_again_and_transient_ones_are_not(server: Server) -> None:
    c = Client(server.socket)
    c.write(0, b"1" * SIZE)
    assert server.snap("create", "kept").returncode == 0
    assert server.snap("create", "lost", "--transient").returncode == 0
    c.write(0, b"2" * (SIZE // 2))
    assert Client(server.socket, "lost").read(0, SIZE) == b"1" * SIZE
    c.close()
    assert server.end()["server"]["broken"] == 0
    again = Server(server.folder)
    try:
        assert list(again.snapshots()) == ["kept"]
        assert Client(again.socket, "kept").read(0, SIZE) == b"1" * SIZE
        assert sorted(p.name for p in again.stores.iterdir()) == ["kept.snap"]
    finally:
        again.kill()


def test_what_snap_is_told_and_cannot_do(server: Server) -> None:
    assert server.snap("create", "a").returncode == 0
    for words, said in (
        (("create", "a"), "File exists"),
        (("create", "origin"), "'origin'"),
        (("create", "../a"), "'../a'"),
        (("create", ".a"), "'.a'"),
        (("create", "x" * 64), "has 1 to 63"),
        (("create", "b", "--size", 10**9), "no space"),
        (("delete", "nobody"), "no snapshot 'nobody'"),
        (("merge", "nobody"), "no snapshot 'nobody'"),
    ):
        done = server.snap(*words)
        assert done.returncode == 1 and said in done.stderr, (words, done.stderr)
    assert list(server.snapshots()) == ["a"]
    assert sorted(p.name for p in server.stores.iterdir()) == ["a.snap"]
    for words in (("make", "b"), ("create",), ("create", "a", "b"), ("list", "x"), ("create", "a b"),
                  ("delete", "a", "--transient"), ("create", "y" * 300), ("create", "a", "--size", "-1")):
        assert server.snap(*words).returncode == USAGE, words
    assert server.snap("create", "t", "--transient").returncode == 0
    assert "only persistent" in server.snap("merge", "t").stderr


def test_more_snapshots_than_there_can_be(server: Server) -> None:
    for i in range(16):
        assert server.snap("create", f"s{i}", "--size", 1).returncode == 0
    done = server.snap("create", "s16", "--size", 1)
    assert done.returncode == 1 and "16 snapshots" in done.stderr
    assert len(server.snapshots()) == 16
    assert not (server.stores / "s16.snap").exists() and not (server.stores / "s16.snap.new").exists()


def test_the_control_takes_one_line_and_waits_for_nobody(server: Server) -> None:
    path = str(server.socket) + ".ctl"
    holder = socket.socket(socket.AF_UNIX)
    holder.connect(path)  # and says nothing
    began = time.monotonic()
    assert server.snap("list").returncode == 0
    assert time.monotonic() - began < 20
    for junk in (b"\n", b"\0\n", b"x" * 255, b"create\n", b"create a transient 5 6 7\n", b"create a 5x\n"):
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        s.sendall(junk)
        assert "error" in json.loads(s.makefile().readline())
    assert not server.snapshots()


# --- Refusals ---


def refusal(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HEADROOM, "serve", *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
                          timeout=TIMEOUT_S, check=False)


def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"x" * (BLOCK + 1))
    (tmp_path / "empty").touch()
    (tmp_path / "good").write_bytes(bytes(16 * BLOCK))
    (tmp_path / "file").touch()
    for arguments, said in (
        (("odd", "--back", "uring"), "odd has 4097 bytes"),
        (("empty",), "empty"),
        (("missing",), "missing"),
        ((tmp_path,), "neither a regular file"),
        (("good", "--stores", "nowhere"), "nowhere"),
    ):
        done = refusal("--socket", "s", *arguments, cwd=tmp_path)
        assert done.returncode == REFUSED and said in done.stderr, done.stderr
        assert not (tmp_path / "s").exists()
    done = refusal("--socket", "file", "good", cwd=tmp_path)
    assert done.returncode == REFUSED and "no socket" in done.stderr
    assert (tmp_path / "file").exists()
    for arguments in ((), ("good",), ("--socket", "s"), ("--socket", "s", "good", "good"), ("--port", "x", "good"),
                      ("--port", "70000", "good"), ("--socket", "s", "--chunk", "3", "good"),
                      ("--socket", "s", "--chunk", "5", "good"), ("--socket", "s", "--back", "x", "good"),
                      ("--socket", "s", "--without", "everything", "good"), ("--nonsense",)):
        assert refusal(*arguments, cwd=tmp_path).returncode == USAGE, arguments


def test_an_origin_has_one_server_and_a_socket_too(server: Server) -> None:
    (server.folder / "other").write_bytes(bytes(BLOCK))
    done = refusal("--socket", "new", "origin", cwd=server.folder)
    assert done.returncode == REFUSED and "another server has it" in done.stderr
    done = refusal("--socket", "socket", "other", cwd=server.folder)
    assert done.returncode == REFUSED and "somebody listens there already" in done.stderr
    assert Client(server.socket).read(0, BLOCK) == bytes(BLOCK)


def test_stores_that_cannot_be_taken_up(server: Server) -> None:
    """No write goes to an origin without a snapshot of it that might be right."""
    for name in ("a", "full"):
        assert server.snap("create", name, "--size", 1).returncode == 0
    Client(server.socket).write(0, b"x" * SIZE)
    assert server.snap("create", "b").returncode == 0
    server.end()
    (server.stores / "a.snap").unlink()
    (server.stores / "half.snap.new").write_bytes(b"x" * 100000)
    (server.stores / "wiped.snap").write_bytes(bytes(100000))
    (server.stores / "README").touch()
    again = Server(server.folder)
    assert list(again.snapshots()) == ["b"]
    again.end()
    assert "full.snap: the snapshot is invalid" in (server.folder / "serve.log").read_text()
    assert sorted(p.name for p in server.stores.iterdir()) == ["README", "b.snap", "full.snap"]
    (server.folder / "small").write_bytes(bytes(MIB))
    for options, said in ((("--chunk", 64, "origin"), "--chunk"), (("small",), "no snapshot store of this origin")):
        done = refusal("--socket", "s", "--stores", server.stores, *options, cwd=server.folder)
        assert done.returncode == REFUSED and "b.snap" in done.stderr and said in done.stderr
    (server.stores / "junk.snap").write_bytes(b"x" * 100000)
    done = refusal("--socket", "s", "--stores", server.stores, "origin", cwd=server.folder)
    assert done.returncode == REFUSED and "junk.snap" in done.stderr and "move it away" in done.stderr


# --- Protections ---


def test_the_line_at_the_start_tells_what_is_in_force(tmp_path: Path) -> None:
    s = Server(tmp_path, "origin", "--without", "mlock,reserve", size=SIZE)
    try:
        found = s.start["protections"]
        status = Path(f"/proc/{s.process.pid}/status").read_text()
        flags = int(Path(f"/proc/{s.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[6])
        assert (found["mlock"], found["reserve"], found["bounded-jobs"]) == ("off", "off", "on")
        assert "VmLck:\t       0 kB" in status
        assert (found["io-flusher"] == "on") == (flags & 0x180000 == 0x180000)
        adj = Path(f"/proc/{s.process.pid}/oom_score_adj").read_text().strip()
        assert (found["oom-protect"] == "on") == (adj == "-1000")
        # What was asked for and cannot be had is said, with the reason.
        log = (tmp_path / "serve.log").read_text()
        for name in ("io-flusher", "oom-protect"):
            assert (found[name] != "on") == (f"{name} is not in force" in log)
    finally:
        s.kill()
    if all(found[name] == "on" for name in ("io-flusher", "oom-protect")):
        return
    done = refusal("--socket", "s", "--require", "origin", cwd=tmp_path)
    assert done.returncode == REFUSED and "is not in force" in done.stderr
    # What was not asked for need not be had.
    s = Server(tmp_path, "origin", "--require", "--without", "io-flusher,mlock,oom-protect")
    assert s.start["protections"]["io-flusher"] == "off"
    s.end()


# --- Killed ---


class Half:
    """
    The first half of the origin: every block that was written, and which of them a flush has acknowledged. Written by
    one client, so that what each block may hold after a crash is known.
    """

    def __init__(self, rng: random.Random, blocks: int) -> None:
        self.rng = rng
        self.flushed = [0] * blocks  # the version that is there for sure
        self.later: list[set[int]] = [set() for _ in range(blocks)]  # and those that may be
        self.version = 0

    @staticmethod
    def content(block: int, version: int) -> bytes:
        return (f"{block}:{version};".encode() * BLOCK)[:BLOCK] if version else bytes(BLOCK)

    def write_some(self, c: Client) -> None:
        block = self.rng.randrange(len(self.flushed))
        self.version += 1
        self.later[block].add(self.version)
        fua = self.rng.random() < 0.1
        c.write(block * BLOCK, self.content(block, self.version), FUA if fua else 0)
        if fua:
            self.flushed[block], self.later[block] = self.version, set()
        if self.rng.random() < 0.05:
            self.flush(c)

    def flush(self, c: Client) -> None:
        c.flush()
        for block, versions in enumerate(self.later):
            if versions:
                self.flushed[block], self.later[block] = max(versions), set()

    def find(self, c: Client) -> None:
        """What is there now is what is there from now on."""
        data = c.read(0, len(self.flushed) * BLOCK)
        for block, version in enumerate(self.flushed):
            found = data[block * BLOCK : (block + 1) * BLOCK]
            allowed = [v for v in sorted({version} | self.later[block]) if found == self.content(block, v)]
            assert allowed, f"block {block}: {found[:32]!r}, not version {version} or {self.later[block]}"
            self.flushed[block], self.later[block] = allowed[-1], set()


FIO_VERIFY = ("--name=v", "--ioengine=nbd", "--bs=4k", f"--offset={SIZE // 2}", f"--size={SIZE // 2}",
              "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0")


def fio_reads_what_it_wrote(uri: str) -> None:
    tool("fio", *FIO_VERIFY, f"--uri={uri}", "--rw=read", "--iodepth=16")


class Crashes:
    """What is known of a server that is killed again and again: its origin and its snapshots."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.rng = rng
        self.half = Half(rng, SIZE // 2 // BLOCK)
        self.known: dict[str, list[int]] = {}  # snapshots, and the versions in them
        self.maybe = ""  # one that was being made or deleted when the server was killed
        self.merged = ""  # one that was being merged
        self.made = 0

    def check(self, s: Server) -> None:
        found = s.snapshots()
        must, may = set(self.known) - {self.maybe}, set(self.known) | ({self.merged} - {""})
        assert must <= set(found) <= may, (found, must, may)
        assert all(found[name]["valid"] for name in found)
        if self.merged in found:
            assert found[self.merged]["merging"]
            if self.rng.random() < 0.5:
                s.wait_for_merge(self.merged)
                self.merged = ""
        else:
            self.merged = ""
        self.known = {name: versions for name, versions in self.known.items() if name in found}
        self.maybe = ""
        for name, versions in self.known.items():
            old = Client(s.socket, name)
            data = old.read(0, SIZE // 2)
            old.close()
            for block, version in enumerate(versions):
                assert data[block * BLOCK : (block + 1) * BLOCK] == self.half.content(block, version), (name, block)
            fio_reads_what_it_wrote(s.uri(name))

    def end_one(self, s: Server, c: Client) -> None:
        """Merge or delete one."""
        name = self.rng.choice(sorted(self.known))
        self.half.flush(c)
        if self.rng.random() < 0.5:
            assert s.snap("merge", name).returncode == 0
            self.half.flushed = self.known.pop(name)
            self.merged = name
        elif self.rng.random() < 0.5:
            assert s.snap("delete", name).returncode == 0
            del self.known[name]
        else:
            self.maybe = name
            subprocess.Popen([HEADROOM, "snap", "--socket", s.socket, "delete", name], stderr=subprocess.DEVNULL)

    def make_one(self, s: Server, c: Client) -> None:
        self.made += 1
        name = f"s{self.made}"
        self.half.flush(c)
        self.known[name] = list(self.half.flushed)
        made = subprocess.Popen([HEADROOM, "snap", "--socket", s.socket, "create", name], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        if self.rng.random() < 0.8:
            assert made.wait(TIMEOUT_S) == 0
        else:
            self.maybe = name

    def one(self, s: Server) -> None:
        """Work until it is killed."""
        c = Client(s.socket)
        load = subprocess.Popen(["fio", *FIO_VERIFY, f"--uri={s.uri()}", "--rw=randwrite", "--iodepth=32", "--time_based",
                                 "--runtime=60", f"--randseed={self.made}", "--do_verify=0"], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        try:
            if not self.merged and len(self.known) > 2:
                self.end_one(s, c)
            if not self.merged and not self.maybe:
                self.make_one(s, c)
            timer = subprocess.Popen(["sh", "-c", f"sleep {self.rng.uniform(0.01, 0.4)}; kill -9 {s.process.pid}"])
            # While one is being made it is not known whether it has what is written.
            while self.maybe not in self.known:
                self.half.write_some(c)
            s.process.wait(TIMEOUT_S)
        except Gone:
            pass
        timer.wait(TIMEOUT_S)
        load.wait(TIMEOUT_S)
        c.close()


def test_killed_at_any_moment_every_snapshot_and_every_flush_is_right(folder: Path) -> None:
    crashes = Crashes(folder, random.Random(SEED))
    s = Server(folder, size=SIZE)
    try:
        tool("fio", *FIO_VERIFY, f"--uri={s.uri()}", "--rw=write", "--iodepth=16")
        for _ in range(CRASHES):
            crashes.one(s)
            s.kill()
            s = Server(folder)
            c = Client(s.socket)
            crashes.half.find(c)
            c.close()
            fio_reads_what_it_wrote(s.uri())
            crashes.check(s)
        s.end()
    finally:
        s.kill()


# --- Under attack ---


def rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def attack(rng: random.Random, path: Path) -> None:
    """One connection that does something wrong."""
    kind = rng.randrange(6)
    try:
        if kind == 0:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(TIMEOUT_S)
            s.connect(str(path))
            s.sendall(rng.randbytes(rng.randrange(4096)))
            s.close()
            return
        c = Client(path, rng.choice(["origin", "old", ""]))
        c.socket.settimeout(0.05)  # who fetches no replies is not read from
        if kind == 1:  # half a write
            c.say(b"\x25\x60\x95\x13" + bytes(3) + bytes([WRITE]) + bytes(16) + (MIB).to_bytes(4, "big"))
            c.say(bytes(rng.randrange(MIB)))
        elif kind == 2:  # replies that nobody fetches
            for _ in range(rng.randrange(200)):
                c.say(b"\x25\x60\x95\x13" + bytes(4) + bytes(16) + (128 * 1024).to_bytes(4, "big"))
        elif kind == 3:  # a wrong magic after right requests
            c.read(0, BLOCK)
            c.say(rng.randbytes(28))
        elif kind == 4:  # anything
            for _ in range(rng.randrange(50)):
                c.say(b"\x25\x60\x95\x13" + rng.randbytes(2) + bytes([0, rng.randrange(9)]) + rng.randbytes(8)
                      + bytes(4) + rng.randbytes(4) + bytes(1) + rng.randbytes(3))
        else:  # more of everything than there is
            c.ask(rng.choice([TRIM, ZEROES, FLUSH]), rng.randrange(1 << 63), rng.randrange(1 << 32))
        c.close()
    except (Gone, OSError):
        pass  # its connection is what it costs


def test_hostile_clients_cost_nobody_else_anything_and_nothing_is_left_of_them(folder: Path) -> None:
    rng = random.Random(SEED)
    s = Server(folder, size=SIZE)
    try:
        assert s.snap("create", "old").returncode == 0
        good = Client(s.socket, "old")
        for _ in range(200):
            attack(rng, s.socket)
        before, fds = rss_kib(s.process.pid), len(os.listdir(f"/proc/{s.process.pid}/fd"))
        until, attacks, slowest = time.monotonic() + HOSTILE_S, 0, 0.0
        while time.monotonic() < until:
            attack(rng, s.socket)
            attacks += 1
            if attacks % 20 == 0:
                began = time.monotonic()
                assert good.read(SIZE - BLOCK, BLOCK) == bytes(BLOCK)
                slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.5)
        assert len(os.listdir(f"/proc/{s.process.pid}/fd")) <= fds
        assert rss_kib(s.process.pid) <= before + 1024
        assert attacks > 20 * HOSTILE_S
        assert slowest < 10
        counters = s.end()["server"]
        assert counters["broken"] > 0 and counters["connections"] > attacks
        print(f"{attacks} attacks, slowest read beside them {slowest * 1000:.1f} ms")
    finally:
        s.kill()


def test_sigterm_ends_it_with_everything_written(server: Server) -> None:
    c = Client(server.socket)
    c.write(0, b"z" * SIZE)
    server.process.send_signal(signal.SIGTERM)
    server.line()
    assert server.process.wait(TIMEOUT_S) == 0
    assert (server.folder / "origin").read_bytes() == b"z" * SIZE
    assert not server.socket.exists() and not Path(f"{server.socket}.ctl").exists()
