# SPDX-License-Identifier: MIT
"""Memory taken away and given back: the tables, the figures, and records that are old or not to be trusted."""
import json
import math
import re

import pytest
from hostile import NUMBERS, TEXT

from reports import charts, html, markdown, memory

DASH = "\N{EN DASH}"
HEADS = ("Blocks taken offline", "DIMMs unplugged")


def offline(t, block=32, took_ms=100.0, **fields):
    event = {"t": t, "source": "harness", "kind": "offline", "block": block, "took_ms": took_ms, "mib": 128, "raw": "x"}
    return event | fields


def online(t, block=32, **fields):
    return {"t": t, "kind": "online", "block": block, "took_ms": 10.0, "raw": "x"} | fields


def unplug(t, dimm=0, took_ms=500.0, **fields):
    return {"t": t, "kind": "unplug", "dimm": dimm, "mib": 256, "took_ms": took_ms, "raw": "x"} | fields


@pytest.fixture
def record(new_run, compared):
    """A comparison of cells that finished, each with its events; the others of the run have none."""

    def make(cells, metrics=None, arms=("before", "after"), repeats=1):
        path = new_run(arms=list(arms), repeats=repeats)
        for cell_path in sorted((path / "cells").iterdir()):
            log = cell_path / "events.jsonl"
            kept = [line for line in log.read_text().splitlines() if json.loads(line)["kind"] in ("start", "phase")]
            events = [json.dumps(event) for event in cells.get(cell_path.name, [])]
            log.write_text("".join(line + "\n" for line in kept + events))
            cell = json.loads((cell_path / "cell.json").read_text())
            cell |= {"verdict": "ok", "metrics": (metrics or {}).get(cell_path.name, {})}
            (cell_path / "cell.json").write_text(json.dumps(cell))
        return compared(path)

    return make


def table(rows):
    return {metric.name: [field.value for field in fields] for metric, _, fields in rows}


def history(comparison, index=0):
    return memory.histories(comparison).figures[index]


def traces(figure, **wanted):
    return [trace for trace in figure["data"] if all(trace.get(name) == value for name, value in wanted.items())]


