"""Corrupted windows of the accuracy benchmarks are the same in every run."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy.windows import CORRUPTIONS, PAIRS, shifted
from tests.tiny import crops


@pytest.mark.parametrize("cell", [*((name, 3) for name in CORRUPTIONS), PAIRS[4]])
def test_windows_are_corrupted_alike_in_every_run(cell: tuple[str, int]) -> None:
    images = crops(3, seed=1)[0][:3]
    first = shifted(images, cell, seed=2)
    np.random.seed(0)
    np.random.random(7)
    np.testing.assert_array_equal(shifted(images, cell, seed=2), first)
    assert first.shape == images.shape
    assert (first != images).any(axis=(1, 2, 3)).all()
