"""The dashboard as a listener of a monitor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgewf.alerts.alerter import State
from edgewf.dashboard.address import listen
from edgewf.dashboard.feed import Feed
from edgewf.doubtful import DoubtfulFrame
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.listener import Listener, Status

if TYPE_CHECKING:
    from edgewf.monitor import Monitor


class Dashboard(Listener):
    """Serves a page that shows a monitor, from a thread of its own.

    Args:
        address: "PORT" or "HOST:PORT"; without a host only this machine can look.
        token: that a browser must know; None lets everybody look who can reach the address, and
            is for loopback only.
        model, source: what is watched.
        window: frames that make an estimate.
        names: of the classes.
        frames_total: number of frames of the source, where it is known.
        threshold: accuracy in percent that is alerted on; None without such a rule.
        past: estimates of runs before this one, oldest first.
        alerts: returns where the rules of alerts stand; called for every look.

    Attributes:
        monitor: gives the pictures, and what a burst took; None, as at first, gives neither.
        url: what to type into a browser.

    Raises:
        EdgewfError: starlette or uvicorn are missing, no such address, it is taken, or it needs a
            token.
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        *,
        model: str,
        source: str,
        window: int,
        names: Sequence[str],
        frames_total: int | None = None,
        threshold: float | None = None,
        past: Sequence[Estimate] = (),
        alerts: Callable[[], Sequence[State]] = tuple,
    ) -> None:
        try:
            from edgewf.dashboard.access import Keys, check_token
            from edgewf.dashboard.app import make_app
            from edgewf.dashboard.server import Server
        except ImportError as error:
            raise EdgewfError("--dashboard needs pip install 'edgewf[dashboard]'") from error
        self.monitor: Monitor | None = None
        about = {
            "model": model,
            "source": source,
            "window": window,
            "frames_total": frames_total,
            "threshold": threshold,
        }
        self._feed = Feed(about, past, alerts, names)
        listening = listen(address)
        try:
            check_token(token, listening)
            self.url = listening.url
            app = make_app(
                self._feed,
                Keys(token, listening.port),
                lambda: None if self.monitor is None else self.monitor.current,
                listening.hosts if listening.loopback else None,
            )
        except BaseException:
            listening.socket.close()
            raise
        self._server = Server(app, listening)

    def frame(self, status: Status) -> None:
        self._feed.frame(status)

    def progress(self, step: int, steps: int) -> None:
        self._feed.progress(step, steps)

    def estimate(self, estimate: Estimate) -> None:
        seconds: float | None = None
        doubtful: Sequence[DoubtfulFrame] = ()
        if self.monitor is not None:
            seconds, doubtful = self.monitor.health().last_burst_seconds, self.monitor.doubtful
        self._feed.estimate(estimate, seconds, doubtful)

    def health(self, health: Health) -> None:
        self._feed.health(health)
        if not self._server.alive:
            raise EdgewfError("the dashboard has ended; restart the monitor to have it again")

    def close(self) -> None:
        self._feed.end()
        self._server.close()
