"""What a store says of a device's past, so that a restart is no news."""

from __future__ import annotations

from typing import Any, NamedTuple

from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.telemetry.store import Store

# Newest records that are read: months, and a fraction of a second.
_ESTIMATES = 20_000
_HEALTH = 1_000

_SAME = ("fingerprint", "source", "estimator", "burst")


class Past(NamedTuple):
    """Records of runs like this one, oldest first, and what the last such run was set to."""

    estimates: list[Estimate]
    health: list[Health]
    settings: dict[str, Any]


def read_past(store: Store | None, settings: dict[str, Any]) -> Past:
    """Return the records of runs with the same model, source, estimator and burst.

    Args:
        store: None has no past.
        settings: of this run, as `Store.begin_run` gets them.

    Raises:
        EdgewfError: the store cannot be read.
    """
    if store is None:
        return Past([], [], {})
    wanted = {key: settings[key] for key in _SAME}
    runs = {
        number: run
        for number, run in store.runs().items()
        if {key: run.get(key) for key in _SAME} == wanted
    }
    if not runs:
        return Past([], [], {})
    estimates = [x.record for x in store.estimates(last=_ESTIMATES) if x.run in runs]
    health = [x.record for x in store.health(last=_HEALTH) if x.run in runs]
    return Past(
        [Estimate.from_json(record) for record in estimates],
        [Health.from_json(record) for record in health],
        runs[max(runs)],
    )
