# SPDX-License-Identifier: MIT
"""What the benchmarks have in common: files, measuring in turn, rows with targets, the table and its JSON."""
import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone

MIB = 1 << 20
GIB = 1 << 30
ME = os.path.splitext(os.path.basename(sys.argv[0]))[0].replace("_", "-")


def say(text):
    print(f"{ME}: {text}", file=sys.stderr, flush=True)


# --- Files ---


def make_file(path, size):
    """All of it written: what is only allocated is marked as written block by block, by whoever comes first."""
    if os.path.exists(path) and os.stat(path).st_size == size and os.stat(path).st_blocks * 512 >= size:
        return
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
        block = os.urandom(4 * MIB)
        for offset in range(0, size, len(block)):
            os.pwrite(fd, block[: size - offset], offset)
        os.fdatasync(fd)
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def drop_from_cache(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


# --- Running ---


def run_timed(argv):
    """(seconds, CPU seconds of it and its children, what it printed)."""
    begin = time.monotonic()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{ME}: {' '.join(argv)}: exit status {process.returncode}")
    return time.monotonic() - begin, usage.ru_utime + usage.ru_stime, out


def cpu_ns(pid):
    """CPU time of all threads of a process, dead ones too. In /proc/PID/stat it is cut to ticks of 10 ms."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def tree(pid):
    """The process and its descendants."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children", encoding="ascii") as f:
                    found += [int(child) for child in f.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
    return found


class Helper:
    def __init__(self, path):
        self.path = path
        # Not the first: it is the one that interrupts and other programs like best.
        self.pin = ["taskset", "-c", str(max(os.sched_getaffinity(0)))] if shutil.which("taskset") else []

    def argv(self, role, *files, **options):
        return [self.path, role, *(f"{k}={v}" for k, v in options.items()), *files]

    def run(self, role, *files, **options):
        return json.loads(run_timed(self.pin + self.argv(role, *files, **options))[2])


# --- Rows ---


class Series:
    """The measurements of one subject, one a round."""

    def __init__(self, name, unit, note=""):
        self.name, self.unit, self.note = name, unit, note
        self.values = []

    def median(self):
        return statistics.median(self.values)

    def as_json(self):
        return {"name": self.name, "unit": self.unit, **({"note": self.note} if self.note else {}), **spread(self.values)}


def spread(values, digits=4):
    return {"median": round(statistics.median(values), digits), "min": round(min(values), digits),
            "max": round(max(values), digits), "rounds": [round(v, digits) for v in values]}


class Row:
    """What is compared with what. Of several peers the best one counts; `best` is max or min. `beside`: only shown."""

    def __init__(self, what, ours, peers, target, limit, best=max, at_most=False, beside=()):
        self.what, self.ours, self.peers, self.beside = what, ours, peers, beside
        self.target, self.limit, self.best, self.at_most = target, limit, best, at_most

    def as_json(self):
        peers = [p for p in self.peers if p.values]
        peer = self.best(peers, key=Series.median) if peers else None
        ratio = spread([a / b for a, b in zip(self.ours.values, peer.values)]) if peer else None
        met = None
        if ratio and self.target is not None:
            met = ratio["median"] <= self.target if self.at_most else ratio["median"] >= self.target
        return {"row": self.what, "ours": self.ours.as_json(),
                "peers": [p.as_json() for p in [*peers, *self.beside] if p.values],
                "against": peer.name if peer else None, "ratio": ratio, "target": self.target,
                "target_is": "at most" if self.at_most else "at least", "met": met, "limit": self.limit}


# --- The table ---


def version_of(*argv):
    try:
        result = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+\.\d[\w.]*", result.stdout)
    return found[0] if found else None


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]).rstrip())


def number(x):
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def cell(series):
    return f"{number(series['median'])} ({number(series['min'])}..{number(series['max'])})" if series else "-"


def show(result):
    said = {True: "met", False: "MISS", None: "-"}
    rows = [["row", "median (min..max)", "unit", "best beside it", "median (min..max)", "ratio", "target", ""]]
    for r in result["rows"]:
        best = next((p for p in r["peers"] if p["name"] == r["against"]), None)
        target = "-" if r["target"] is None else f"{'<=' if r['target_is'] == 'at most' else '>='} {r['target']}"
        rows.append([r["row"], cell(r["ours"]), r["ours"]["unit"], r["against"] or "-", cell(best), cell(r["ratio"]), target,
                     said[r["met"]]])
    table(rows)
    print()
    notes = any("note" in p for r in result["rows"] for p in [r["ours"], *r["peers"]])
    rows = [["row", "beside it", "median (min..max)", "unit"] + ["how"] * notes]
    rows += [[r["row"], p["name"], cell(p), p["unit"]] + [p.get("note", "-")] * notes for r in result["rows"]
             for p in [r["ours"]] * notes + r["peers"]]
    table(rows)
    print()
    for r in result["rows"]:
        print(f"{said[r['met']]:6}{r['row']}: {r['limit']}")
    for name in result["absent"]:
        print(f"absent  {name}")


# --- From the command line to the file ---


def parse_arguments(doc, argv=None):
    """The arguments, and what to call when one of them is wrong."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helper", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--disk", default="build/bench", help="a directory on the disk that is measured")
    parser.add_argument("--memory", default="/dev/shm", help="a directory in a tmpfs")
    parser.add_argument("--only", help="of these groups, with commas between them")
    parser.add_argument("--out", default=f"build/bench/{ME.removeprefix('bench-')}.json")
    return parser.parse_args(argv), parser.error


@contextlib.contextmanager
def scratch(args):
    """A directory on the disk and one in memory, which are gone afterwards, however it ends."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    name = f"headroom-bench-{os.getpid()}"
    folders = [os.path.abspath(os.path.join(parent, name)) for parent in (args.disk, args.memory)]
    try:
        for folder in folders:
            os.makedirs(folder)
        yield folders
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def measure_groups(args, error, groups, helper):
    """Of each that was chosen prepare(), measure(round), check() and clean(); then its rows()."""
    chosen = args.only.split(",") if args.only else list(groups)
    if not set(chosen) <= set(groups):
        error(f"--only: there are {', '.join(groups)}")
    touch, rows, absent = [], [], set()
    for name in chosen:
        group = groups[name]
        group.prepare()
        for i in range(args.rounds):
            say(f"{name}, round {i + 1} of {args.rounds}")
            touch.append(helper.run("touch"))
            group.measure(i)
        group.check()
        group.clean()
        rows += [row.as_json() for row in group.rows()]
        absent.update(group.absent)
    host = {"kernel": platform.release(), "cpus": os.cpu_count(), "load_average": os.getloadavg(),
            "touch_ns_per_page": {k: spread([t[f"{k}_ns_per_page"] for t in touch], 1) for k in ("first", "again")}}
    return {"host": host, "rows": rows, "absent": sorted(absent)}


def publish(args, found, method, versions, **more):
    result = {
        "schema": "headroom.bench/1", "name": ME.removeprefix("bench-"),
        "utc": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "host": found["host"],
        "method": {"rounds": args.rounds, "order": "in turn", "ratio": "of the same round; against the peer with the best median",
                   **method},
        "versions": versions, **more, "rows": found["rows"], "absent": found["absent"]}
    os.makedirs(os.path.dirname(args.out) or ".", exist_ok=True)
    with open(args.out, "w", encoding="ascii") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    show(result)
    say(f"written to {args.out}")
