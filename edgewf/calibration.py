"""Windows of known accuracy that estimators are fitted to, and what they are valid for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgewf.bundle import CALIBRATION, FISHER, Bundle, Manifest, content_hash, write_text
from edgewf.errors import EdgewfError
from edgewf.estimators import DEFAULT, WITHOUT_STEPS, scores_of
from edgewf.estimators.fitted import Fitted, fit
from edgewf.estimators.table import References
from edgewf.fisher import fisher_hash
from edgewf.settings import BurstSettings

FORMAT_VERSION = 3


@dataclass(frozen=True)
class Point:
    """One calibration window: what the burst saw and what was true.

    Attributes:
        shift, severity: the corruption, see `edgewf.shifts`.
        window: which set of images, from 0.
        accuracy: percent of the window that the deployed network classifies correctly.
        scores: all of `edgewf.estimators.table`, by key.
    """

    shift: str
    severity: int
    window: int
    accuracy: float
    scores: dict[str, float]

    @property
    def key(self) -> tuple[str, int, int]:
        """What makes the point unique within a calibration."""
        return self.shift, self.severity, self.window


def fit_points(name: str, points: Sequence[Point]) -> Fitted:
    """Fit an estimator to points, see `edgewf.estimators.fitted.fit`."""
    shifts, accuracies = [p.shift for p in points], [p.accuracy for p in points]
    return fit(name, [p.scores for p in points], accuracies, shifts)


@dataclass(frozen=True)
class Calibration:
    """Points together with everything they are valid for.

    Attributes:
        model, fingerprint, preprocessing: of the bundle they were measured on.
        settings: of their bursts; another setting needs other points.
        points: the windows that estimators are fitted to.
        references: what scores know of the clean ones.
        description: where the images came from, in words.
        engine: name of the one that finished it; it is valid on every other.
        fisher: SHA-256 of the Fisher information that eata's bursts used; None for others.
    """

    model: str
    fingerprint: str
    preprocessing: dict[str, Any]
    settings: BurstSettings
    points: tuple[Point, ...]
    references: References
    description: str
    engine: str
    fisher: str | None = None

    @classmethod
    def from_points(
        cls,
        manifest: Manifest,
        settings: BurstSettings,
        points: Sequence[Point],
        references: References,
        description: str,
        engine: str,
        fisher: str | None = None,
    ) -> Calibration:
        """Keep the points of a model; refuses those that fix no curve."""
        calibration = cls(
            model=manifest.model,
            fingerprint=manifest.fingerprint,
            preprocessing=manifest.preprocessing.to_json(),
            settings=settings,
            points=tuple(points),
            references=references,
            description=description,
            engine=engine,
            fisher=fisher,
        )
        calibration.estimator()
        return calibration

    def estimator(self, name: str = DEFAULT) -> Fitted:
        """Fit an estimator to the points.

        Args:
            name: see `edgewf.estimators.known`.

        Raises:
            EdgewfError: an unknown name, or points that fix no curve.
        """
        return fit_points(name, self.points)

    def error_without_steps(self) -> float | None:
        """Return the residual_std that the default would have without the bursts' steps, points.

        To be held against that of `estimator()`: where it is no larger, the steps are not worth
        their time. None where bursts have no steps, or a version calibrated that did not look.
        """
        if not self.settings.steps or any(
            key not in point.scores for point in self.points for key in scores_of(WITHOUT_STEPS)
        ):
            return None
        return self.estimator(WITHOUT_STEPS).curve.residual_std

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
            "references": self.references.to_json(),
            "points": [asdict(p) for p in self.points],
        }
        if self.fisher is not None:
            payload["fisher"] = self.fisher
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
        if calibration.fisher is not None and fisher_hash(bundle) != calibration.fisher:
            raise EdgewfError(
                f"{path}: made with other Fisher information than {bundle.path(FISHER)} holds: run "
                "`edgewf calibrate` with --objective eata again"
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
                references=References(**record["references"]),
                description=record["description"],
                engine=record["engine"],
                fisher=record.get("fisher"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EdgewfError(
                f"{name}: damaged calibration ({error}): delete it and run `edgewf calibrate`"
            ) from error
