# SPDX-License-Identifier: MIT
"""Paths, records to compare, and how to run the program as a user would."""
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "tests/fixtures/records"
sys.path[:0] = [str(ROOT), str(RECORDS)]

from generate import make_run  # noqa: E402
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
