"""The Prometheus endpoint, asked over HTTP and read by Prometheus' own parser."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgewf.alerts.alerter import State
from edgewf.errors import EdgewfError
from edgewf.telemetry.metrics import MetricsServer, parse_address
from tests.states import ESTIMATE
from tests.states import WELL as HEALTH

Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    running = set(threading.enumerate())
    alerts = [State("below", True, 1790000000.0, "low"), State("change", False, None, "")]
    made = MetricsServer("0", "lite0", "rtsp://me:***@door/1", alerts=lambda: alerts)
    yield made
    made.close()
    assert set(threading.enumerate()) == running


def ask(server: MetricsServer) -> Samples:
    with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(samples: Samples, name: str) -> float:
    ((labels, found),) = samples[name]
    assert labels == {"model": "lite0", "source": "rtsp://me:***@door/1"}
    return found


def test_before_anything_is_known(server: MetricsServer) -> None:
    samples = ask(server)
    assert value(samples, "edgewf_estimates_total") == 0
    assert "edgewf_accuracy_ratio" not in samples
    assert {labels["rule"]: x for labels, x in samples["edgewf_alert"]} == {"below": 1, "change": 0}


def test_an_estimate_and_health(server: MetricsServer) -> None:
    estimate = replace(ESTIMATE, accuracy=70.0, interval=(60.0, 80.0), flags=("extrapolating",))
    server.estimate(estimate)
    server.estimate(estimate)
    server.health(replace(HEALTH, throttled=True, temperature=61.5, problems=("a", "b")))
    samples = ask(server)
    assert value(samples, "edgewf_estimates_total") == 2
    bounds = [value(samples, f"edgewf_accuracy_{x}ratio") for x in ("", "lower_", "upper_")]
    assert bounds == pytest.approx([0.7, 0.6, 0.8])
    assert value(samples, "edgewf_flips_ratio") == pytest.approx(ESTIMATE.flips / 1000)
    flags = {labels["flag"]: x for labels, x in samples["edgewf_flag"]}
    assert flags["extrapolating"] == 1
    assert sum(flags.values()) == 1
    states = {labels["state"]: x for labels, x in samples["edgewf_source_state"]}
    assert states[HEALTH.source.state] == 1
    assert sum(states.values()) == 1
    assert value(samples, "edgewf_throttled") == 1
    assert value(samples, "edgewf_temperature_celsius") == 61.5
    assert value(samples, "edgewf_problems") == 2
    assert value(samples, "edgewf_frames_seen_total") == HEALTH.seen


def test_what_is_unknown_is_left_out(server: MetricsServer) -> None:
    server.estimate(replace(ESTIMATE, accuracy=None, interval=None))
    server.health(replace(HEALTH, temperature=None, throttled=None, duty=None))
    samples = ask(server)
    for name in ("accuracy_ratio", "temperature_celsius", "throttled", "burst_duty_ratio"):
        assert f"edgewf_{name}" not in samples
    assert "edgewf_average_confidence_ratio" in samples


def test_every_metric_is_documented_and_named_by_the_conventions(server: MetricsServer) -> None:
    server.estimate(ESTIMATE)
    server.health(replace(HEALTH, temperature=50.0, throttled=False, duty=0.1))
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(edgewf_\w+)`", text, re.MULTILINE))
    assert documented == set(ask(server))
    assert all(re.fullmatch(r"edgewf_[a-z_]+", name) for name in documented)


def test_an_address_that_is_taken_or_none(server: MetricsServer) -> None:
    with pytest.raises(EdgewfError, match="in use: choose another port"):
        MetricsServer(str(server.port), "m", "s")
    for text in ("", "http", "1.2.3.4", "localhost:99999", "a:b:9"):
        with pytest.raises(EdgewfError, match="address"):
            MetricsServer(text, "m", "s")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("[::1]:80", ("::1", 80)),
        ("edge.local:1", ("edge.local", 1)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
