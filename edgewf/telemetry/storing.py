"""What a monitor does is put into a store as it happens."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.listener import Listener
from edgewf.telemetry.store import Store

HEALTH_EVERY_S = 60.0
_MOST_WAITING = 10_000  # records, some megabytes


class StoreListener(Listener):
    """Keeps every estimate, and health once a minute and whenever its problems change.

    What the store does not take, on a full disk, waits in memory and is tried again with every
    estimate and every report of health. Of more than 10,000 waiting records the oldest are given
    up.

    Args:
        store: an open one, which this closes at the end.
        settings: of this run, ready for JSON.

    Raises:
        EdgewfError: later, while something waits; the message says how much.
    """

    def __init__(self, store: Store, settings: dict[str, Any]) -> None:
        self._store = store
        self._run = store.begin_run(time.time(), settings)
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_MOST_WAITING)
        self._told = -HEALTH_EVERY_S
        self._problems: tuple[str, ...] | None = None

    def estimate(self, estimate: Estimate) -> None:
        self._waiting.append(("estimate", estimate.to_json()))
        self._write()

    def health(self, health: Health) -> None:
        due = time.monotonic() >= self._told + HEALTH_EVERY_S
        if due or health.problems != self._problems:
            self._told, self._problems = time.monotonic(), health.problems
            self._waiting.append(("health", health.to_json()))
        self._write()

    def close(self) -> None:
        try:
            self._write()
        finally:
            self._store.close()

    def _write(self) -> None:
        while self._waiting:
            kind, record = self._waiting[0]
            try:
                if kind == "estimate":
                    self._store.add_estimate(self._run, record)
                else:
                    self._store.add_health(self._run, record)
            except EdgewfError as error:
                raise EdgewfError(f"{error}; {len(self._waiting)} records wait") from error
            self._waiting.popleft()
