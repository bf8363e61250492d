"""A calibration's file: what it says and what it refuses."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from edgewf.bundle import CALIBRATION, Bundle
from edgewf.calibration import Calibration, Point
from edgewf.errors import EdgewfError
from edgewf.estimators.quadratic import Quadratic
from edgewf.estimators.table import KEYS, References
from edgewf.report import calibration_report
from tests.tiny import USED, export_tiny, tiny_settings

SETTINGS = tiny_settings()
KNOWN = References(1.5, {"atc_entropy": {"threshold": -0.25}})


def points(curve: Callable[[float], float], count: int = 9) -> tuple[Point, ...]:
    """Windows that lie on a curve."""
    xs = np.linspace(10, 200, count)
    return tuple(
        Point(
            *("spatter", i % 5, i // 5, curve(x)),
            {
                **dict.fromkeys(KEYS, 0.5),
                "weighted_flips": float(x),
                "flips": 2 * float(x),
                **dict.fromkeys(USED, 1 - float(x) / 400),
            },
        )
        for i, x in enumerate(xs)
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("calibration"))


@pytest.fixture
def calibration(bundle: Bundle) -> Calibration:
    falling = points(lambda x: 90 - 0.3 * x + 2e-4 * x**2)
    return Calibration.from_points(
        bundle.manifest, SETTINGS, falling, KNOWN, "by hand", "onnxruntime"
    )


def test_estimators_are_fitted_to_the_points(calibration: Calibration) -> None:
    paper = calibration.estimator("weighted-flips")
    assert isinstance(paper.curve, Quadratic)
    assert (paper.curve.a, paper.curve.b, paper.curve.c) == pytest.approx((2e-4, -0.3, 90.0))
    assert (paper.curve.low, paper.curve.high) == (10.0, 200.0)
    assert calibration.estimator().name == "combined"
    with pytest.raises(EdgewfError, match="unknown estimator 'guess': use combined, combined-zero"):
        calibration.estimator("guess")
    assert calibration.settings == SETTINGS
    assert [p.key for p in calibration.points[4:6]] == [("spatter", 4, 0), ("spatter", 0, 1)]


@pytest.mark.parametrize(
    ("before", "advice"),
    [(0.5, "the steps are worth their time"), (None, "with --steps 0 would do")],
    ids=["only the steps tell", "the steps tell nothing"],
)
def test_a_calibration_says_what_the_steps_are_worth(
    before: float | None, advice: str, calibration: Calibration
) -> None:
    noise = np.random.default_rng(0).normal(0, 1, 9)
    told = []
    for point, off in zip(calibration.points, noise, strict=True):
        after = (point.accuracy + off) / 100
        agreement = {
            "soft_agreement_tempered": after,
            "soft_agreement_zero_step_tempered": after if before is None else before,
        }
        nothing = {"certainty": 0.5, "atc_confidence": 0.5 - off / 10}
        told.append(replace(point, scores={**point.scores, **nothing, **agreement}))
    judged = replace(calibration, points=tuple(told))
    error, without = judged.estimator().curve.residual_std, judged.error_without_steps()
    assert without is not None
    assert error < 2
    assert without == pytest.approx(error) if before is None else without > 10 * error
    shown = Console(width=200, record=True, file=io.StringIO())
    shown.print(calibration_report(judged))
    assert re.search(rf"without steps +{without:.2f} points, so .*{advice}", shown.export_text())


def test_where_no_steps_are_left_out_nothing_is_said_of_them(calibration: Calibration) -> None:
    still = replace(calibration, settings=SETTINGS.with_changes(steps=0))
    assert still.error_without_steps() is None
    older = tuple(
        replace(p, scores={k: v for k, v in p.scores.items() if "agreement_zero_step" not in k})
        for p in calibration.points
    )
    assert replace(calibration, points=older).error_without_steps() is None
    shown = Console(width=200, record=True, file=io.StringIO())
    shown.print(calibration_report(still))
    assert "without steps" not in shown.export_text()


def test_the_calibration_that_comes_along_has_every_score() -> None:
    name = "efficientnet_lite0.calibration.json"
    text = resources.files("edgewf").joinpath("data", name).read_text(encoding="utf-8")
    found = Calibration.from_text(text, name)
    assert len(found.points) == 21
    for point in found.points:
        assert set(point.scores) == set(KEYS)
    assert found.error_without_steps() is not None


def test_text_round_trip(calibration: Calibration) -> None:
    odd = replace(calibration, description='Ümläuts, "quotes" and\nlines')
    back = Calibration.from_text(odd.to_text(), "there")
    assert back.points == odd.points
    assert back.references == KNOWN
    assert back.settings == odd.settings
    assert back.description == odd.description
    assert back.to_text() == odd.to_text()


def test_written_into_a_bundle_and_found_there(bundle: Bundle, calibration: Calibration) -> None:
    assert Calibration.of(bundle) is None
    try:
        calibration.write(bundle.folder)
        found = Calibration.of(bundle)
        assert found is not None
        assert found.to_text() == calibration.to_text()
        found.check(bundle.manifest, SETTINGS)
        assert [p.name for p in bundle.folder.iterdir() if p.name.startswith(".")] == []
    finally:
        bundle.path(CALIBRATION).unlink()


def damage_number(text: str) -> str:
    record = json.loads(text)
    record["points"][0]["scores"]["certainty"] += 0.25
    return json.dumps(record)


def damage_point(text: str) -> str:
    record = json.loads(text)
    record["points"][3]["accuracy"] = 99.0
    return json.dumps(record)


def drop_settings(text: str) -> str:
    record = json.loads(text)
    del record["settings"]
    return json.dumps(record)


DAMAGE: dict[str, Callable[[str], str]] = {
    "edited f": damage_number,
    "edited point": damage_point,
    "no settings": drop_settings,
    "empty": lambda text: "",
    "list": lambda text: "[1, 2]",
    "string": lambda text: '"calibration"',
    "no hash": lambda text: json.dumps({"format_version": 1}),
    "null": lambda text: "null",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_with_the_file_and_the_fix(calibration: Calibration, name: str) -> None:
    with pytest.raises(EdgewfError, match=r"^here\.json: damaged calibration.*edgewf calibrate"):
        Calibration.from_text(DAMAGE[name](calibration.to_text()), "here.json")


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=30, deadline=None)
def test_a_text_cut_anywhere_is_refused(share: float) -> None:
    preprocessing: dict[str, Any] = {"image_size": 32}
    calibration = Calibration(
        "m", "ab" * 32, preprocessing, SETTINGS, points(lambda x: 50), KNOWN, "here", "e"
    )
    text = calibration.to_text().rstrip()
    with pytest.raises(EdgewfError, match="damaged"):
        Calibration.from_text(text[: int(share * len(text))], "here.json")


def test_another_format_is_refused(calibration: Calibration) -> None:
    record = json.loads(calibration.to_text())
    record["format_version"] = 99
    with pytest.raises(EdgewfError, match=r"^here\.json: calibration format 99, this edgewf reads"):
        Calibration.from_text(json.dumps(record), "here.json")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00garbage", b"\x80" * 40, b""])
def test_a_damaged_file_in_a_bundle_is_named(bundle: Bundle, content: bytes) -> None:
    path = bundle.path(CALIBRATION)
    path.write_bytes(content)
    try:
        with pytest.raises(EdgewfError, match="damaged calibration") as error:
            Calibration.of(bundle)
        assert str(path) in str(error.value)
    finally:
        path.unlink()


def test_another_models_calibration_in_a_bundle_is_refused(
    bundle: Bundle, calibration: Calibration
) -> None:
    path = bundle.path(CALIBRATION)
    replace(calibration, model="other", fingerprint="f" * 64).write(bundle.folder)
    try:
        with pytest.raises(EdgewfError, match="made for other with weights ffffffffffff") as error:
            Calibration.of(bundle)
        assert str(path) in str(error.value)
    finally:
        path.unlink()


def test_other_preprocessing_is_another_model(bundle: Bundle, calibration: Calibration) -> None:
    manifest = bundle.manifest
    other = replace(manifest, preprocessing=replace(manifest.preprocessing, resize=48))
    assert calibration.fits(manifest)
    assert not calibration.fits(other)
    with pytest.raises(EdgewfError, match="its preprocessing differs"):
        calibration.check(other, SETTINGS)


@pytest.mark.parametrize(
    ("change", "value"),
    [("steps", 3), ("batch_size", 4), ("window", 24), ("learning_rate", 0.1), ("momentum", 0.5)],
)
def test_another_burst_is_refused(
    bundle: Bundle, calibration: Calibration, change: str, value: float
) -> None:
    changed = SETTINGS.with_changes(**{change: value})
    with pytest.raises(EdgewfError, match=rf"other burst settings \({change} .* against {value}\)"):
        calibration.check(bundle.manifest, changed)


def test_only_the_seed_may_differ(bundle: Bundle, calibration: Calibration) -> None:
    calibration.check(bundle.manifest, SETTINGS.with_changes(seed=17))


def test_an_interrupted_write_keeps_the_old_calibration(
    bundle: Bundle, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration.write(tmp_path)
    old = (tmp_path / CALIBRATION).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace(calibration, description="new").write(tmp_path)
    assert (tmp_path / CALIBRATION).read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == [CALIBRATION]
