"""From weighted flips to accuracy: the fitted function f, its spread, and what it is valid for.

f is a quadratic fitted by least squares to windows of known accuracy (Press et al., ICML 2024,
section 5.1), held to fall as flips rise: bursts that flip more must never look better.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgewf.bundle import CALIBRATION, Bundle, Manifest, content_hash, write_text
from edgewf.errors import EdgewfError
from edgewf.settings import BurstSettings

FORMAT_VERSION = 1
_Z90 = 1.6448536269514722  # standard normal quantile at 95 %


@dataclass(frozen=True)
class Point:
    """One calibration window: what the burst saw and what was true. Flips are per 1,000 frames.

    Attributes:
        shift, severity: the corruption, see `edgewf.shifts`.
        window: which set of images, from 0.
        accuracy: percent of the window that the deployed network classifies correctly.
        weighted_flips, flips: from the deployed labels.
        weighted_flips_batch, flips_batch: from the labels under batch statistics (the paper's).
        weighted_zero_step, zero_step: from deployed labels to those under batch statistics.
        average_confidence: percent.
        selected_share: 0 to 1.
    """

    shift: str
    severity: int
    window: int
    accuracy: float
    weighted_flips: float
    flips: float
    weighted_flips_batch: float
    flips_batch: float
    weighted_zero_step: float
    zero_step: float
    average_confidence: float
    selected_share: float

    @property
    def key(self) -> tuple[str, int, int]:
        """What makes the point unique within a calibration."""
        return self.shift, self.severity, self.window


@dataclass(frozen=True)
class Quadratic:
    """f(x) = a x^2 + b x + c on [low, high], continued by its tangents outside.

    Attributes:
        a, b, c: coefficients, accuracy in percent.
        low, high: range of x that f was fitted on.
        residual_std: percent; spread of the fitted points around f, corrected for the three
            coefficients.
        points: number of points fitted.
    """

    a: float
    b: float
    c: float
    low: float
    high: float
    residual_std: float
    points: int

    @classmethod
    def fit(cls, x: ArrayLike, y: ArrayLike, *, rising: bool = False) -> Quadratic:
        """Fit by least squares under the constraint that f falls (or rises) on the whole range.

        The constraint is f' <= 0 at both ends, two linear inequalities on a convex problem: the
        free minimum if it satisfies them, else the best of the fits with f' = 0 at one end.

        Raises:
            EdgewfError: fewer than 4 points, or all of them alike.
        """
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if len(x) < 4 or np.ptp(x) == 0:
            raise EdgewfError(
                f"{len(x)} calibration points with {len(np.unique(x))} different values cannot "
                "fix a curve: need at least 4 points that are not all alike"
            )
        sign = 1.0 if rising else -1.0
        low, high = float(x.min()), float(x.max())

        def solve(columns: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.linalg.lstsq(columns, y, rcond=None)[0], np.float64)

        a, b, c = solve(np.stack([x**2, x, np.ones_like(x)], axis=1))
        candidates = [(a, b, c)]
        for end in (low, high):  # a (x - end)^2 + c is flat at `end`
            a, c = solve(np.stack([(x - end) ** 2, np.ones_like(x)], axis=1))
            candidates.append((a, -2 * a * end, a * end**2 + c))
        candidates.append((0.0, 0.0, float(y.mean())))
        tolerance = 1e-9 * (np.ptp(y) + 1) / (high - low)
        feasible = [
            (float(((a * x**2 + b * x + c - y) ** 2).sum()), (float(a), float(b), float(c)))
            for a, b, c in candidates
            if all(sign * (2 * a * end + b) >= -tolerance for end in (low, high))
        ]
        squares, (a, b, c) = min(feasible)
        spread = math.sqrt(squares / (len(x) - 3))
        return cls(a, b, c, low, high, spread, len(x))

    def __call__(self, x: float) -> float:
        """Return f(x) in percent, within 0 and 100."""
        inside = min(max(x, self.low), self.high)
        value = (self.a * inside + self.b) * inside + self.c
        value += (2 * self.a * inside + self.b) * (x - inside)
        return min(max(value, 0.0), 100.0)

    def interval(self, x: float, frames: int) -> tuple[float, float]:
        """Return the 90 % interval (low, high) in percent for an estimate from `frames` frames.

        Two independent errors add: the spread of the calibration windows around f, and the
        binomial error of the window as a sample of what the camera sees. The quantile is
        Student's, to first order in 1 / degrees of freedom.
        """
        estimate = self(x)
        p = estimate / 100
        variance = self.residual_std**2 + 100**2 * p * (1 - p) / frames
        quantile = _Z90 * (1 + (_Z90**2 + 1) / (4 * (self.points - 3)))
        half = quantile * math.sqrt(variance)
        return max(0.0, estimate - half), min(100.0, estimate + half)


@dataclass(frozen=True)
class Calibration:
    """f together with everything it is valid for.

    Attributes:
        model, fingerprint, preprocessing: of the bundle it was fitted on.
        settings: of the bursts it was fitted with; another setting needs another f.
        points: the windows it was fitted to.
        f: accuracy from weighted flips per 1,000 counted from the deployed labels.
        description: where the images came from, in words.
        engine: name of the one that finished it; f is valid on every other.
    """

    model: str
    fingerprint: str
    preprocessing: dict[str, Any]
    settings: BurstSettings
    points: tuple[Point, ...]
    f: Quadratic
    description: str
    engine: str

    @classmethod
    def from_points(
        cls,
        manifest: Manifest,
        settings: BurstSettings,
        points: Sequence[Point],
        description: str,
        engine: str,
    ) -> Calibration:
        """Fit f to the points of a model."""
        f = Quadratic.fit([p.weighted_flips for p in points], [p.accuracy for p in points])
        return cls(
            model=manifest.model,
            fingerprint=manifest.fingerprint,
            preprocessing=manifest.preprocessing.to_json(),
            settings=settings,
            points=tuple(points),
            f=f,
            description=description,
            engine=engine,
        )

    def fits(self, manifest: Manifest) -> bool:
        """Tell whether it was made for this model's weights and preprocessing."""
        return self.fingerprint == manifest.fingerprint and json.loads(
            json.dumps(self.preprocessing)
        ) == json.loads(json.dumps(manifest.preprocessing.to_json()))

    def check(self, manifest: Manifest, settings: BurstSettings) -> None:
        """Refuse to be used for another model or another burst.

        Raises:
            EdgewfError: naming what differs. The seed may differ.
        """
        if not self.fits(manifest):
            raise EdgewfError(
                f"the calibration belongs to {self.model} with weights {self.fingerprint[:12]}, "
                f"this bundle is {manifest.model} with {manifest.fingerprint[:12]} (or its "
                "preprocessing differs): run `edgewf calibrate` on this bundle"
            )
        other = self.settings.with_changes(seed=settings.seed).difference(settings)
        if other:
            raise EdgewfError(
                f"the calibration was made with other burst settings ({'; '.join(other)}): drop "
                "the options, or run `edgewf calibrate` with them"
            )

    def write(self, folder: Path) -> None:
        """Write `calibration.json` atomically into a bundle folder."""
        write_text(folder / CALIBRATION, self.to_text())

    def to_text(self) -> str:
        """Return the file's text, which carries the hash of its content."""
        payload = {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "preprocessing": self.preprocessing,
            "description": self.description,
            "engine": self.engine,
            "settings": self.settings.to_json(),
            "f": asdict(self.f),
            "points": [asdict(p) for p in self.points],
        }
        return json.dumps({"sha256": content_hash(payload), **payload}, indent=1) + "\n"

    @classmethod
    def of(cls, bundle: Bundle) -> Calibration | None:
        """Return the bundle's calibration, None if it has none yet."""
        path = bundle.path(CALIBRATION)
        if not path.exists():
            return None
        # Bytes that are no text become marks that the hash refuses.
        text = path.read_text(encoding="utf-8", errors="replace")
        calibration = cls.from_text(text, str(path))
        if not calibration.fits(bundle.manifest):
            raise EdgewfError(
                f"{path}: made for {calibration.model} with weights "
                f"{calibration.fingerprint[:12]}, not for this bundle's: delete the file and run "
                "`edgewf calibrate`"
            )
        return calibration

    @classmethod
    def from_text(cls, text: str, name: str) -> Calibration:
        """Read the text of a calibration file; `name` is for error messages.

        Raises:
            EdgewfError: damaged, or of another format.
        """
        try:
            record = json.loads(text)
            digest = record.pop("sha256")
            if record["format_version"] != FORMAT_VERSION:
                raise EdgewfError(
                    f"{name}: calibration format {record['format_version']}, this edgewf reads "
                    f"{FORMAT_VERSION}: run `edgewf calibrate` again"
                )
            if digest != content_hash(record):
                raise ValueError("its content does not match its SHA-256")
            return cls(
                model=record["model"],
                fingerprint=record["fingerprint"],
                preprocessing=record["preprocessing"],
                settings=BurstSettings.from_json(record["settings"]),
                points=tuple(Point(**point) for point in record["points"]),
                f=Quadratic(**record["f"]),
                description=record["description"],
                engine=record.get("engine", "onnxruntime"),  # the only one before it was recorded
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EdgewfError(
                f"{name}: damaged calibration ({error}): delete it and run `edgewf calibrate`"
            ) from error
