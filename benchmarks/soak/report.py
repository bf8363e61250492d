"""Whether a soak went well, and its figures as Markdown."""

from __future__ import annotations

import itertools
import re
import statistics
from typing import Any

from benchmarks.machine import machine_line

MOST_GROWTH = 2**20  # bytes in ten minutes
WARM_UP = 2  # estimates of the last life


def judge(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each check with its figure."""
    lives, samples = record["lives"], warm(record["samples"])
    growth = slope(samples) * 10
    measured = samples[-1]["minute"] - samples[0]["minute"]
    ended = re.search(r"after (\d+) estimates?", " ".join(line for _, line in lives[-1]["log"]))
    last = int(ended[1]) if ended else -1
    lost = [life["told"] for life in lives if life["told"] > life["printed"]]
    unseen = [f["fault"] for f in record["faults"] if not visible(f)]
    alerts = record["alerts"]
    ill = [f["fault"] for f in record["faults"] if f["healed_after"] is None]
    return [
        check(
            "memory grows by less than 1 MiB in 10 minutes",
            measured > 0 and growth < MOST_GROWTH,
            f"{mib(growth)}, from {measured:.0f} minutes",
        ),
        *(
            check(f"no more {what} at the end", *no_more(samples, what))
            for what in ("threads", "files", "processes")
        ),
        check(
            "no estimate is lost",
            not lost and last == lives[-1]["printed"],
            f"{sum(x['printed'] for x in lives)} printed, the last life counted {last}",
        ),
        check("the file has what stdout had", record["same_on_stdout"], ""),
        check("the store has it too", record["same_in_store"], ""),
        check(
            "the alert hook was told, and of the end too",
            bool(alerts) and not alerts[-1]["on"],
            f"{len(alerts)} messages",
        ),
        check(
            "metrics and page answer between the faults",
            record["onlookers"]["answers"] > 0 and not record["onlookers"]["failures"],
            f"{record['onlookers']['answers']} times; "
            "a browser that never reads was there all the time",
        ),
        check("every fault shows in health", not unseen, ", ".join(unseen)),
        check("all is well after every fault", not ill, ", ".join(ill)),
        check(
            "SIGTERM ends it with status 0", lives[-1]["code"] == 0, f"{record['ended_in']:.1f} s"
        ),
        check("nothing but the kill ended it", len(lives) == 2, f"{len(lives)} lives"),
    ]


def check(what: str, passed: bool, figure: str) -> dict[str, Any]:
    """Return a row of the report."""
    return {"check": what, "passed": passed, "figure": figure}


def visible(fault: dict[str, Any]) -> bool:
    """Return whether the probe complained or the source's counts rose."""
    return bool(fault["probe"] or fault["counts"])


def warm(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the samples of the last life from its second estimate on.

    Until then runtimes allot what they keep: the first burst is the first to run each graph.
    """
    last = [s for s in samples if s["life"] == samples[-1]["life"]]
    return [s for s in last if (s["bursts"] or 0) >= WARM_UP] or last[-1:]


def slope(samples: list[dict[str, Any]]) -> float:
    """Return the growth of memory in bytes a minute: Theil and Sen's slope of each minute's peak.

    Windows that fill and are given back make memory go up and down, so only peaks compare.
    """
    peaks: dict[int, int] = {}
    for s in samples:
        minute = int(s["minute"])
        peaks[minute] = max(peaks.get(minute, 0), s["rss"])
    pairs = itertools.combinations(sorted(peaks.items()), 2)
    return statistics.median([(b - a) / (y - x) for (x, a), (y, b) in pairs] or [0.0])


def no_more(samples: list[dict[str, Any]], what: str) -> tuple[bool, str]:
    """Compare the medians of the first and the last quarter, which faults do not move."""
    quarter = max(1, len(samples) // 4)
    first, last = (
        statistics.median(s[what] for s in part) for part in (samples[:quarter], samples[-quarter:])
    )
    return last <= first, f"{first:g} at first, {last:g} at last"


def mib(size: float) -> str:
    """Return bytes as text."""
    return f"{size / 2**20:.2f} MiB"


def markdown(record: dict[str, Any]) -> str:
    """Return the report."""
    lines = [
        "# Soak",
        "",
        f"`python -m benchmarks.soak.run`: {record['minutes']:g} minutes of `edgewf monitor` "
        f"{' '.join(record['options'])} on an RTSP camera of {record['fps']} frames a second; "
        f"{machine_line()}. The machine was shared; load average at the end "
        f"{record['load'][0]:.1f}.",
        "",
        "| check | | figure |",
        "|---|---|---|",
        *(
            f"| {c['check']} | {'yes' if c['passed'] else '**no**'} | {c['figure']} |"
            for c in record["checks"]
        ),
        "",
        "| minute | fault | lasted | what the probe said | counted | well after |",
        "|---:|---|---:|---|---|---:|",
    ]
    for f in record["faults"]:
        counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in f["counts"].items())
        healed = "never" if f["healed_after"] is None else f"{f['healed_after']:.0f} s"
        said = "; ".join(f["probe"])
        begin = f"{f['minute']:.0f} | {f['fault']} | {f['lasted']:.0f} s"
        lines.append(f"| {begin} | {said} | {counts} | {healed} |")
    samples = warm(record["samples"])
    rss = [s["rss"] for s in samples]
    lines += [
        "",
        f"Memory of the last life from its second estimate on: {mib(min(rss))} to {mib(max(rss))}; "
        f"its camera reader: {mib(max(s['children'] for s in samples))} at most.",
    ]
    return "\n".join(lines) + "\n"
