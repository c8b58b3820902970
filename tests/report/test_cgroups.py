# SPDX-License-Identifier: MIT
"""Groups in the report: what workloads found out, and the table of peaks of a build."""
import json

import pytest
from hostile import TEXT

from reports import html, markdown, peaks

PEAKS = {"build_kernel_peak_kib": 2000, "build_memory_peak_kib": 30000, "meminfo_slab_peak_kib": 20000}


def change_cells(path, change):
    for index, cell_path in enumerate(sorted((path / "cells").iterdir())):
        cell = json.loads((cell_path / "cell.json").read_text())
        change(index, cell)
        (cell_path / "cell.json").write_text(json.dumps(cell))


@pytest.fixture
def build(new_run):
    """Before with twice the kernel memory of after, and no start level."""
    path = new_run()

    def change(index, cell):
        cell["options"] = {"build-load": {"sample_s": 5}}
        factor = 2 if cell["arm"] == "before" else 1
        cell["metrics"] |= {name: value * factor for name, value in PEAKS.items()}

    change_cells(path, change)
    return path


def test_findings_are_told_with_their_cell(new_run, compared):
    path = new_run()
    found = [{"t": 12.0, "text": "kmem-checks: kmem_basic held: slab 5 MiB"}, {"t": 13.0, "text": TEXT}]
    change_cells(path, lambda index, cell: cell.update(findings=found if index else []))
    comparison = compared(path)
    (entry,) = html.findings(comparison)
    assert entry[2][0] == "12.0 s: kmem-checks: kmem_basic held: slab 5 MiB"
    page = html.render(comparison)
    assert "kmem_basic held: slab 5 MiB" in page and TEXT not in page
    assert "kmem\\_basic held" in markdown.render(comparison)


@pytest.mark.parametrize("findings", [TEXT, {}, 7, [7, {}, {"t": []}, {"text": 5}, None]])
def test_damaged_findings_are_none(new_run, compared, findings):
    path = new_run()
    change_cells(path, lambda index, cell: cell.update(findings=findings))
    assert html.findings(compared(path)) == []


def test_peaks_stand_in_the_published_rows(build, compared):
    table = peaks.table(compared(build))
    assert (table.every, table.baseline) == ("5 s", "before")
    assert [row.label for row in table.rows] == [
        "kernel memory of the group",
        "all memory of the group",
        "slab of the machine",
    ], "what was not measured has no row"
    assert table.rows[0].values == ["\u22654,000", "2,000"] and table.rows[0].reductions == ["\u226550%"]


def test_published_peaks_are_as_published(build, compared):
    rows = peaks.table(compared(build)).published
    assert len(rows) == 16
    sysbench = next(row for row in rows if row.repeat == "sysbench oltp_read_write run1")
    assert sysbench.values == ["15,488", "4,352", "72%"]


def test_other_loads_have_no_such_table(new_run, compared):
    comparison = compared(new_run())
    assert peaks.table(comparison) is None
    assert 'id="peaks"' not in html.render(comparison)


@pytest.mark.parametrize(
    "died, values, reduction",
    [
        ((), ["4,000", "2,000"], "50%"),
        (("before",), ["\u22654,000", "2,000"], "\u226550%"),
        (("after",), ["4,000", "\u22652,000"], "\u226450%"),
        (("before", "after"), ["\u22654,000", "\u22652,000"], "\u2013"),
    ],
)
def test_a_peak_of_a_cell_that_died_is_a_bound(build, compared, died, values, reduction):
    change_cells(build, lambda index, cell: cell.update(verdict="panic" if cell["arm"] in died else "ok"))
    row = peaks.table(compared(build)).rows[0]
    assert (row.values, row.reductions) == (values, [reduction])


def test_peaks_of_a_repeat_stand_beside_each_other(new_run, compared):
    """The first repeat of one arm was cut off: its second is none the less compared with the other's second."""
    path = new_run(repeats=2)

    def change(index, cell):
        cell["options"] = {"build-load": {"sample_s": 5}}
        size = {("before", 2): 3000, ("after", 1): 1000, ("after", 2): 2000}.get((cell["arm"], cell["repeat"]), 0)
        cell["metrics"] |= {name: size for name in PEAKS}
        cell.update(verdict="ok", interrupted=not size)

    change_cells(path, change)
    rows = [row for row in peaks.table(compared(path)).rows if row.label == "kernel memory of the group"]
    assert [(row.repeat, row.values) for row in rows] == [("1", ["\u2013", "1,000"]), ("2", ["3,000", "2,000"])]
