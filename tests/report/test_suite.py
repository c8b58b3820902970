# SPDX-License-Identifier: MIT
"""The front page over several scenarios."""
import json

import pytest
from hostile import TEXT

from reports import compare, suite


@pytest.fixture
def directory(tmp_path, new_run, new_swap_run):
    """A suite of two scenarios, the second without a report of its own."""
    new_run("suite/one-snapshot")
    new_swap_run("suite/two-swap-crypt")
    path = tmp_path / "suite"
    (path / "one-snapshot/report.html").write_text("x")
    (path / "suite.json").write_text(json.dumps({"schema": "headroom.suite/1", "runs": ["one-snapshot", "two-swap-crypt"]}))
    return path


def test_each_scenario_has_its_verdicts_and_its_page(directory):
    problems = []
    page = suite.render(directory, problems)
    assert not problems
    assert page.index("<th>snapshot</th>") < page.index("<th>swap-crypt</th>"), "in the order of the suite"
    assert 'href="one-snapshot/report.html"' in page
    assert "two-swap-crypt/report.html" not in page, "no link to a page that is not there"
    assert "Without the mitigations 2 of 2 loads failed." in page
    assert "With all of them none of 2 loads failed." in page


def test_the_program_writes_it(directory, capsys):
    assert compare.main(["--suite", str(directory)]) == 0
    assert "What happens when memory runs out" in (directory / "report.html").read_text()
    assert capsys.readouterr().out == ""


def test_a_suite_can_be_compared_like_a_run(directory, capsys):
    assert compare.main([str(directory)]) == 0
    assert (directory / "two-swap-crypt/report.html").is_file() and (directory / "report.html").is_file()
    assert "two-swap-crypt/report.html" in (directory / "report.html").read_text()


def test_a_scenario_that_never_ran_is_told(directory, edit):
    for cell in (directory / "one-snapshot/cells").iterdir():
        for file in cell.iterdir():
            file.unlink()
        cell.rmdir()
    assert "no cell was run, or none can be read" in suite.render(directory, [])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"runs": 7}'])
def test_a_damaged_list_is_an_error_or_empty(directory, text, capsys):
    (directory / "suite.json").write_text(text)
    code = compare.main(["--suite", str(directory)])
    assert code in (0, 3) and "Traceback" not in capsys.readouterr().err


def test_only_directories_of_its_own_are_read(directory):
    names = ["../other", "/etc", ".hidden", "", 7, "one-snapshot"]
    (directory / "suite.json").write_text(json.dumps({"runs": names}))
    assert suite.read(directory) == ["one-snapshot"]


def test_hostile_texts_stay_texts(directory, edit):
    edit(directory / "one-snapshot/run.json", scenario=TEXT, scenario_text=f"summary = {TEXT}")
    for cell in (directory / "one-snapshot/cells").iterdir():
        edit(cell / "cell.json", reason=TEXT, scenario=TEXT, arm=TEXT, machine={"kernel": TEXT})
    page = suite.render(directory, [])
    assert "<script" not in page and "<img" not in page


def test_either_runs_or_a_suite(directory):
    for argv in ([], ["--suite", str(directory), str(directory / "one-snapshot")]):
        with pytest.raises(SystemExit) as stop:
            compare.main(argv)
        assert stop.value.code == 2
