"""Sends what rules say to every delivery, in the background and never in a storm."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from edgewf.alerts.message import Delivery, Message
from edgewf.alerts.rules import AlertBelow, Rule
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.listener import Listener

PAUSE_S = 300.0
"""Between two messages of one rule, unless asked otherwise."""

_MOST_WAITING = 100  # messages of a delivery
_LAST_WAIT_S = 9.0  # that a closing alerter gives its deliveries, in all


class State(NamedTuple):
    """Where a rule stands, see `Rule`."""

    rule: str
    on: bool
    since: float | None
    text: str


class Alerter(Listener):
    """Asks the rules about every estimate and health, and sends their changes.

    A rule sends one message at once, and then none for `pause` seconds. If its state is another
    than the one last sent when they are over, or when the run ends, that is sent, with the number
    of changes that were not. Each delivery has a thread and a queue of 100 messages; of more, the
    oldest are given up. What cannot be delivered is a warning on stderr.

    Args:
        rules: by different names.
        deliveries: told of every message.
        model, source: what is watched.
        pause: seconds, 0 or more.
        told: names of rules whose state at the start is no news, because a run before this one
            has told it.
        clock: seconds that nobody sets.

    Attributes:
        fired: whether a rule about the accuracy was on after any estimate.
        take_picture: returns a JPEG of a frame of the newest estimate. None, as at first, sends
            none.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        deliveries: Sequence[Delivery],
        model: str,
        source: str,
        *,
        pause: float = PAUSE_S,
        told: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = tuple(rules)
        self._workers = [_Worker(delivery) for delivery in deliveries]
        self._model, self._source = model, source
        self.fired = False
        self.take_picture: Callable[[], bytes | None] | None = None
        self._pause, self._clock = pause, clock
        self._told = {rule.name: rule.on and rule.name in told for rule in rules}
        self._seen = dict(self._told)
        self._next = dict.fromkeys(self._told, clock())
        self._suppressed = dict.fromkeys(self._told, 0)
        self._newest: dict[str, Any] | None = None

    @property
    def state(self) -> list[State]:
        """Where every rule stands."""
        return [State(rule.name, rule.on, rule.since, rule.text) for rule in self._rules]

    @property
    def below(self) -> AlertBelow | None:
        """The rule with a threshold, for those who draw it."""
        return next((rule for rule in self._rules if isinstance(rule, AlertBelow)), None)

    def estimate(self, estimate: Estimate) -> None:
        self._newest = estimate.to_json()
        for rule in self._rules:
            rule.estimate(estimate)
            self.fired |= rule.on and rule.concerns_accuracy
            self._look(rule)

    def health(self, health: Health) -> None:
        for rule in self._rules:
            rule.health(health)
            self._look(rule)

    def close(self) -> None:
        """Send what a pause held back, and wait some seconds for the deliveries."""
        for rule in self._rules:
            self._look(rule, last=True)
        deadline = time.monotonic() + _LAST_WAIT_S
        for worker in self._workers:
            worker.finish()
        for worker in self._workers:
            worker.join(deadline)

    def _look(self, rule: Rule, last: bool = False) -> None:
        name = rule.name
        if rule.on != self._seen[name]:
            self._seen[name] = rule.on
            self._suppressed[name] += 1  # until it is sent
        if rule.on == self._told[name] or (self._clock() < self._next[name] and not last):
            return
        message = Message(
            id=str(uuid.uuid4()),
            rule=name,
            on=rule.on,
            since=rule.since,
            text=rule.text,
            time=time.time(),
            suppressed=max(0, self._suppressed[name] - 1),
            model=self._model,
            source=self._source,
            threshold=getattr(rule, "threshold_percent", None),
            estimate=self._newest,
            picture=None if self.take_picture is None else self.take_picture(),
        )
        self._told[name] = rule.on
        self._suppressed[name] = 0
        self._next[name] = self._clock() + self._pause
        for worker in self._workers:
            worker.put(message)


class _Worker:
    """The thread and the queue of a delivery."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._changed = threading.Condition()
        self._waiting: deque[Message] = deque()
        self._closing = False
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="edgewf-alerts", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        with self._changed:
            if len(self._waiting) == _MOST_WAITING:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(message)
            self._changed.notify_all()

    def finish(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._delivery.close()
        if self._thread.is_alive():
            self._thread.join(1.0)
        if self._waiting or self._thread.is_alive():
            _warn("the run ended before every alert was delivered")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                message = self._waiting.popleft()
                lost, self._lost = self._lost, 0
            if lost:
                _warn(f"{lost} alerts were given up, because too many waited")
            try:
                self._delivery.send(message)
            except EdgewfError as error:
                _warn(str(error))
            # A library's surprise must not end the thread: the next alert may get through.
            except Exception as error:
                _warn(f"an alert was not delivered: {type(error).__name__}: {error}")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
