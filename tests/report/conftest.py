# SPDX-License-Identifier: MIT
"""Paths, records to compare, and how to run the program as a user would."""
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "tests/fixtures/records"
sys.path[:0] = [str(ROOT), str(RECORDS)]

from generate import make_run, make_swap_run, write_lines  # noqa: E402
from reports import analysis  # noqa: E402
from reports.model import load_run  # noqa: E402


@pytest.fixture
def pair() -> Path:
    """One cell before, one after."""
    return RECORDS / "20261121T093000Z-snapshot"


@pytest.fixture
def repeats() -> Path:
    """Four repeats an arm."""
    return RECORDS / "20261121T101500Z-snapshot-repeats"


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run that a test may damage."""

    def make(name: str = "run", **options: Any) -> Path:
        return make_run(tmp_path / name, **({"step": 1.0} | options))

    return make


@pytest.fixture
def new_swap_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run of a scenario with several mitigations, which a test may damage."""

    def make(name: str = "swap", **options: Any) -> Path:
        return make_swap_run(tmp_path / name, **({"step": 1.0} | options))

    return make


@pytest.fixture(scope="session")
def swap_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Swap on dm-crypt on two kernels, every arm three times; not to be changed."""
    path = tmp_path_factory.mktemp("swap")
    return [make_swap_run(path / kernel, kernel) for kernel in ("6.1", "6.12")]


@pytest.fixture(scope="session")
def swap_run_on_two_kernels(swap_runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cells of `swap_runs` in one run, interleaved as such a run has them; not to be changed."""
    path = tmp_path_factory.mktemp("both") / "swap"
    runs = [json.loads((run / "run.json").read_text()) for run in swap_runs]
    rows = [(row["repeat"], kernel, row) for kernel, run in enumerate(runs) for row in run["plan"]]
    rows.sort(key=lambda row: (row[0], row[1] if row[0] == 1 else row[2]["cell"]))
    plan = []
    for number, (repeat, kernel, row) in enumerate(rows, 1):
        spec = runs[kernel]["kernel"]["spec"]
        name = f"{number:03}-{row['arm']}-{spec}-{repeat}"
        plan.append(row | {"cell": name, "kernel": spec})
        shutil.copytree(swap_runs[kernel] / "cells" / row["cell"], path / "cells" / name)
        record = json.loads((path / "cells" / name / "cell.json").read_text())
        (path / "cells" / name / "cell.json").write_text(json.dumps(record | {"cell": name}))
    whole = runs[0] | {"plan": plan, "kernels": [run["kernel"] for run in runs]}
    del whole["kernel"]
    (path / "run.json").write_text(json.dumps(whole))
    (path / "journal.jsonl").write_text('{"event": "run-start"}\n{"event": "run-end", "status": "complete"}\n')
    return path


@pytest.fixture
def change_samples() -> Callable[..., None]:
    """Lets `change` alter each sample of a cell."""

    def change_all(cell_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
        samples = [json.loads(line) for line in (cell_path / "samples.jsonl").read_text().splitlines()]
        for sample in samples:
            change(sample)
        write_lines(cell_path / "samples.jsonl", samples)

    return change_all


@pytest.fixture
def old_run(new_run: Callable[..., Path]) -> Callable[..., Path]:
    """Makes a run as it was recorded before the slab events, the cgroups and the counts of what gave way."""

    def make(**options: Any) -> Path:
        path = new_run(**options)
        for cell_path in (path / "cells").iterdir():
            for name in ("events.jsonl", "samples.jsonl"):
                entries = [json.loads(line) for line in (cell_path / name).read_text().splitlines()]
                kept = [entry for entry in entries if entry.get("kind") not in ("slab-caches", "slab-shrunk")]
                write_lines(cell_path / name, [{k: v for k, v in one.items() if k != "cgroups"} for one in kept])
            cell = json.loads((cell_path / "cell.json").read_text())
            del cell["oom"], cell["samples"]["dropped"], cell["samples"]["kmsg_dropped"]
            (cell_path / "cell.json").write_text(json.dumps(cell))
        return path

    return make


@pytest.fixture
def edit() -> Callable[..., None]:
    """Changes fields of a JSON file."""

    def change(path: Path, **fields: Any) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


@pytest.fixture
def compared() -> Callable[..., analysis.Comparison]:
    """The comparison of run directories."""

    def compare(*paths: Path) -> analysis.Comparison:
        problems: list[str] = []
        return analysis.compare([load_run(path, problems) for path in paths], problems)

    return compare


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs compare.py from a directory that has nothing to do with it."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "reports/compare.py"), *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )

    return run
