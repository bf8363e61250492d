"""The files in docs/fleet, and a fleet of three monitors with the servers they are meant for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml

from edgewf.commands.monitor import monitor
from tests.broker import Mosquitto, Subscriber, free_port, needs_broker, until
from tests.tiny import EDGEWF, constant_calibration, export_tiny, tiny_settings

ROOT = Path(__file__).parents[1]
FLEET = ROOT / "docs" / "fleet"
DASHBOARD = FLEET / "grafana" / "dashboards" / "fleet.json"
DEVICES = ("front-door", "back-door", "garage")

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
# Not every machine has a sensor, and a good window has no flags.
MAY_BE_EMPTY = ("edgewf_temperature_celsius", "edgewf_flag")


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((FLEET / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_the_dashboard_and_the_rules_ask_for_metrics_that_exist() -> None:
    documented = re.findall(r"^\| `(\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    text = " ".join([*expressions(), (FLEET / "rules.yml").read_text()])
    asked = set(re.findall(r"\bedgewf_\w+", text))
    assert len(asked) > 10
    assert asked <= set(documented)


def test_panels_do_not_overlap_and_have_their_own_number() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_the_devices_are_asked_and_their_options_exist() -> None:
    services = compose()["services"]
    config = yaml.safe_load((FLEET / "prometheus.yml").read_text())
    (scrape,) = config["scrape_configs"]
    targets = [target for each in scrape["static_configs"] for target in each["targets"]]
    assert targets == [f"{device}:9464" for device in DEVICES]
    for device in DEVICES:
        name, *arguments = services[device]["command"].split()
        assert name == "monitor"
        options = monitor.make_context(name, arguments).params
        assert options["mqtt"] == f"mqtt://mosquitto/edgewf/{device}"
        assert options["metrics"] == "0.0.0.0:9464"
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (FLEET / source).exists() or source in compose()["volumes"]
    assert (ROOT / services["garage"]["build"]["dockerfile"]).is_file()


def test_compose_reads_the_file() -> None:
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker compose is not installed")
    subprocess.run([docker, "compose", "-f", FLEET / "compose.yaml", "config", "-q"], check=True)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_prometheus_reads_its_files() -> None:
    assert PROMTOOL is not None
    subprocess.run([PROMTOOL, "check", "config", FLEET / "prometheus.yml"], check=True)


def ask(port: int, path: str) -> list[dict[str, Any]]:
    with urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=20) as answer:
        record = json.load(answer)
    assert record["status"] == "success"
    data = record["data"]
    return list(data["result"] if "result" in data else data["activeTargets"])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """One whose estimates are always 50 %."""
    exported = export_tiny(tmp_path)
    constant_calibration(exported, tiny_settings()).write(exported.folder)
    return exported.folder


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path, "allow_anonymous true")
    made.start()
    yield made
    made.stop()


@needs_broker
@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
def test_a_fleet_of_three(bundle: Path, broker: Mosquitto, tmp_path: Path) -> None:
    assert PROMETHEUS is not None
    subscriber = Subscriber(broker.port)
    # A loopback address for each, because their names come from their addresses.
    hosts = {device: f"127.0.0.{i}" for i, device in enumerate(DEVICES, start=1)}
    ports = {device: free_port(host) for device, host in hosts.items()}
    config = yaml.safe_load((FLEET / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms"}
    config["rule_files"] = [str(FLEET / "rules.yml")]
    config["scrape_configs"][0]["static_configs"] = [
        {"targets": [f"{hosts[device]}:{ports[device]}" for device in DEVICES]}
    ]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    processes = {
        device: subprocess.Popen(
            [
                *[*EDGEWF, "monitor", str(bundle), "--duty-cycle", "0.5"],
                *["--source", f"demo?frames=2000000&seed={seed}", "--threads", "1"],
                *["--metrics", f"{hosts[device]}:{ports[device]}", "--alert-below", "60"],
                *["--mqtt", f"mqtt://127.0.0.1:{broker.port}/edgewf/{device}"],
            ],
            stderr=subprocess.DEVNULL,
        )
        for seed, device in enumerate(DEVICES)
    }
    processes["prometheus"] = subprocess.Popen(
        [
            *[PROMETHEUS, f"--config.file={tmp_path / 'prometheus.yml'}"],
            *[f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path / 'db'}"],
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        # Bursts give way to all else, here to three monitors that read without a pause.
        until(lambda: {x["topic"] for x in subscriber.alerts} == set(DEVICES), 300)
        until(lambda: _answers(port, "edgewf_alert == 1") == 3, 60)
        until(lambda: _answers(port, "rate(edgewf_frames_seen_total[1m])") == 3, 60)
        for expression in expressions():
            query = expression.replace("$device", ".*").replace("$__rate_interval", "1m")
            if any(name in query for name in MAY_BE_EMPTY):
                _devices(port, query)  # an expression that Prometheus does not take fails
            else:
                until(lambda q=query: _devices(port, q) == set(hosts.values()), 60)
        accuracies = ask(port, "query?query=edgewf_accuracy_ratio")
        assert {x["value"][1] for x in accuracies} == {"0.5"}
        processes["garage"].kill()
        until(lambda: subscriber.newest["edgewf/garage/status"] == "offline")
        assert subscriber.newest["edgewf/front-door/status"] == "online"
        until(lambda: _answers(port, 'up{job="edgewf"} == 0') == 1)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
        subscriber.close()


def _devices(port: int, query: str) -> set[str | None]:
    return {x["metric"].get("device") for x in ask(port, f"query?query={quote(query)}")}


def _answers(port: int, query: str) -> int:
    try:
        return len(ask(port, f"query?query={quote(query)}"))
    except OSError:  # it has only just started
        return 0
