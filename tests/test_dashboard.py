"""The dashboard over real sockets: what it answers, to whom, and what strangers cost."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from edgewf.alerts.alerter import State
from edgewf.alerts.secrets import secret
from edgewf.bundle import Bundle
from edgewf.dashboard import Dashboard, address, server
from edgewf.doubtful import DoubtfulFrame, doubtful_frames
from edgewf.engines import BurstRecord, Predictions
from edgewf.errors import EdgewfError
from edgewf.listener import Status
from tests.states import ESTIMATE, WELL
from tests.tiny import CLASSES, EDGEWF, constant_calibration, export_tiny, tiny_settings
from tests.tiny import write_class_folders as photographs_of_classes

TOKEN = "0123456789abcdef"
ALERTS = [State("below", True, 1790000000.0, "accuracy 52 %, below the limit of 60 %")]

Answer = tuple[int, http.client.HTTPMessage, bytes]


@contextmanager
def dashboard(token: str | None = None, **options: Any) -> Iterator[Dashboard]:
    """A dashboard without a monitor; no thread of it is left."""
    before = set(threading.enumerate())
    known = {"model": "lite0", "source": "rtsp://me:***@door/1", "window": 250, "names": ["a", "b"]}
    made = Dashboard(options.pop("address", "0"), token, **{**known, **options})
    try:
        yield made
    finally:
        made.close()
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name == "edgewf-dashboard"]


def port(made: Dashboard) -> int:
    return int(made.url.rsplit(":", 1)[1].strip("/"))


def ask(
    made: Dashboard, path: str, headers: dict[str, str] | None = None, method: str = "GET",
    body: str | None = None,
) -> Answer:  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port(made), timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.msg, answer.read()
    finally:
        connection.close()


def read_json(made: Dashboard, path: str, headers: dict[str, str] | None = None) -> Any:
    status, _, body = ask(made, path, headers)
    assert status == 200
    return json.loads(body)


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def shared() -> Iterator[Dashboard]:
    """One without a token, for tests that only ask."""
    with dashboard() as made:
        yield made


def test_state_history_and_pictures() -> None:
    past = [replace(ESTIMATE, time=float(i)) for i in range(3)]
    picture = np.full((64, 64, 3), (200, 30, 30), np.uint8)
    worst = [DoubtfulFrame(picture, 0, 0.31, 1, 0.2)]
    with dashboard(past=past, threshold=60.0, alerts=lambda: ALERTS) as made:
        assert ask(made, "/frames/current.jpg")[0] == 404
        assert ask(made, "/frames/doubtful/0.jpg")[0] == 404
        assert read_json(made, "/api/state")["health"] is None
        made.monitor = SimpleNamespace(  # type: ignore[assignment]
            current=picture, doubtful=worst, health=lambda: replace(WELL, last_burst_seconds=21.5)
        )
        made.frame(Status(5, 4, 1, 3))
        made.progress(2, 9)
        state = read_json(made, "/api/state")
        assert state["burst"] == [2, 9]
        assert state["status"] == {"seen": 5, "kept": 4, "dropped": 1, "filled": 3}
        made.estimate(replace(ESTIMATE, flags=("extrapolating",)))
        made.health(replace(WELL, problems=("the picture is black",)))
        state = read_json(made, "/api/state")
        assert state["burst"] is None
        assert state["alerts"] == [ALERTS[0]._asdict()]
        assert state["health"]["problems"] == ["the picture is black"]
        assert state["health"]["source"]["state"] == "live"
        assert abs(state["now"] - time.time()) < 5
        assert state["doubtful"] == [
            {"label": "a", "confidence": 31.0, "adapted": "b", "agreement": 20.0}
        ]
        rows = read_json(made, "/api/history?after=0")
        assert [row["n"] for row in rows] == [1, 2, 3, 4]
        assert [row["past"] for row in rows] == [True, True, True, False]
        newest = read_json(made, f"/api/history?after={state['newest'] - 1}")
        assert newest == rows[-1:]
        assert newest[0]["seconds"] == 21.5
        assert newest[0]["flags"] == ["extrapolating"]
        assert (newest[0]["low"], newest[0]["accuracy"]) == (ESTIMATE.interval[0], 70.0)  # type: ignore[index]
        about = read_json(made, "/api/about")
        assert about["threshold"] == 60.0
        assert "extrapolating" in about["reasons"]
        for path in ("/frames/current.jpg", "/frames/doubtful/0.jpg?n=4"):
            status, headers, body = ask(made, path)
            assert (status, headers["content-type"]) == (200, "image/jpeg")
            shown = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
            assert abs(shown[..., ::-1].astype(int) - picture).max() < 10
        assert ask(made, "/frames/doubtful/1.jpg")[0] == 404


def test_what_is_not_known_is_null() -> None:
    with dashboard() as made:
        made.estimate(replace(ESTIMATE, accuracy=None, interval=None))
        (row,) = read_json(made, "/api/history")
        assert row["accuracy"] is row["low"] is row["seconds"] is None


def test_a_long_history_is_bounded_and_packed() -> None:
    past = [replace(ESTIMATE, time=float(i)) for i in range(6000)]
    with dashboard(past=past) as made:
        rows = read_json(made, "/api/history")
        assert len(rows) == 5000
        assert rows[-1]["time"] == 5999.0
        _, headers, body = ask(made, "/api/history", {"Accept-Encoding": "gzip"})
        assert headers["content-encoding"] == "gzip"
        assert len(body) < 100_000


def events(made: Dashboard) -> tuple[socket.socket, Iterator[dict[str, Any]]]:
    """Open the stream; return the socket and the states that come."""
    opened = socket.create_connection(("127.0.0.1", port(made)), 10)
    opened.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def states() -> Iterator[dict[str, Any]]:
        with opened, opened.makefile("rb") as lines:
            for line in lines:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    return opened, states()


def test_events_bring_the_newest_state_and_say_when_the_run_is_over() -> None:
    with dashboard() as made:
        _, states = events(made)
        assert next(states)["ended"] is False
        for seen in range(100):
            made.frame(Status(seen, seen, 0, seen))
        assert next(states)["status"]["seen"] == 99
        began = time.monotonic()
        made.close()
        assert time.monotonic() - began < 4
        assert [state["ended"] for state in states] == [True]


def test_every_answer_has_the_headers_that_browsers_obey() -> None:
    with dashboard(TOKEN) as made:
        for path in ("/", "/app.js", "/api/state", "/nothing", "/?token=" + TOKEN):
            _, headers, _ = ask(made, path)
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] in ("no-store", "no-cache")
            assert "server" not in headers


def test_static_files_are_fresh_or_unchanged() -> None:
    with dashboard() as made:
        status, headers, body = ask(made, "/app.js")
        assert (status, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        assert b"EventSource" in body
        assert ask(made, "/app.js", {"If-None-Match": headers["etag"]})[0] == 304


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd", "/static/../app.js", "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/frames/doubtful/..%2f0.jpg",
        "/frames/doubtful/-1.jpg", "/frames/doubtful/99999999999999999999.jpg", "/app.js%00.jpg",
        "/login.html", "/index.html", "/feed.py", "/\\..\\app.js",
    ],
)  # fmt: skip
def test_no_path_leads_to_another_file(shared: Dashboard, path: str) -> None:
    with socket.create_connection(("127.0.0.1", port(shared)), 10) as opened:
        opened.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while data := opened.recv(65536):
            answer += data
    assert answer.split(b" ")[1] in (b"404", b"400")
    assert b"root:" not in answer


def test_other_methods_and_numbers_are_refused() -> None:
    with dashboard() as made:
        for method in ("POST", "PUT", "DELETE"):
            assert ask(made, "/api/state", method=method)[0] == 405
        for after in ("-1", "x", "1e3", "٣", "9" * 40, "1;2"):
            assert ask(made, f"/api/history?after={quote(after)}")[0] == 400


def test_only_who_has_the_token_sees_anything_of_the_device() -> None:
    with dashboard(TOKEN) as made:
        private = ["/api/about", "/api/state", "/api/history", "/api/events", "/frames/current.jpg"]
        wrong: list[dict[str, str]] = [
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": TOKEN},
            {"Cookie": f"edgewf_{port(made)}={TOKEN}"},
            {"Cookie": f"edgewf_{port(made)}="},
            {"Cookie": "\x7f;;=\xe9"},
            {"Authorization": "Bearer \xe9"},
        ]
        for path in private:
            for headers in wrong:
                status, answered, _ = ask(made, path, headers)
                assert (path, status) == (path, 401)
                assert answered["www-authenticate"] == "Bearer"
        status, _, page = ask(made, "/")
        assert status == 401
        assert b"lite0" not in page
        assert b'name="token"' in page
        assert read_json(made, "/api/state", {"Authorization": f"Bearer {TOKEN}"})["newest"] is None


def test_the_token_is_changed_for_a_cookie_and_leaves_the_address() -> None:
    with dashboard(TOKEN) as made:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        for answer in (
            ask(made, f"/?token={TOKEN}"),
            ask(made, "/login", form, "POST", f"token={TOKEN}"),
        ):
            status, headers, _ = answer
            assert (status, headers["location"]) == (303, "/")
            cookie = headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Lax" in cookie
            assert TOKEN not in cookie
            given = {"Cookie": cookie.partition(";")[0]}
            assert read_json(made, "/api/state", given)["newest"] is None
            assert ask(made, "/", given)[0] == 200
    with dashboard(TOKEN[::-1], address=str(port(made))) as other:
        assert ask(other, "/api/state", given)[0] == 401


def test_a_wrong_token_costs_time() -> None:
    with dashboard(TOKEN) as made:
        began = time.monotonic()
        status, headers, page = ask(made, "/?token=nonsense")
        assert time.monotonic() - began > 0.9
        assert status == 401
        assert "set-cookie" not in headers
        assert b'id="wrong" hidden' not in page
        assert ask(made, "/login", method="POST", body="x" * 5000)[0] == 413


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:9000", 200), ("127.0.0.1:1", 200), ("[::1]:80", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.nip.io:80", 421),
        ("192.168.1.4", 421), ("", 421), ("localhost:x", 421), ("[::1", 421),
    ],
)  # fmt: skip
def test_on_loopback_only_names_of_this_machine_are_answered(
    shared: Dashboard, host: str, status: int
) -> None:
    assert ask(shared, "/api/state", {"Host": host})[0] == status


def test_another_address_needs_a_token_and_takes_any_name() -> None:
    for text in ("0.0.0.0:0", "[::]:0"):
        with pytest.raises(EdgewfError, match="EDGEWF_DASHBOARD_TOKEN"), dashboard(address=text):
            pass
    with dashboard(TOKEN, address="0.0.0.0:0") as made:
        assert made.url.startswith(f"http://{socket.gethostname()}:")
        given = {"Host": "edge.example", "Authorization": f"Bearer {TOKEN}"}
        assert ask(made, "/api/state", given)[0] == 200
        assert ask(made, "/api/state", {"Host": "edge.example"})[0] == 401


def test_what_a_name_stands_for_decides_and_not_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", 0))]
    monkeypatch.setattr(address.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(EdgewfError, match="token"), dashboard(address="localhost:0"):
        pass


@pytest.mark.parametrize("token", ["short", "with a space in it", "grüße-aus-der-ferne", ""])
def test_tokens_that_cannot_be_used(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWF_DASHBOARD_TOKEN", token)
    with pytest.raises(EdgewfError, match="EDGEWF_DASHBOARD_TOKEN"):
        Dashboard("0", secret("EDGEWF_DASHBOARD_TOKEN"), model="", source="", window=1, names=[])


def test_addresses_that_are_taken_or_none() -> None:
    with dashboard() as made:
        taken = str(port(made))
        with pytest.raises(EdgewfError, match=f"--dashboard {taken}: .*in use.*another port"):
            Dashboard(taken, None, model="", source="", window=1, names=[])
    for text in ("http", "localhost:99999", "no-such-host.invalid:80", "203.0.113.1:0"):
        with pytest.raises(EdgewfError, match="--dashboard"):
            Dashboard(text, TOKEN, model="", source="", window=1, names=[])


def test_a_browser_that_does_not_read_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STUCK_S", 0.5)
    big = replace(WELL, problems=("x" * 1_000_000,))
    with dashboard() as made:
        opened, _ = events(made)
        with opened:
            until(lambda: len(made._server._server.server_state.connections) == 1)
            longest = 0.0
            for seen in range(40):
                began = time.perf_counter()
                made.health(big)
                made.frame(Status(seen, seen, 0, seen))
                longest = max(longest, time.perf_counter() - began)
                time.sleep(0.05)
            assert longest < 0.25
            until(lambda: not made._server._server.server_state.connections)
        assert ask(made, "/")[0] == 200


def test_connections_are_bounded_and_idle_ones_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", 1.5)
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 8)
    with dashboard() as made:
        half = [socket.create_connection(("127.0.0.1", port(made)), 10) for _ in range(12)]
        for opened in half[:8]:
            opened.sendall(b"GET / HTTP/1.1\r\nHo")
        for opened in half[8:]:
            assert _is_dropped(opened)
        for opened in half[:8]:
            assert _is_dropped(opened)
        assert ask(made, "/")[0] == 200


def _is_dropped(opened: socket.socket) -> bool:
    with opened:
        try:
            return opened.recv(1) == b""
        except ConnectionResetError:
            return True


def test_nonsense_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    with dashboard() as made:
        for data in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET " + b"a" * 40000, b"\r\n" * 9):
            with socket.create_connection(("127.0.0.1", port(made)), 10) as opened:
                opened.sendall(data)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        assert ask(made, "/", upgrade)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_server_that_ended_is_a_problem() -> None:
    with dashboard() as made:
        made._server.close()
        with pytest.raises(EdgewfError, match="dashboard has ended"):
            made.health(WELL)


def test_doubtful_frames_are_those_that_the_networks_disagree_on() -> None:
    sure, torn, other = [9.0, 0.0, 0.0], [1.0, 0.9, 0.0], [0.0, 9.0, 0.0]
    deployed = np.array([sure, torn, sure, sure], np.float32)
    after = np.array([sure, torn, other, [np.nan] * 3], np.float32)

    def said(logits: np.ndarray[Any, np.dtype[np.float32]]) -> Predictions:
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return Predictions(np.nan_to_num(p).argmax(axis=1), p.max(axis=1).astype(float), logits)

    record = BurstRecord(said(deployed), said(deployed), said(after), (), 0.0)
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1).repeat(3, axis=3)
    found = doubtful_frames(images, record, 3)
    assert [int(frame.image[0, 0, 0]) for frame in found] == [3, 2, 1]
    assert (found[1].label, found[1].adapted) == (0, 1)
    assert found[1].confidence > 0.99
    assert found[1].agreement < 0.01
    assert all(frame.image.base is None for frame in found)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = export_tiny(tmp_path_factory.mktemp("bundle"))
    constant_calibration(made, tiny_settings()).write(made.folder)
    return made


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs_of_classes(tmp_path_factory.mktemp("frames"), 8, seed=3)


def run(
    bundle: Bundle, frames: Path, *options: str, token: str | None = TOKEN
) -> subprocess.Popen[str]:
    command = [*EDGEWF, "monitor", str(bundle.folder), "--source", str(frames), *options]
    environment = {**os.environ, **({} if token is None else {"EDGEWF_DASHBOARD_TOKEN": token})}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def test_refusals_of_the_command_end_with_2(bundle: Bundle, frames: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = run(bundle, frames, "--dashboard", str(taken.getsockname()[1]))
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "in use" in said
        assert "Traceback" not in said
    process = run(bundle, frames, "--dashboard", "0.0.0.0:0", token=None)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "there is no token: set EDGEWF_DASHBOARD_TOKEN" in said
    assert "Traceback" not in said


def test_a_run_from_its_store_to_ctrl_c(bundle: Bundle, frames: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "past.db")
    first = run(bundle, frames, "--store", store, "--max-windows", "2")
    first.communicate(timeout=60)
    assert first.returncode == 0
    options = ("--store", store, "--dashboard", "0", "--every", "30", "--engine", "onnxruntime")
    second = run(bundle, frames, *options)
    assert second.stderr is not None
    address_line = next(line for line in second.stderr if "dashboard at" in line)
    made = SimpleNamespace(url=address_line.split()[-1])
    given = {"Authorization": f"Bearer {TOKEN}"}
    until(lambda: len(read_json(made, "/api/history", given)) == 3, 60)  # type: ignore[arg-type]
    rows = read_json(made, "/api/history", given)  # type: ignore[arg-type]
    assert [row["past"] for row in rows] == [True, True, False]
    assert rows[-1]["seconds"] > 0
    state = read_json(made, "/api/state", given)  # type: ignore[arg-type]
    assert len(state["doubtful"]) == 6
    assert {frame["label"] for frame in state["doubtful"]} <= set(CLASSES)
    assert ask(made, "/frames/current.jpg", given)[0] == 200  # type: ignore[arg-type]
    assert ask(made, "/api/state")[0] == 401  # type: ignore[arg-type]
    began = time.monotonic()
    second.send_signal(signal.SIGINT)
    _, said = second.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert second.returncode == 0
    assert "Traceback" not in said
