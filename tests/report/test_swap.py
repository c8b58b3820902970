# SPDX-License-Identifier: MIT
"""Swap over time: what is read, what is drawn, and what is left out."""
import json

import pytest
from generate import SWAP_KERNELS
from hostile import TEXT

from reports import analysis, charts, html, slabs
from reports.model import MAX_GROUPS, load_run

SWAP_FREE = "<b>Swap free, MiB</b>"
SWAP_RATE = "<b>Swap, MiB/s: out solid, in dotted</b>"
CRYPT_CPU = "<b>CPU of kcryptd solid, kswapd dotted, % of one processor</b>"
KERNELS = tuple(f"{kernel} " for kernel in SWAP_KERNELS.values())
PAIR = {"arms": ("before", "after"), "repeats": 1}


def titles(figure):
    return [note["text"] for note in figure["layout"]["annotations"] if note["text"].startswith("<b>")]


def curves(figure, words):
    return [trace for trace in figure["data"] if words in trace.get("hovertemplate", "")]


def both_cells(path):
    return sorted((path / "cells").iterdir())


def write_samples(path, samples):
    (path / "cells/001-before-1/samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))


def first_cell(path):
    return load_run(path, []).cells[0]


def test_threads_are_taken_once_a_reading(new_swap_run):
    path = new_swap_run(**PAIR, step=0.25)
    cell = first_cell(path)
    kcryptd = cell.samples.threads["kcryptd"]
    assert set(cell.samples.threads) == {"kcryptd", "dmcrypt_write", "kswapd"}
    assert list(kcryptd.t)[:4] == pytest.approx([-2, -1, 0, 1]), "at the moment when they were read"
    assert list(kcryptd.v) == sorted(kcryptd.v) and kcryptd.v[-1] > 1000


def test_a_sample_without_threads_hides_no_reading(new_swap_run):
    path = new_swap_run(**PAIR)
    reading = {"age_ms": 400, "groups": {"kcryptd": {"cpu_ms": 70}}}
    write_samples(path, [{"t": 1.0}, {"t": 1.1, "threads": {}}, {"t": 1.2, "threads": reading, "cgroups": 7}])
    kcryptd = first_cell(path).samples.threads["kcryptd"]
    assert (list(kcryptd.t), list(kcryptd.v)) == ([pytest.approx(0.8)], [70])


@pytest.mark.parametrize(
    "threads",
    [
        TEXT,
        [],
        {"groups": TEXT},
        {"groups": {"kcryptd": TEXT}},
        {"groups": {"kcryptd": {"cpu_ms": "70"}}},
        {"groups": {"kcryptd": {"cpu_ms": -1}}},
        {"groups": {"kcryptd": {"cpu_ms": 10**400}}},
        {"groups": {"kcryptd": {"cpu_ms": float("nan")}}},
        {"age_ms": TEXT, "groups": {"kcryptd": {}}},
    ],
)
def test_threads_that_cannot_be_read_are_absent(new_swap_run, compared, threads):
    path = new_swap_run(**PAIR)
    write_samples(path, [{"t": t, "threads": threads} for t in range(5)])
    assert first_cell(path).samples.threads == {}
    assert charts.timeline(compared(path))


def test_no_more_groups_of_threads_than_a_machine_has(new_swap_run):
    path = new_swap_run(**PAIR)
    groups = {f"{TEXT}{index}": {"cpu_ms": 1} for index in range(1000)}
    write_samples(path, [{"t": 1, "threads": {"groups": groups}}])
    assert len(first_cell(path).samples.threads) == MAX_GROUPS


def test_swap_over_time(new_swap_run, compared):
    comparison = compared(new_swap_run(**PAIR, step=0.25))
    figure = charts.timeline(comparison)
    assert [title for title in titles(figure) if title in (SWAP_FREE, SWAP_RATE, CRYPT_CPU)] == [
        SWAP_FREE,
        SWAP_RATE,
        CRYPT_CPU,
    ]
    for what in ("MiB/s out", "MiB/s in", "% kcryptd", "% kswapd"):
        assert len(curves(figure, what)) == 2, what
    cell = comparison.columns[1].cells[0]
    pace = [y for x, y in zip(*(curves(figure, "MiB/s out")[1][axis] for axis in "xy")) if 5 < x < 20]
    assert 18 <= min(pace) and max(pace) <= 26, "pages of 4 KiB as MiB"
    assert sum(pace) / len(pace) == pytest.approx(cell.metric("swap_out_mib_s"), rel=0.15)
    percent = [y for x, y in zip(*(curves(figure, "% kcryptd")[1][axis] for axis in "xy")) if 5 < x < 20]
    assert 60 < min(percent) < max(percent) < 110


def test_without_swap_no_strip(pair, compared, new_swap_run, change_samples):
    assert not {SWAP_FREE, SWAP_RATE, CRYPT_CPU} & set(titles(charts.timeline(compared(pair))))
    path = new_swap_run(**PAIR)
    for cell_path in both_cells(path):
        change_samples(cell_path, lambda sample: sample["mem"].update(SwapTotal=0, SwapFree=0))
        change_samples(cell_path, lambda sample: sample["vm"].update(pswpin=0, pswpout=7))
        change_samples(cell_path, lambda sample: sample.pop("threads", None))
    assert not {SWAP_FREE, SWAP_RATE, CRYPT_CPU} & set(titles(charts.timeline(compared(path))))


def test_an_idle_arm_is_drawn_beside_one_that_swaps(new_swap_run, compared, change_samples):
    path = new_swap_run(**PAIR)
    change_samples(both_cells(path)[1], lambda sample: sample["vm"].update(pswpin=0, pswpout=0))
    figure = charts.timeline(compared(path))
    before, after = curves(figure, "MiB/s out")
    assert max(before["y"]) > 10 and set(after["y"]) == {0}


def test_what_never_comes_back_has_no_curve_of_its_own(new_swap_run, compared, change_samples):
    path = new_swap_run(**PAIR)
    for cell_path in both_cells(path):
        change_samples(cell_path, lambda sample: sample["vm"].update(pswpin=0))
    figure = charts.timeline(compared(path))
    assert len(curves(figure, "MiB/s out")) == 2 and curves(figure, "MiB/s in") == []


def test_swap_that_is_full_is_no_missing_swap(new_swap_run, compared, change_samples):
    path = new_swap_run(**PAIR)
    for cell_path in both_cells(path):
        change_samples(cell_path, lambda sample: sample["mem"].update(SwapFree=0))
    assert SWAP_FREE in titles(charts.timeline(compared(path)))


def test_a_reading_that_comes_late_is_no_gap(new_swap_run):
    counter = charts.Series()
    for t in range(0, 60, 2):
        counter.add(t, 500.0 * t)
    assert set(charts.rate(counter, 0.1).v) == {50.0}
    counter.add(90, 1e9)
    assert max(charts.rate(counter, 0.1).v) == 50.0, "over half a minute nothing is known"


def test_of_many_arms_before_and_after_are_drawn_at_first(swap_runs, pair, compared):
    comparison = compared(*swap_runs)
    shown = [column.label for column in comparison.columns if column.arm in ("before", "after")]
    for figure in (charts.timeline(comparison), slabs.over_time(comparison)):
        curves = [trace for trace in figure["data"] if trace["mode"] == "lines" and trace["legendgroup"]]
        assert {trace["legendgroup"] for trace in curves if trace.get("visible") != "legendonly"} == set(shown)
        assert len({trace["legendgroup"] for trace in curves}) > len(shown), "the others wait for a click"
        marks = [trace for trace in figure["data"] if trace["mode"] == "markers"]
        assert not any("visible" in trace for trace in marks)
    colours = {column.label: charts.token(column) for column in comparison.columns}
    assert len({colours[label] for label in shown}) == 4, "of two kernels too"
    assert all(len({token for label, token in colours.items() if label.startswith(name)}) == 10 for name in KERNELS)
    assert "only the curves of before and after are shown at first" in html.render(comparison)
    assert not any("visible" in trace for trace in charts.timeline(compared(pair))["data"])
    assert len(charts.LIGHT) == len(charts.DARK) == analysis.COLOURS
    assert "shown at first" not in html.render(compared(pair))


def test_hostile_swap_figures(new_swap_run, compared, change_samples):
    path = new_swap_run(**PAIR)
    bad = [TEXT, None, [], True, -5, 10**400, 1e308, float("nan")]
    for cell_path in both_cells(path):

        def spoil(sample):
            value = bad[int(sample["t"]) % len(bad)]
            sample["mem"] = {"SwapTotal": value, "SwapFree": value}
            sample["vm"] = {"pswpin": value, "pswpout": value} if sample["t"] < 20 else value
            sample["threads"] = {"age_ms": value, "groups": {"kcryptd": {"cpu_ms": value}}}

        change_samples(cell_path, spoil)
    assert json.dumps(charts.timeline(compared(path)), allow_nan=False)


def test_cpu_time_of_threads_is_a_sum_over_the_life_of_a_cell(new_swap_run, compared):
    found = {metric.name: metric for metric in compared(new_swap_run(**PAIR)).metrics}
    for name in ("kcryptd", "dmcrypt_write", "kswapd"):
        metric = found[f"thread_cpu_s.{name}"]
        assert (metric.label, metric.unit) == (f"CPU time of kernel threads: {name}", "s")
        assert [figure.bound for figure in metric.figures] == ["at least", ""]
