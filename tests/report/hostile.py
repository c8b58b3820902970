# SPDX-License-Identifier: MIT
"""A record whose every text tries to become markup, script or control characters."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from generate import make_run

TEXT = (
    "</script><script>window.owned=1</script><img src=x onerror=window.owned=1>\"'`;"
    "--><!--<b onmouseover=window.owned=1>"
    "{{7*7}}{%raw%}%{x}${7}|*_\\ \0\x1b[2J\x85\u202e\ud800\u2028]]>"
)
NUMBERS = (10**300, -1e308, 1e-320, 2**64, -0.0)
SLAB_ROWS = (
    *([number, 1, 1, 1] for number in NUMBERS),
    [1e308, 1e308, 1e308, 1e-320],
    [10**400, 2, 3, 4],
    [True, None, TEXT, []],
    [1, 2, 3],
    [],
    {},
    TEXT,
    7,
)
GROUPS = ({TEXT: TEXT}, TEXT, 7, [], {"kernel": -1, "slab": 10**400}, {"kernel": 1e300, "slab": TEXT}, {"slab": 2**64})
GROUPS += ({"cpu_ms": TEXT}, {"cpu_ms": 1e308}, {"cpu_ms": -1})


def _hostile_slab() -> dict[str, Any]:
    return {f"{TEXT}{index}": row for index, row in enumerate(SLAB_ROWS)}


def _hostile_cgroups(index: int) -> Any:
    """Of another kind in each sample."""
    groups = {f"{TEXT}{group}": figures for group, figures in enumerate(GROUPS)} | {"/": GROUPS[index % len(GROUPS)]}
    every = ({"groups": groups}, {"age_ms": 1e300, "groups": groups}, {"age_ms": TEXT, "groups": TEXT}, TEXT, {}, [])
    return every[index % len(every)]


def _hostile_slab_events(not_shrunk: Any) -> list[dict[str, Any]]:
    """What slab-caches and slab-shrunk can be at their worst; of several the last that can be read counts."""
    facts = ({"slack": -5}, {"slack": 10**400}, {"slack": TEXT, "merged": TEXT}, {"merged": [TEXT, 7, None] * 9}, TEXT)
    caches = {TEXT: {"per_slab": TEXT, "slack": 1, "merged": [TEXT]}}
    caches |= {f"{TEXT}{index}": one for index, one in enumerate(facts)}
    slab = {"slab": _hostile_slab() | {"kcopyd_job": [9, 9, 3240, 900], TEXT: [9, 9, 64, 4]}}
    less = {"slab": _hostile_slab() | {"kcopyd_job": [1, 9, 3240, 2**60], "unknown": [1e300] * 4}}
    return [
        {"t": -2, "kind": "slab-caches", "raw": TEXT, "cpus": TEXT, "caches": TEXT},
        {"t": -1, "kind": "slab-caches", "raw": TEXT, "cpus": -1, "caches": caches},
        {"t": 3, "kind": "slab-shrunk", "raw": TEXT, "before": slab, "after": less, "not_shrunk": not_shrunk},
        {"t": 4, "kind": "slab-shrunk", "raw": TEXT, "before": TEXT, "after": {"slab": TEXT}, "not_shrunk": -1},
        {"t": 5, "kind": "slab-shrunk", "raw": TEXT},
    ]


def _hostile_memory_events() -> list[dict[str, Any]]:
    """Deadlocks, blocks and DIMMs."""
    step = {"pid": 10**400, "comm": TEXT, "where": TEXT, "waits": TEXT, "stack": [TEXT, 7]}
    words = {"errno": TEXT, "reason": TEXT, "where": TEXT, "ended": True, "took_ms": 1e300, "pause_ms": 1e300}
    return [
        {"t": 6, "kind": "deadlock", "raw": TEXT, "steps": [step, TEXT, {}]},
        {"t": 7, "kind": "deadlock-end", "raw": TEXT, "broken_by": TEXT, "drained": TEXT, "drain_ms": TEXT},
        {"t": 7, "kind": "deadlock", "raw": TEXT, "steps": TEXT},
        {"t": 8, "kind": "offline", "block": 2**53, "raw": TEXT} | words,
        {"t": 8, "kind": "offline", "block": 1, "took_ms": 1e-320, "raw": TEXT},
        {"t": 8, "kind": "online", "block": TEXT, "raw": TEXT},
        {"t": 8, "kind": "unplug", "dimm": 0, "raw": TEXT} | words,
    ]


def _hostile_loads() -> list[dict[str, Any]]:
    """Workloads that begin and end as nothing real does."""
    whens = ((-1e308, "load-begin"), (1, "load-end"), (2, "load-end"), (3, "load-begin"), (4, "load-begin"))
    loads = [{"t": t, "kind": kind, "workload": TEXT, "raw": TEXT} for t, kind in whens]
    loads += [{"t": 1, "kind": "load-begin", "workload": other, "raw": ""} for other in (7, None, [TEXT], "")]
    active = ([TEXT, 7, None, [TEXT], ""], TEXT, {TEXT: TEXT}, [TEXT] * 999)
    return loads + [{"t": 5, "kind": "oom-kill", "raw": "", "active": other} for other in active]


def _poison(value: Any, keep: tuple[str, ...] = ()) -> Any:
    """Every text in a structure replaced, names of entries too where the record leaves them free."""
    if isinstance(value, dict):
        return {key: inner if key in keep else _poison(inner, keep) for key, inner in value.items()} | {TEXT: TEXT}
    if isinstance(value, list):
        return [_poison(inner, keep) for inner in value]
    return TEXT + value if isinstance(value, str) else value


def make_hostile(path: Path) -> Path:
    """Two cells that can be read, one that cannot, one that is empty, and files full of rubbish."""
    make_run(path, repeats=2, step=0.5)
    run = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(_poison(run, ("plan", "schema", "arms"))))
    for name, not_shrunk in (("001-before-1", TEXT), ("002-after-1", 0)):
        cell_path = path / "cells" / name
        cell = _poison(json.loads((cell_path / "cell.json").read_text()), ("schema", "verdict", "better"))
        cell["metrics"] |= {f"{TEXT}{index}": number for index, number in enumerate(NUMBERS)}
        cell["metrics"]["nested"] = {"a": {"b": 1}, "c": [1], TEXT: 5}
        cell["watch"] = {"caches": [TEXT, "kcopyd_job", 7, None]}
        cell["oom"] = {"agree": False, "why": TEXT, "vmstat": TEXT, "log": -1}
        cell["samples"] |= {"dropped": TEXT, "kmsg_dropped": 1e300}
        cell["victims"] = [TEXT, {"t": TEXT, "pid": 1e300, "comm": TEXT, "role": ["x"], "cgroup": TEXT}]
        cell["phases"] = [{"name": TEXT, "t": -1}, {"name": TEXT, "t": 10**400}, TEXT]
        (cell_path / "cell.json").write_text(json.dumps(cell))
        samples = (cell_path / "samples.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in samples]
        for index, row in enumerate(rows):
            row["slab"] |= _hostile_slab() | {TEXT: [5, 6, 4096, 90000]}
            row["cgroups"] = row["threads"] = _hostile_cgroups(index)
            row["disk"][TEXT] = [0, 0, 0, int(1e12 * (row["t"] + 3)), 0, 0]
        lines = [json.dumps(row).encode() for row in rows] + [
            b"\xff\xfe\0",
            b'{"t":Infinity}',
            b'{"t":1e999}',
            b"<script>",
            b'{"t": 3, "mem',
        ]
        (cell_path / "samples.jsonl").write_bytes(b"\n".join(lines))
        events = [
            {
                "t": 1 + index,
                "kind": kind,
                "raw": TEXT,
                "victim": {"comm": TEXT, "pid": 3, "role": TEXT, "cgroup": TEXT},
                "task": TEXT,
                "pool": TEXT,
                "seconds": 1e300,
                "trigger": TEXT,
                "name": TEXT,
            }
            for index, kind in enumerate(("oom-kill", "panic", "wq-lockup", "hung-task", TEXT))
        ]
        events += _hostile_slab_events(not_shrunk) + _hostile_memory_events() + _hostile_loads()
        waits = {"function": TEXT, "wait_n": 1e300, "wait_max_ms": -5, "wait_histogram": [TEXT, -1, 1e300] * 40}
        events.append(
            {
                "t": 9,
                "kind": "wq-trace",
                "raw": TEXT,
                "error": TEXT,
                "events": TEXT,
                "stalls": 1e300,
                "threshold_ms": [],
                "pools": [TEXT, {"cpu": TEXT}, {"cpu": -1, "wait_histogram": TEXT}],
                "by_wait": [waits, TEXT, {"wait_n": {}, "run_n": 10**400}],
                "by_run": {TEXT: TEXT},
            }
        )
        (cell_path / "events.jsonl").write_bytes(
            b"\n".join(json.dumps(event).encode() for event in events) + b"\n\xff\n{\"t\":\"x\"}\n"
        )
    (path / "cells/003-before-2/cell.json").write_bytes(b"\x00\xff{")
    for name in ("samples.jsonl", "events.jsonl"):
        (path / "cells/004-after-2" / name).write_bytes(b"")
    (path / "cells/004-after-2/cell.json").write_text("{}")
    with (path / "journal.jsonl").open("ab") as journal:
        journal.write(b"\xff\xff\n{\"event\":")
    return path
