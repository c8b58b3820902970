# SPDX-License-Identifier: MIT
"""Reading records that are whole, damaged, hostile or not there."""
import json
import math
import shutil

import pytest
from hostile import make_hostile

from reports.model import MAX_GROUPS, CacheFacts, SlabRow, load_run, read_caches, slab_total


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


CACHES = {"a": CacheFacts(30, []), "b": CacheFacts(500, ["c"]), "no-slack": CacheFacts(None, [])}


@pytest.mark.parametrize(
    "rows, most, least",
    [
        ({"a": SlabRow(100, 100, 1024, 100)}, 100, 70),
        ({"a": SlabRow(100, 100, 1024, 100), "b": SlabRow(100, 100, 1024, 100)}, 100, 35),  # b may be empty
        ({"unknown": SlabRow(100, 100, 1024, 100)}, 100, 0),
        ({"no-slack": SlabRow(100, 100, 1024, 100)}, 100, 0),
        ({"a": SlabRow(0, 0, 64, 0)}, None, None),
    ],
)
def test_in_use_are_at_least_the_active_objects_without_the_slack(rows, most, least):
    total = slab_total(rows, CACHES)
    assert (total.active_pct, total.least_pct) == (most, least)
    assert slab_total(rows, {}).least_kib is None, "without the event slab-caches nothing is known of the least"


def test_all_caches_over_time(pair):
    cell = read(pair)[0].cells[1]
    series = cell.samples.series
    names = ("slab_held_kib", "slab_active_kib", "slab_active_pct", "slab_least_pct")
    assert {len(series[name]) for name in names} == {cell.samples.lines}
    assert all(least < most <= 100 for least, most in zip(series["slab_least_pct"].v, series["slab_active_pct"].v))
    assert cell.caches["kmalloc-64"].merged == ["io", "ext4_io_end"]
    assert cell.shrink.not_shrunk == 0 and cell.shrink.after["filp"].active < cell.shrink.before["filp"].active


def test_record_from_before_the_slab_events(old_run):
    cell = read(old_run())[0].cells[1]
    assert cell.caches == {} and cell.shrink is None and cell.samples.groups == {}
    assert "slab_active_pct" in cell.samples.series and "slab_least_pct" not in cell.samples.series


def test_a_cache_over_time_is_read_when_asked_for(pair):
    cell = read(pair)[0].cells[1]
    found = read_caches(cell, ["kcopyd_job", "dentry", "never_listed"])
    assert list(found) == ["kcopyd_job", "dentry"]
    kcopyd = found["kcopyd_job"]
    assert len(kcopyd.held_kib) == len(kcopyd.active) == len(kcopyd.objects) == cell.samples.lines
    assert kcopyd.held_kib.v == cell.samples.series["cache:kcopyd_job"].v
    assert kcopyd.held_kib.v[0] == 0, "a cache that is not listed now holds nothing now"


def test_cgroups_are_taken_once_a_reading(new_run):
    groups = read(new_run(step=0.2))[0].cells[1].samples.groups
    slab = groups["/headroom/workload"]["slab"]
    assert len(slab) == 24 and list(slab.t)[:3] == pytest.approx([-2, -1, 0])
    assert set(groups["/"]["nr_dying_descendants"].v) == {0, 3}
    assert "nr_dying_descendants" not in groups["/headroom/harness"]


def test_hostile_slab_and_cgroups(tmp_path):
    cell = read(make_hostile(tmp_path / "hostile"))[0].cells[0]
    assert all(series.v and all(map(math.isfinite, series.v)) for series in cell.samples.series.values())
    assert all(min(series.v) >= 0 for group in cell.samples.groups.values() for series in group.values())
    assert all(facts.slack is None or facts.slack >= 0 for facts in cell.caches.values())
    assert cell.shrink.not_shrunk is None and "kcopyd_job" in cell.shrink.before


def test_no_more_cgroups_than_a_machine_has(new_run):
    path = new_run()
    samples = path / "cells/001-before-1/samples.jsonl"
    groups = {f"/g{index}": {"slab": 1} for index in range(1000)}
    samples.write_text(json.dumps({"t": 1, "cgroups": {"groups": groups}}) + "\n")
    assert len(read(path)[0].cells[0].samples.groups) == MAX_GROUPS


def test_what_the_engines_slabs_hold_is_a_curve_and_nothing_held_is_no_point(new_run):
    path = new_run()
    with (path / "cells/002-after-1/events.jsonl").open("a") as events:
        for t, live, held in ((1, 300, 400), (2, 1, 0), (3, "x", 400), (4, 380, 400)):
            events.write(json.dumps({"t": t, "kind": "engine-slab", "live_kib": live, "held_kib": held}) + "\n")
    curve = read(path)[0].cells[1].engine_slab
    assert (list(curve.t), list(curve.v)) == ([1, 4], [75, 95])
