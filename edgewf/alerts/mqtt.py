"""Estimates, health and alerts on an MQTT broker (topics in docs/alerts.md)."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from edgewf.alerts.alerter import State
from edgewf.alerts.message import Message
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.listener import Listener

HEALTH_EVERY_S = 60.0
DISCOVERY = "homeassistant"

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_MOST_WAITING = 1000  # messages while the broker is away
_LAST_WAIT_S = 3.0
_KEEPALIVE_S = 30
_LONGEST_BACKOFF_S = 60


@dataclass(frozen=True)
class Broker:
    """What an address names.

    Attributes:
        host, port: of the broker.
        tls: whether to encrypt.
        user: None for none.
        topic: under which everything is published.
        ca: file of certificates that sign the broker's; None for those of the system.
    """

    host: str
    port: int
    tls: bool
    user: str | None
    topic: str
    ca: str | None

    @classmethod
    def parse(cls, uri: str) -> Broker:
        """Read mqtt[s]://[USER@]HOST[:PORT][/TOPIC][?ca=FILE].

        Raises:
            EdgewfError: something else, or a password, which has no place there.
        """
        try:
            parts = urlsplit(uri)
            port = parts.port or _PORTS[parts.scheme]
            query = parse_qs(parts.query, strict_parsing=bool(parts.query))
        except (ValueError, KeyError):
            parts, port, query = urlsplit("mqtt://"), 0, {}
        if parts.password is not None:
            raise EdgewfError(
                "--mqtt: no password in the URI, everybody on this machine sees it: set "
                "EDGEWF_MQTT_PASSWORD or EDGEWF_MQTT_PASSWORD_FILE"
            )
        if not parts.hostname or query.keys() - {"ca"} or parts.fragment:
            raise EdgewfError(
                f"--mqtt {uri}: give mqtt[s]://[USER@]HOST[:PORT][/TOPIC], and ?ca=FILE with mqtts"
            )
        tls = parts.scheme == "mqtts"
        ca = query["ca"][0] if query else None
        if ca is not None and not (tls and Path(ca).is_file()):
            raise EdgewfError(f"--mqtt {uri}: ca needs mqtts:// and a file that exists")
        topic = unquote(parts.path).strip("/") or f"edgewf/{socket.gethostname()}"
        if re.search(r"[#+\0]", topic):
            raise EdgewfError(f"--mqtt {uri}: a topic has no #, + or NUL")
        user = None if parts.username is None else unquote(parts.username)
        return cls(parts.hostname, port, tls, user, topic, ca)


class MqttPublisher(Listener):
    """Publishes with QoS 1; the broker says "offline" for it when it is gone.

    It connects in the background, again and again. While there is no broker up to 1000 messages
    wait; health does not, because only the newest matters.

    Args:
        uri: see `Broker.parse`.
        password: None for none.
        discovery: introduce the device to Home Assistant.

    Attributes:
        state: returns where the rules of alerts stand.

    Raises:
        EdgewfError: paho-mqtt is missing, no such URI, or a password without a user.
    """

    def __init__(self, uri: str, password: str | None = None, *, discovery: bool = False) -> None:
        self._broker = broker = Broker.parse(uri)
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise EdgewfError("--mqtt needs pip install 'edgewf[mqtt]'") from error
        if password is not None and broker.user is None:
            raise EdgewfError(f"--mqtt {uri}: a password needs a user: mqtt://USER@HOST")
        self.state: Callable[[], Sequence[State]] = tuple
        self._discovery = discovery
        self._published: dict[str, State] = {}
        self._introduced: set[str] = set()
        self._told = -HEALTH_EVERY_S
        self._problems: tuple[str, ...] | None = None
        self._closed = False
        self._said = ""
        self._client = client = Client(CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(_MOST_WAITING)
        client.reconnect_delay_set(1, _LONGEST_BACKOFF_S)
        client.will_set(self._topic("status"), "offline", qos=1, retain=True)
        if broker.user is not None:
            client.username_pw_set(broker.user, password)
        if broker.tls:
            try:
                client.tls_set(broker.ca)
            except (OSError, ssl.SSLError) as error:
                raise EdgewfError(f"--mqtt {uri}: {broker.ca}: {error}; give PEM") from error
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.connect_async(broker.host, broker.port, _KEEPALIVE_S)
        client.loop_start()

    def estimate(self, estimate: Estimate) -> None:
        self._publish("estimate", estimate.to_json(), retain=True)
        self._publish_states()

    def health(self, health: Health) -> None:
        if not self._client.is_connected():
            self._problems = None  # so that the first report after it comes back is published
            return
        now = time.monotonic()
        if now >= self._told + HEALTH_EVERY_S or health.problems != self._problems:
            self._told, self._problems = now, health.problems
            self._publish("health", health.to_json(), retain=True)
        self._publish_states()

    def send(self, message: Message) -> None:
        """Publish an alert."""
        self._publish("alert", message.to_json(), retain=False)

    def close(self) -> None:
        """Publish what waits, for some seconds, then "offline". A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._client.is_connected():
            self._publish_states()
            last = self._client.publish(self._topic("status"), "offline", qos=1, retain=True)
            with contextlib.suppress(RuntimeError):  # the connection went just now
                last.wait_for_publish(_LAST_WAIT_S)
        self._client.disconnect()
        self._client.loop_stop()

    def _publish_states(self) -> None:
        for state in self.state():
            if self._discovery and state.rule not in self._introduced:
                self._introduced.add(state.rule)
                self._introduce_rule(state.rule)
            if self._published.get(state.rule) != state:
                self._published[state.rule] = state
                record = {"on": state.on, "since": state.since, "text": state.text}
                self._publish(f"alert/{state.rule}", record, retain=True)

    def _publish(self, name: str, record: dict[str, Any], *, retain: bool) -> None:
        text = json.dumps(record, allow_nan=False)
        code = self._client.publish(self._topic(name), text, qos=1, retain=retain).rc
        # No connection is no error: the message waits.
        if code not in (0, 4):
            raise EdgewfError(
                f"MQTT broker {self._broker.host}: a message was given up (error {int(code)}), "
                "because too many wait: check the broker"
            )

    def _topic(self, name: str) -> str:
        return f"{self._broker.topic}/{name}"

    def _introduce(self) -> None:
        self._introduce_as(
            "sensor",
            "accuracy",
            name="Accuracy",
            state_topic=self._topic("estimate"),
            value_template="{{ value_json.accuracy }}",
            json_attributes_topic=self._topic("estimate"),
            unit_of_measurement="%",
            state_class="measurement",
        )
        self._introduce_as(
            "binary_sensor",
            "problem",
            name="Problem",
            state_topic=self._topic("health"),
            value_template="{{ 'ON' if value_json.problems else 'OFF' }}",
            json_attributes_topic=self._topic("health"),
            device_class="problem",
        )

    def _introduce_rule(self, rule: str) -> None:
        self._introduce_as(
            "binary_sensor",
            f"alert_{rule}",
            name=f"Alert {rule}",
            state_topic=self._topic(f"alert/{rule}"),
            value_template="{{ 'ON' if value_json.on else 'OFF' }}",
            json_attributes_topic=self._topic(f"alert/{rule}"),
            device_class="problem",
        )

    def _introduce_as(self, component: str, key: str, **config: str) -> None:
        """Publish a discovery message, https://www.home-assistant.io/integrations/mqtt/."""
        number = re.sub(r"[^A-Za-z0-9_-]", "_", self._broker.topic)
        record = {
            **config,
            "unique_id": f"{number}_{key}",
            "availability_topic": self._topic("status"),
            "device": {"identifiers": [number], "name": self._broker.topic, "model": "edgewf"},
        }
        topic = f"{DISCOVERY}/{component}/{number}/{key}/config"
        self._client.publish(topic, json.dumps(record), qos=1, retain=True)

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._say(f"refuses the connection: {reason}")
            return
        if self._said:
            self._say("")
        client.publish(self._topic("status"), "online", qos=1, retain=True)
        if self._discovery:
            self._introduce()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if not self._closed and reason.is_failure:
            self._say(f"is gone: {reason}")

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        self._say("cannot be reached; it is tried again and again")

    def _say(self, text: str) -> None:
        """Warn once of the same trouble; "" is its end."""
        if text != self._said:
            self._said = text
            where = f"MQTT broker {self._broker.host}:{self._broker.port}"
            line = f"warning: {where} {text}" if text else f"{where} is there again"
            print(line, file=sys.stderr)
