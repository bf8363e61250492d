"""A real MQTT broker on loopback, and somebody who reads all of it."""

from __future__ import annotations

import json
import queue
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho

# Debian puts it where only root looks.
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


class Mosquitto:
    """A broker that can be stopped and started again on its port."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join((f"listener {self.port} 127.0.0.1", *lines)) + "\n")

    def start(self) -> None:
        """Return when it answers."""
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)], stderr=subprocess.DEVNULL
        )
        until(lambda: reachable(self.port))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Subscriber:
    """Everything the broker has told so far, newest by topic."""

    def __init__(self, port: int, user: str | None = None, password: str | None = None) -> None:
        self.newest: dict[str, str] = {}
        self.alerts: list[dict[str, Any]] = []
        subscribed: queue.Queue[None] = queue.Queue()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.username_pw_set(user, password)
        self._client.on_message = self._take
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.put(None)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        subscribed.get(timeout=20)

    def _take(self, client: Any, data: Any, message: Any) -> None:
        self.newest[message.topic] = message.payload.decode()
        if message.topic.endswith("/alert"):
            device = message.topic.split("/")[-2]
            self.alerts.append({**json.loads(message.payload), "topic": device})

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def free_port(host: str = "127.0.0.1") -> int:
    """Return one that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds; fail if it does not."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def reachable(port: int) -> bool:
    """Say whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
