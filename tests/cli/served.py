# SPDX-License-Identifier: MIT
"""A server under test, and a client of it that says exactly what it wants."""
from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

HEADROOM = Path(__file__).resolve().parents[2] / "build/headroom"
TIMEOUT_S = 60
MIB = 1 << 20

READ, WRITE, DISC, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
FUA = 1
REQUEST_MAGIC, SIMPLE_MAGIC = 0x25609513, 0x67446698
OPTION_MAGIC = 0x49484156454F5054
EXPORT_NAME = 1


class Server:
    """`headroom serve`, from its line at the start on."""

    def __init__(self, folder: Path, origin: str | Path = "origin", *options: object, size: int | None = None) -> None:
        self.folder = folder
        self.socket = folder / "socket"
        self.stores = folder / "stores"
        self.stores.mkdir(exist_ok=True)
        if size is not None:
            (folder / origin).touch()
            os.truncate(folder / origin, size)
        self.log = (folder / "serve.log").open("a")
        self.process = subprocess.Popen(
            [HEADROOM, "serve", "--json", "--socket", self.socket, "--stores", self.stores, *map(str, options), origin],
            cwd=folder, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.line()
        assert line, (folder / "serve.log").read_text()
        self.start = json.loads(line)

    def line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
        assert ready, "the server says nothing"
        return self.process.stdout.readline()

    def uri(self, export: str = "") -> str:
        return f"nbd+unix:///{export}?socket={self.socket}"

    def snap(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([HEADROOM, "snap", "--socket", self.socket, *map(str, arguments)], capture_output=True,
                              text=True, timeout=TIMEOUT_S, check=False)

    def snapshots(self) -> dict[str, dict[str, object]]:
        done = self.snap("list", "--json")
        assert done.returncode == 0, done.stderr
        return {s["name"]: s for s in json.loads(done.stdout)["snapshots"]}

    def wait_for_merge(self, name: str) -> None:
        until = time.monotonic() + TIMEOUT_S
        while name in self.snapshots():
            assert time.monotonic() < until, f"{name} is still being merged"
            time.sleep(0.05)

    def end(self) -> dict[str, dict[str, int]]:
        """Its counters."""
        self.process.send_signal(signal.SIGTERM)
        counters = json.loads(self.line())
        assert self.process.wait(TIMEOUT_S) == 0
        self.log.close()
        assert isinstance(counters, dict)
        return counters

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT_S)
        self.log.close()


class Gone(Exception):
    """The server is not there any more."""


class Client:
    """Simple replies, one request after the other."""

    def __init__(self, path: Path, export: str = "origin") -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        try:
            self.socket.connect(str(path))
        except ConnectionError as e:
            raise Gone from e
        self.hear(18)
        self.say(struct.pack(">I", 3))
        self.say(struct.pack(">QII", OPTION_MAGIC, EXPORT_NAME, len(export)) + export.encode())
        self.size, self.flags = struct.unpack(">QH", self.hear(10))
        self.cookie = 0

    def say(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except ConnectionError as e:
            raise Gone from e

    def hear(self, n: int) -> bytes:
        data = bytearray()
        while len(data) < n:
            try:
                got = self.socket.recv(n - len(data))
            except ConnectionError as e:
                raise Gone from e
            if not got:
                raise Gone
            data += got
        return bytes(data)

    def ask(self, command: int, offset: int, length: int, payload: bytes = b"", flags: int = 0) -> int:
        """NBD_E... of it."""
        self.cookie += 1
        self.say(struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, self.cookie, offset, length) + payload)
        magic, error, cookie = struct.unpack(">IIQ", self.hear(16))
        assert (magic, cookie) == (SIMPLE_MAGIC, self.cookie)
        return int(error)

    def read(self, offset: int, length: int) -> bytes:
        error = self.ask(READ, offset, length)
        assert error == 0
        return self.hear(length)

    def write(self, offset: int, data: bytes, flags: int = 0) -> None:
        assert self.ask(WRITE, offset, len(data), data, flags) == 0

    def flush(self) -> None:
        assert self.ask(FLUSH, 0, 0) == 0

    def close(self) -> None:
        self.socket.close()


def tool(*arguments: object, status: Iterable[int] = (0,)) -> str:
    """One of the clients that people use."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode in status, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout
