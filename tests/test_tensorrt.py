"""NVIDIA's parser and builder on our graphs: TensorRT for RTX does both without a GPU."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import onnx
import pytest
from click.testing import CliRunner, Result
from torch import nn

from edgewf.bundle import GRAPHS, Bundle
from edgewf.cli import main
from edgewf.engines import tensorrt_builder
from edgewf.engines.tensorrt_builder import Batches, PlanBuilder
from edgewf.errors import EdgewfError
from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source
from tests.tiny import export_tiny

BUILT = ("efficientnet_lite0", "resnet18")
# With test_architectures.py's, whose graphs it parses as well, the networks of benchmarks/tensorrt.
PARSED = ("resnet50", "mobilenet_v3_large", "shufflenet_v2_x1_0")
BATCHES = Batches(1, 16, 64)


@pytest.fixture(scope="module")
def builder() -> PlanBuilder:
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (`make test` tries to)"
    )
    return PlanBuilder()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("tensorrt"))


def dilated_pool() -> nn.Module:
    """A network that starts with what TensorRT does not have."""
    return nn.Sequential(
        nn.MaxPool2d(2, 1, dilation=2),
        nn.Conv2d(3, 8, 3, 2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


@pytest.mark.parametrize("model", BUILT)
def test_forward_and_backward_build_for_any_batch(
    model: str, builder: PlanBuilder, tmp_path: Path
) -> None:
    bundle = export_bundle(load_source(model, weights="none"), tmp_path / model)
    for name in GRAPHS:
        builder.parse(bundle.path(name))
    for name in ("forward.onnx", "backward.onnx"):
        plan = builder.build(bundle.path(name), Batches.of(bundle))
        assert len(plan.data) > bundle.path(name).stat().st_size


@pytest.mark.parametrize("model", PARSED)
def test_every_graph_parses(model: str, builder: PlanBuilder, tmp_path: Path) -> None:
    source = load_source(model, weights="none")
    for precision in ("fp32", "fp16"):
        bundle = export_bundle(source, tmp_path / precision, precision=precision)
        for name in GRAPHS:
            network, _ = builder.parse(bundle.path(name))
            graph = onnx.load(bundle.path(name), load_external_data=False).graph
            for index, value in enumerate(graph.input):
                dims = value.type.tensor_type.shape.dim
                shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
                assert tuple(network.get_input(index).shape) == shape, (name, value.name)


def test_fp16_builds(builder: PlanBuilder, tmp_path: Path) -> None:
    bundle = export_tiny(tmp_path, precision="fp16")
    for name in GRAPHS:
        builder.build(bundle.path(name), BATCHES)


def test_batches_reach_the_bursts(tiny: Bundle) -> None:
    usual = tiny.manifest.burst.batch_size
    assert Batches.of(tiny) == Batches(1, usual, 64)


def graph(path: Path, nodes: list[onnx.NodeProto], outputs: list[tuple[str, int]]) -> Path:
    """Write a graph of x [B, 3, 8, 8] to `path`."""
    helper = onnx.helper
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("B", 3, 8, 8))
    shape = helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [20, 192])
    values = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs]
    made = helper.make_graph(nodes, "g", [x], values, [shape])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_parser_refusal_names_node_operator_and_reason(
    builder: PlanBuilder, tmp_path: Path
) -> None:
    pool = onnx.helper.make_node(
        "MaxPool", ["x"], ["y", "i"], "pool_1", kernel_shape=[2, 2], strides=[2, 2]
    )
    kinds = [("y", onnx.TensorProto.FLOAT), ("i", onnx.TensorProto.INT64)]
    path = graph(tmp_path / "pool.onnx", [pool], kinds)
    with pytest.raises(
        EdgewfError, match=r"pool\.onnx: TensorRT .* refuses node pool_1 \(MaxPool\): .*outputs"
    ):
        builder.build(path, BATCHES)


def test_builder_refusal_names_node_and_reason(builder: PlanBuilder, tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["a"], "relu_0"),
        onnx.helper.make_node("Reshape", ["a", "shape"], ["y"], "reshape_0"),
    ]
    path = graph(tmp_path / "fixed.onnx", nodes, [("y", onnx.TensorProto.FLOAT)])
    builder.parse(path)
    with pytest.raises(EdgewfError, match=r"refuses node reshape_0: .*reshape would change volume"):
        builder.build(path, BATCHES)


@pytest.mark.parametrize("taken_by", [threading.main_thread, threading.current_thread])
def test_an_interrupt_ends_the_build(
    builder: PlanBuilder, tiny: Bundle, monkeypatch: pytest.MonkeyPatch, taken_by: Any
) -> None:
    """Whichever thread takes the signal: one that is not waiting leaves the wait undisturbed."""
    plain = tensorrt_builder._monitor

    def interrupting(trt: Any) -> Any:
        class Monitor(type(plain(trt))):
            def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
                if parent is None:
                    signal.pthread_kill(taken_by().ident, signal.SIGINT)
                    end = time.monotonic() + 20
                    while not self.cancelled and time.monotonic() < end:
                        time.sleep(0.01)

        return Monitor()

    with monkeypatch.context() as patch:
        patch.setattr(tensorrt_builder, "_monitor", interrupting)
        with pytest.raises(KeyboardInterrupt):
            builder.build(tiny.path("backward.onnx"), BATCHES)
    assert "cancel" in builder._log.complaints[-1].lower()
    builder.build(tiny.path("backward.onnx"), BATCHES)


def test_an_interrupt_at_the_start_leaves_no_build_running(
    builder: PlanBuilder, tiny: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, start = tensorrt_builder._monitor, threading.Thread.start
    begun: list[str] = []

    def slow(trt: Any) -> Any:
        class Monitor(type(plain(trt))):
            def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
                begun.append(phase)
                time.sleep(0.5)

        return Monitor()

    def interrupted(thread: threading.Thread) -> NoReturn:
        start(thread)
        time.sleep(0.2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tensorrt_builder, "_monitor", slow)
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            builder.build(tiny.path("backward.onnx"), BATCHES)
        assert not begun or "cancel" in builder._log.complaints[-1].lower()


def export(model: str, folder: Path) -> Result:
    command = f"export --model {model} --weights none --image-size 32 --check tensorrt --output"
    return CliRunner().invoke(main, [*command.split(), str(folder)])


def test_check_shows_every_graph(builder: PlanBuilder, tmp_path: Path) -> None:
    result = export("tests.tiny:network", tmp_path / "bundle")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    for name in GRAPHS:
        rows = [x.split() for x in result.stderr.splitlines() if x.split()[:1] == [name]]
        assert rows[-1][-1] == "builds", name


def test_check_reports_the_node_and_keeps_the_bundle(builder: PlanBuilder, tmp_path: Path) -> None:
    result = export("tests.test_tensorrt:dilated_pool", tmp_path / "bundle")
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert "infer.onnx: TensorRT" in last
    assert "(MaxPool): " in last
    assert "dilations" in last
    rows = [x.split() for x in result.stderr.splitlines() if x.split()[:1] == ["backward.onnx"]]
    assert rows[-1][-1] == "builds"
    Bundle.load(tmp_path / "bundle")


def test_check_without_a_module_fails_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_builder, "MODULES", ("tensorrt_that_nobody_has",))
    result = export("tests.tiny:network", tmp_path / "bundle")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "no TensorRT module is installed: pip install 'edgewf[trt]'" in line
    assert "tensorrt-rtx-cu13-bindings" in line
    assert not (tmp_path / "bundle").exists()


def test_a_module_that_cannot_build_here_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt_of_no_use.py").write_text("raise OSError('libnvinfer.so.10: missing')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tensorrt_builder, "MODULES", ("tensorrt_of_no_use",))
    with pytest.raises(EdgewfError, match=r"tensorrt_of_no_use: libnvinfer\.so\.10: missing.*GPU"):
        PlanBuilder()
