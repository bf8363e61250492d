"""The streams that the benchmark of the sampler shows, and its table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("imagecorruptions", reason="the benchmarks' corruptions are not installed")

from benchmarks.stream.sampler import BALANCED, LAST, PLAIN, SHUFFLED, Judged, main, rows_of
from benchmarks.stream.scenes import scenes

LABELS = np.repeat(np.arange(4), 25)
PICTURES = np.random.default_rng(0).integers(0, 256, (100, 24, 24, 3), np.uint8)
EVEN, UNEVEN, PAN = scenes(LABELS, 40)


def test_classes_come_one_after_the_other() -> None:
    for scene, rounds in ((EVEN, 3), (UNEVEN, 3), (PAN, 2)):
        shown = LABELS[scene.shown]
        assert (np.diff(shown) < 0).sum() == rounds - 1
    assert set(np.bincount(LABELS[EVEN.shown])) == {150}
    counts = np.bincount(LABELS[UNEVEN.shown])
    assert counts.max() == pytest.approx(4 * counts.min(), rel=0.05)


def test_a_pan_moves_by_parts_of_a_pixel() -> None:
    frames = PAN.frames(PICTURES).astype(float)
    assert frames.shape == (2 * 20 * 15, 24, 24, 3)
    same = PAN.shown[1:] == PAN.shown[:-1]
    steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert (steps[same] > 0).all()
    assert steps[same].mean() < 0.8 * steps[~same].mean()


def test_errors_are_set_against_those_of_shuffled_frames() -> None:
    def judged(*errors: float) -> list[Judged]:
        return [Judged(50 + error, 50, 4, 40, 40) for error in errors]

    ways = {SHUFFLED: judged(1, -3), LAST: judged(-8), PLAIN: judged(3), BALANCED: judged(-2, 2)}
    rows = {(x["scene"], x["way"]): x for x in rows_of({"pan/clean/0": ways})}
    assert rows["pan", LAST]["ratio"] == 4
    assert rows["all", BALANCED]["mae"] == 2
    assert (rows["pan", SHUFFLED]["bias"], rows["pan", SHUFFLED]["worst"]) == (-1, -3)


def test_no_bundle_is_refused_in_a_line(tmp_path: Path) -> None:
    folders = ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(main, ["--bundle", str(tmp_path), "--data", str(tmp_path), *folders])
    assert done.exit_code == 2
    assert done.stderr == f"edgewf: {tmp_path} is no bundle: it has no manifest.json\n"
    assert list(tmp_path.iterdir()) == []
