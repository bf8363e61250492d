"""One thing to measure: a bundle on an engine, with a batch size and a number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgewf.bundle import Bundle
from edgewf.calibration import Calibration
from edgewf.engines.select import AUTO, CANDIDATES
from edgewf.errors import EdgewfError
from edgewf.settings import BurstSettings

ALL = "all"


@dataclass(frozen=True)
class Case:
    """What a worker measures.

    Attributes:
        bundle: its folder.
        engine: as `--engine` spells it, not "auto".
        threads: of a CPU engine; None leaves it to the runtime.
        settings: of the burst, with a step at least. The objective is tent, which adapts on
            every sample: with a filter that lets nothing pass an engine may leave the backward
            pass out.
        steps: of the estimates to run, each a count.
    """

    bundle: str
    engine: str
    threads: int | None
    settings: BurstSettings
    steps: tuple[int, ...]

    @property
    def name(self) -> str:
        """As tables and progress bars show it."""
        threads = "" if self.threads is None else f", {self.threads} threads"
        return f"{Path(self.bundle).name}, {self.engine}, batch {self.settings.batch_size}{threads}"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "steps": list(self.steps)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Case:
        """Read back what `to_json` wrote."""
        settings = BurstSettings.from_json(record["settings"])
        return cls(**{**record, "settings": settings, "steps": tuple(record["steps"])})


def usual_settings(bundle: Bundle) -> BurstSettings:
    """Return the burst of the bundle's calibration, of its manifest where it has none."""
    calibration = Calibration.of(bundle)
    return bundle.manifest.burst if calibration is None else calibration.settings


def measurable(settings: BurstSettings) -> BurstSettings:
    """Return settings under which a step can be measured, see `Case`."""
    return replace(settings, objective="tent", steps=max(1, settings.steps))


def engines_here(names: Sequence[str]) -> list[str]:
    """Return the engines that names stand for, each once: "auto" the best, "all" all there are.

    Raises:
        EdgewfError: an engine that cannot run here; says what it lacks.
    """
    able = [c for c in CANDIDATES if next(c.lacks(), None) is None]
    found: list[str] = []
    for name in names:
        if name == ALL:
            found += [c.name for c in able]
        elif name == AUTO:
            found.append(next(c.name for c in able if c.automatic))
        else:
            candidate = next(c for c in CANDIDATES if c.name == name)
            lacks = "; ".join(f"{x.what}: {x.fix}" for x in candidate.lacks())
            if lacks:
                raise EdgewfError(f"engine {name} cannot run here: {lacks}; or use --engine {ALL}")
            found.append(name)
    return list(dict.fromkeys(found))


def cases(
    bundles: Sequence[Bundle],
    engines: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int],
    steps: Sequence[int],
    window: int | None,
) -> list[Case]:
    """Return every combination; what is empty or None is as the bundle's calibration has it.

    A window that is no multiple of a batch size becomes the nearest one.

    Raises:
        EdgewfError: settings that no burst can have.
    """
    counts: Sequence[int | None] = threads or [None]
    found = []
    for bundle in bundles:
        base = usual_settings(bundle)
        for batch in batches or [base.batch_size]:
            frames = max(1, round((window or base.window) / batch)) * batch
            settings = measurable(replace(base, batch_size=batch, window=frames))
            found += [
                Case(str(bundle.folder), engine, count, settings, tuple(steps) or (base.steps,))
                for engine in engines
                for count in counts
            ]
    return found
