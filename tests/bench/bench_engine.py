# SPDX-License-Identifier: MIT
"""The copy engine beside its peers and beside what the machine gives at most.

Everything is measured in one run and in turn (A B C ... A B C ...), because a machine is not the same machine a minute
later; a ratio is that of two measurements of the same round. Files are written in full beforehand, and dropped from the
page cache before each measurement; memory is touched before. What is compared with a bound is bound to one CPU, as the
bound is; what is compared with other programs may use all, as they may (the engine has one thread). What a copy costs is
measured from outside, from the start of the program to its end.
"""
import json
import os
import shutil
import subprocess
import sys

from common import (GIB, MIB, Helper, Row, Series, drop_from_cache, make_file, measure_groups, parse_arguments, publish,
                    run_timed, scratch, version_of)

COPY_BYTES = 2 * GIB
ORIGIN_BYTES = GIB
STORE_BYTES = ORIGIN_BYTES + 32 * MIB  # with room for the header and the areas
COWS_4K = 60_000  # two to three seconds
FLOOD_WRITES = 100_000
FLOOD_ANONYMOUS_MIB = 32  # and the staging memory
FLAT_KIB = 1024
# As `headroom copy` has it (filecopy.c): with O_DIRECT, and where the kernel copies by itself.
AS_COPY_DIRECT = {"subjob": 1024, "split": 8, "staging": 8192}
AS_COPY_CACHED = {"subjob": 1024, "split": 8, "staging": 1024}


class EngineHelper(Helper):
    def run_slab(self, role, preload=None, pin=True, **options):
        load = ["env", f"LD_PRELOAD={preload}"] if preload else []
        slab = os.path.join(os.path.dirname(self.path), "bench_slab")
        argv = [slab, role, *(f"{k}={v}" for k, v in options.items())]
        return json.loads(run_timed((self.pin if pin else []) + load + argv)[2])


# --- Copies ---


class Copier:
    def __init__(self, name, argv, needs=None, truncates=False):
        self.name, self.argv, self.needs, self.truncates = name, argv, needs, truncates
        self.speed, self.cpu = Series(name, "MB/s"), Series(name, "CPU-s/GiB")

    def there(self):
        return not self.needs or shutil.which(self.needs)

    def measure(self, source, dest):
        seconds, cpu, _ = run_timed(self.argv(source, dest))
        self.speed.values.append(COPY_BYTES / 1e6 / seconds)
        self.cpu.values.append(cpu / (COPY_BYTES / GIB))


def and_sync(argv):
    return ["sh", "-c", '"$@" && sync -d "$0"', argv[-1], *argv]


def copiers_on_disk(helper):
    return [
        Copier("headroom", lambda s, d: helper.argv("copy", s, d, sync=1, **AS_COPY_DIRECT)),
        Copier("dd 1M direct", lambda s, d: ["dd", f"if={s}", f"of={d}", "bs=1M", "iflag=direct", "oflag=direct",
                                             "conv=notrunc,fdatasync", "status=none"]),
        Copier("cp, sync", lambda s, d: and_sync(["cp", "--reflink=never", s, d]), truncates=True),
        Copier("qemu-img -m16 -W", lambda s, d: ["qemu-img", "convert", "-n", "-W", "-m", "16", "-t", "none", "-T", "none",
                                                 "-f", "raw", "-O", "raw", s, d], needs="qemu-img"),
        Copier("nbdcopy", lambda s, d: ["nbdcopy", "--flush", s, d], needs="nbdcopy"),
        Copier("copy_file_range, sync", lambda s, d: [helper.path, "cfr", "sync=1", s, d]),
    ]


def copiers_in_memory(helper):
    return [
        Copier("headroom", lambda s, d: helper.argv("copy", s, d, **AS_COPY_CACHED)),
        Copier("dd 1M", lambda s, d: ["dd", f"if={s}", f"of={d}", "bs=1M", "conv=notrunc", "status=none"]),
        Copier("cp", lambda s, d: ["cp", "--reflink=never", s, d], truncates=True),
        Copier("qemu-img -m16 -W", lambda s, d: ["qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw",
                                                 s, d], needs="qemu-img"),
        Copier("nbdcopy", lambda s, d: ["nbdcopy", s, d], needs="nbdcopy"),
        Copier("copy_file_range", lambda s, d: [helper.path, "cfr", s, d]),
        Copier("splice", lambda s, d: [helper.path, "splice", s, d]),
    ]


