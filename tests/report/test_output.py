# SPDX-License-Identifier: MIT
"""The program and what it writes: HTML, Markdown, JSON, the table on stdout, and its exit codes."""
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from hostile import make_hostile

from reports import charts, compare, html, machine, markdown, tables
from reports.model import Series, load_run
from reports.published import published


class Page(HTMLParser):
    """Elements, attributes and text of a page, without the scripts' text."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.attributes, self.text, self.scripts, self.headings = [], [], [], [], []
        self.open = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs
        self.open = tag

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        (self.scripts if self.open == "script" else self.text).append(data)
        if self.open == "h2":
            self.headings.append(data)


@pytest.fixture
def hostile(tmp_path):
    return make_hostile(tmp_path / "hostile")


def page(comparison):
    return Page(html.render(comparison))


def test_sections_in_order(pair, compared):
    shown = page(compared(pair))
    text = " ".join(shown.text)
    assert shown.headings == [
        "Metrics",
        "Over time",
        "Slab memory by cache at the peak of SUnreclaim",
        "Slab memory over time",
        "Cgroups",
        "Mitigations and settings",
        "Detectors and losses",
        "Environment and phases",
        "Events",
        "Published elsewhere, on other machines",
        "How to repeat",
    ]
    assert "before = panic after 10.0 s (3 OOM kills); after = ok in 21.5 s, data verified." in text
    assert "headroom run snapshot --kernel 6.1 --seed 42" in text and "[snapshot-cow]" in text


def test_html_is_self_contained(pair, compared):
    shown = page(compared(pair))
    links = [value for name, value in shown.attributes if name in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    policy = next(value for name, value in shown.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy and "http" not in policy


def test_missing_metric_is_an_en_dash(pair, compared):
    source = html.render(compared(pair))
    row = re.search(r"<tr><th title=\"write_mib_s\">.*?</tr>", source, re.S).group()
    assert 'title="not measured">\u2013</span>' in row and "9.32" in row


def test_html_is_the_same_every_time(pair, compared):
    assert html.render(compared(pair)) == html.render(compared(pair))


def test_hostile_record_stays_text(hostile, compared):
    shown = page(compared(hostile))
    assert len(shown.scripts) == 4 and shown.elements.count("script") == 4
    assert not {"img", "b"} & set(shown.elements)
    assert not [name for name, _ in shown.attributes if name.startswith("on")]
    text = "".join(shown.text)
    assert "</script><script>window.owned=1</script>" in text and "{{7*7}}" in text
    assert "\0" not in text and "\x1b" not in text and "\u202e" not in text
    assert "<" not in shown.scripts[1] and json.loads(shown.scripts[1])["timeline"]


def test_hostile_record_in_other_forms(hostile, compared):
    comparison = compared(hostile)
    data = json.loads(machine.render(comparison))
    assert data["schema"] == "headroom.compare/1"
    losses = {entry["cell"]: entry for entry in data["losses"]}
    assert losses["001-before-1"]["corrupt_lines"] == 7 and losses["001-before-1"]["sample_lines"] > 10
    assert any("003-before-2" in line for line in data["other_losses"])
    text = markdown.render(comparison)
    assert not re.search(r"(?<!\\)[<>]", text) and "\x1b" not in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(re.fullmatch(r"\|( .* \|)+", line) for line in tables)


def test_hostile_record_on_the_terminal(hostile, program):
    result = program(hostile)
    assert result.returncode == 0 and "003-before-2/cell.json" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr and "\0" not in result.stdout
    assert (hostile / "report.html").stat().st_size > 100000


def test_markdown(repeats, compared):
    text = markdown.render(compared(repeats))
    for line in (
        "# headroom: snapshot",
        "| arm | verdict | reason |",
        "| metric | unit | before | after |",
        "| mitigation | arm | state | requested | read back | exercised | evidence |",
    ):
        assert line in text
    assert re.search(
        r"\| peak held: kcopyd\\_job \| MiB \| \u2265 3\d\d; n = 4, 95% .* \(\u00f78\.\d\d better\\\*\); n = 4, .*"
        r"p = 0\.029 \(Mann-Whitney\) \|",
        text,
    )
    widths = {
        line.replace("\\|", "").count("|") for line in text.split("## Metrics")[1].split("##")[0].splitlines() if line
    }
    assert widths == {5}


def test_json(repeats, compared):
    data = json.loads(machine.render(compared(repeats)))
    assert list(data) == [
        *("schema", "summary", "runs", "arms", "metrics", "effects", "survival", "statistics", "losses", "other_losses")
    ]
    assert data["effects"] == [], "no arm has one mitigation alone"
    assert [(arm["label"], arm["verdicts"], arm["baseline"]) for arm in data["arms"]] == [
        ("before", {"panic": 4}, None),
        ("after", {"ok": 4}, "before"),
    ]
    after = data["metrics"]["elapsed_s"]["arms"]["after"]
    assert (
        after["n"] == 4
        and after["p"] == pytest.approx(2 / 70)
        and after["test"] == "Mann-Whitney"
        and after["ratio"] is None
    )
    assert len(after["values"]) == 4 and after["interval"][0] <= after["median"] <= after["interval"][1]
    before = data["metrics"]["elapsed_s"]["arms"]["before"]
    assert before["did_not_finish"] == 4 and before["median"] is None
    assert data["metrics"]["cache_peak_kib.kcopyd_job"]["unit"] == "KiB"


def test_default_writes_report_and_table(new_run, program):
    path = new_run()
    result = program(path)
    lines = result.stdout.splitlines()
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        lines[0].split() == ["ARM", "VERDICT", "REASON"]
        and lines[1].startswith("before  panic")
        and lines[2].startswith("after   ok")
    )
    assert lines[3] == str(path / "report.html") and (path / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_outputs_go_where_asked(new_run, program, tmp_path):
    path = new_run()
    result = program(path, "--json", "-", "--markdown", "out.md")
    assert json.loads(result.stdout)["schema"] == "headroom.compare/1"
    assert (tmp_path / "out.md").read_text().startswith("# headroom: snapshot") and not (path / "report.html").exists()


def test_usage_errors(new_run, tmp_path, capsys):
    path = str(new_run())
    wrong = ([], ["--nonsense"], [str(tmp_path / "nowhere")], [path, path], [path, "--json", "-", "--html", "-"])
    for arguments in wrong:
        with pytest.raises(SystemExit) as ended:
            compare.main(arguments)
        assert ended.value.code == 2 and "usage: headroom compare" in capsys.readouterr().err, arguments


def test_nothing_usable(program, tmp_path, new_run):
    result = program(tmp_path)
    assert result.returncode == 3 and f"{tmp_path}/run.json" in result.stderr
    path = new_run()
    shutil.rmtree(path / "cells")
    result = program(path)
    assert result.returncode == 3 and len(result.stderr.splitlines()) == 1


def test_unreadable_run_json_is_no_reason_to_give_up(new_run, program):
    path = new_run()
    (path / "run.json").write_text("null")
    result = program(path, "--json", "-")
    assert result.returncode == 0 and json.loads(result.stdout)["arms"][0]["verdicts"] == {"panic": 1}
    assert result.stderr == f"headroom compare: {path}/run.json: not a JSON object\n"


def test_output_that_cannot_be_written(new_run, program):
    result = program(new_run(), "--json", "/nonexistent/out.json")
    assert result.returncode == 4 and "/nonexistent/out.json" in result.stderr


def test_cell_without_samples_keeps_its_row(new_run, compared):
    path = new_run()
    for cell in ("001-before-1", "002-after-1"):
        (path / "cells" / cell / "samples.jsonl").unlink()
        (path / "cells" / cell / "events.jsonl").unlink()
    text = " ".join(page(compared(path)).text)
    assert "No sample has slab figures." in text and "no samples" in text and "002-after-1" in text


def test_what_is_not_drawn_is_told(new_run, compared):
    arms = [f"only-{index}" for index in range(21)]
    path = new_run(arms=arms, repeats=2, step=4.0)
    assert charts.left_out(compared(path)) == ["2 event lanes", "15 arms among the slab bars"]
    text = "".join(page(compared(path)).text)
    assert "Not drawn, for want of room: 2 event lanes, 15 arms among the slab bars." in text


def test_events_are_capped_and_the_severe_stay(new_run, compared):
    path = new_run()
    events = path / "cells/001-before-1/events.jsonl"
    noise = "".join(
        json.dumps({"t": index / 100, "kind": "warn", "raw": f"noise {index}"}) + "\n" for index in range(1500)
    )
    events.write_text(noise + events.read_text())
    listed = html.event_lists(compared(path))[0]
    assert len(listed.events) == html.EVENTS_SHOWN and listed.left_out.startswith("1,3")
    assert [kind for _, kind, *_ in listed.events].count("oom-kill") == 3 and listed.events[-1][1] == "panic"
    assert charts.left_out(compared(path)) == ["1,200 event markers"]


def test_gaps_are_not_drawn_over():
    series = Series()
    for t in [0.1 * i for i in range(20)] + [5 + 0.1 * i for i in range(20)]:
        series.add(t, 1.0)
    x, y = charts.line(series)
    assert y.count(None) == 1 and y[20] is None and x[19] == pytest.approx(1.9)


def test_slow_sampling_is_no_gap():
    series = Series()
    for t in range(0, 100, 2):
        series.add(t, 1.0)
    assert None not in charts.line(series)[1]


def test_thinning_keeps_peaks():
    points = [(float(i), 0.0) for i in range(100000)]
    points[54321] = (54321.0, 99.0)
    kept = charts.thin(points, 3000)
    assert len(kept) <= 3000 and (54321.0, 99.0) in kept and kept == sorted(kept)


def test_rates():
    counter = Series()
    for index in range(40):
        counter.add(index / 10, 1000.0 * (index if index < 20 else index - 20))
    values = list(charts.rate(counter, 1.0).v)
    assert values and all(value == pytest.approx(10000) for value in values), "a reset is no negative rate"


def test_pressure_falls_back_to_the_average(new_run):
    path = new_run()
    samples = path / "cells/001-before-1/samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    for row in rows:
        row["psi"]["memory"] = {"some_avg10": 12.5}
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cell = load_run(path, []).cells[0]
    assert set(charts._pressure(cell, "some").v) == {12.5} and len(charts._pressure(cell, "full")) == 0


def test_every_kill_has_a_marker(pair, compared):
    figure = charts.timeline(compared(pair))
    marks = {trace["meta"]["kind"]: trace for trace in figure["data"] if "meta" in trace and trace["meta"]["cell"] == 0}
    assert len(marks["oom-kill"]["x"]) == 3 and "fio (pid 213), workload" in marks["oom-kill"]["text"][0]
    assert "2 in flight" in marks["wq-lockup"]["text"][0] and len(marks["panic"]["x"]) == 1
    assert {trace["line"]["color"] for trace in figure["data"] if trace.get("name") == "before"} == {"@arm0"}


WQ_TRACE = {
    "t": 9.5,
    "kind": "wq-trace",
    "raw": "",
    "events": 1434,
    "lost": 0,
    "stalls": 3,
    "threshold_ms": 1000,
    "buffers_kib": 8198,
    "pools": [
        {"cpu": -1, "wait_n": 9, "wait_max_ms": 20.641},
        {"cpu": 1, "highpri": True, "wait_n": 3, "wait_histogram": [0, 2, 1]},
    ],
    "by_wait": [
        {
            "function": "refresh_vm_stats<x>",
            "wait_n": 60,
            "wait_max_ms": 1982.654,
            "wait_histogram": [0, 0, 40, 0, 20],
            "run_n": 60,
            "run_max_ms": 2.683,
            "run_total_ms": 4.798,
        }
    ],
    "by_run": [{"function": "do_work [dm_mod]", "wait_n": 0, "run_n": 11, "run_max_ms": 1237.0, "run_total_ms": 4497.5}],
}


def test_kernel_workers(new_run, compared):
    path = new_run()
    assert "Kernel workers" not in html.render(compared(path))
    events = path / "cells/001-before-1/events.jsonl"
    events.write_text(events.read_text() + json.dumps(WQ_TRACE) + "\n")
    source = html.render(compared(path))
    text = re.sub(r"<[^>]*>", "|", source[source.index('id="workers"') : source.index('id="mitigations-table"')])
    assert "1,434 events, 0 lost; 3 waits over 1 s; 8.01 MiB of the machine's memory" in text.replace("&#39;", "'")
    assert "unbound: 9 waits, median \u2013, longest 20.6 ms" in text
    assert "CPU 1, high priority: 3 waits, median &lt; 2 \u00b5s" in text
    row = text[text.index("refresh_vm_stats&lt;x&gt;") :]
    cells = [cell for cell in row.split("|") if cell.strip()][:8]
    assert cells[1:4] == ["60", "1.98 s", "&lt; 4 \u00b5s"] and cells[4] == "\u00b7\u00b7\u2588\u00b7\u2587"
    assert cells[5:] == ["60", "2.68 ms", "4.80 ms"]
    assert "do_work [dm_mod]" in text and "1.24 s" in text and "4.50 s" in text


def test_published_figures_stay_apart(pair, compared):
    rows = published(compared(pair))
    assert {row.source for row in rows} == {"Tsironis patch 1/2", "Tsironis patch 2/2"}
    slab = next(row for row in rows if row.metric == "kcopyd job slab peak")
    assert (slab.before, slab.after) == ("10,240", "130") and slab.ours.startswith(
        "our peak held: kcopyd_job: before \u22653"
    )
    write = next(row for row in rows if row.metric == "write time")
    assert "before did not finish, after 21.5 s" in write.ours
    assert not any(row.ours for row in rows if "parallel" in row.what)


def test_our_figures_beside_the_published_say_of_how_many_cells(new_run, edit, compared):
    path = new_run(repeats=3)
    cell = json.loads((path / "cells/002-after-1/cell.json").read_text())
    metrics = cell["metrics"] | {"cache_peak_kib": {}}
    edit(path / "cells/002-after-1/cell.json", verdict="panic", metrics=metrics)
    rows = {row.metric: row.ours for row in published(compared(path))}
    assert "from 3 cells and 3 cells" in rows["write time"], "one of them ranks last"
    assert "from 3 cells and 2 of 3 cells" in rows["kcopyd job slab peak"]


def test_kills_counted_twice_cast_doubt(new_run, edit, compared):
    path = new_run(repeats=5)
    for cell in sorted((path / "cells").glob("*-before-*")):
        edit(cell / "cell.json", oom={"agree": False, "why": f"vmstat counts 9 in {cell.name}, <b>"})
    comparison = compared(path)
    before, after = html.cards(comparison)
    assert after.warnings == [] and len(before.warnings) == html.REASONS_SHOWN + 1
    doubt = "the counts of OOM kills do not agree: vmstat counts 9 in 001-before-1, <b>"
    assert before.warnings[0] == f"001-before-1: {doubt}" and before.warnings[-1] == "and 2 more cells in doubt"
    assert 'class="warning"' in html.render(comparison) and "b" not in page(comparison).elements
    assert "001-before-1: " + markdown.escape(doubt) in markdown.render(comparison)
    cells = [cell for arm in json.loads(machine.render(comparison))["arms"] for cell in arm["cells"]]
    assert cells[0]["doubtful_kills"] == doubt and cells[-1]["doubtful_kills"] is None


@pytest.mark.parametrize("oom", [{}, {"agree": True, "why": "x"}, {"agree": None}, {"agree": "no"}, [], 7])
def test_no_doubt_without_a_record_of_it(new_run, edit, compared, oom):
    path = new_run()
    edit(path / "cells/001-before-1/cell.json", oom=oom)
    assert all(card.warnings == [] for card in html.cards(compared(path)))


def test_what_gave_way_is_told_apart_from_what_was_lost(new_run, old_run, compared):
    row = tables.losses(compared(new_run("new")))[0]
    assert (row.dropped, row.kmsg_lost, row.kmsg_dropped, row.box_lost, row.lossy) == ("14", "2", "5", "0", True)
    old = compared(old_run(name="old"))
    row = tables.losses(old)[0]
    assert (row.dropped, row.kmsg_dropped) == ("\u2013", "\u2013"), "an old record does not say"
    assert json.loads(machine.render(old))["losses"][0]["dropped"] is None
    assert "Samples that gave way" in html.render(old)
