"""Who may see the dashboard: the Host header, the token, and the headers that browsers obey."""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgewf.dashboard.address import Listening
from edgewf.errors import EdgewfError

TOKEN_VARIABLE = "EDGEWF_DASHBOARD_TOKEN"
SHORTEST_TOKEN = 16

_COOKIE_S = 30 * 24 * 3600

# Nothing but the page's own files, no inline code or style, no frame around it.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # an address may hold the token
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def check_token(token: str | None, listening: Listening) -> None:
    """Refuse an address that others can reach without a token, and a token that can be guessed.

    Raises:
        EdgewfError: says so.
    """
    advice = f"set {TOKEN_VARIABLE}, or {TOKEN_VARIABLE}_FILE, to what `openssl rand -hex 16` gives"
    if token is None:
        if not listening.loopback:
            raise EdgewfError(
                f"--dashboard {listening.host}: other machines can reach this address, and "
                f"there is no token: {advice}"
            )
        return
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise EdgewfError(f"{TOKEN_VARIABLE}: letters, digits and signs of ASCII only: {advice}")
    if len(token) < SHORTEST_TOKEN:
        raise EdgewfError(
            f"{TOKEN_VARIABLE} has {len(token)} characters, fewer than {SHORTEST_TOKEN}: {advice}"
        )


class Keys:
    """Tells a request that has the token from one that has not; all may pass without a token.

    The cookie holds a keyed hash of the token, so that who steals it does not know the token, and
    a new token makes old cookies worthless. Its name has the port in it, because browsers give
    the cookies of a host to all its ports.
    """

    def __init__(self, token: str | None, port: int) -> None:
        self._token = token
        self._cookie_name = f"edgewf_{port}"
        key = (token or "").encode()
        self._session = hmac.new(key, b"edgewf dashboard session", hashlib.sha256).hexdigest()

    def fits(self, token: str) -> bool:
        """Tell whether it is the token."""
        return self._token is None or _same(token, self._token)

    def admits(self, headers: Headers) -> bool:
        """Tell whether a request with such headers may see more than the way in."""
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie_name)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self._session)

    @property
    def cookie(self) -> str:
        """The Set-Cookie header of a browser that gave the token.

        Lax, for a Strict one would be missing after a tap on a link in a message. Nothing here
        changes anything, so there is nothing that another site could make a browser do.
        """
        return (
            f"{self._cookie_name}={self._session}; Max-Age={_COOKIE_S}; Path=/; HttpOnly; "
            "SameSite=Lax"
        )


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


class HostCheck:
    """Refuses requests on loopback whose Host is no name of this machine.

    A page elsewhere can let its own name point to 127.0.0.1 (DNS rebinding); its requests then
    come from this machine, but with its name.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            named = Headers(scope=scope).getlist("host")
            if len(named) != 1 or _without_port(named[0]) not in self._hosts:
                from starlette.responses import PlainTextResponse

                refusal = PlainTextResponse("this dashboard has another name\n", 421)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


class SecurityHeaders:
    """Adds the headers that browsers obey to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)