class Copies:
    """One group of measurements: all copiers on one file system."""

    def __init__(self, folder, copiers, rows):
        self.source, self.dest = os.path.join(folder, "copy-from"), os.path.join(folder, "copy-to")
        self.copiers = [c for c in copiers if c.there()]
        self.absent = [c.name for c in copiers if not c.there()]
        self.rows_of = rows

    def prepare(self):
        make_file(self.source, COPY_BYTES)
        make_file(self.dest, COPY_BYTES)

    def measure(self, _round):
        for c in self.copiers:
            dest = self.dest + "-truncated" if c.truncates else self.dest
            if c.truncates:
                make_file(dest, COPY_BYTES)
            drop_from_cache(self.source)
            drop_from_cache(dest)
            c.measure(self.source, dest)
            if c.truncates:
                os.unlink(dest)

    def check(self):
        """The engine's copy is the last thing that is asked of the destination."""
        self.copiers[0].measure(self.source, self.dest)
        for series in (self.copiers[0].speed, self.copiers[0].cpu):
            series.values.pop()
        if subprocess.run(["cmp", "-s", self.source, self.dest], check=False).returncode:
            raise SystemExit(f"bench-engine: {self.dest} is not what {self.source} is")

    def rows(self):
        return self.rows_of(self.copiers[0], self.copiers[1:])

    def clean(self):
        for path in (self.source, self.dest, self.dest + "-truncated"):
            if os.path.exists(path):
                os.unlink(path)


def rows_of_disk_copy(ours, peers):
    return [
        Row("2 GiB copy, O_DIRECT files", ours.speed, [p.speed for p in peers], 1.35,
            "the device: what is read and written shares its bandwidth"),
        Row("2 GiB copy, O_DIRECT files: CPU", ours.cpu, [p.cpu for p in peers], 0.25,
            "the start of the program, and io_uring's calls: two for each MiB", best=min, at_most=True),
    ]


def rows_of_memory_copy(ours, peers):
    return [Row("2 GiB copy, tmpfs", ours.speed, [p.speed for p in peers], 1.0,
                "the kernel's splice(2) from page to page, which is what the engine asks it for")]


# --- Copy on write ---


class Cow:
    """The engine and its bound, or several settings of the engine, in turn."""

    def __init__(self, helper, folder, what, subjects, rows, files):
        self.helper, self.what, self.rows_of = helper, what, rows
        self.files = {name: (os.path.join(folder, name), size) for name, size in files.items()}
        self.subjects = subjects  # name: (role, files, options)
        self.unit = "COW/s"
        self.speed = {name: Series(name, self.unit) for name in subjects}
        self.last = {}
        self.absent = []

    def prepare(self):
        for path, size in self.files.values():
            make_file(path, size)

    def measure(self, number):
        for name, (role, files, options) in self.subjects.items():
            paths = [self.files[f][0] for f in files]
            for path in paths:
                drop_from_cache(path)
            found = self.helper.run(role, *paths, seed=number + 1, **options)
            self.last[name] = found
            self.speed[name].values.append(found.get("cow_per_s", found.get("chunks_per_s")))

    def check(self):
        pass  # the helper does: every write was the first to its chunk, and every exception was committed

    def rows(self):
        return self.rows_of(self.speed, self.last)

    def clean(self):
        for path, _ in self.files.values():
            if os.path.exists(path):
                os.unlink(path)


ORIGIN_AND_STORE = {"origin": ORIGIN_BYTES, "store-0": STORE_BYTES}
FOUR_STORES = {"origin": ORIGIN_BYTES} | {f"store-{i}": STORE_BYTES for i in range(4)}
BOUND = "the device, no ordering"


def cow_on_disk(helper, folder, chunk, depth, count, target, limit):
    options = {"chunk": chunk, "qd": depth, "count": count}
    files = ["origin", "store-0"]
    subjects = {
        BOUND: ("cowlimit", files, options),
        "headroom": ("cow", files, options),
        "headroom, durable": ("cow", files, options | {"durable": 1, "count": min(count, 20_000)}),
    }

    def rows(speed, _last):
        what = f"COW on disk, {chunk >> 10} KiB, QD {depth}"
        return [Row(what, speed["headroom"], [speed[BOUND]], target, limit),
                Row(what + ", flush and FUA", speed["headroom, durable"], [speed[BOUND]], None,
                    "the device's flush, once for each commit")]

    return Cow(helper, folder, f"cow-{chunk >> 10}k-{depth}", subjects, rows, ORIGIN_AND_STORE)


