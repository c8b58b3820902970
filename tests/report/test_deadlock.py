# SPDX-License-Identifier: MIT
"""Deadlocks in the report: the wait-for graph, what broke it, and records that are old or not to be trusted."""
import json
import re
from html.parser import HTMLParser

import pytest
from hostile import TEXT

from reports import charts, deadlock, html, markdown

STEPS = [
    {
        "pid": 97,
        "comm": "hr-victim",
        "where": "pipe_write",
        "waits": "the pipe of the core of 97",
        "stack": ["pipe_write", "dump_user_range"],
    },
    {"pid": 98, "comm": "headroom", "where": "proc_cgroup_show", "waits": "cgroup_mutex"},
    {"pid": 100, "comm": "hr-lru-gen", "where": "get_online_mems", "waits": "mem_hotplug_lock"},
    {"comm": "hr-offline", "waits": "pages that are in use"},
]
FOUND = {"t": 21.5, "source": "harness", "kind": "deadlock", "steps": STEPS, "raw": "words"}
END = {"t": 29.9, "kind": "deadlock-end", "broken_by": "SIGKILL to hr-offline (pid 101)", "raw": ""}
FRAME = (deadlock.BOX_PX, deadlock.BOX_HEIGHT_PX)


def steps(count, **fields):
    return [{"comm": f"task{index}", "pid": index, "waits": f"lock{index}"} | fields for index in range(count)]


def cycle_of(entries):
    return deadlock.graph([deadlock._step(entry) for entry in entries])


def ends_of(arrow):
    """Where an arrow begins, and where its head points."""
    return (tuple(map(int, re.match(r"M(\d+) (\d+)", path).groups())) for path in (arrow.path, arrow.head))


def touches(box, point):
    return box.x <= point[0] <= box.x + FRAME[0] and box.y <= point[1] <= box.y + FRAME[1]


def area(line):
    """What a line of text covers: letters 7.3 pixels wide, 12 above the baseline and 3 below."""
    width = 7.3 * len(line.words)
    left = line.x - width * {"start": 0, "middle": 0.5, "end": 1}[line.anchor]
    return left, line.y - 12, left + width, line.y + 3


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.fixture
def told(new_run, compared):
    """The deadlocks of a run with these events in the cell of `before`."""

    def make(*events):
        path = new_run()
        log = path / "cells/001-before-1/events.jsonl"
        log.write_text(log.read_text() + "".join(json.dumps(event) + "\n" for event in events))
        return compared(path)

    return make


@pytest.mark.parametrize("count", range(2, deadlock.MAX_DRAWN + 1))
def test_each_arrow_leads_to_who_holds_what_is_waited_for(count):
    graph = cycle_of(steps(count))
    assert len(graph.boxes) == len(graph.arrows) == count
    for index, arrow in enumerate(graph.arrows):
        begin, tip = ends_of(arrow)
        assert touches(graph.boxes[index], begin) and touches(graph.boxes[(index + 1) % count], tip)
        assert [line.words for line in arrow.lines] == [f"lock{index}"]


@pytest.mark.parametrize("count", range(2, deadlock.MAX_DRAWN + 1))
@pytest.mark.parametrize("word", ["a_kernel_function_with_a_name_that_goes_on_and_on", "W" * 300, "two words " * 30])
def test_no_text_lies_on_another_or_outside(count, word):
    graph = cycle_of(steps(count, comm=word, where=word, waits=word))
    areas = [area(line) for part in (*graph.boxes, *graph.arrows) for line in part.lines]
    assert not [(a, b) for index, a in enumerate(areas) for b in areas[:index] if overlap(a, b)]
    frames = [(box.x, box.y, box.x + FRAME[0], box.y + FRAME[1]) for box in graph.boxes]
    labels = [area(line) for arrow in graph.arrows for line in arrow.lines]
    assert not [label for label in labels for frame in frames if overlap(label, frame)]
    assert all(a[0] >= 0 and a[1] >= 0 and a[2] <= graph.width and a[3] <= graph.height for a in areas)


@pytest.mark.parametrize("count", [0, 1, deadlock.MAX_DRAWN + 1, 5000])
def test_what_cannot_be_read_as_a_ring_is_not_drawn(told, count):
    (cycle,) = deadlock.found(told(FOUND | {"steps": steps(count)})).cycles
    assert cycle.graph is None and len(cycle.words) == max(1, min(count, deadlock.MAX_LISTED))
    assert ("too many to draw" in cycle.remark) == (count > deadlock.MAX_DRAWN)


@pytest.mark.parametrize(
    "name, lines",
    [
        ("lock_device_hotplug_sysfs", ["lock_device_", "hotplug_sysfs"]),
        ("pages that are in use", ["pages that are", "in use"]),
        ("", [""]),
        ("x" * 20, ["x" * 13 + "\u2026"]),
        ("a b c d e f g h i j k l m n o p q r s t", ["a b c d e f g", "h i j k l m n", "o p q r s t"]),
    ],
)
def test_long_names_are_broken_where_they_can_be(name, lines):
    assert deadlock.folded(name, 14, 3) == lines


