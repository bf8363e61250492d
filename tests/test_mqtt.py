"""What a real broker gets of a monitor: mosquitto, on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgewf.alerts import AlertBelow, Alerter
from edgewf.alerts.mqtt import Broker, MqttPublisher
from edgewf.errors import EdgewfError
from tests.broker import Mosquitto, Subscriber, needs_broker, until
from tests.states import ESTIMATE, WELL

TOPIC = "edgewf/front-door"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path, "allow_anonymous true")
    made.start()
    yield made
    made.stop()


@needs_broker
def test_estimates_health_alerts_and_the_end(broker: Mosquitto) -> None:
    subscriber = Subscriber(broker.port)
    publisher = MqttPublisher(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}", discovery=True)
    alerter = Alerter([AlertBelow(75.0)], [publisher], "lite0", "demo")
    publisher.state = lambda: alerter.state
    until(lambda: subscriber.newest.get(f"{TOPIC}/status") == "online")
    for listener in (alerter, publisher):
        listener.health(WELL)
        listener.estimate(ESTIMATE)
    until(lambda: subscriber.alerts and f"{TOPIC}/estimate" in subscriber.newest)
    until(lambda: json.loads(subscriber.newest.get(f"{TOPIC}/alert/below", "{}")).get("on"))
    assert json.loads(subscriber.newest[f"{TOPIC}/estimate"]) == ESTIMATE.to_json()
    assert json.loads(subscriber.newest[f"{TOPIC}/health"]) == WELL.to_json()
    assert subscriber.alerts[0]["rule"] == "below"
    configs = {
        topic: json.loads(text)
        for topic, text in subscriber.newest.items()
        if topic.startswith("homeassistant/")
    }
    assert {topic.split("/")[3] for topic in configs} == {"accuracy", "problem", "alert_below"}
    for config in configs.values():
        assert config["state_topic"] in subscriber.newest
        assert config["availability_topic"] == f"{TOPIC}/status"
    assert len({config["unique_id"] for config in configs.values()}) == 3
    alerter.close()
    publisher.close()
    until(lambda: subscriber.newest[f"{TOPIC}/status"] == "offline")
    subscriber.close()
    late = Subscriber(broker.port)  # who comes later sees the last state, but no old alert
    until(lambda: f"{TOPIC}/alert/below" in late.newest and f"{TOPIC}/health" in late.newest)
    assert late.newest[f"{TOPIC}/status"] == "offline"
    assert late.alerts == []
    late.close()


@needs_broker
def test_what_was_said_while_the_broker_was_away_arrives(
    broker: Mosquitto, capfd: pytest.CaptureFixture[str]
) -> None:
    publisher = MqttPublisher(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}")
    until(publisher._client.is_connected)
    broker.stop()
    until(lambda: not publisher._client.is_connected())
    alerter = Alerter([AlertBelow(75.0)], [publisher], "lite0", "demo")
    alerter.estimate(ESTIMATE)
    publisher.estimate(replace(ESTIMATE, frames=123))
    publisher.health(WELL)
    broker.start()
    subscriber = Subscriber(broker.port)
    until(lambda: subscriber.alerts and f"{TOPIC}/estimate" in subscriber.newest)
    assert json.loads(subscriber.newest[f"{TOPIC}/estimate"])["frames"] == 123
    alerter.close()
    subscriber.close()
    err = capfd.readouterr().err
    assert "is gone" in err
    assert "is there again" in err


@needs_broker
def test_a_killed_monitor_is_offline(broker: Mosquitto) -> None:
    subscriber = Subscriber(broker.port)
    publisher = MqttPublisher(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}")
    until(lambda: subscriber.newest.get(f"{TOPIC}/status") == "online")
    sock = publisher._client.socket()
    assert sock is not None
    publisher._client.reconnect_delay_set(60, 60)
    sock.shutdown(socket.SHUT_RDWR)  # no goodbye
    until(lambda: subscriber.newest[f"{TOPIC}/status"] == "offline")
    publisher.close()
    subscriber.close()


@needs_broker
def test_a_password(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    passwords = tmp_path / "passwords"
    tool = shutil.which("mosquitto_passwd")
    assert tool is not None
    subprocess.run([tool, "-b", "-c", str(passwords), "door", "sesame"], check=True)
    passwords.chmod(0o644)
    tmp_path.chmod(0o755)
    broker = Mosquitto(tmp_path, f"password_file {passwords}", "user root")
    broker.start()
    uri = f"mqtt://door@127.0.0.1:{broker.port}/{TOPIC}"
    wrong = MqttPublisher(uri, "wrong")
    said = ""
    deadline = time.monotonic() + 20
    while "refuses the connection" not in said and time.monotonic() < deadline:
        said += capfd.readouterr().err
    assert "refuses the connection: Not authorized" in said
    wrong.close()
    right = MqttPublisher(uri, "sesame")
    subscriber = Subscriber(broker.port, "door", "sesame")
    until(lambda: subscriber.newest.get(f"{TOPIC}/status") == "online")
    right.close()
    subscriber.close()
    broker.stop()


def test_addresses(tmp_path: Path) -> None:
    plain = Broker.parse("mqtt://broker")
    assert (plain.host, plain.port, plain.tls, plain.user) == ("broker", 1883, False, None)
    assert plain.topic == f"edgewf/{socket.gethostname()}"
    ca = tmp_path / "ca.pem"
    ca.touch()
    assert Broker.parse(f"mqtts://me@[::1]:99/a/b/?ca={ca}") == Broker(
        "::1", 99, True, "me", "a/b", str(ca)
    )
    assert Broker.parse("mqtts://h").port == 8883


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "give mqtt"),
        ("broker", "give mqtt"),
        ("http://broker", "give mqtt"),
        ("mqtt://", "give mqtt"),
        ("mqtt://h:x", "give mqtt"),
        ("mqtt://h:99999", "give mqtt"),
        ("mqtt://h?tls=1", "give mqtt"),
        ("mqtt://me:pw@h", "EDGEWF_MQTT_PASSWORD"),
        ("mqtts://h?ca=/nowhere.pem", "a file that exists"),
        ("mqtt://h/a/%23", "no #"),
    ],
)
def test_bad_addresses(uri: str, message: str) -> None:
    with pytest.raises(EdgewfError, match=message) as error:
        Broker.parse(uri)
    assert "pw@" not in str(error.value)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("nonsense")
    with pytest.raises(EdgewfError, match="give PEM"):
        MqttPublisher(f"mqtts://127.0.0.1/a?ca={ca}")


def test_a_password_needs_a_user() -> None:
    with pytest.raises(EdgewfError, match="needs a user"):
        MqttPublisher("mqtt://127.0.0.1/a", "sesame")
