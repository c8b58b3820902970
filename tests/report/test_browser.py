# SPDX-License-Identifier: MIT
"""The report in a real browser: it draws, every mark says what it stands for, and nothing in a record runs."""
import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import make_hostile

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)
pytest.importorskip("selenium", reason="python3-selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,900"
).split()
# Asks plotly for the label of every mark, as if the mouse stood on it, and returns what the page then shows.
HOVER = """
const plot = document.getElementById("timeline"), shown = [];
plot.data.forEach((trace, curve) => {
  if (!trace.meta) return;
  trace.x.forEach((x, point) => {
    Plotly.Fx.hover(plot, [{curveNumber: curve, pointNumber: point}], "xy");
    const labels = [...plot.querySelectorAll(".hoverlayer .hovertext")].map((label) => label.textContent);
    shown.push({kind: trace.meta.kind, cell: trace.meta.cell, x: x, labels: labels});
    Plotly.Fx.unhover(plot);
  });
});
return shown;
"""
# The same of the marks in the figure of blocks, by a mouse at the place of each.
HOVER_BLOCKS = """
const plot = document.getElementById("blocks"), shown = [], {xaxis, yaxis} = plot._fullLayout;
plot.data.filter((trace) => trace.mode === "markers").forEach((trace) => trace.x.forEach((x, point) => {
  Plotly.Fx.hover(plot, {xpx: xaxis.d2p(x), ypx: yaxis.d2p(trace.y[point])}, "xy");
  shown.push([...plot.querySelectorAll(".hoverlayer .hovertext")].map((label) => label.textContent));
  Plotly.Fx.unhover(plot);
}));
return shown;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service(DRIVER), options=options)
    yield driver
    driver.quit()


@pytest.fixture
def show(browser, tmp_path):
    """Makes the report of run directories, opens it and checks what holds for every report."""

    def opened(*paths):
        page = tmp_path / "report.html"
        subprocess.run(
            [sys.executable, str(ROOT / "reports/compare.py"), *map(str, paths), "--html", str(page)], check=True
        )
        browser.get_log("browser")
        browser.get(page.as_uri())
        assert browser.get_log("browser") == []
        assert browser.execute_script("return document.querySelectorAll('#timeline .main-svg').length") > 0
        width, window = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= window == 1200, "the page must not scroll sideways"
        return browser

    return opened


def scheme(browser, name):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]}
    )
    # The page hears of it when it is drawn next.
    browser.execute_async_script(
        """
        const [name, done] = arguments;
        const look = () => matchMedia(`(prefers-color-scheme: ${name})`).matches
            ? requestAnimationFrame(() => requestAnimationFrame(done)) : requestAnimationFrame(look);
        look();""",
        name,
    )


def test_every_mark_can_be_hovered(show, pair):
    shown = show(pair).execute_script(HOVER)
    wanted = {
        "oom-kill": ("OOM kill", "victim "),
        "wq-lockup": ("workqueue lockup", "2 in flight"),
        "panic": ("panic", "System is deadlocked on memory"),
        "phase": ("phase", ""),
    }
    assert [mark["kind"] for mark in shown].count("oom-kill") == 3
    assert {mark["kind"] for mark in shown} == set(wanted)
    for mark in shown:
        assert len(mark["labels"]) == 1, mark
        assert all(words in mark["labels"][0] for words in wanted[mark["kind"]]), mark


def test_the_mouse_reaches_a_kill(show, pair):
    browser = show(pair)
    marks = browser.execute_script(
        """
        const plot = document.getElementById("timeline");
        plot.scrollIntoView();
        const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
        const trace = plot.data.find((other) => other.meta && other.meta.kind === "oom-kill");
        return trace.x.map((x, i) => [box.left + xaxis._offset + xaxis.d2p(x),
                                      box.top + yaxis._offset + yaxis.d2p(trace.y[i])]);
    """
    )
    for x, y in marks:
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
        label = WebDriverWait(browser, 5, 0.05).until(
            lambda b: b.execute_script(
                "return [...document.querySelectorAll('.hoverlayer .hovertext')].map((l) => l.textContent)[0]"
            )
        )
        assert "OOM kill" in label and "pid" in label
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 5, "y": 5})
        WebDriverWait(browser, 5, 0.05).until(
            lambda b: b.execute_script("return document.querySelectorAll('.hoverlayer .hovertext').length") == 0
        )


def test_one_cache_is_shown_at_a_time(show, pair):
    browser = show(pair)
    shown = 'return document.getElementById("slab_caches").layout.annotations[0].text;'
    pick = browser.find_element("id", "pick-slab_caches")
    names = [option.text for option in pick.find_elements("tag name", "option")]
    assert names[:2] == ["kcopyd_job", "bio-184 (with bio-192)"] and "kcopyd_job" in browser.execute_script(shown)
    pick.send_keys("bio-184")
    assert "bio-184" in browser.execute_script(shown)
    scheme(browser, "dark")
    assert "bio-184" in browser.execute_script(shown), "another scheme shows the same cache"
    scheme(browser, "light")
    assert browser.get_log("browser") == []


def test_light_dark_and_paper(show, repeats, tmp_path):
    browser = show(repeats)
    colours = {}
    for name in ("light", "dark"):
        scheme(browser, name)
        colours[name] = browser.execute_script(
            """
            const plot = document.getElementById("timeline"), card = document.querySelector(".card.arm0");
            return [plot.layout.paper_bgcolor, plot.data[0].line.color, getComputedStyle(card).borderLeftColor];"""
        )
        assert len(base64.b64decode(browser.get_screenshot_as_base64())) > 20000
    assert colours["light"][0] == "#ffffff" and colours["dark"][0] != "#ffffff"
    for _, curve, card in colours.values():
        red, green, blue = (int(curve[i : i + 2], 16) for i in (1, 3, 5))
        assert card == f"rgb({red}, {green}, {blue})", "an arm has one colour everywhere"
    scheme(browser, "light")
    assert len(base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])) > 20000


def test_a_click_on_an_arm_shows_its_curves(show, new_swap_run):
    browser = show(new_swap_run(repeats=1, step=2.0))
    waiting = """
        return document.getElementById("timeline").data.filter(
          (t) => t.legendgroup === "only-reserves" && t.mode !== "markers").map((t) => t.visible);"""
    assert set(browser.execute_script(waiting)) == {"legendonly"}
    browser.execute_script(
        """
        const group = [...document.querySelectorAll("#timeline .legend .traces")].find(
          (item) => item.textContent === "only-reserves");
        for (const kind of ["mousedown", "mouseup"])
          group.querySelector(".legendtoggle").dispatchEvent(new MouseEvent(kind, {bubbles: true}));"""
    )
    WebDriverWait(browser, 5, 0.05).until(lambda b: set(b.execute_script(waiting)) == {True})
    for name in ("dark", "light"):
        scheme(browser, name)
        assert browser.get_log("browser") == []


def test_every_try_of_a_block_says_what_it_was(show, new_run):
    path = new_run()
    log = path / "cells/002-after-1/events.jsonl"
    tries = [
        {"t": 2.0 + t / 2, "kind": "offline", "block": 32 + t % 3, "took_ms": 0.3 if t % 2 else 900.0, "raw": ""}
        | ({"errno": "EBUSY"} if t % 5 == 0 else {})
        for t in range(20)
    ]
    log.write_text(log.read_text() + "".join(json.dumps(one) + "\n" for one in tries))
    browser = show(path)
    shown = browser.execute_script(HOVER_BLOCKS)
    assert len(shown) == len(tries)
    assert all(len(labels) == 1 and labels[0].startswith("memory3") for labels in shown), shown
    assert browser.get_log("browser") == []


def test_hostile_record_does_nothing(show, tmp_path):
    browser = show(make_hostile(tmp_path / "hostile"))
    shown = browser.execute_script(HOVER)
    assert len(shown) > 4 and all(mark["labels"] for mark in shown)
    assert any("<script>" in mark["labels"][0] for mark in shown), "the text is shown, as text"
    assert browser.execute_script(
        "return [typeof window.owned, document.querySelectorAll('#timeline image, #timeline img').length]"
    ) == ["undefined", 0]
    assert browser.get_log("browser") == []