def test_what_came_of_the_tries(record):
    # 100 that went, of 10, 20, ... 1000 ms, and three refused that took 1 s, 2 s and 3 s.
    went = [offline(index / 10, 32 + index % 4, 10.0 * (index + 1), round=index // 2) for index in range(100)]
    refused = [
        offline(11.0, 36, 1000.0, errno="EBUSY", refusals=1, pause_ms=500),
        offline(13.0, 36, 2000.0, errno="EBUSY", refusals=2, pause_ms=1000),
        offline(16.0, 36, 3000.0, errno="EINTR", ended=True),
    ]
    metrics = {"001-before-1": {"rounds": 50, "offlined_gib_min": 12.5, "left_offline": 1}}
    rows = memory.blocks(record({"001-before-1": went + refused}, metrics))
    assert table(rows) == {
        "rounds": ["50", DASH],
        "tries": ["103", DASH],
        "went": ["100", DASH],
        "refused": ["3", DASH],
        "took_p50_ms": ["500", DASH],
        "took_p90_ms": ["900", DASH],
        "took_p99_ms": ["990", DASH],
        "took_max_ms": ["1.00", DASH],
        "refused_s": ["6.00", DASH],
        "offlined_gib_min": ["12.5", DASH],
        "pause_max_s": ["1.00", DASH],
        "left_offline": ["1", DASH],
    }
    units = {metric.name: unit for metric, unit, _ in rows}
    assert (units["took_p50_ms"], units["took_max_ms"], units["refused_s"]) == ("ms", "s", "s")


def test_what_was_not_measured_is_not_zero(record):
    unknown = {"001-before-1": [offline(1, took_ms=None), offline(2, took_ms=None, errno="EBUSY")]}
    none_refused = {"002-after-1": [offline(1)]}
    rows = table(memory.blocks(record(unknown | none_refused)))
    assert rows["refused_s"] == [DASH, "0"] and rows["took_p50_ms"] == [DASH, "100"]
    assert rows["rounds"] == rows["pause_max_s"] == rows["left_offline"] == [DASH, DASH]


def test_one_time_that_is_missing_makes_a_sum_unknown(record):
    events = [offline(1, errno="EBUSY"), offline(2, took_ms=None, errno="EBUSY")]
    assert table(memory.blocks(record({"001-before-1": events})))["refused_s"][0] == DASH


def test_repeats_are_told_by_their_median(record):
    names = ("001-before-1", "003-before-2", "005-before-3")
    cells = {name: [offline(t, took_ms=100.0 * (index + 1)) for t in range(3)] for index, name in enumerate(names)}
    rows = memory.blocks(record(cells, repeats=3))
    field = next(fields[0] for metric, _, fields in rows if metric.name == "took_p50_ms")
    assert field.value == "200" and field.note.replace("\N{NO-BREAK SPACE}", " ") == "n = 3, 95% [100, 300]"


def test_refusals_by_errno_and_reason(record):
    before = [offline(t, errno="EBUSY", reason="unmovable page") for t in range(3)]
    before += [offline(4, errno="EINTR", ended=True, reason="signal backoff", where="do_migrate_range")]
    before += [offline(5, errno="EINTR", ended=True), offline(6, errno="EINTR", where="ignored")]
    before += [offline(t) for t in range(10, 14)]
    after = [offline(1, errno="EBUSY", reason="unmovable page"), offline(2), offline(3)]
    rows = memory.refusals(record({"001-before-1": before, "002-after-1": after}))
    assert [(row.errno, row.reason, row.stood, row.counts) for row in rows] == [
        ("EBUSY", "unmovable page", "", ["3 (30.0%)", "1 (33.3%)"]),
        ("EINTR", "signal backoff", "do_migrate_range", ["1 (10.0%)", "0"]),
        ("EINTR", DASH, "?", ["1 (10.0%)", "0"]),
        ("EINTR", DASH, "", ["1 (10.0%)", "0"]),
    ]


def test_an_arm_without_tries_has_no_share(record):
    (row,) = memory.refusals(record({"001-before-1": [offline(1, errno="EBUSY")]}))
    assert row.counts == ["1 (100.0%)", DASH]


def test_many_sorts_of_refusals_are_told_together(record):
    events = [offline(t, errno=f"E{t}") for t in range(memory.MAX_REFUSALS + 5)]
    rows = memory.refusals(record({"001-before-1": events}))
    assert len(rows) == memory.MAX_REFUSALS + 1
    assert (rows[-1].errno, rows[-1].counts[0]) == ("5 other sorts", "5 (14.3%)")


def test_dimms_have_a_table_of_their_own(record):
    events = [unplug(1, took_ms=400.0), unplug(3, took_ms=600.0), unplug(5, took_ms=200.0, errno="EBUSY")]
    comparison = record({"001-before-1": events})
    assert table(memory.dimms(comparison)) == {
        "tries": ["3", DASH],
        "went": ["2", DASH],
        "refused": ["1", DASH],
        "took_p50_ms": ["400", DASH],
        "took_max_ms": ["600", DASH],
        "refused_s": ["0.2", DASH],
    }
    assert memory.blocks(comparison) == [] and memory.durations(comparison) is None
    assert [row.errno for row in memory.refusals(comparison, memory.DIMMS)] == ["EBUSY"]
    page = html.render(comparison)
    assert HEADS[1] in page and HEADS[0] not in page


def test_durations_are_shares_of_those_that_went_and_of_the_others(record):
    events = [offline(1, took_ms=20.0), offline(2, took_ms=10.0), offline(3, took_ms=0.0, errno="EBUSY")]
    figure = memory.durations(record({"001-before-1": events}))
    went, refused = (trace for trace in figure["data"] if "hovertemplate" in trace)
    assert (went["x"], went["y"]) == ([10.0, 10.0, 20.0], [0.0, 50.0, 100.0])
    assert (went["line"]["dash"], refused["line"]["dash"]) == ("solid", "dash")
    assert refused["x"] == [memory.SHORTEST_MS] * 2, "a log axis has no zero"
    assert figure["layout"]["xaxis"]["type"] == "log"


@pytest.mark.parametrize(
    "took, words",
    [
        ((40.0, 300.0), ["10 ms", "20 ms", "50 ms", "100 ms", "200 ms", "500 ms", "1 s", "2 s", "5 s"]),
        ((1.0, 90_000.0), ["1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"]),
    ],
)
def test_times_on_the_axis_read_as_times(record, took, words):
    events = [offline(t, took_ms=ms) for t, ms in enumerate(took)]
    assert memory.durations(record({"001-before-1": events}))["layout"]["xaxis"]["ticktext"] == words


def test_a_try_is_a_bar_from_begin_to_end(record):
    figure = history(record({"001-before-1": [offline(3.0, 33, 1500.0), offline(5.0, 32, 500.0, errno="EBUSY")]}))
    went, refused = (traces(figure, type="bar", legendgroup=name)[0] for name in ("went", "refused: EBUSY"))
    assert (went["base"], went["x"], went["y"]) == ([1.5], [1.5], [-1])
    assert (refused["base"], refused["x"], refused["y"]) == ([4.5], [0.5], [0])
    assert figure["layout"]["yaxis"]["ticktext"] == ["memory32", "memory33"]


def test_a_bar_does_not_begin_before_all_else(record):
    figure = history(record({"001-before-1": [offline(3.0, took_ms=1e300)]}))
    (bar,) = traces(figure, type="bar")
    assert bar["base"][0] == pytest.approx(figure["layout"]["xaxis"]["range"][0], abs=1e-3)
    assert bar["base"][0] + bar["x"][0] == pytest.approx(3.0, abs=1e-3)


def test_colour_alone_does_not_tell_what_was_refused(record):
    names = ["", *memory.REFUSED, "EUNKNOWN"]
    events = [offline(t, **({"errno": name} if name else {})) for t, name in enumerate(names)]
    figure = history(record({"001-before-1": events}))
    marks = [trace["marker"] for trace in traces(figure, mode="markers")]
    bars = [trace["marker"]["pattern"]["shape"] for trace in traces(figure, type="bar")]
    assert len({mark["symbol"] for mark in marks}) == len(set(bars)) == len(names)


def test_the_time_a_page_is_held_lies_behind_its_block(record):
    pin, unpin = ({"kind": kind, "block": 33, "raw": "x"} for kind in ("pin", "unpin"))
    events = [offline(1.0, 32), pin | {"t": 2.0}, offline(4.0, 33, errno="EINTR"), unpin | {"t": 5.0}, pin | {"t": 6.0},
              pin | {"t": 6.5, "block": 99}, pin | {"t": 6.6, "block": None}, offline(8.0, 33)]
    figure = history(record({"001-before-1": events}))
    (held,) = traces(figure, name="a page is held")
    assert held["x"] == [2.0, 5.0, None, 6.0, 8.0, None] and held["y"] == [-1, -1, None, -1, -1, None]
    assert figure["data"][0] is held, "behind all others"


def test_the_time_away_is_a_line_until_the_block_is_back(record):
    events = [offline(1.0), online(3.0, took_ms=500.0), offline(4.0, errno="EBUSY")]
    events += [offline(5.0), online(6.0, errno="EIO"), {"t": 9.0, "kind": "done", "raw": ""}]
    figure = history(record({"001-before-1": events}))
    (back,), (still,) = (traces(figure, name=name) for name in ("away", "away to the end"))
    assert back["x"] == [1.0, 2.5, None] and still["x"] == [5.0, 9.0, None]
    assert [len(traces(figure, name=name)[0]["x"]) for name in ("back", "not back")] == [1, 1]


def test_a_label_has_all_that_is_on_record(record):
    fields = {"round": 3, "errno": "EINTR", "ended": True, "where": "do_migrate_range", "reason": "signal backoff"}
    fields |= {"migrated": 32384, "failed": 12, "refusals": 2, "pause_ms": 1000}
    figure = history(record({"001-before-1": [offline(13.6, 32, 1234.567, **fields)]}))
    (shown,) = traces(figure, mode="markers")[0]["text"]
    assert shown.split("<br>") == [
        "<b>memory32</b> offline: EINTR",
        "12.4 s to 13.6 s, took 1.23 s",
        "ended by us at its bound",
        "stood in do_migrate_range",
        "the kernel: signal backoff",
        "round 3",
        "128 MiB",
        "32,384 pages moved",
        "12 attempts to move a page failed",
        "refusals in a row: 2",
        "left alone for 1 s",
    ]


def test_a_cell_has_a_figure_of_its_own(record):
    cells = {"001-before-1": [offline(1)], "002-after-1": [unplug(1), offline(2)]}
    comparison = record(cells)
    found = memory.histories(comparison)
    assert found.names == ["before", "after"] and found.left_out == []
    assert found.figures[1]["layout"]["yaxis"]["ticktext"] == ["memory32", "DIMM 0"]
    assert '<select id="pick-blocks">' in html.render(comparison)


def test_of_too_many_tries_the_shortest_are_left_out(record):
    over = 7
    events = [offline(t / 100, 32 + t % 3, 1.0 + t) for t in range(memory.MAX_CELL_TRIES + over)]
    comparison = record({"001-before-1": events})
    found = memory.histories(comparison)
    assert found.left_out == ["7 shortest tries"]
    bars = traces(found.figures[0], type="bar")
    assert sum(len(trace["x"]) for trace in bars) == memory.MAX_CELL_TRIES
    assert min(x for trace in bars for x in trace["x"]) == pytest.approx((1.0 + over) / 1000)
    assert "Not drawn, for want of room: 7 shortest tries." in html.render(comparison)


def test_of_too_many_blocks_those_tried_least_are_left_out(record):
    tried = [*range(memory.MAX_LANES + 2), *range(memory.MAX_LANES)]
    events = [offline(t / 10, block) for t, block in enumerate(tried)]
    found = memory.histories(record({"001-before-1": events}))
    assert found.left_out == ["2 blocks that were tried least"]
    assert len(found.figures[0]["layout"]["yaxis"]["ticktext"]) == memory.MAX_LANES


def test_of_too_many_cells_the_first_are_drawn(record, monkeypatch):
    monkeypatch.setattr(memory, "MAX_CELLS", 1)
    found = memory.histories(record({"001-before-1": [offline(1)], "002-after-1": [offline(1)]}))
    assert found.names == ["before"] and found.left_out == ["1 cell"]


def test_tries_are_on_the_time_axis_and_open_where_in_vain(record):
    events = [offline(1), offline(2, errno="EBUSY"), online(3), unplug(4)]
    events.append({"t": 5, "kind": "plug", "dimm": 0, "raw": ""})
    figure = charts.timeline(record({"001-before-1": events}))
    marks = {trace["meta"]["kind"]: trace for trace in figure["data"] if "meta" in trace}
    assert {"offline", "online", "unplug", "plug"} <= set(marks)
    symbol = charts.KINDS["offline"].symbol
    assert marks["offline"]["marker"]["symbol"] == [symbol, symbol + "-open"]
    assert "refused: EBUSY" in marks["offline"]["text"][1]


def test_an_old_record_has_no_such_section(record):
    old = {"t": 13.6, "kind": "offline", "raw": "memory32: Interrupted system call after 10521.8 ms"}
    comparison = record({"001-before-1": [old]})
    assert memory.blocks(comparison) == [] and memory.refusals(comparison) == []
    assert memory.histories(comparison).figures == [] and 'id="memory"' not in html.render(comparison)
    assert "## Memory taken away" not in markdown.render(comparison)


def test_markdown_has_the_tables(record):
    events = [offline(1), offline(2, errno="EBUSY", reason="unmovable page"), unplug(3)]
    text = markdown.render(record({"001-before-1": events}))
    assert "| blocks offline | unit | before | after |" in text and "| went |  | 1 | \N{EN DASH} |" in text
    assert "| EBUSY | unmovable page |  | 1 (50.0%) | \N{EN DASH} |" in text and "| DIMMs unplugged |" in text


WRONG = (TEXT, {TEXT: TEXT}, [TEXT], None, True, -1, 3.5, 10**400, *NUMBERS)
FIELDS = ("block", "took_ms", "errno", "ended", "reason", "where", "mib", "round", "migrated", "refusals", "pause_ms")


def hostile_events():
    events = [offline(1 + index / 10, **{name: value}) for name in FIELDS for index, value in enumerate(WRONG)]
    events += [offline(3, errno=f"{TEXT}{index}", reason=TEXT, where=TEXT, ended=True) for index in range(40)]
    events += [unplug(4, dimm=value) for value in WRONG] + [online(5, block=value) for value in WRONG]
    return [*events, online(1e300), offline(-1e300, took_ms=1e308), online(6, errno=TEXT)]


def test_hostile_tries_never_crash_and_stay_text(record):
    comparison = record({"001-before-1": hostile_events()}, {"001-before-1": {"rounds": TEXT, "left_offline": -1e308}})
    found = memory.histories(comparison)
    assert json.dumps([memory.durations(comparison), *found.figures], allow_nan=False)
    page, text = html.render(comparison), markdown.render(comparison)
    assert TEXT not in page and "<script>window.owned" not in page
    assert not re.search(r"(?<!\\)[<>]", text)
    lines = [line for line in text.split("## Memory taken away")[1].split("## ")[0].splitlines() if line]
    assert all(re.fullmatch(r"\|( .* \|)+", line) for line in lines)


def test_no_figure_of_a_damaged_record_is_infinite(record):
    events = [offline(1, took_ms=1.7e308, errno="EBUSY"), offline(2, took_ms=1.7e308, errno="EBUSY")]
    comparison = record({"001-before-1": events})
    rows = memory.blocks(comparison)
    assert json.dumps(memory.durations(comparison), allow_nan=False)
    assert all(math.isfinite(value) for metric, _, _ in rows for figure in metric.figures for value in figure.values)
