"""What the dashboard answers."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from edgewf.dashboard.access import HostCheck, Keys, SecurityHeaders
from edgewf.dashboard.assets import Asset, load_assets
from edgewf.dashboard.feed import Feed
from edgewf.preprocessing import Image

TICK_S = 1.0
"""Between two looks for news for a browser."""

_ALIVE_S = 5.0  # without news, before a browser is told that there are none
_WRONG_TOKEN_S = 1.0  # that an answer to a wrong token takes
_LONGEST_FORM = 4096  # bytes
_FORM_S = 10.0  # that one may take to arrive
_WORTH_PACKING = 4096  # bytes

Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(
    feed: Feed, keys: Keys, picture: Callable[[], Image | None], hosts: frozenset[str] | None
) -> ASGIApp:
    """Return the application.

    Args:
        feed: what is shown.
        keys: who may see it.
        picture: returns the current frame, uint8 [H, W, 3] RGB.
        hosts: that requests may name; None for all.
    """
    assets = load_assets()
    login = assets["login.html"].body
    wrong = login.replace(b'id="wrong" hidden', b'id="wrong"')

    def with_token(endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            if keys.admits(request.headers):
                return await endpoint(request)
            return PlainTextResponse("a token is needed\n", 401, {"WWW-Authenticate": "Bearer"})

        return checked

    async def enter(token: str) -> Response:
        if keys.fits(token):
            return RedirectResponse("/", 303, {"Set-Cookie": keys.cookie})
        await asyncio.sleep(_WRONG_TOKEN_S)
        return Response(wrong, 401, media_type="text/html")

    async def page(request: Request) -> Response:
        if "token" in request.query_params:
            return await enter(request.query_params["token"])
        if keys.admits(request.headers):
            return _static(request, assets["index.html"])
        return Response(login, 401, media_type="text/html")

    async def log_in(request: Request) -> Response:
        try:
            body = await asyncio.wait_for(_form(request), _FORM_S)
        except asyncio.TimeoutError:
            return PlainTextResponse("too slow\n", 408)
        if body is None:
            return PlainTextResponse("too long\n", 413)
        return await enter(parse_qs(body.decode("latin-1")).get("token", [""])[0])

    async def about(_: Request) -> Response:
        return Response(feed.about, media_type="application/json")

    async def state(_: Request) -> Response:
        return Response(feed.state(), media_type="application/json")

    async def history(request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) < 16):
            return PlainTextResponse("after: give a number\n", 400)
        return _packed(request, feed.history(int(after)).encode())

    async def events(_: Request) -> Response:
        return StreamingResponse(_news(feed), media_type="text/event-stream")

    async def current(_: Request) -> Response:
        return _jpeg(feed.current(picture()))

    async def doubtful(request: Request) -> Response:
        images, index = feed.doubtful, int(request.path_params["index"])
        return _jpeg(images[index] if index < len(images) else None)

    def file_route(name: str) -> Route:
        async def endpoint(request: Request) -> Response:
            return _static(request, assets[name])

        return Route(f"/{name}", endpoint)

    app: ASGIApp = Starlette(
        routes=[
            Route("/", page),
            Route("/login", log_in, methods=["POST"]),
            Route("/api/about", with_token(about)),
            Route("/api/state", with_token(state)),
            Route("/api/history", with_token(history)),
            Route("/api/events", with_token(events)),
            Route("/frames/current.jpg", with_token(current)),
            Route("/frames/doubtful/{index:int}.jpg", with_token(doubtful)),
            # They say nothing of the device, and the way in needs two of them.
            *map(file_route, ("style.css", "app.js", "chart.js", "icon.svg")),
        ]
    )
    if hosts is not None:
        app = HostCheck(app, hosts)
    return SecurityHeaders(app)


async def _form(request: Request) -> bytes | None:
    """Return the body; None if it is longer than any form of this page."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_FORM:
            return None
    return body


async def _news(feed: Feed) -> AsyncIterator[str]:
    """Yield the state whenever it is another, once a second at most, until the run ends.

    What a browser did not fetch in time is not kept for it: it gets the newest.
    """
    told, silent = -1, 0.0
    while True:
        ended = feed.ended
        if feed.version != told or silent >= _ALIVE_S:
            told, silent = feed.version, 0.0
            yield f"retry: 2000\ndata: {feed.state()}\n\n"
        if ended:
            return
        await asyncio.sleep(TICK_S)
        silent += TICK_S


def _static(request: Request, asset: Asset) -> Response:
    headers = {"ETag": asset.tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == asset.tag:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers={**headers, "Content-Type": asset.type})


def _packed(request: Request, body: bytes) -> Response:
    headers = {"Vary": "Accept-Encoding"}
    if len(body) > _WORTH_PACKING and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 1)
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, media_type="application/json")


def _jpeg(image: bytes | None) -> Response:
    if image is None:
        return PlainTextResponse("no such frame yet\n", 404)
    return Response(image, media_type="image/jpeg")
