# SPDX-License-Identifier: MIT
"""`headroom serve` beside other NBD servers that can keep what was there before a write.

What is measured is the first touch: one connection over a UNIX socket, writes to random chunks, each chunk once, so that
each has its old data kept. A server is started for each measurement, and the load goes on for most of a second, or until
there is no chunk left. Rounds are in turn, and a ratio is that of two measurements of the same round. The client is bound
to one CPU; servers may use all, as some have many threads (ours has one). A server's CPU time is that of the load alone.

Only copy-before-write of qemu-storage-daemon does what we do: it copies the old data away and then writes to the origin,
so that the origin is what was written last. It keeps no metadata, and its chunks have 64 KiB at least: where the chunks
have 4 KiB it is not there. The others write elsewhere (redirect-on-write), which needs no copy when a chunk is written
in full, and leave the origin old. A chunk of 64 KiB is therefore touched by a write of 4 KiB, if nothing else is said.

Nobody who is compared flushes: we run with --no-durable, QEMU with cache.no-flush, and nbdkit and nbd-server never do.
What flush and FUA cost is in rows of its own. On a disk nbdkit and nbd-server can only use the page cache, where a write
is none to the disk: they are shown there, and not compared with O_DIRECT.

Stores are written in full beforehand, by whatever server they are, and memory is touched: what a file system or the host
of a virtual machine only promised is paid for by whoever comes first.
"""
import contextlib
import ctypes
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import time

from common import (GIB, MIB, Helper, Row, Series, cpu_ns, drop_from_cache, make_file, measure_groups, parse_arguments,
                    publish, say, scratch, tree, version_of)

HEADROOM = "build/headroom"
KIB4, KIB64 = 4 << 10, 64 << 10
LOAD_MS = 800
DISK_BYTES, MEMORY_BYTES = GIB // 2, GIB  # of the origin
CHUNKS_4K = {"disk": 50_000, "memory": 150_000}  # touched at most: the fastest has enough for most of LOAD_MS
REWRITTEN = 32_768  # blocks that are written to again and again
VERIFIED_BYTES = 64 * MIB
START_S, STOP_S, LOAD_S = 30, 60, 150
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
CLIENT_CPU = max(os.sched_getaffinity(0))  # not the one that interrupts like best


def before_exec(client):
    """In a child, before it becomes a program: it ends when we do, and a client has its CPU."""
    def prepare():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if client:
            os.sched_setaffinity(0, {CLIENT_CPU})
    return prepare


def spawn(argv, client=False, **how):
    """In a session of its own: Ctrl-C is for us, who then end it in order."""
    return subprocess.Popen(argv, start_new_session=True, preexec_fn=before_exec(client), text=True, **how)