def cow_stores(helper, folder):
    options = {"qd": 128, "count": COWS_4K}
    stores = [f"store-{i}" for i in range(4)]
    subjects = {"1 snapshot": ("cow", ["origin", *stores[:1]], options), "4 snapshots": ("cow", ["origin", *stores], options)}

    def rows(speed, _last):
        return [Row("4 snapshots against 1, 4 KiB, QD 128", speed["4 snapshots"], [speed["1 snapshot"]], 0.8,
                    "the device: four writes of 4 KiB for each that one snapshot needs, merged")]

    return Cow(helper, folder, "cow-stores", subjects, rows, FOUR_STORES)


def cow_in_memory(helper, folder):
    options = {"chunk": 65536}
    subjects = {
        "memcpy": ("memcpy", ["origin", "store-0"], options),
        "headroom": ("cow", ["origin", "store-0"], options | {"back": "map", "qd": 32}),
        "memcpy past the cache": ("memcpy", ["origin", "store-0"], options | {"nt": 1}),
    }

    def rows(speed, _last):
        return [Row("COW in memory, 64 KiB, 1 thread", speed["headroom"], [speed["memcpy"]], 0.85,
                    f"memory: the same copy without anything around it does {speed['memcpy past the cache'].median():.0f}/s")]

    return Cow(helper, folder, "cow-memory", subjects, rows, ORIGIN_AND_STORE)


class Flood(Cow):
    """All writes at once. Anonymous memory, in the place of speed."""

    def __init__(self, helper, folder):
        options = {"qd": FLOOD_WRITES, "count": FLOOD_WRITES}
        super().__init__(helper, folder, "flood", {"headroom": ("flood", ["origin", "store-0"], options)}, None,
                         ORIGIN_AND_STORE)
        self.peak = Series("headroom, at most", "MiB anonymous")
        self.cap = Series("32 MiB and staging", "MiB")
        self.growth = Series("headroom, most - least", "KiB anonymous")
        self.flat = Series("flat", "KiB")

    def measure(self, number):
        super().measure(number)
        found = self.last["headroom"]
        self.peak.values.append(found["anonymous_max_kib"] / 1024)
        self.cap.values.append(FLOOD_ANONYMOUS_MIB + found["staging_bytes"] / MIB)
        self.growth.values.append(found["anonymous_max_kib"] - found["anonymous_min_kib"])
        self.flat.values.append(FLAT_KIB)

    def rows(self):
        return [Row(f"anonymous memory, {FLOOD_WRITES} writes at once", self.peak, [self.cap], 1.0,
                    "staging, 8 bytes for each chunk a store has room for, and the chunks in flight", at_most=True),
                Row("the same: how much it moves", self.growth, [self.flat], 1.0,
                    "nothing is allocated after the start", at_most=True)]


# --- Slabs ---

ALLOCATORS = {"jemalloc": "libjemalloc.so.2", "tcmalloc": "libtcmalloc_minimal.so.4", "mimalloc": "libmimalloc.so.2"}
# 6 ns where a bare free list takes 2.4, 40 ns where it takes 29: machines differ, and one differs from itself.
OF_LIST = {"lifo": 6 / 2.4, "batch": 40 / 29}
FREE_LIST = "free list (no less is possible)"
WHY = {"lifo": "loads and stores: the owner, the stock, the magazine, the gate",
       "batch": "from an object to its slab, magazine and owner; how much of it the owner is: no owners",
       "random": "caches, which the object itself misses with any allocator; and its slab's descriptor, where there are several (2.5 ns)",
       "cross": "one exchange of a magazine for each 64 objects"}


def library(name):
    """Where the dynamic linker finds it, or None."""
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"):
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    return None


class Slabs:
    """Objects with owners, beside allocators that know none."""

    def __init__(self, helper):
        self.helper = helper
        self.loaded = {name: library(file) for name, file in ALLOCATORS.items()}
        self.absent = [name for name, path in self.loaded.items() if not path]
        self.series = {}

    def prepare(self):
        pass

    def check(self):
        pass  # whatever is freed twice, or is no object, ends the helper

    def clean(self):
        pass

    def subjects(self):
        yield "headroom", {"from": "slab"}, None
        yield "headroom, no owners", {"from": "no-owners"}, None
        yield "glibc", {"from": "malloc"}, None
        for name, path in self.loaded.items():
            if path:
                yield name, {"from": "malloc"}, path

    def add(self, case, name, unit, value):
        self.series.setdefault(case, {}).setdefault(name, Series(name, unit)).values.append(value)

    def of(self, case):
        """(ours, glibc's, all others)"""
        series = dict(self.series[case])
        return series.pop("headroom"), series.pop("glibc"), list(series.values())


