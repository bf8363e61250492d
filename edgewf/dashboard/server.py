"""The thread that browsers talk to, and how much of it one of them may take."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgewf.dashboard.address import Listening

MOST_CONNECTIONS = 32
IDLE_S = 10.0
"""That a connection may be open without a request, or take to send one."""
STUCK_S = 15.0
"""That a browser may leave what it was sent unread."""

_LONGEST_HEAD = 16 * 1024  # bytes of a request without its body
_LAST_WORD_S = 2  # that browsers get when the server ends


class Server:
    """Serves an application until it is closed.

    Args:
        app: ASGI.
        listening: where; closed at the end.
    """

    def __init__(self, app: ASGIApp, listening: Listening) -> None:
        self._socket = listening.socket
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=_BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # a stranger's bad request is no news
                access_log=False,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=_LONGEST_HEAD,
                timeout_graceful_shutdown=_LAST_WORD_S,
            )
        )
        self._thread = threading.Thread(target=self._run, name="edgewf-dashboard", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Give browsers two seconds for what is on its way, then end the thread."""
        self._server.should_exit = True
        if self._thread is not threading.current_thread():
            self._thread.join(_LAST_WORD_S + 2.0)
        self._socket.close()

    def _run(self) -> None:
        # Not `Server.run`, which would take another loop where one is installed.
        asyncio.run(self._server.serve(sockets=[self._socket]))


class _BoundedProtocol(H11Protocol):
    """HTTP/1.1 that drops who asks too slowly, reads too slowly, or comes too often.

    A dropped connection is aborted: what the browser has not read is not sent after all.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._stuck: asyncio.TimerHandle | None = None
        self._answered = -1
        self._idle = self.loop.call_later(IDLE_S, self._look)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle.cancel()
        self._unstick()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(STUCK_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unstick()

    def _look(self) -> None:
        """Abort if no request is being answered, twice with none in between."""
        cycle: Any = self.cycle
        if cycle is None or (cycle.response_complete and id(cycle) == self._answered):
            self.transport.abort()
            return
        self._answered = id(cycle) if cycle.response_complete else -1
        self._idle = self.loop.call_later(IDLE_S, self._look)

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