def run(argv, what, client=False):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                          timeout=LOAD_S, check=False, start_new_session=True, preexec_fn=before_exec(client))
    if done.returncode:
        raise SystemExit(f"bench-serve: {what}: {' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def line_of(process, seconds, what):
    if not select.select([process.stdout], [], [], seconds)[0]:
        raise SystemExit(f"bench-serve: {what} says nothing for {seconds} s")
    return process.stdout.readline()


def listens(path):
    """Without connecting to it: one of the servers ends after its first client."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as f:
        return any(line.split()[3] == "00010000" and line.rstrip("\n").endswith(" " + path) for line in f)


def cpu_s(pid):
    return sum(cpu_ns(p) for p in tree(pid)) / 1e9


# --- Servers ---


def write_in_full(path, size, direct, start=0):
    """Each block with what it holds, which is zeros behind the end: the file is as it was, and nothing is only promised."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_DIRECT if direct else 0), 0o600)
    try:
        if os.fstat(fd).st_size < size:
            os.posix_fallocate(fd, 0, size)
        with mmap.mmap(-1, 4 * MIB) as block:
            for offset in range(start, size, len(block)):
                n = os.preadv(fd, [memoryview(block)[: size - offset]], offset)
                os.pwrite(fd, memoryview(block)[:n], offset)
        os.fdatasync(fd)
    finally:
        os.close(fd)


class Place:
    """Where the origin and what is kept of it lie."""

    def __init__(self, name, folder, direct, origin_bytes):
        self.name, self.folder, self.direct, self.origin_bytes = name, folder, direct, origin_bytes

    def file(self, name):
        return os.path.join(self.folder, name)

    def origin(self):
        os.makedirs(self.file("stores"), exist_ok=True)
        make_file(self.file("origin"), self.origin_bytes)
        return self.file("origin")

    def touch(self, size):
        """Memory that will be taken soon, for a file that cannot be written in full beforehand."""
        if not self.direct:
            write_in_full(self.file("touched"), size, False)
            os.unlink(self.file("touched"))


class Server:
    """`room`: bytes that it will keep at most."""
    needs = ()

    def __init__(self, name):
        self.name, self.process, self.log = name, None, None

    def there(self):
        return all(shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/bin") for program in self.needs)

    def start(self, place, origin, chunk, room):
        self.place, self.origin, self.chunk, self.room = place, origin, chunk, room
        self.socket, self.store = place.file("socket"), place.file("stores/store")
        self.prepare()
        self.log = open(place.file("log"), "wb")
        self.process = spawn(self.argv(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log,
                             env=os.environ | {"TMPDIR": place.file("stores")})
        until = time.monotonic() + START_S
        while not listens(self.listens_at()):
            if self.process.poll() is not None or time.monotonic() > until:
                self.fail("does not start")
            time.sleep(0.005)
        self.started()

    def fail(self, why):
        with open(self.place.file("log"), encoding="utf-8", errors="replace") as f:
            raise SystemExit(f"bench-serve: {self.name} {why}: {f.read()[-2000:]}")

    def prepare(self):
        self.place.touch(self.room)

    def listens_at(self):
        return self.socket

    def started(self):
        pass

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                say(f"{self.name} does not end, and is killed")
            finally:
                self.process.kill()
                self.process.wait()
                self.process.stdout.close()
        if self.log:
            self.log.close()
        self.process = self.log = None
        for name in ("socket", "socket.ctl", "config", "log", *(f"stores/{n}" for n in os.listdir(self.place.file("stores")))):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.place.file(name))

    def uri(self, export="origin"):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def snapshot(self):
        """An export that is as the origin was; None: the origin itself is."""
        return None


class Headroom(Server):
    def __init__(self, durable=False):
        super().__init__("headroom, durable" if durable else "headroom")
        self.durable = durable

    def how(self, place):
        flushes = "flush and FUA" if self.durable else "--no-durable"
        return f"{'O_DIRECT, io_uring' if place.direct else 'mapped memory'}, {flushes}"

    def prepare(self):
        pass  # it writes to all of a mapped store itself

    def argv(self):
        options = [] if self.durable else ["--no-durable"]
        return [HEADROOM, "serve", "--json", "--socket", self.socket, "--stores", self.place.file("stores"), "--chunk",
                str(self.chunk >> 10), *options, self.origin]

    def listens_at(self):
        return self.socket + ".ctl"

    def started(self):
        back = json.loads(line_of(self.process, START_S, self.name))["back"]
        if back != ("uring" if self.place.direct else "map"):
            self.fail(f"accesses {self.place.name} by {back}")
        # A 256th of a chunk at the most for what says where it is, and some for the header and the last area.
        size = [] if self.room == os.path.getsize(self.origin) else ["--size", str((self.room + self.room // 128) // MIB + 8)]
        run([HEADROOM, "snap", "--socket", self.socket, *size, "create", "before"], self.name)
        if self.place.direct:
            kept = self.place.file("stores/before.snap")
            write_in_full(kept, os.path.getsize(kept), True)

    def snapshot(self):
        return self.uri("before")


class Qemu(Server):
    """cache.direct and io_uring where files are on a disk; io_uring has worker threads do all its work on tmpfs."""
    needs = ("qemu-storage-daemon", "qemu-img")

    def __init__(self, name, flushes=False):
        super().__init__(name + (", flushes" if flushes else ""))
        self.flushes = flushes

    def how(self, place):
        return ("O_DIRECT, io_uring" if place.direct else "page cache, threads") + \
            (", flush and FUA" if self.flushes else ", cache.no-flush")

    def file(self, node, path):
        no_flush = "off" if self.flushes else "on"
        cache = f"cache.direct={'on' if self.place.direct else 'off'},cache.no-flush={no_flush}"
        aio = "io_uring" if self.place.direct else "threads"
        return ["--blockdev", f"driver=file,node-name={node},filename={path},aio={aio},{cache}"]

    def export(self, node, name, writable):
        return ["--export", f"type=nbd,id={name},node-name={node},name={name},writable={writable}"]

    def listener(self):
        return ["--nbd-server", f"addr.type=unix,addr.path={self.socket}"]


class CopyBeforeWrite(Qemu):
    def __init__(self, flushes=False):
        super().__init__("qsd copy-before-write", flushes)

    def prepare(self):
        write_in_full(self.store, os.path.getsize(self.origin), self.place.direct)

    def argv(self):
        return ["qemu-storage-daemon", *self.file("origin-file", self.origin), *self.file("store-file", self.store),
                "--blockdev", "driver=copy-before-write,node-name=cbw,file=origin-file,target=store-file",
                "--blockdev", "driver=snapshot-access,node-name=old,file=cbw",
                *self.listener(), *self.export("cbw", "origin", "on"), *self.export("old", "before", "off")]

    def snapshot(self):
        return self.uri("before")


class Qcow2(Qemu):
    def __init__(self, flushes=False):
        super().__init__("qsd qcow2", flushes)

    def prepare(self):
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-o",
             f"cluster_size={self.chunk},backing_file={self.origin},backing_fmt=raw", self.store], self.name)
        # Clusters cannot be allocated beforehand where there is a backing file; the room for them can.
        write_in_full(self.store, self.room + self.room // 64 + 4 * MIB, self.place.direct)

    def argv(self):
        return ["qemu-storage-daemon", *self.file("origin-file", self.origin), *self.file("store-file", self.store),
                "--blockdev", "driver=raw,node-name=base,file=origin-file,read-only=on",
                "--blockdev", "driver=qcow2,node-name=overlay,file=store-file,backing=base",
                *self.listener(), *self.export("overlay", "origin", "on")]


class Nbdkit(Server):
    needs = ("nbdkit",)

    def __init__(self):
        super().__init__("nbdkit cow")

    def how(self, _place):
        return "page cache, never flushed"

    def argv(self):
        return ["nbdkit", "-f", "-U", self.socket, "--filter=cow", "file", self.origin, f"cow-block-size={self.chunk}"]

    def uri(self, export=""):
        return super().uri(export)


class NbdServer(Server):
    """Its blocks are of 4 KiB, whatever the chunk is. With more than one thread (it has four) it loses data: two of them
    give the same place to different blocks."""
    needs = ("nbd-server",)

    def __init__(self):
        super().__init__("nbd-server copyonwrite")

    def how(self, _place):
        return "page cache, never flushed, 1 thread"

    def prepare(self):
        super().prepare()
        with open(self.place.file("config"), "w", encoding="ascii") as f:
            f.write(f"[generic]\nunixsock = {self.socket}\nmax_threads = 1\n[origin]\nexportname = {self.origin}\ncopyonwrite = true\n"
                    f"cowdir = {self.place.file('stores')}\n")

    def argv(self):
        return ["nbd-server", "-C", self.place.file("config"), "-d"]


@contextlib.contextmanager
def running(server, *where):
    try:
        server.start(*where)
        yield
    finally:
        server.stop()


# --- Clients ---


class Libnbd:
    """nbd_load.c, which disconnects only when it is told to: until then the server is as it was at the end of the load."""

    def __init__(self, path):
        self.path = path

    def measure(self, server, **options):
        client = spawn([self.path, "load", *(f"{k}={v}" for k, v in options.items()), server.uri()], client=True,
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            if line_of(client, LOAD_S, "nbd_load").strip() != "ready":
                server.fail("could not be written to")
            before = cpu_s(server.process.pid)
            client.stdin.write("\n")
            client.stdin.flush()
            line = line_of(client, LOAD_S, "nbd_load")
            used = cpu_s(server.process.pid) - before
            if not line:
                server.fail("could not be written to")
            client.stdin.close()
            if client.wait(LOAD_S):
                server.fail("does not hold what was written")
            return json.loads(line) | {"cpu_s": used}
        finally:
            client.kill()
            client.wait()
            client.stdout.close()

    def verify(self, server, place, chunk):
        """A quarter of the chunks is not written to. Then, on the same connection, all is what it must be, and so is
        what was there before, in the snapshot, or in the origin where writes go elsewhere."""
        origin = place.file("verified")
        make_file(origin, VERIFIED_BYTES)
        try:
            run([self.path, "fill", "old=3", origin], "nbd_load")
            with running(server, place, origin, chunk, VERIFIED_BYTES):
                self.measure(server, chunk=chunk, qd=16, count=VERIFIED_BYTES // chunk * 3 // 4, old=3, key=5)
                old = server.snapshot()
                if old:
                    run([self.path, "read", f"chunk={chunk}", "old=3", old], server.name)
            if not old:
                run([self.path, "compare", "old=3", origin], server.name)
        finally:
            os.unlink(origin)


class Fio:
    """Its nbd engine. It knows which blocks it has written, so it writes each once."""

    def measure(self, server, chunk, qd, count, ms, seed):
        del count
        before = cpu_s(server.process.pid)
        out = run(["fio", "--name=first-touch", "--ioengine=nbd", f"--uri={server.uri()}", "--rw=randwrite", f"--bs={chunk}",
                   f"--size={server.room}", f"--iodepth={qd}", f"--runtime={ms}ms", f"--randseed={seed}",
                   "--output-format=json"], "fio", client=True)
        used = cpu_s(server.process.pid) - before
        found = json.loads(out[out.index("{"):])["jobs"][0]["write"]  # it says that it is connected first
        return {"iops": found["iops"], "writes": found["total_ios"], "p99_us": found["clat_ns"]["percentile"]["99.000000"] / 1e3,
                "cpu_s": used}


# --- Measurements ---


class Load:
    """One kind of write to several servers. `against`: those that we are compared with; `beside`: those only shown."""
    verified = set()

    def __init__(self, libnbd, place, what, against, beside=(), ours=None, client=None, chunk=KIB4, count=None, targets=(),
                 why="", **options):
        self.libnbd, self.client, self.place, self.what, self.chunk = libnbd, client or libnbd, place, what, chunk
        self.targets, self.why = dict(targets), why
        self.servers = [ours or Headroom(), *against, *beside]
        self.absent = [s.name for s in self.servers if not s.there()]
        self.servers = [s for s in self.servers if s.there()]
        self.against = [s.name for s in against]
        self.options = options | {"chunk": chunk, "count": count or min(CHUNKS_4K[place.name], place.origin_bytes // chunk)}
        self.series = {s.name: {unit: Series(s.name, unit, s.how(place)) for unit in ("IOPS", "us", "CPU-s/GiB")}
                       for s in self.servers}

    def prepare(self):
        self.place.origin()
        for s in self.servers:
            key = f"{s.name}, {s.how(self.place)}, {self.chunk >> 10} KiB"
            if key not in self.verified:
                self.libnbd.verify(s, self.place, self.chunk)
                self.verified.add(key)

    def measure(self, number):
        count = self.options["count"]
        for s in self.servers:
            drop_from_cache(self.place.origin())
            with running(s, self.place, self.place.origin(), self.chunk, count * self.chunk):
                found = self.client.measure(s, seed=number + 1, ms=LOAD_MS, **self.options)
            series = self.series[s.name]
            series["IOPS"].values.append(found["iops"])
            series["us"].values.append(found["p99_us"])
            series["CPU-s/GiB"].values.append(found["cpu_s"] / (found["writes"] * self.chunk / GIB))

    def check(self):
        pass  # in prepare()

    def clean(self):
        pass  # the origin is that of the next group

    def row(self, what, unit, ours=None, against=None, beside=None, target=None):
        series = {name: of[unit] for name, of in self.series.items()}
        ours, against = ours or self.servers[0].name, self.against if against is None else against
        beside = [name for name in series if name not in (ours, *against)] if beside is None else beside
        less = unit != "IOPS"
        return Row(what, series[ours], [series[name] for name in against if name in series], target, self.why,
                   best=min if less else max, at_most=less, beside=[series[name] for name in beside])

    def rows(self):
        rows = [self.row(self.what, "IOPS", target=self.targets.get("IOPS")),
                self.row(self.what + ": p99", "us", target=self.targets.get("us")),
                self.row(self.what + ": CPU", "CPU-s/GiB", target=self.targets.get("CPU-s/GiB"))]
        if "of CBW" in self.targets:
            rows.append(self.row(self.what + ": of copy-before-write", "IOPS", against=[CopyBeforeWrite().name], beside=[],
                                 target=self.targets["of CBW"]))
        durable, flushing = Headroom(durable=True).name, [Qcow2(flushes=True).name]
        if durable in self.series and self.servers[0].name != durable:
            rows += [self.row(self.what + ", flush and FUA" + what, unit, ours=durable, against=flushing, beside=[])
                     for what, unit in (("", "IOPS"), (": p99", "us"), (": CPU", "CPU-s/GiB"))]
            rows.append(self.row(self.what + ", flush and FUA: of ours without", "IOPS", ours=durable,
                                 against=[self.servers[0].name], beside=[]))
        return rows


# --- The table ---

WHY = {
    "disk-64k": "the device: a read and a write for each, and two writes for eight of them",
    "disk-4k": "the device's operations: a read and a write for each, and two writes for many; qcow2 has one write, as it copies "
               "nothing where all of a cluster is written",
    "disk-1": "four I/Os, one after the other; qcow2 needs one for a chunk that is written in full, and two otherwise",
    "memory-64k": "memory that is in no cache, read and written once for each",
    "memory-4k": "the socket, which takes more of the server than keeping 4 KiB does; nbdkit's threads share it, we have one",
    "memory-1": "two wake-ups for each",
    "fio": "fio",
    "full": "the socket: 64 KiB through it cost more than keeping them does",
    "fua": "the device's flush; copy-before-write has only the origin flushed, not what it keeps",
}


def groups_for(libnbd, disk, memory):
    groups = {}

    def add(key, *args, **options):
        groups[key] = Load(libnbd, *args, **options)

    for qd in (1, 32, 128):
        deep = qd > 1
        # Where the page cache is all they have, once is enough.
        durable, cached = [Headroom(durable=True), Qcow2(flushes=True)] if deep else [], qd == 32
        add(f"disk-64k-{qd}", disk, f"on disk, 64 KiB, QD {qd}", [CopyBeforeWrite()] + [Qcow2()] * (not deep),
            durable + [Qcow2()] * deep + [Nbdkit()] * cached, chunk=KIB64, qd=qd, why=WHY["disk-64k" if deep else "disk-1"],
            targets={1: {"IOPS": 1.1}, 32: {"IOPS": 1.5, "CPU-s/GiB": 0.25}, 128: {"IOPS": 1.8, "CPU-s/GiB": 0.25}}[qd])
        add(f"disk-4k-{qd}", disk, f"on disk, 4 KiB, QD {qd}", [Qcow2()], durable + [Nbdkit(), NbdServer()] * cached, qd=qd,
            why=WHY["disk-4k" if deep else "disk-1"], targets={"IOPS": 5, "us": 0.1} if deep else {"IOPS": 1.1})
        add(f"memory-64k-{qd}", memory, f"in memory, 64 KiB, QD {qd}", [CopyBeforeWrite(), Qcow2(), Nbdkit()], chunk=KIB64,
            qd=qd, why=WHY["memory-64k" if deep else "memory-1"], targets={"IOPS": 3, "of CBW": 5} if deep else {"IOPS": 1.1})
        add(f"memory-4k-{qd}", memory, f"in memory, 4 KiB, QD {qd}", [Qcow2(), Nbdkit(), NbdServer()], qd=qd,
            why=WHY["memory-4k" if deep else "memory-1"], targets={"IOPS": 1.5 if deep else 1.1})
    add("rewrite", memory, "in memory, 4 KiB rewritten, QD 32", [Qcow2(), Nbdkit(), NbdServer()], qd=32, count=REWRITTEN, again=1,
        why=WHY["memory-4k"], targets={"IOPS": 1.5})
    # The same by another client, whose own cost is larger. It connects twice; nbd-server, in the foreground, serves once.
    add("disk-4k-32-fio", disk, "on disk, 4 KiB, QD 32, fio", [Qcow2()], [Nbdkit()], client=Fio(), qd=32,
        why=WHY["disk-4k"], targets={"IOPS": 5, "us": 0.1})
    add("memory-4k-32-fio", memory, "in memory, 4 KiB, QD 32, fio", [Qcow2(), Nbdkit()], client=Fio(), qd=32,
        why=WHY["fio"], targets={"IOPS": 1.5})
    # All of a chunk is written, so who writes elsewhere copies nothing.
    add("disk-64k-full", disk, "on disk, all 64 KiB, QD 32", [CopyBeforeWrite()], [Qcow2(), Nbdkit()], chunk=KIB64, bytes=KIB64,
        qd=32, why=WHY["full"])
    add("memory-64k-full", memory, "in memory, all 64 KiB, QD 32", [CopyBeforeWrite()], [Qcow2(), Nbdkit()], chunk=KIB64,
        bytes=KIB64, qd=32, why=WHY["full"])
    for chunk in (KIB64, KIB4):
        against = [Qcow2(flushes=True)] + ([CopyBeforeWrite(flushes=True)] if chunk == KIB64 else [])
        add(f"fua-{chunk >> 10}k", disk, f"on disk, {chunk >> 10} KiB, QD 32, each write with FUA", against, chunk=chunk, qd=32,
            ours=Headroom(durable=True), fua=1, why=WHY["fua"])
    return groups


def main():
    args, error = parse_arguments(__doc__)
    folder = os.path.dirname(args.helper)
    libnbd = Libnbd(os.path.join(folder, "nbd_load"))
    with scratch(args) as (on_disk, in_memory):
        groups = groups_for(libnbd, Place("disk", on_disk, True, DISK_BYTES), Place("memory", in_memory, False, MEMORY_BYTES))
        found = measure_groups(args, error, groups, Helper(args.helper))
    publish(args, found,
            {"client": "nbd_load.c (libnbd), or fio where the row says so; bound to one CPU; one connection, a UNIX socket",
             "load": f"{LOAD_MS} ms, or each chunk once", "cpu": "of all threads of the server, during the load; of what is copied",
             "us": "p99 of the time from a request to its answer"},
            {"qemu-storage-daemon": version_of("qemu-storage-daemon", "--version"), "nbdkit": version_of("nbdkit", "--version"),
             "nbd-server": version_of("nbd-server", "-V"), "fio": version_of("fio", "--version")},
            verified=sorted(Load.verified))
    return 0  # a target that is missed is a result


if __name__ == "__main__":
    sys.exit(main())