class SlabSpeed(Slabs):
    CASES = [(role, size) for role in ("lifo", "batch", "random") for size in (64, 256, 1024, 4096)]
    CASES += [("cross", size) for size in (64, 1024)]
    NAMES = {"lifo": "one after the other", "batch": "batches of 1000", "random": "one of 8192 replaced",
             "cross": "freed by another thread"}

    def measure(self, _round):
        for role, size in self.CASES:
            for name, options, preload in self.subjects():
                found = self.helper.run_slab(role, preload, pin=role != "cross", size=size, **options)
                self.add((role, size), name, "ns", found["ns"])
            if role != "cross":
                self.add((role, size), FREE_LIST, "ns", self.helper.run_slab(role, size=size, **{"from": "list"})["ns"])

    def rows(self):
        rows = []
        for role, size in self.CASES:
            ours, glibc, others = self.of((role, size))
            what = f"slab, {self.NAMES[role]}, {size} B"
            if role in OF_LIST and (role == "lifo") == (size <= 1024):
                bare = self.series[role, size][FREE_LIST]
                rows.append(Row(what + ": of a bare list", ours, [bare], OF_LIST[role], WHY[role], best=min, at_most=True))
            rows.append(Row(what + ": of glibc", ours, [glibc], 0.75, WHY[role], best=min, at_most=True, beside=others))
        return rows


class SlabUse(Slabs):
    def subjects(self):
        yield from super().subjects()
        yield "headroom, caches per group", {"from": "per-group"}, None
        for name, options in (("jemalloc", "jemalloc-arenas"), ("mimalloc", "mimalloc-heaps")):
            if self.loaded[name]:
                yield f"{name}, per group", {"from": options}, self.loaded[name]

    def measure(self, number):
        for name, options, preload in self.subjects():
            found = self.helper.run_slab("sparse", preload, seed=number + 1, **options)
            for case, value in found.items():
                self.add(case, name, "of the memory", value)

    def rows(self):
        names = {"full": "200 sparse groups, full", "dropped": "the same, nine tenths freed", "refilled": "the same, refilled to half"}
        targets = {"full": 0.94, "refilled": 0.82}
        rows = []
        for case, what in names.items():
            ours, glibc, others = self.of(case)
            all_of_it = Series("all of it", "of the memory")
            all_of_it.values = [1.0] * len(ours.values)
            rows.append(Row(f"objects, {what}", ours, [all_of_it], targets.get(case), "owners (4 bytes each) and the tails of slabs",
                            beside=[glibc, *others]))
        return rows


# --- The table ---


def groups_for(helper, disk, memory):
    latency = "four dependent I/Os (read, data, exception, origin): a QD of 32 is seldom 32 at the device"
    device = "the device: nearly always full; each COW waits for four I/Os, one after the other"
    mixed = "the device, which does reads and writes in turns, as batches have them, faster than at once, as the bound has them"
    return {
        "copy-disk": Copies(disk, copiers_on_disk(helper), rows_of_disk_copy),
        "copy-memory": Copies(memory, copiers_in_memory(helper), rows_of_memory_copy),
        "cow-4k-32": cow_on_disk(helper, disk, 4096, 32, COWS_4K, 0.75, latency),
        "cow-4k-128": cow_on_disk(helper, disk, 4096, 128, COWS_4K, 0.90, device),
        "cow-64k-128": cow_on_disk(helper, disk, 65536, 128, ORIGIN_BYTES // 65536, 0.90, mixed),
        "cow-stores": cow_stores(helper, disk),
        "cow-memory": cow_in_memory(helper, memory),
        "flood": Flood(helper, disk),
        "slab-speed": SlabSpeed(helper),
        "slab-use": SlabUse(helper),
    }


def main():
    args, error = parse_arguments(__doc__)
    helper = EngineHelper(args.helper)
    with scratch(args) as (disk, memory):
        found = measure_groups(args, error, groups_for(helper, disk, memory), helper)
    publish(args, found, {"cpu": "rusage of the program and its children; kernel threads that write back are not in it"},
            {"dd": version_of("dd", "--version"), "qemu-img": version_of("qemu-img", "--version"),
             "nbdcopy": version_of("nbdcopy", "--version")})
    return 0  # a target that is missed is a result


if __name__ == "__main__":
    sys.exit(main())
