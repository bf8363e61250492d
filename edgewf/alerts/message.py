"""What is sent of a change, in the same form to hooks, webhooks and MQTT (docs/alerts.md)."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Message:
    """One change of a rule. `to_json` is the stable public form.

    Attributes:
        id: the same in every attempt to deliver it, so that receivers can drop a second copy.
        rule: name of the rule.
        on: the state it has now.
        since: when what it warns of began, seconds since the epoch; None when it went off.
        text: one sentence for people.
        time: of the change, seconds since the epoch.
        suppressed: changes of this rule that were not sent, since its last message.
        model, source: what is watched.
        threshold: percent, of the rule "below".
        estimate: the newest `Estimate.to_json()`; None before the first.
        picture: a JPEG of a frame of that estimate, where asked for and known.
    """

    id: str
    rule: str
    on: bool
    since: float | None
    text: str
    time: float
    suppressed: int
    model: str
    source: str
    threshold: float | None
    estimate: dict[str, Any] | None
    picture: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; `picture`, base64, only where there is one."""
        record = asdict(self)
        picture = record.pop("picture")
        if picture is not None:
            record["picture"] = base64.b64encode(picture).decode()
        return record

    def body(self) -> bytes:
        """Return the JSON in UTF-8."""
        return json.dumps(self.to_json(), allow_nan=False).encode()


class Delivery(Protocol):
    """A way to the owner. Each has a thread of its own, which may wait as long as it takes."""

    def send(self, message: Message) -> None:
        """Deliver, or raise EdgewfError with what failed and what to do."""

    def close(self) -> None:
        """Give up waiting: an attempt under way may end, no new one begins. From any thread."""
