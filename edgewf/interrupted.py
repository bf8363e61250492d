"""What a Ctrl-C can leave behind."""

from __future__ import annotations

import threading
from contextlib import suppress


def give_back(condition: threading.Condition) -> None:
    """Release a condition as often as the calling thread still holds it.

    KeyboardInterrupt may come between the moment when `with` has taken a lock and the moment when
    it would give it back (CPython issue 74174), and then other threads wait for it for ever. For
    places that are never reached with the lock held on purpose.
    """
    with suppress(RuntimeError):  # it is not held
        while True:
            condition.release()
