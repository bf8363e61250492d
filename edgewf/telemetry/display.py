"""What a person sees of a run, on stderr: a live view, or one line per estimate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edgewf.alerts.rules import AlertBelow
from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.journal import INFO, WARNING, journal_prefix
from edgewf.listener import Listener, Status
from edgewf.telemetry.chart import Column, accuracy_chart

_REFRESH_HZ = 4
_WIDEST = 110
_SILENCE_S = 3.0  # without a frame, before the view says so
_HISTORY = 200  # more than the chart can show
_RATE_STATUSES = 60


@dataclass(frozen=True)
class Session:
    """What is being watched.

    Attributes:
        model: name of the model.
        source: where the frames come from.
        frames_total: number of frames of the source, where it is known.
        window: frames that make an estimate.
        alert: shown where there is one; it must be told of an estimate before the display is.
    """

    model: str
    source: str
    frames_total: int | None
    window: int
    alert: AlertBelow | None = None


def open_display(session: Session, *, live: bool | None = None) -> Listener:
    """Return the view that suits stderr.

    Args:
        live: True for the view that redraws itself, False for one plain line per estimate, None
            for the first on a terminal and the second elsewhere. Pass False where stdout is the
            same terminal and takes JSON lines.
    """
    console = Console(stderr=True)
    if live is None:
        live = (
            console.file.isatty()  # not `is_terminal`, which FORCE_COLOR sets in log files
            and not console.is_dumb_terminal
            and console.encoding.startswith("utf")
        )
    return LiveDisplay(session, console) if live else PlainDisplay(session, console)


class PlainDisplay(Listener):
    """One line without control codes per estimate, for logs."""

    def __init__(self, session: Session, console: Console) -> None:
        self._session = session
        self._file = console.file
        self._seen = 0
        self._problems: tuple[str, ...] = ()
        self._print(
            f"watching {session.source} with {session.model}, "
            f"one estimate per {session.window} frames"
        )

    def frame(self, status: Status) -> None:
        self._seen = status.seen

    def estimate(self, estimate: Estimate) -> None:
        when = datetime.fromtimestamp(estimate.time).astimezone().isoformat(timespec="seconds")
        parts = [
            f"accuracy {_percent(estimate.accuracy)}",
            f"weighted flips {estimate.weighted_flips:.1f}",
            f"confidence {_percent(estimate.average_confidence)}",
        ]
        if estimate.interval is not None:
            low, high = estimate.interval
            parts.insert(1, f"90 % interval {low:.1f} to {high:.1f} %")
        if estimate.true_accuracy is not None:
            parts.append(f"true accuracy {_percent(estimate.true_accuracy)}")
        if self._session.alert is not None and self._session.alert.on:
            parts.append(f"ALERT below {self._session.alert.threshold_percent:g} %")
        if estimate.flags:
            parts.append(f"flags: {'; '.join(estimate.flags)}")
        self._print(f"{when} frame {self._seen}: {', '.join(parts)}")

    def health(self, health: Health) -> None:
        # Sentences hold numbers that change all the time; another number of them is news.
        if len(health.problems) != len(self._problems):
            for problem in health.problems:
                self._print(f"problem: {problem}", WARNING)
            if not health.problems:
                self._print("all is well again")
        self._problems = health.problems

    def _print(self, line: str, priority: int = INFO) -> None:
        prefix = journal_prefix(priority, self._file)
        print(prefix + _printable(line), file=self._file, flush=True)


class LiveDisplay(Listener):
    """A view that redraws itself; what others print on stderr appears above it.

    It is drawn by a thread of its own, so that it lives on while a burst keeps the caller busy.
    """

    def __init__(
        self,
        session: Session,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._console = console
        self._clock = clock
        # The drawing thread reads these while the caller replaces them, so each is one object
        # that never changes.
        self._status = Status(seen=0, kept=0, dropped=0, filled=0)
        self._step: tuple[int, int] | None = None
        self._estimates: tuple[tuple[int, Estimate, bool], ...] = ()
        self._last_frame = clock()
        self._rate: float | None = None
        self._recent: list[tuple[float, int]] = []  # when, and frames seen until then
        self._problems: tuple[str, ...] = ()
        self._live = Live(
            get_renderable=self.view,
            console=console,
            refresh_per_second=_REFRESH_HZ,
            redirect_stdout=False,  # it may carry records
        )

    def frame(self, status: Status) -> None:
        now = self._clock()
        self._status = status
        self._last_frame = now
        if not self._live.is_started:
            self._live.start()
            return
        self._recent = [*self._recent[1 - _RATE_STATUSES :], (now, status.seen)]
        then, seen = self._recent[0]
        if now > then:
            self._rate = (status.seen - seen) / (now - then)

    def progress(self, step: int, steps: int) -> None:
        self._step = (step, steps)

    def estimate(self, estimate: Estimate) -> None:
        alert = self._session.alert
        entry = (self._status.seen, estimate, alert is not None and alert.on)
        self._estimates = (*self._estimates[1 - _HISTORY :], entry)
        self._step = None
        if self._session.frames_total is not None:  # a recording waited for the burst
            self._last_frame = self._clock()
            self._recent = []

    def health(self, health: Health) -> None:
        self._problems = health.problems

    def close(self) -> None:
        self._step = None
        self._last_frame = self._clock()
        self._live.stop()

    def view(self) -> RenderableType:
        """Return what is on the screen now."""
        width = min(self._console.width, _WIDEST)
        parts: list[RenderableType] = [self._state(width // 3)]
        problems = [Text(_printable(f"problem: {x}"), "yellow") for x in self._problems]
        parts += problems
        if self._estimates:
            flags = Text(_printable("; ".join(self._estimates[-1][1].flags)), "yellow")
            if flags:
                flags = Text("flags of the last: ") + flags
            lines = sum(
                len(text.wrap(self._console, width - 4)) for text in (*problems, flags) if text
            )
            chart = 8 if self._console.height >= 24 else 4
            # The table gets what state, headings and frame leave, which take 11 rows.
            rows = max(2, min(8, self._console.height - 11 - chart - lines))
            parts += [Text(), self._chart(width - 4, chart), Text(), self._table(width, rows)]
            if flags:
                parts.append(flags)
        title = Text(f"edgewf · {_printable(self._session.model)}", "bold")
        return Panel(
            Group(*parts),
            title=title,
            title_align="left",
            width=width,
            box=box.ROUNDED,
            border_style="red" if self._alarmed else "dim",
        )

    @property
    def _alarmed(self) -> bool:
        return self._session.alert is not None and self._session.alert.on

    def _state(self, bar: int) -> Table:
        session, status = self._session, self._status
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(style="dim", no_wrap=True, width=6)
        grid.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
        grid.add_row("source", Text(_printable(session.source)))
        grid.add_row("frames", self._frames())
        grid.add_row(
            "window",
            _bar(status.filled, session.window, bar, f"{status.filled} of {session.window}"),
        )
        grid.add_row("burst", self._burst(bar))
        if session.alert is not None:
            below = f"below {session.alert.threshold_percent:g} %"
            grid.add_row(
                "alert",
                Text(f"ON, {below}", "bold red") if session.alert.on else Text(f"off, {below}"),
            )
        return grid

    def _frames(self) -> Text:
        status = self._status
        total = self._session.frames_total
        text = Text(f"{status.seen:,}" + (f" of {total:,}" if total is not None else ""))
        if self._rate is not None:
            text.append(f" · {self._rate:.0f}/s" if self._rate >= 10 else f" · {self._rate:.1f}/s")
        text.append(f" · {status.dropped:,} near-duplicates")
        silence = self._clock() - self._last_frame
        if self._step is None and silence > _SILENCE_S:
            text.append(f" · no frame for {silence:.0f} s", "yellow")
        return text

    def _burst(self, bar: int) -> RenderableType:
        if self._step is None:
            return Text("waits for a full window", "dim")
        step, steps = self._step
        return _bar(step, steps, bar, f"step {step} of {steps}")

    def _chart(self, width: int, height: int) -> Text:
        columns = [
            Column(estimate.accuracy, estimate.true_accuracy, _colour(estimate, alarmed))
            for _, estimate, alarmed in self._estimates
        ]
        if all(column.accuracy is None for column in columns):
            return Text(
                "No accuracy: the bundle has no calibration, see `edgewf calibrate --help`.",
                "yellow",
            )
        alert = self._session.alert
        return accuracy_chart(
            columns,
            width=width,
            height=height,
            threshold=None if alert is None else alert.threshold_percent,
        )

    def _table(self, width: int, rows: int) -> Table:
        names = ["time", "frame", "accuracy", "90 % interval", "true", "w. flips", "confidence"]
        if width < 76:
            names = ["time", "accuracy", "90 % interval", "true"]
        if all(estimate.true_accuracy is None for _, estimate, _ in self._estimates):
            names.remove("true")
        table = Table(
            box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim"
        )
        for name in names:
            table.add_column(name, justify="left" if name == "time" else "right", no_wrap=True)
        wide = width >= 100
        table.add_column("flags" if wide else "", no_wrap=True, overflow="ellipsis", ratio=1)
        for seen, estimate, alarmed in self._estimates[-rows:]:
            cells = _cells(seen, estimate, _colour(estimate, alarmed))
            flags = _printable("; ".join(estimate.flags)) if wide else "!" * bool(estimate.flags)
            table.add_row(*(cells[name] for name in names), Text(flags, "yellow"))
        return table


def _cells(seen: int, estimate: Estimate, colour: str) -> dict[str, Text]:
    low, high = estimate.interval or (None, None)
    return {
        "time": Text(f"{datetime.fromtimestamp(estimate.time):%H:%M:%S}"),
        "frame": Text(f"{seen:,}"),
        "accuracy": Text(_percent(estimate.accuracy), f"bold {colour}"),
        "90 % interval": Text("-" if low is None else f"{low:.1f} to {high:.1f}"),
        "true": Text(_percent(estimate.true_accuracy)),
        "w. flips": Text(f"{estimate.weighted_flips:.1f}"),
        "confidence": Text(_percent(estimate.average_confidence)),
    }


def _bar(done: int, of: int, width: int, words: str) -> Table:
    row = Table.grid(padding=(0, 2))
    row.add_row(ProgressBar(total=of, completed=done, width=width), Text(words))
    return row


def _colour(estimate: Estimate, alarmed: bool) -> str:
    if alarmed:
        return "red"
    return "yellow" if estimate.flags else "green"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} %"


def _printable(text: str) -> str:
    """Keep names from moving the cursor: a bundle or a file may be called anything."""
    return "".join(c if c.isprintable() else "?" for c in text)
