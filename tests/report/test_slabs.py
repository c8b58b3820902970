# SPDX-License-Identifier: MIT
"""Slab memory over time and exactly, and cgroups: what is drawn, what is said, and what is left out."""
import json
import re

import pytest
from hostile import make_hostile

from reports import charts, html, machine, markdown, shrink, slabs
from reports.model import CacheFacts, Shrink, SlabRow


def change_events(path, cell, change):
    """Lets `change` alter each event of a cell."""
    file = path / "cells" / cell / "events.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    for event in events:
        change(event)
    file.write_text("".join(json.dumps(event) + "\n" for event in events))


def curves(figure, words):
    return [trace for trace in figure["data"] if words in trace.get("hovertemplate", "")]


def bands(figure):
    return [trace for trace in figure["data"] if trace.get("fill") == "toself"]


def marks(figure):
    return [trace for trace in figure["data"] if trace.get("marker", {}).get("symbol") == "diamond"]


def titles(figure):
    return [note["text"] for note in figure["layout"]["annotations"]]


def test_all_caches_together(pair, compared):
    figure = slabs.over_time(compared(pair))
    assert [len(curves(figure, f"MiB {what}")) for what in ("held", "in use at most")] == [2, 2], "an arm each"
    assert [len(curves(figure, f"% in use at {what}")) for what in ("most", "least")] == [2, 2]
    held, used = (curves(figure, f"MiB {what}")[0]["y"] for what in ("held", "in use at most"))
    assert all(u < h for h, u in zip(held, used) if h is not None and u is not None)
    assert figure["layout"]["xaxis"]["range"] == charts.timeline(compared(pair))["layout"]["xaxis"]["range"]


def test_the_band_breaks_where_samples_are_missing(pair, compared):
    before, after = bands(slabs.over_time(compared(pair)))
    assert before["x"].count(None) == 2 and after["x"].count(None) == 1, "the arm before lost 1.6 s"
    assert before["fillcolor"] == "@arm0-band" and charts.theme(charts.LIGHT, False)["@arm0-band"] == "#c8500a33"


def test_only_what_came_to_its_shrink_has_an_exact_mark(pair, compared):
    comparison = compared(pair)
    (mark,) = marks(slabs.over_time(comparison))
    row = next(row for row in shrink.rows(comparison))
    assert mark["marker"]["color"] == "@arm1" and row.exact.rstrip("%") in mark["text"][0]
    assert 60 < mark["y"][0] < 100 and row.cell == "002-after-1" and len(shrink.rows(comparison)) == 1


def test_without_the_events_no_band_no_mark_no_table(old_run, compared):
    comparison = compared(old_run())
    figure = slabs.over_time(comparison)
    assert bands(figure) == [] and marks(figure) == [] and curves(figure, "in use at least") == []
    assert len(curves(figure, "MiB held")) == 2, "held is known all the same"
    assert shrink.rows(comparison) == [] and slabs.cgroups(comparison) is None
    source = html.render(comparison)
    assert "Slab, exactly" not in source and 'id="cgroups"' not in source
    assert "Slab, exactly" not in markdown.render(comparison)
    assert {cell["slab"] for arm in json.loads(machine.render(comparison))["arms"] for cell in arm["cells"]} == {None}


def test_without_samples_nothing_is_drawn(new_run, compared):
    path = new_run()
    for cell in (path / "cells").iterdir():
        (cell / "samples.jsonl").unlink()
    comparison = compared(path)
    assert slabs.over_time(comparison) is None and slabs.by_cache(comparison) == ([], [])
    assert "Slab, exactly" in html.render(comparison), "events are there without samples"


def test_watched_caches_first_then_the_largest(pair, compared):
    names, figures = slabs.by_cache(compared(pair))
    assert len(names) == slabs.MAX_CACHES and names[0] == "kcopyd_job"
    assert names[1] == "bio-184 (with bio-192)", "the largest at the peak but for the watched one"
    assert len(figures) == len(names)
    shown = [trace for trace in figures[0]["data"] if "hovertemplate" in trace]
    assert len(shown) == 6, "held, active and room, an arm each"
    assert titles(figures[0]) == [
        "<b>kcopyd_job: held, MiB</b>",
        "<b>Objects: active solid, all there is room for dotted</b>",
    ]


def test_merged_caches_say_with_whom(new_run, compared):
    path = new_run()
    names = [f"other{index}" for index in range(9)]

    def merge(event):
        if event["kind"] == "slab-caches":
            event["caches"]["kcopyd_job"]["merged"] = names
            event["caches"]["bio-184"]["merged"] = ["x<y>"]

    change_events(path, "001-before-1", merge)
    shown = slabs.by_cache(compared(path))[0]
    assert shown[0] == "kcopyd_job (with other0, other1, other2, other3 and 5 more)"
    assert shown[1] == "bio-184 (with x<y>, bio-192)", "of all cells together"
    assert "bio-184 (with x&lt;y&gt;, bio-192)</option>" in html.render(compared(path))


def test_a_watched_cache_is_found_under_the_name_it_is_merged_into(new_run, edit, compared):
    path = new_run()
    for cell in ("001-before-1", "002-after-1"):
        edit(path / "cells" / cell / "cell.json", watch={"caches": ["io"]})
    assert slabs.by_cache(compared(path))[0][0] == "kmalloc-64 (with io, ext4_io_end)"


