# SPDX-License-Identifier: MIT
"""The table of kernel-log fixtures says what is there, no more and no less."""
from __future__ import annotations

import json
import re
from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/kmsg"
KERNEL = re.compile(r"(?<=-)\d+\.\d+(\.\d+)?(?=-|$)")

Table = dict[tuple[str, str], set[str]]  # (kind, kernel): the names of the fixtures


def kernel_of(name: str) -> str:
    """The kernel that printed the log is part of the fixture's name."""
    found = KERNEL.search(name)
    assert found, f"{name} does not name its kernel"
    return found[0]


def events_of(name: str) -> set[str]:
    return {json.loads(line)["kind"] for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()}


def written() -> Table:
    """README.md's table; a dash stands for none."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (FIXTURES / "README.md").read_text().splitlines()
        if line.startswith("|")
    ]
    head, body = rows[0], rows[2:]
    table: Table = {}
    for row in body:
        assert len(row) == len(head), row
        for kernel, cell in zip(head[1:], row[1:]):
            names = set(re.findall(r"`([^`]+)`", cell))
            assert names or cell == "-", f"{row[0]}, {kernel}: {cell}"
            table[row[0].strip("`"), kernel] = names
    return table


def there() -> Table:
    table: Table = {}
    for log in FIXTURES.glob("*.log"):
        for kind in events_of(log.stem):
            table.setdefault((kind, kernel_of(log.stem)), set()).add(log.stem)
    return table


def test_the_table_and_the_directory_agree() -> None:
    assert {key: names for key, names in written().items() if names} == there()


def test_a_log_has_its_events_and_events_have_their_log() -> None:
    logs = {path.stem for path in FIXTURES.glob("*.log")}
    assert logs == {path.stem for path in FIXTURES.glob("*.jsonl")}
    assert logs and all(events_of(name) for name in logs)


def test_what_has_no_fixture_has_a_reason() -> None:
    """Kernels that cannot be had have one for all."""
    reasons = (FIXTURES / "README.md").read_text().partition("## Where there is none")[2].partition("## ")[0]
    lacking = {kind for (kind, kernel), names in written().items() if not names and kernel not in ("2.6.38", "4.19")}
    assert lacking == set(re.findall(r"`([a-z-]+)`", reasons))
