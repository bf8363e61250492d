"""The dashboard's page in a headless Chromium: what people see, at a desk and on a phone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from edgewf.alerts.alerter import State
from edgewf.dashboard import Dashboard
from edgewf.doubtful import DoubtfulFrame
from edgewf.listener import Status
from tests.browser import CHROMIUM, Browser
from tests.states import ESTIMATE, WELL

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

TOKEN = "0123456789abcdef"
EVIL = "<img src=x onerror=document.title='evil'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def alerts() -> list[State]:
    return [State("below", False, None, "")]


@pytest.fixture
def dashboard(browser: Browser, alerts: list[State]) -> Iterator[Dashboard]:
    now = time.time()
    past = [replace(ESTIMATE, time=now - 60 * (40 - i), accuracy=60.0 + i / 4) for i in range(30)]
    made = Dashboard(
        "0",
        TOKEN,
        model="lite0",
        source="rtsp://door/1",
        window=250,
        names=["tabby cat", EVIL],
        threshold=60.0,
        past=past,
        alerts=lambda: alerts,
    )
    health = replace(WELL, time=now, source=replace(WELL.source, last_frame=now), temperature=61.0)
    picture = np.full((224, 224, 3), (200, 30, 30), np.uint8)
    made.monitor = SimpleNamespace(  # type: ignore[assignment]
        current=picture, doubtful=[DoubtfulFrame(picture, 0, 0.31, 1, 0.2)], health=lambda: health
    )
    made.estimate(replace(ESTIMATE, time=now, flags=("extrapolating",)))
    made.frame(Status(260, 250, 10, 100))
    made.health(health)
    yield made
    browser.go("about:blank")  # so that nothing has to be waited for
    made.close()


def enter(browser: Browser, dashboard: Dashboard) -> None:
    browser.complaints.clear()
    browser.go(f"{dashboard.url}?token={TOKEN}")
    browser.until("document.querySelectorAll('#log tr').length > 0")
    assert browser.value("location.search") == ""
    browser.until("document.querySelector('#doubtful img')?.complete")


def test_it_shows_the_estimate_the_past_the_frames_and_the_health(
    browser: Browser, dashboard: Dashboard
) -> None:
    browser.size(1280, 900)
    enter(browser, dashboard)
    assert browser.text("accuracy").startswith("70.0")
    assert browser.text("interval") == "90 % interval 62.5 \u2013 77.5 %"
    assert "the scores lie outside" in browser.text("now-flags")
    assert browser.text("window-text") == "100 of 250 frames"
    assert (
        browser.value("document.querySelector('#chart svg').getAttribute('aria-label')")
        == "31 estimates from 60.0 to 70.0 %, the last 70.0 %"
    )
    first = browser.value("document.querySelector('#log tr').innerText")
    assert "70.0 %" in first
    assert "62.5 \u2013 77.5 %" in first
    assert "20 s" in first
    assert "extrapolating" in first
    assert "61 °C" in browser.text("health")
    browser.until("document.getElementById('current').naturalWidth == 224")
    browser.until("document.querySelector('#doubtful img').naturalWidth == 224")
    assert browser.text("link") == "live"
    assert browser.text("notices") == ""
    assert browser.complaints == []


def test_names_are_text_and_never_markup(browser: Browser, dashboard: Dashboard) -> None:
    enter(browser, dashboard)
    assert EVIL in browser.text("doubtful")
    assert browser.value("document.title").startswith("70.0 % · lite0")
    assert browser.value("document.querySelectorAll('#doubtful img').length") == 1


def test_it_is_live_and_says_what_is_wrong(
    browser: Browser, dashboard: Dashboard, alerts: list[State]
) -> None:
    enter(browser, dashboard)
    alerts[0] = State("below", True, time.time(), "accuracy 41.0 %, below the limit of 60 %")
    dashboard.estimate(replace(ESTIMATE, time=time.time(), accuracy=41.0, interval=(35.0, 47.0)))
    dashboard.health(replace(WELL, time=time.time(), problems=("the picture is black",)))
    browser.until("document.getElementById('accuracy').textContent.startsWith('41.0')")
    said = browser.text("notices")
    assert "accuracy 41.0 %, below the limit of 60 %" in said
    assert "The picture is black" in said
    assert browser.text("link") == "alert"
    assert browser.value("document.title").startswith("⚠ 41.0 %")


def test_it_says_that_numbers_are_old(browser: Browser, dashboard: Dashboard) -> None:
    enter(browser, dashboard)
    browser.value("Date.now = ((now) => () => now() + 13000)(Date.now)")
    browser.until("document.getElementById('link').innerText == 'no connection'", 4)
    assert "No connection to the monitor since" in browser.text("notices")
    assert browser.value("document.getElementById('main').classList.contains('old')")


def test_a_monitor_that_hangs_is_not_called_live(browser: Browser, dashboard: Dashboard) -> None:
    dashboard.health(replace(WELL, time=time.time() - 60))
    enter(browser, dashboard)
    browser.until("document.getElementById('notices').innerText != ''")
    assert "The monitor has not reported for 60 s" in browser.text("notices")
    assert browser.text("link") == "alert"


def test_an_old_estimate_is_called_old(browser: Browser) -> None:
    past = [replace(ESTIMATE, time=time.time() - 7200 + 60 * i) for i in range(5)]
    made = Dashboard(
        "0", None, model="m", source="s", window=2, names=["a"], past=past
    )  # fmt: skip
    try:
        made.health(replace(WELL, time=time.time()))
        browser.go(made.url)
        browser.until("!!document.getElementById('notices')?.innerText")  # of a page that is there
        assert "The newest estimate is 2 h old." in browser.text("notices")
        assert "Usually one comes every 60 s" in browser.text("notices")
        assert browser.text("link") == "look here"
    finally:
        browser.go("about:blank")
        made.close()


def test_the_end_of_the_run_is_said(browser: Browser, dashboard: Dashboard) -> None:
    enter(browser, dashboard)
    dashboard.close()
    browser.until("document.getElementById('link').innerText == 'ended'")
    assert "The run has ended." in browser.text("notices")


def test_nothing_sticks_out_and_everything_can_be_read(
    browser: Browser, dashboard: Dashboard
) -> None:
    for width, dark in product((320, 390, 768, 1280), (False, True)):
        browser.size(width, 800, dark=dark, phone=width < 768)
        enter(browser, dashboard)
        assert browser.value("document.documentElement.scrollWidth") <= width
        grounds = browser.value("getComputedStyle(document.body).backgroundColor")
        assert grounds == ("rgb(12, 15, 21)" if dark else "rgb(244, 245, 248)")
    browser.size(1280, 900)


def test_the_chart_answers_to_the_keyboard(browser: Browser, dashboard: Dashboard) -> None:
    enter(browser, dashboard)
    browser.value("document.querySelector('#chart svg').focus()")
    browser.ask("Input.dispatchKeyEvent", type="keyDown", key="End")
    assert "70.0 %" in browser.value("document.querySelector('.tip').innerText")
    browser.ask("Input.dispatchKeyEvent", type="keyDown", key="Home")
    assert "60.0 %" in browser.value("document.querySelector('.tip').innerText")


def test_the_way_in(browser: Browser, dashboard: Dashboard) -> None:
    browser.ask("Network.clearBrowserCookies")
    browser.go(dashboard.url)
    browser.until("!!document.getElementById('token')")
    for token in ("another", TOKEN):
        browser.value(f"document.getElementById('token').value = '{token}'")
        browser.value("document.querySelector('form').requestSubmit()")
        if token != TOKEN:
            browser.until("document.getElementById('wrong')?.hidden === false")
    browser.until("document.getElementById('accuracy')?.textContent.startsWith('70.0')")
