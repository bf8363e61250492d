"""Leave the monitor on before a camera on which everything goes wrong, and see what becomes of it.

    python -m benchmarks.soak.run BUNDLE --minutes 60

One fault after another comes and goes between camera and monitor; once, the monitor is killed. The
run fails if memory, threads or files grow, an estimate is lost, or a fault stays unseen by
`edgewf monitor --check`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import click
import cv2
from rich.console import Console

from benchmarks.machine import describe_machine
from benchmarks.soak.faults import Fault, faults
from benchmarks.soak.monitored import Monitored
from benchmarks.soak.network import Network
from benchmarks.soak.onlookers import Onlookers
from benchmarks.soak.report import judge, markdown
from edgewf.commands.explaining import ExplainingCommand
from edgewf.errors import EdgewfError
from edgewf.health import Health
from edgewf.status_file import probe
from edgewf.stream import open_source
from edgewf.telemetry.store import Store

FRAMES = 600  # that the camera shows again and again
FAULT_S = 50.0  # longer than the age at which a status file counts as that of a dead monitor
SAMPLE_S = 10.0
UNSEEN_S = 600.0  # at most, where it only shows with the next estimate
HEAL_S = 60.0  # until all is well after a fault: a camera's reader waits up to 30 s

KILL = "monitor killed"

console = Console(stderr=True, highlight=False)


class Soak:
    """One run; see the module.

    Attributes:
        samples: of memory, threads and files, every ten seconds.
        seen: what became of each fault.
        onlookers: come with every sample, but not during a fault.
    """

    def __init__(self, monitored: Monitored, network: Network, minutes: float) -> None:
        self._monitored = monitored
        self._network = network
        self.onlookers = Onlookers(monitored.metrics, monitored.dashboard)
        self._began = time.time()
        self._end = self._began + 60 * minutes
        self._next_sample = 0.0
        self.samples: list[dict[str, Any]] = []
        self.seen: list[dict[str, Any]] = []

    def run(self, quiet: float) -> None:
        """Go through the faults until the time is over; `quiet` seconds before each."""
        monitored = self._monitored
        kill = Fault(KILL, monitored.kill, monitored.start)
        monitored.start()
        self._well_within(HEAL_S)
        self.onlookers.stare()
        # The kill comes first, so that the second life is long enough to see a leak.
        for fault in islice(self._cycle(kill), None):
            self._watch(quiet, look=True)
            if time.time() + FAULT_S + HEAL_S > self._end:
                break
            self._suffer(fault)
        while time.time() < self._end:
            self._watch(1.0, look=True)
        self.onlookers.leave()

    def _cycle(self, kill: Fault) -> Any:
        yield kill
        while True:
            yield from faults(self._network, self._monitored)

    def _suffer(self, fault: Fault) -> None:
        console.print(f"{self._minute():5.1f} min: {fault.name}")
        before = self._source_counts()
        began = time.time()
        fault.begin()
        words = self._watch(FAULT_S, restart=False)
        while not words and not self._rise(before) and time.time() < began + UNSEEN_S:
            words = self._watch(1.0, restart=False)
        lasted = time.time() - began
        fault.end()
        healed, after = self._well_within(HEAL_S)
        if fault.name == KILL:
            self.onlookers.stare()
        self.seen.append(
            {
                "fault": fault.name,
                "minute": self._minute(began),
                "lasted": lasted,
                "probe": sorted(words | after),
                "counts": self._rise(before),
                "log": [line for at, line in self._log() if at >= began],
                "healed_after": healed,
            }
        )

    def _watch(self, seconds: float, *, restart: bool = True, look: bool = False) -> set[str]:
        """Ask the probe every second, and return its complaints.

        A monitor that has ended is started again, as systemd would, if `restart` says so.
        """
        words = set()
        end = time.time() + seconds
        while time.time() < end:
            well, said = self._probe()
            if not well:
                words.add(re.sub(r"\d+", "N", said.replace(str(self._monitored.status), "FILE")))
            if time.time() >= self._next_sample:
                self._sample()
                if look:
                    self.onlookers.look()
            if restart and not self._monitored.alive():
                self._monitored.start()
            time.sleep(1.0)
        return words

    def _well_within(self, seconds: float) -> tuple[float | None, set[str]]:
        """Return when all was well again, None if it was not, and the complaints until then."""
        words: set[str] = set()
        began = time.time()
        while time.time() < began + seconds:
            if self._probe()[0]:
                return time.time() - began, words
            words |= self._watch(1.0)
        return None, words

    def _probe(self) -> tuple[bool, str]:
        try:
            return probe(self._monitored.status)
        except EdgewfError as error:
            return False, str(error)

    def _health(self) -> Health | None:
        with suppress(OSError, ValueError, KeyError):
            health = Health.from_json(json.loads(self._monitored.status.read_text())["health"])
            life = self._monitored.lives[-1]
            if health.time > life.began:
                life.told = max(life.told, health.bursts)
                return health
        return None

    def _source_counts(self) -> dict[str, int]:
        health = self._health()
        if health is None:
            return {}
        source = health.source
        return {"reconnects": source.reconnects, "decode_errors": source.decode_errors}

    def _rise(self, before: dict[str, int]) -> dict[str, int]:
        """Return how many more of each there are than before, where there are more."""
        now = self._source_counts()
        return {k: now[k] - before[k] for k in now if k in before and now[k] > before[k]}

    def _sample(self) -> None:
        self._next_sample = time.time() + SAMPLE_S
        health, taken = self._health(), self._monitored.sample()
        if taken is not None:
            bursts = None if health is None else health.bursts
            life = len(self._monitored.lives)
            self.samples.append({"minute": self._minute(), "life": life, "bursts": bursts, **taken})

    def _log(self) -> list[tuple[float, str]]:
        return [entry for life in self._monitored.lives for entry in life.log]

    def _minute(self, when: float | None = None) -> float:
        return round(((time.time() if when is None else when) - self._began) / 60, 2)


def write_frames(folder: Path) -> None:
    """Save the demo's moving camera as JPEG files, 00000.jpg and so on."""
    for frame in islice(open_source(f"demo?frames={FRAMES}"), FRAMES):
        picture = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        height, width = (2 * (n // 2) for n in picture.shape[:2])  # H.264 halves its colours
        cv2.imwrite(str(folder / f"{frame.index:05}.jpg"), picture[:height, :width])


@click.command(cls=ExplainingCommand, context_settings={"ignore_unknown_options": True})
@click.argument("bundle")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--fps", default=15, show_default=True, help="Of the camera.")
@click.option("--quiet", default=60.0, show_default=True, help="Seconds before each fault.")
@click.option(
    "--server-python",
    default="/usr/bin/python3",
    show_default=True,
    help="A Python with GStreamer's bindings.",
)
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/soak"))
def main(
    bundle: str,
    options: tuple[str, ...],
    minutes: float,
    fps: int,
    quiet: float,
    server_python: str,
    output: Path,
) -> None:
    """Run `edgewf monitor BUNDLE`, with OPTIONS of your own, before a camera that fails."""
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames"
        frames.mkdir()
        write_frames(frames)
        camera = Path(__file__).with_name("server.py")
        port = 8554 + os.getpid() % 1000
        server = subprocess.Popen([server_python, str(camera), str(port), str(frames), str(fps)])
        network = Network(port)
        time.sleep(2.0)
        source = f"rtsp://127.0.0.1:{network.port}/camera"
        monitored = Monitored([bundle, "--source", source, *options], Path(folder))
        soak = Soak(monitored, network, minutes)
        try:
            soak.run(quiet)
            ended_in = monitored.terminate()
            written = [json.loads(line) for line in monitored.output.read_text().splitlines()]
            with Store(monitored.store, read_only=True) as store:
                stored = [entry.record for entry in store.estimates()]
            alerts = [json.loads(line) for line in monitored.alerts.read_text().splitlines()]
        finally:
            monitored.stop()
            server.terminate()
            server.wait()
            network.close()
    record = {
        "machine": describe_machine(),
        "load": os.getloadavg(),
        "minutes": minutes,
        "options": options,
        "fps": fps,
        "ended_in": ended_in,
        "faults": soak.seen,
        "samples": soak.samples,
        "onlookers": {"answers": soak.onlookers.answers, "failures": soak.onlookers.failures},
        "lives": [
            {"printed": len(x.printed), "told": x.told, "code": x.code, "log": x.log}
            for x in monitored.lives
        ],
        "same_on_stdout": written
        == [estimate for life in monitored.lives for estimate in life.printed],
        "same_in_store": written == stored,
        "alerts": [{key: x[key] for key in ("rule", "on", "text", "time")} for x in alerts],
    }
    record["checks"] = judge(record)
    output.mkdir(parents=True, exist_ok=True)
    (output / "soak.json").write_text(json.dumps(record) + "\n")
    (output / "soak.md").write_text(markdown(record))
    click.echo(markdown(record))
    sys.exit(0 if all(check["passed"] for check in record["checks"]) else 1)


if __name__ == "__main__":
    main()
