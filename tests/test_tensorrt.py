"""NVIDIA's parser takes every graph we write. TensorRT for RTX parses without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewf.bundle import GRAPHS
from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source

trt = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (`make test` tries to)"
)


@pytest.mark.parametrize("model", ["efficientnet_lite0", "resnet18"])
def test_parser_accepts_the_graphs(model: str, tmp_path: Path) -> None:
    bundle = export_bundle(load_source(model, weights="none"), tmp_path / model)
    log = trt.Logger(trt.Logger.ERROR)
    for name in GRAPHS:
        network = trt.Builder(log).create_network(0)
        parser = trt.OnnxParser(network, log)
        accepted = parser.parse_from_file(str(bundle.path(name)))
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        assert accepted, f"{name}: {errors}"
        inputs = {network.get_input(i).name for i in range(network.num_inputs)}
        assert inputs, name
