# SPDX-License-Identifier: MIT
"""Reading records that are whole, damaged, hostile or not there."""
import json
import shutil

from reports.model import SlabRow, load_run


def read(path):
    problems = []
    return load_run(path, problems), problems


def test_whole_record(pair):
    run, problems = read(pair)
    assert problems == [] and run.status == "complete" and run.no_record == []
    before, after = run.cells
    assert (before.arm, before.repeat, before.verdict, before.finished) == ("before", 1, "panic", False)
    assert (after.arm, after.verdict, after.finished) == ("after", "ok", True)
    assert before.samples.corrupt == 0 and before.samples.lines == before.data["samples"]["taken"]
    assert max(before.samples.series["cache:kcopyd_job"].v) == before.data["metrics"]["cache_peak_kib"]["kcopyd_job"]
    assert before.samples.peak_slab["kcopyd_job"].size == 3240
    assert [victim["comm"] for victim in before.victims()] == ["fio", "systemd-udevd", "headroom-canary"]


def test_corrupt_lines_are_counted(new_run):
    path = new_run()
    samples = path / "cells/001-before-1/samples.jsonl"
    whole = samples.read_bytes().splitlines(keepends=True)
    samples.write_bytes(
        b"".join(whole[:5])
        + b"{oops}\n[1,2]\n{\"no\":\"t\"}\n{\"t\":NaN}\n\xff\xfe\n\0\0\0\0\n"
        + b"[" * 100000
        + b"\n"
        + whole[5]
        + whole[6][:40]
    )
    cell = read(path)[0].cells[0]
    assert (cell.samples.lines, cell.samples.corrupt, cell.samples.cut_off) == (6, 7, True)


def test_figures_beyond_range_are_absent(new_run):
    path = new_run()
    cell_path = path / "cells/001-before-1"
    (cell_path / "samples.jsonl").write_text(
        '{"t":1,"mem":{"SUnreclaim":1e999,"MemAvailable":' + "9" * 400 + '},"canary":{"max_ms":"x"}}\n'
        '{"t":2,"mem":[1],"slab":{"kcopyd_job":["a",null,{},[]]},"disk":{"vdb":[1]},"psi":7}\n'
    )
    samples = read(path)[0].cells[0].samples
    assert samples.lines == 2 and samples.series == {} and samples.peak_slab == {} and not any(samples.disks.values())


def test_cache_that_is_never_listed_is_not_zero(new_run, edit):
    path = new_run()
    edit(path / "cells/002-after-1/cell.json", watch={"caches": ["kcopyd_job", "merged_away"]})
    series = read(path)[0].cells[1].samples.series
    assert "cache:merged_away" not in series and 0.0 in series["cache:kcopyd_job"].v


def test_missing_files(new_run):
    path = new_run()
    for name in ("samples.jsonl", "events.jsonl"):
        (path / "cells/002-after-1" / name).unlink()
    (path / "cells/001-before-1/cell.json").write_text("{")
    (path / "journal.jsonl").unlink()
    run, problems = read(path)
    assert [cell.name for cell in run.cells] == ["002-after-1"] and run.cells[0].samples.lines == 0
    assert run.no_record == [("001-before-1", "cell.json cannot be read")]
    assert len(problems) == 1 and "001-before-1/cell.json" in problems[0]


def test_planned_cells_without_record(new_run):
    path = new_run()
    shutil.rmtree(path / "cells/002-after-1")
    assert read(path)[0].no_record == [("002-after-1", "started, left no record")]
    (path / "journal.jsonl").write_text('{"event":"run-start"}\n')
    run, _ = read(path)
    assert run.no_record == [("002-after-1", "planned, never started")] and run.status == "not ended"


def test_interrupted_and_replaced_do_not_count(new_run, edit):
    path = new_run(repeats=2)
    edit(path / "cells/001-before-1/cell.json", verdict="broken", interrupted=True)
    plan = json.loads((path / "run.json").read_text())["plan"]
    plan[3]["replaces"] = "002-after-1"
    edit(path / "run.json", plan=plan)
    run, _ = read(path)
    assert [cell.counted for cell in run.cells] == [False, False, True, True]
    assert run.cells[1].replaced_by == "004-after-2"


def test_slab_utilisation():
    assert SlabRow(100, 120, 1024, 200).utilisation == 50.0
    assert SlabRow(0, 0, 64, 0).utilisation is None
