"""Labels of the last pass: those under the parameters that each step began with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.accuracy.last_pass import last_pass
from edgewf.burst import step_batches
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from tests.tiny import crops, export_tiny, tiny_settings


def test_every_frame_has_the_logits_that_its_last_step_saw(tmp_path: Path) -> None:
    engine = OnnxRuntimeCPU(export_tiny(tmp_path), threads=1)
    images, _ = crops(8, seed=3)
    settings = tiny_settings().with_changes(
        window=len(images), batch_size=16, steps=6, learning_rate=0.1
    )
    told: list[int] = []
    record = last_pass(engine, images, settings, lambda done, _: told.append(done))
    assert told[-1] == 3 + 6 + 3
    engine.reset(settings)
    expected = np.full_like(record.after.logits, np.nan)
    for batch in step_batches(len(images), settings):
        expected[batch] = engine.features(images[batch]).logits
        engine.step(images[batch])
    np.testing.assert_allclose(record.after.logits, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(record.after.logits - record.before.logits).max() > 1e-3
    assert record.after.label.tolist() == expected.argmax(axis=1).tolist()
    assert "gradient" not in vars(engine)  # it is as it was
