"""A monitor that is well, and an estimate of it."""

from __future__ import annotations

from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.stream.health import SourceHealth

WELL = Health(
    time=1790000000.0,
    source=SourceHealth(
        state="live",
        frames=260,
        dropped=0,
        decode_errors=0,
        reconnects=0,
        frozen=False,
        black=False,
        last_frame=1790000000.0,
        message="",
    ),
    seen=260,
    kept=250,
    dropped=10,
    filled=0,
    bursts=1,
    burst_failures=0,
    last_burst_seconds=20.0,
    duty=0.1,
    temperature=None,
    throttled=None,
    power_mode=None,
    memory_bytes=300_000_000,
    problems=(),
)

ESTIMATE = Estimate(
    accuracy=70.0,
    interval=(62.5, 77.5),
    weighted_flips=30.25,
    flips=50.0,
    selected_share=1.0,
    frames=250,
    steps=10,
    average_confidence=66.0,
    flags=(),
    model="efficientnet_lite0",
    time=1790000000.0,
    source="demo",
    engine="onnxruntime",
    estimator="combined",
    scores={"soft_agreement_tempered": 0.875, "certainty": 0.5, "atc_confidence": 0.75},
)
