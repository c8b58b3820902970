# SPDX-License-Identifier: MIT
"""Cells of several workloads: which ones were under way at an event, and when each of them was."""
import json

import pytest
from generate import write_lines
from hostile import TEXT, make_hostile

from reports import charts, html


@pytest.fixture
def with_events(new_run, compared):
    """The comparison of a single cell with these events in place of its own."""

    def make(*events):
        path = new_run(arms=["before"])
        write_lines(path / "cells/001-before-1/events.jsonl", [{"raw": ""} | event for event in events])
        return compared(path)

    return make


def load(kind, name, t):
    return {"kind": f"load-{kind}", "workload": name, "t": t}


def bars(comparison):
    return [trace for trace in charts.timeline(comparison)["data"] if trace["type"] == "bar"]


def test_active_workloads_in_hover_and_list(with_events):
    kill = {"kind": "oom-kill", "t": 4, "raw": "Out of memory", "active": ["snapshot-cow", "swap-crypt"]}
    comparison = with_events(kill, {"kind": "hung-task", "t": 5, "task": "fio"})
    (cell,) = comparison.cells
    assert charts.event_words(cell.events[0]) == ["active: snapshot-cow, swap-crypt"]
    assert charts.event_words(cell.events[1]) == ["task fio"]
    marks = [trace for trace in charts.timeline(comparison)["data"] if trace.get("meta", {}).get("kind") == "oom-kill"]
    assert "active: snapshot-cow, swap-crypt" in marks[0]["text"][0]
    page = html.render(comparison).split('<section id="events">')[1].split("</section>")[0]
    assert page.count("active: snapshot-cow, swap-crypt") == 1


def test_bars_of_workloads(with_events):
    events = [load("begin", "a", 0), load("begin", "b", 2), load("end", "a", 5), load("begin", "a", 6), {"kind": "oom-kill", "t": 7}]
    comparison = with_events(*events, load("end", "b", 8), load("end", "a", 9))
    first, second = bars(comparison)
    assert (first["base"], first["x"]) == ([0, 6], [5, 3]) and (second["base"], second["x"]) == ([2], [6])
    assert first["hovertext"][0].startswith("<b>a</b> active from 0.0 s to 5.0 s")
    assert first["text"] == ["a", ""] and second["text"] == ["b"], "each named once"
    marks = [trace for trace in charts.timeline(comparison)["data"] if trace.get("meta", {}).get("cell") == 0]
    assert 0.5 > first["y"][0] > second["y"][0] > max(trace["y"][0] for trace in marks) > -0.5, "above all marks of the lane"
    assert "Bars along the top" in html.render(comparison)


def test_a_workload_that_never_ended_was_active_until_the_record_ends(with_events):
    comparison = with_events(load("begin", "a", 1), {"kind": "panic", "t": 90})
    assert bars(comparison)[0]["base"] == [1] and bars(comparison)[0]["x"] == [89]


def test_an_end_without_a_begin_is_no_bar(with_events):
    assert bars(with_events(load("end", "a", 1), {"kind": "panic", "t": 9})) == []


def test_without_workloads_all_is_as_before(pair, compared):
    comparison = compared(pair)
    assert bars(comparison) == [] and charts.most_loads(charts.lane_cells(comparison)) == 0
    page = html.render(comparison).split("<script")[0]
    assert "active:" not in page and "Bars along the top" not in page


def test_an_axis_of_damaged_times_has_ends(with_events):
    low, high = charts.time_axis(with_events({"kind": "panic", "t": -1e308}, {"kind": "panic", "t": 1e308}), 0)["range"]
    assert -1e13 < low < high < 1e13


def test_longer_than_a_float_can_tell_is_no_bar(with_events):
    assert bars(with_events(load("begin", "a", -1e308), load("end", "a", 1e308), {"kind": "panic", "t": 9})) == []


@pytest.mark.parametrize("active", [TEXT, 7, None, {"a": 1}, [], [7, None, ""]])
def test_what_is_no_list_of_names_is_nothing(with_events, active):
    (cell,) = with_events({"kind": "panic", "t": 9, "active": active}).cells
    assert cell.events[0].active == []


def test_hostile_workloads(tmp_path, compared):
    comparison = compared(make_hostile(tmp_path / "hostile"))
    figure = charts.timeline(comparison)
    json.dumps(figure, allow_nan=False)
    low, high = figure["layout"]["xaxis"]["range"]
    ends = [(base, base + x) for trace in bars(comparison) for base, x in zip(trace["base"], trace["x"])]
    assert all(low <= begin <= end <= high for begin, end in ends), "nothing beyond what can be drawn"
    shown = [text for trace in bars(comparison) for text in trace["hovertext"]]
    assert shown and not [text for text in shown if "<script" in text or "<img" in text]
