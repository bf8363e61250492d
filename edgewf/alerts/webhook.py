"""Alerts as HTTP requests, signed and tried again."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import random
import threading
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from edgewf.alerts.message import Message
from edgewf.errors import EdgewfError

TIMEOUT_S = 10.0
ATTEMPTS = 6
FIRST_BACKOFF_S = 1.0
_AGAIN = (408, 429)  # of 4xx, those that another attempt may mend


class Webhook:
    """Posts the JSON of a message, up to 6 times, with growing pauses of random length.

    A status of 2xx is a success. Others of 4xx than 408 and 429, and redirections, are final.

    Args:
        url: http or https.
        key: signs timestamp and body, see `signature`; None sends no signature.

    Raises:
        EdgewfError: no such URL.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fine = False
        if not fine:
            raise EdgewfError("--webhook: give an http:// or https:// URL with a host")
        if parts.username is not None or parts.password is not None:
            raise EdgewfError("--webhook: no user or password in the URL, everybody sees it")
        self._url, self._key = url, key
        # Many services put their token into the path.
        self._shown = f"{parts.scheme}://{parts.netloc}"
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._closed = threading.Event()

    def send(self, message: Message) -> None:
        body, reason = message.body(), ""
        for attempt in range(ATTEMPTS):
            if attempt:
                pause = FIRST_BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                if self._closed.wait(pause):
                    break
            final, reason = self._post(message.id, body)
            if not reason:
                return
            if final:
                break
        raise EdgewfError(f"webhook {self._shown}: {reason}; the alert was not delivered")

    def close(self) -> None:
        """End the pause between two attempts."""
        self._closed.set()

    def _post(self, number: str, body: bytes) -> tuple[bool, str]:
        """Return whether another attempt is useless, and what went wrong, "" if nothing."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "edgewf",
            "Idempotency-Key": number,
        }
        if self._key is not None:
            timestamp = str(int(time.time()))
            headers["X-Edgewf-Timestamp"] = timestamp
            headers["X-Edgewf-Signature"] = signature(self._key, timestamp, body)
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            self._opener.open(request, timeout=TIMEOUT_S).close()
        except urllib.error.HTTPError as error:
            error.close()
            useless = 300 <= error.code < 500 and error.code not in _AGAIN
            return useless, f"it answered {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            return False, str(getattr(error, "reason", error)) or type(error).__name__
        return True, ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without a body."""

    def redirect_request(self, *_: Any) -> None:
        return None


def signature(key: str, timestamp: str, body: bytes) -> str:
    """Return "sha256=" and the hexadecimal HMAC-SHA256 of timestamp, a full stop, and body.

    Args:
        key: the shared secret.
        timestamp: the header X-Edgewf-Timestamp, seconds since the epoch.
        body: of the request, as it came.
    """
    signed = timestamp.encode() + b"." + body
    return "sha256=" + hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()