def test_the_cycle_in_words_and_what_broke_it(told):
    (cycle,) = deadlock.found(told(FOUND, END | {"drained": True, "drain_ms": 730.2})).cycles
    assert (cycle.place, cycle.found) == ("before", "21.5 s")
    assert cycle.words[0] == (
        "hr-victim (pid 97) in pipe_write waits for the pipe of the core of 97, held by headroom (pid 98)"
    )
    assert cycle.words[3] == "hr-offline waits for pages that are in use, held by hr-victim (pid 97)"
    assert cycle.broken == "Broken by SIGKILL to hr-offline (pid 101), at 29.9 s, 8.4 s after it was found."
    assert cycle.drained == "All had gone on after 730 ms."
    assert [step.stack for step in cycle.stacks] == ["pipe_write\ndump_user_range"]


@pytest.mark.parametrize(
    "fields, words",
    [
        ({}, "Whether all went on is not on record."),
        ({"drained": True}, "All had gone on."),
        ({"drained": False, "drain_ms": 30000}, "Not all had gone on after 30 s."),
        ({"drained": TEXT, "drain_ms": -1}, "Whether all went on is not on record."),
    ],
)
def test_what_is_not_known_of_the_end_is_not_made_up(told, fields, words):
    assert deadlock.found(told(FOUND, END | fields)).cycles[0].drained == words


def test_each_deadlock_has_its_own_end(told):
    again = FOUND | {"t": 40, "steps": STEPS[:2]}
    first, second = deadlock.found(told(FOUND, END, again)).cycles
    assert first.broken.startswith("Broken by") and len(first.steps) == 4
    assert (second.broken, second.drained) == ("The record does not say that it ended.", "")


def test_an_old_record_has_words_alone(told):
    comparison = told({"t": 14.8, "kind": "deadlock", "raw": "A waits for x, held by B"})
    (cycle,) = deadlock.found(comparison).cycles
    assert cycle.graph is None and cycle.words == ["A waits for x, held by B"]
    assert "<li>A waits for x, held by B</li>" in html.render(comparison)


def test_without_a_deadlock_there_is_no_section(told):
    comparison = told()
    assert 'id="deadlocks"' not in html.render(comparison) and "## Deadlocks" not in markdown.render(comparison)


def test_deadlocks_are_severe_and_on_the_time_axis(told):
    comparison = told(FOUND, END)
    assert "deadlock" in html.SEVERE and charts.KINDS["deadlock"].guide
    kinds = [trace["meta"]["kind"] for trace in charts.timeline(comparison)["data"] if "meta" in trace]
    assert {"deadlock", "deadlock-end"} <= set(kinds)


def test_many_are_counted_and_not_shown(told):
    comparison = told(*[FOUND | {"t": index} for index in range(deadlock.MAX_CYCLES + 3)])
    found = deadlock.found(comparison)
    assert (len(found.cycles), found.left_out) == (deadlock.MAX_CYCLES, 3)
    assert "3 more are left out" in html.render(comparison) and "3 more are left out" in markdown.render(comparison)


class Drawing(HTMLParser):
    """The elements of the page's graphs."""

    def __init__(self, source):
        super().__init__()
        self.found, self.inside = [], False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.inside = self.inside or tag == "svg"
        if self.inside:
            self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "svg"


def test_the_graph_is_an_image_with_a_title(told):
    source = html.render(told(FOUND, END))
    drawing = Drawing(source[source.index('id="deadlocks"') : source.index('id="time"')]).found
    assert drawing[0][0] == "svg" and drawing[0][1]["role"] == "img" and drawing[1][0] == "title"
    tags = [tag for tag, _ in drawing]
    assert tags.count("rect") == 4 and tags.count("path") == 8


WORST = {"comm": TEXT, "pid": 10**400, "where": TEXT, "waits": TEXT, "stack": [TEXT, 7]}
HOSTILE = [
    FOUND | {"steps": [TEXT, 7, None, WORST]},
    FOUND | {"steps": [{"comm": 5, "pid": -1, "where": [], "waits": {}, "stack": TEXT}] * 4, "raw": TEXT},
    FOUND | {"steps": {TEXT: TEXT}, "raw": TEXT},
    FOUND | {"steps": TEXT},
    END | {"broken_by": TEXT, "drained": TEXT, "drain_ms": TEXT},
    END | {"broken_by": {TEXT: TEXT}, "drained": 1, "drain_ms": 1e308},
]


def test_hostile_deadlocks_stay_text(told):
    comparison = told(*[event | {"t": index} for index, event in enumerate(HOSTILE)])
    source = html.render(comparison)
    drawing = Drawing(source[source.index('id="deadlocks"') : source.index('id="time"')]).found
    assert {tag for tag, _ in drawing} == {"svg", "title", "g", "path", "rect", "text"}
    assert not [name for _, attributes in drawing for name in attributes if name.startswith("on")]
    assert "&lt;script&gt;window.owned=1" in source and TEXT not in source
    assert not re.search(r"(?<!\\)[<>]", markdown.render(comparison))