SHRUNK = Shrink(
    5.0,
    {"a": SlabRow(100, 100, 1024, 100), "b": SlabRow(50, 60, 1024, 60), "gone": SlabRow(10, 10, 1024, 12)},
    {"a": SlabRow(60, 70, 1024, 70), "b": SlabRow(50, 60, 1024, 60)},
    0,
)


def exactly(compared, path, facts, shrunk=SHRUNK):
    comparison = compared(path)
    cell = comparison.columns[1].cells[0]
    cell.caches, cell.shrink = facts, shrunk
    return shrink.rows(comparison)[-1]


def test_slab_exactly(pair, compared):
    row = exactly(compared, pair, {"a": CacheFacts(40, []), "b": CacheFacts(40, []), "gone": CacheFacts(9, [])})
    assert (row.before, row.after, row.freed) == ("172 KiB", "130 KiB", "42 KiB")
    assert (row.counted, row.least, row.exact_of_before, row.exact) == ("93.0%", "41.3%", "64.0%", "84.6%")
    a, gone = row.caches
    assert (a.name, a.freed, a.before, a.after, a.fewer, a.bound) == ("a", "30 KiB", "100", "60", "40", "40")
    assert a.verdict == "within the bound" and not a.beyond
    assert gone.after == "0" and gone.verdict.startswith("MORE than the bound: objects were freed meanwhile, or")
    assert row.check == "1 of 3 caches beyond it"


def test_what_merged_caches_gave_back_is_theirs_together(pair, compared):
    row = exactly(compared, pair, {"a": CacheFacts(40, ["x", "y"])})
    assert [cache.name for cache in row.caches] == ["a (with x, y)", "gone"]


def test_a_bound_that_is_not_known_is_not_held(pair, compared):
    row = exactly(compared, pair, {"a": CacheFacts(None, [])})
    assert [cache.verdict for cache in row.caches] == ["the record has no bound"] * 2
    assert row.check == "\u2013" and row.caches[0].bound == "\u2013"


@pytest.mark.parametrize("not_shrunk", [1, None, -1])
def test_nothing_is_exact_where_a_cache_was_not_shrunk(pair, compared, not_shrunk):
    shrunk = Shrink(SHRUNK.t, SHRUNK.before, SHRUNK.after, not_shrunk)
    row = exactly(compared, pair, {}, shrunk)
    assert (row.exact_of_before, row.exact) == ("\u2013", "\u2013")
    assert row.check.endswith("not all caches were shrunk, so nothing is exact")
    comparison = compared(pair)
    comparison.columns[1].cells[0].shrink = shrunk
    assert marks(slabs.over_time(comparison)) == []


def test_slab_exactly_in_every_form(pair, compared):
    comparison = compared(pair)
    source = html.render(comparison)
    text = re.sub(r"<[^>]*>", "|", source[source.index("Slab, exactly") : source.index('id="cgroups"')])
    assert "1 of 17 caches beyond it" in text
    row = [part for part in text[text.index("buffer_head") :].split("|") if part.strip()][:7]
    assert row[4:6] == ["900", "210"] and row[6].startswith("MORE than the bound")
    assert "1 of 17 caches beyond it" in markdown.render(comparison).split("## Slab, exactly")[1]
    arms = json.loads(machine.render(comparison))["arms"]
    assert arms[0]["cells"][0]["slab"] is None
    slab = arms[1]["cells"][0]["slab"]
    assert slab["least_pct"] < slab["exact_of_before_pct"] < slab["exact_pct"] < 100
    assert slab["beyond_bound"] == ["buffer_head"]
    assert slab["before_kib"] - slab["after_kib"] == slab["freed_kib"] > 0 and len(slab["gave_back_most"]) == 5


def test_cgroups(pair, compared):
    figure = slabs.cgroups(compared(pair))
    assert titles(figure) == [
        "<b>/: kernel memory solid, slab dotted, MiB</b>",
        "<b>/headroom/workload: kernel memory solid, slab dotted, MiB</b>",
        "<b>/headroom/bystander: kernel memory solid, slab dotted, MiB</b>",
        "<b>Cgroups, in all: removed and not freed (dying) solid, living dotted</b>",
    ], "a group that was charged nothing has no strip"
    assert len(curves(figure, "MiB kernel")) == 6 and max(curves(figure, "cgroups dying")[0]["y"]) == 3


def test_no_dying_groups_no_strip(pair, compared):
    comparison = compared(pair)
    for cell in comparison.cells:
        cell.samples.groups["/"].pop("nr_dying_descendants")
    assert not any("dying" in title for title in titles(slabs.cgroups(comparison)))


def test_many_cells_share_the_points(new_run, compared):
    comparison = compared(new_run(repeats=20, step=0.05))
    together = ([slabs.over_time(comparison)], slabs.by_cache(comparison)[1], [slabs.cgroups(comparison)])
    for figures in together:
        points = sum(len(trace["x"]) for figure in figures for trace in figure["data"])
        assert points <= 1.5 * charts.FIGURE_POINTS


def test_hostile_slab_and_cgroups(tmp_path, compared):
    comparison = compared(make_hostile(tmp_path / "hostile"))
    for figure in (slabs.over_time(comparison), *slabs.by_cache(comparison)[1], slabs.cgroups(comparison)):
        assert figure and json.dumps(figure, allow_nan=False)
    assert [(row.counted, row.exact) for row in shrink.rows(comparison)] == [("\u2013", "\u2013")] * 2
