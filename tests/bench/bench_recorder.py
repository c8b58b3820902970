# SPDX-License-Identifier: MIT
"""What the flight recorder costs, beside its peers and beside the physical limit.

Everything is measured in one run and in turn (A B C ... A B C ...), because a machine is not the same machine a minute
later. The peers cannot go below one second, so each of them is compared with our recorder at one second too; per
sample, because a file that is read once a second is colder in the caches than one that is read ten times.
"""
import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone

from common import cpu_ns, table, tree

SADC = next((p for p in ("/usr/lib/sysstat/sadc", "/usr/lib64/sa/sadc", "/usr/lib/sa/sadc") if os.path.exists(p)), None)
SETTLE_S = 1.5  # after the start: opening files, the first sample, and half a second away from the peers' ticks
WORK_S = 1.0  # one slice of the fixed workload
TARGETS = {"peer_ratio": 0.25, "cpu_pct_of_core": 1.0, "faults": 0.0, "slowdown_pct": 1.0, "pread_ratio": 1.3}


def proc_stat(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        rest = f.read().rpartition(")")[2].split()
    return {"minflt": int(rest[7]), "majflt": int(rest[9])}


def proc_status(pid):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        found = dict(re.findall(r"^(VmHWM|RssAnon|RssFile|RssShmem):\s+(\d+) kB$", f.read(), re.M))
    return {k: int(v) for k, v in found.items()}


class Subject:
    """Something that samples this machine at a fixed rate."""

    def __init__(self, name, period_s, argv=None, version="", reads="", comparable=False):
        self.name, self.period_s, self.argv = name, period_s, argv
        self.version, self.reads, self.comparable = version, reads, comparable
        self.rounds = {"cpu_us": [], "minflt": [], "majflt": [], "rss_kib": []}
        self.slowdown = []  # % of wall time: what the user sees, and what every neighbour on the machine disturbs
        self.inflation = []  # % of the work's own CPU time: caches and locks only
        self.syscalls = None
        self.extra = {}
        self.process = None

    def command(self, _scratch):
        return self.argv

    def start(self, scratch):
        self.process = subprocess.Popen(self.command(scratch), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        return self.process.pid

    def stop(self):
        self.process.stdin.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.stdout.close()
        self.process.wait(10)

    def measure(self, scratch, seconds):
        pid = self.start(scratch)
        time.sleep(SETTLE_S)
        before = {p: (cpu_ns(p), proc_stat(p)) for p in tree(pid)}
        time.sleep(seconds)
        after = {p: (cpu_ns(p), proc_stat(p), proc_status(p)) for p in tree(pid)}
        samples = seconds / self.period_s
        add = self.rounds
        add["cpu_us"].append(sum(after[p][0] - before.get(p, (0,))[0] for p in after) / samples / 1e3)
        for kind in ("minflt", "majflt"):
            add[kind].append(sum(after[p][1][kind] - (before[p][1][kind] if p in before else 0) for p in after) / samples)
        add["rss_kib"].append(sum(a[2].get("VmHWM", 0) for a in after.values()))
        self.stop()

    def count_syscalls(self, scratch, seconds):
        """In a run of its own: strace makes every call many times dearer."""
        pid = self.start(scratch)
        time.sleep(SETTLE_S)
        out = os.path.join(scratch, "strace")
        tracer = subprocess.Popen(["strace", "-f", "-c", "-U", "calls,name", "-o", out]
                                  + [word for p in tree(pid) for word in ("-p", str(p))], stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
        self.stop()
        self.syscalls = strace_total(out) / (seconds / self.period_s)


def strace_total(path):
    with open(path, encoding="ascii", errors="replace") as f:
        total = re.search(r"^\s*(\d+)\s+total$", f.read(), re.M)
    return int(total[1]) if total else 0


class Ours(Subject):
    """The helper prints the pid of what is to be measured: the recorder is its child."""

    def start(self, scratch):
        super().start(scratch)
        return int(self.process.stdout.readline())

    def stop(self):
        if "record" not in self.argv:
            super().stop()
            return
        self.process.stdin.close()
        taken, missed, late_ns, size = map(int, self.process.stdout.read().split())
        self.process.stdout.close()
        self.process.wait(10)
        self.extra["samples_taken"] = self.extra.get("samples_taken", 0) + taken
        self.extra["samples_missed"] = self.extra.get("samples_missed", 0) + missed
        self.extra["late_max_ms"] = round(max(self.extra.get("late_max_ms", 0), late_ns / 1e6), 3)
        self.extra["bytes_per_sample"] = round(size / taken)

    def note_memory(self, scratch):
        pid = self.start(scratch)
        time.sleep(SETTLE_S)
        status = proc_status(pid)
        self.stop()
        self.extra["rss_without_box_kib"] = status.get("RssAnon", 0) + status.get("RssFile", 0)


class Sadc(Subject):
    def command(self, scratch):
        return [SADC, "1", os.path.join(scratch, "sadc")]


class Atop(Subject):
    def command(self, scratch):
        return ["atop", "-w", os.path.join(scratch, "atop"), "1"]


class VmstatSlabtop(Subject):
    """vmstat runs on; slabtop -o is started for every sample, and its start belongs to its cost."""

    def measure(self, scratch, seconds):
        with open(os.path.join(scratch, "slabtop"), "wb") as out:
            vmstat = subprocess.Popen(["vmstat", "1"], stdout=out)
            time.sleep(SETTLE_S)
            begin = cpu_ns(vmstat.pid), proc_stat(vmstat.pid)
            used = []
            due = time.monotonic()
            for _ in range(round(seconds / self.period_s)):
                pid = os.posix_spawnp("slabtop", ["slabtop", "-o"], os.environ,
                                      file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1)])
                used.append(os.wait4(pid, 0)[2])
                due += self.period_s
                time.sleep(max(0, due - time.monotonic()))
            end = cpu_ns(vmstat.pid), proc_stat(vmstat.pid)
            rss = proc_status(vmstat.pid)["VmHWM"] + max(u.ru_maxrss for u in used)
            vmstat.terminate()
            vmstat.wait()
        n = len(used)
        self.rounds["cpu_us"].append((sum(u.ru_utime + u.ru_stime for u in used) * 1e6 + (end[0] - begin[0]) / 1e3) / n)
        self.rounds["minflt"].append((sum(u.ru_minflt for u in used) + end[1]["minflt"] - begin[1]["minflt"]) / n)
        self.rounds["majflt"].append((sum(u.ru_majflt for u in used) + end[1]["majflt"] - begin[1]["majflt"]) / n)
        self.rounds["rss_kib"].append(rss)

    def command(self, _scratch):
        return ["sh", "-c", "vmstat 1 & while :; do slabtop -o; sleep 1; done >/dev/null"]

    def start(self, scratch):
        self.process = subprocess.Popen(self.command(scratch), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                        start_new_session=True)
        self.process.stdout = open(os.devnull, "rb")
        return self.process.pid

    def count_syscalls(self, scratch, seconds):
        out, out2 = os.path.join(scratch, "strace"), os.path.join(scratch, "strace2")
        with open(os.devnull, "wb") as null:
            n = round(seconds) + 1
            subprocess.run(["strace", "-f", "-c", "-U", "calls,name", "-o", out, "slabtop", "-o"], stdout=null, check=True)
            for path, times in ((out + "1", 1), (out2, n + 1)):
                subprocess.run(["strace", "-f", "-c", "-U", "calls,name", "-o", path, "vmstat", "1", str(times)],
                               stdout=null, check=True)
        self.syscalls = strace_total(out) + (strace_total(out2) - strace_total(out + "1")) / n


class Nothing(Subject):
    """Against itself: what is left is the noise of this machine."""

    def start(self, scratch):
        self.process = None
        return None

    def stop(self):
        pass


def version_of(*argv):
    try:
        result = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\d+\.\d[\w.]*", result.stdout)
    return found[0] if found else ""


def subjects_for(helper):
    # As it runs in a cell: slabinfo while the slab moves, else once a second.
    ours = "meminfo, vmstat, PSI, slabinfo, zoneinfo, diskstats, kernel log, workqueue canary"
    slow_set = "meminfo, vmstat, slabinfo, stat; the caches ranked, none kept"
    found = [
        Ours("headroom 10 Hz", 0.1, [helper, "record", "100"], reads=ours),
        Ours("headroom 10 Hz, all slabinfo", 0.1, [helper, "record-all", "100"], reads=ours + "; slabinfo in every sample"),
        Ours("bare pread 10 Hz", 0.1, [helper, "pread", "100"], reads="the files of the second line, thrown away"),
        Ours("headroom 1 Hz", 1.0, [helper, "record", "1000"], reads=ours),
    ]
    absent = []
    for there, subject in (
        (SADC, Sadc("sadc 1 Hz", 1.0, version=version_of("sar", "-V"),
                    reads="stat, meminfo, vmstat, PSI, diskstats, network; no slabinfo, no zoneinfo")),
        (shutil.which("atop"), Atop("atop -w 1 Hz", 1.0, version=version_of("atop", "-V"), comparable=True,
                                    reads="as sadc, and every process; slab as totals")),
        (shutil.which("vmstat") and shutil.which("slabtop"),
         VmstatSlabtop("vmstat + slabtop -o 1 Hz", 1.0, version=version_of("vmstat", "-V"), comparable=True,
                       reads=slow_set)),
    ):
        if there:
            found.append(subject)
        else:
            absent.append(subject.name)
    return found, absent


def signal_tree(pid, number):
    if pid:
        for p in tree(pid):
            try:
                os.kill(p, number)
            except ProcessLookupError:
                pass


def work_ms(helper, iterations):
    """Wall and CPU milliseconds."""
    done = subprocess.run([helper, "work", str(iterations)], stdout=subprocess.PIPE, text=True, check=True)
    return tuple(float(word) for word in done.stdout.split())


def slowdown(subject, helper, iterations, scratch):
    """Without, with, with, without: a drift of the machine cancels out. The subject is stopped in between, not ended."""
    pid = subject.start(scratch)
    time.sleep(SETTLE_S)
    wall, cpu = {False: 0.0, True: 0.0}, {False: 0.0, True: 0.0}
    for running in (False, True, True, False):
        signal_tree(pid, signal.SIGCONT if running else signal.SIGSTOP)
        took = work_ms(helper, iterations)
        wall[running] += took[0]
        cpu[running] += took[1]
    signal_tree(pid, signal.SIGCONT)
    subject.stop()
    subject.slowdown.append((wall[True] / wall[False] - 1) * 100)
    subject.inflation.append((cpu[True] / cpu[False] - 1) * 100)


def partial_slabs():
    """What a read of slabinfo walks through, one by one, in the kernel: (all, the largest cache's)."""
    counts = [0]
    for name in os.listdir("/sys/kernel/slab") if os.path.isdir("/sys/kernel/slab") else []:
        path = os.path.join("/sys/kernel/slab", name)
        try:
            if not os.path.islink(path):
                with open(os.path.join(path, "partial"), encoding="ascii") as f:
                    counts.append(int(f.read().split()[0]))
        except (OSError, ValueError, IndexError):
            pass  # a cache that has just gone, or no root
    return sum(counts), max(counts)


def spread(values, digits=3):
    if not values:
        return None
    return {"median": round(statistics.median(values), digits), "min": round(min(values), digits),
            "max": round(max(values), digits), "rounds": [round(v, digits) for v in values]}


def judge(subjects, nothing):
    ours, every, limit, ours_1hz = subjects[:4]
    median = {s.name: statistics.median(s.rounds["cpu_us"]) for s in subjects}
    # Round by round, because the two were measured one after the other.
    to_limit = [a / b for a, b in zip(every.rounds["cpu_us"], limit.rounds["cpu_us"])]
    ratios = {"headroom, all slabinfo / bare pread, both 10 Hz": spread(to_limit)}
    for peer in subjects[4:]:
        ratios[f"headroom at 10 Hz / {peer.name}"] = spread(
            [a / b for a, b in zip(ours.rounds["cpu_us"], peer.rounds["cpu_us"])])
        ratios[f"headroom / {peer.name}, both 1 Hz"] = spread(
            [a / b for a, b in zip(ours_1hz.rounds["cpu_us"], peer.rounds["cpu_us"])])
    targets = []

    def target(name, value, limit_value, unit, note="", strict=True, resolved=True):
        ok = None if value is None or not resolved else (value < limit_value if strict else value <= limit_value)
        targets.append({"target": name, "limit": limit_value, "value": None if value is None else round(value, 3),
                        "unit": unit, "pass": ok, **({"note": note} if note else {})})

    peers = [s for s in subjects[4:] if s.comparable]
    cheapest = min(peers, key=lambda s: median[s.name], default=None)
    target("CPU per sample, to the cheapest peer that reads a comparable set",
           ratios[f"headroom / {cheapest.name}, both 1 Hz"]["median"] if cheapest else None, TARGETS["peer_ratio"], "ratio",
           f"{cheapest.name}; bare pread, and that at 10 Hz, is {median[limit.name] / median[cheapest.name]:.2f} of it"
           if cheapest else "no such peer is installed")
    per_cent = {s.name: median[s.name] / (s.period_s * 1e6) * 100 for s in (ours, every, limit)}
    target("CPU at 10 Hz", per_cent[ours.name], TARGETS["cpu_pct_of_core"], "% of one core",
           f"with slabinfo in every sample {per_cent[every.name]:.2f}, bare pread of that {per_cent[limit.name]:.2f}")
    faults = [a + b for s in (ours, every, ours_1hz) for a, b in zip(s.rounds["minflt"], s.rounds["majflt"])]
    target("page faults after the start, worst round", max(faults), TARGETS["faults"], "per sample", strict=False)
    # Every CPU is busy with the workload, so what the recorder takes is taken from it; the rest is what it disturbs.
    taken = per_cent[ours.name] / os.cpu_count()
    resolved = max(abs(v) for v in nothing.inflation) < TARGETS["slowdown_pct"]
    target("workload slowed at 10 Hz: CPU taken from it and CPU time it needs more",
           taken + statistics.median(ours.inflation), TARGETS["slowdown_pct"], "%",
           ("" if resolved else "this machine is too busy to tell; ") + f"taken {taken:.2f}, more {statistics.median(ours.inflation):.2f}; with nothing running the second says "
           f"{min(nothing.inflation):.2f} to {max(nothing.inflation):.2f}", resolved=resolved)
    target("CPU per sample, to bare pread of the same files", ratios["headroom, all slabinfo / bare pread, both 10 Hz"]["median"],
           TARGETS["pread_ratio"], "ratio", strict=False)
    return ratios, targets


def cell(values, digits=0):
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def show(subjects, nothing, result):
    rows = [["median (min..max)", "CPU us/sample", "% core", "minflt/sample", "majflt/sample", "RSS KiB", "syscalls/sample",
             "wall slowdown %", "CPU slowdown %"]]
    for s in subjects:
        cpu = s.rounds["cpu_us"]
        rows.append([s.name, cell(cpu), f"{statistics.median(cpu) / (s.period_s * 1e4):.3f}", cell(s.rounds["minflt"], 1),
                     cell(s.rounds["majflt"], 1), cell(s.rounds["rss_kib"]),
                     "-" if s.syscalls is None else f"{s.syscalls:.1f}", cell(s.slowdown, 2), cell(s.inflation, 2)])
    rows.append(["nothing (noise)"] + ["-"] * 6 + [cell(nothing.slowdown, 2), cell(nothing.inflation, 2)])
    table(rows)
    print(f"\nheadroom's RSS without its black box: {subjects[0].extra['rss_without_box_kib']} KiB\n")
    table([["one read, 10 Hz", "bytes", "us"]] + [[f["path"], str(f["bytes"]), f"{f['us']:.1f}"] for f in result["files"]])
    print(f"slabinfo walks {result['host']['slabs_partial']} partial slabs, "
          f"{result['host']['slabs_partial_largest_cache']} of them in one cache\n")
    table([["ratio of CPU per sample", "median", "min", "max"]]
          + [[k] + [f"{v[x]:.2f}" for x in ("median", "min", "max")] for k, v in result["ratios"].items()])
    print()
    for t in result["targets"]:
        said = {True: "pass", False: "MISS", None: "unknown"}[t["pass"]]
        print(f"{said:8}{t['target']}: {t['value']} (limit {t['limit']} {t['unit']})"
              + (f"; {t['note']}" if t.get("note") else ""))
    for name in result["absent"]:
        print(f"absent  {name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--helper", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of one measurement")
    parser.add_argument("--out", default="build/bench/recorder.json")
    args = parser.parse_args()
    subjects, absent = subjects_for(args.helper)
    nothing = Nothing("nothing", 1.0)

    def say(text):
        print(f"bench-recorder: {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="headroom-bench-") as scratch:
        for i in range(args.rounds):
            say(f"cost, round {i + 1} of {args.rounds}")
            for s in subjects:
                s.measure(scratch, args.seconds)
        subjects[0].note_memory(scratch)
        # What follows is traced or stopped now and then: its lateness and missed ticks are our own doing.
        extra = {s.name: dict(s.extra) for s in subjects}
        say("syscalls")
        for s in subjects:
            if shutil.which("strace"):
                s.count_syscalls(scratch, args.seconds)
        files = [line.split() for line in
                 subprocess.run([args.helper, "files"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()]
        iterations = max(1, round(100 * WORK_S * 1000 / min(work_ms(args.helper, 100)[0] for _ in range(3))))
        slowed = [nothing, subjects[0], *subjects[3:]]
        for i in range(args.rounds):
            say(f"slowdown, round {i + 1} of {args.rounds}")
            for s in slowed:
                slowdown(s, args.helper, iterations, scratch)

    partial = partial_slabs()
    ratios, targets = judge(subjects, nothing)
    result = {
        "schema": "headroom.bench/1", "name": "recorder", "utc": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": {"kernel": platform.release(), "cpus": os.cpu_count(), "load_average": os.getloadavg(),
                 "slabs_partial": partial[0], "slabs_partial_largest_cache": partial[1]},
        "method": {"rounds": args.rounds, "seconds": args.seconds, "order": "in turn",
                   "cpu": "CPU-time clock of the process tree over the window; slabtop: rusage of wait4",
                   "syscalls": "strace -c -f in a run of its own", "workload_iterations": iterations,
                   "not_counted": "kernel threads that work for the canary (in slowdown they are)"},
        "subjects": [{
            "name": s.name, "version": s.version or None, "period_s": s.period_s, "reads": s.reads, "comparable": s.comparable,
            "cpu_us_per_sample": spread(s.rounds["cpu_us"]), "minor_faults_per_sample": spread(s.rounds["minflt"]),
            "major_faults_per_sample": spread(s.rounds["majflt"]), "rss_peak_kib": spread(s.rounds["rss_kib"]),
            "syscalls_per_sample": s.syscalls, "slowdown_wall_pct": spread(s.slowdown),
            "slowdown_cpu_pct": spread(s.inflation), **extra[s.name]} for s in subjects],
        "noise": {"slowdown_wall_pct": spread(nothing.slowdown), "slowdown_cpu_pct": spread(nothing.inflation)},
        "files": [{"path": f[0], "bytes": int(f[1]), "us": float(f[2])} for f in files],
        "ratios": ratios, "targets": targets, "absent": absent}
    os.makedirs(os.path.dirname(args.out) or ".", exist_ok=True)
    with open(args.out, "w", encoding="ascii") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    show(subjects, nothing, result)
    say(f"written to {args.out}")
    return 0  # a target that is missed is a result


if __name__ == "__main__":
    sys.exit(main())
