"""Weights come in many wrappings; those that do not fit say how."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgewf.errors import EdgewfError
from edgewf.export.checkpoint import load_weights
from edgewf.export.sources.registry import load_source
from edgewf.export.torch_module import fingerprint
from tests import nets
from tests.refusals import SIZE, refused


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """The weights of tests.nets:tiny, but for other ones in the linear layer."""
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


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the same network that nobody should load."""
    return {key: torch.zeros_like(value) for key, value in state.items()}


State = dict[str, Tensor]

WRAPPINGS: dict[str, Callable[[State], object]] = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda s: {"model_state_dict": s, "loss": torch.tensor(0.5)},
    "net": lambda s: {"net": s, "acc": 93.1},
    "data parallel": lambda s: prefixed(s, "module."),
    "data parallel in state_dict": lambda s: {"state_dict": prefixed(s, "module.")},
    "data parallel in parts": lambda s: {k.replace("conv.", "conv.module."): s[k] for k in s},
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled in parts": lambda s: {k.replace("norm.", "norm._orig_mod."): s[k] for k in s},
    "compiled data parallel": lambda s: prefixed(s, "_orig_mod.module."),
    "Lightning": lambda s: {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**prefixed(s, "model."), "criterion.weight": torch.ones(4)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(4)}}}],
    },
    "Lightning, another attribute": lambda s: {"state_dict": prefixed(s, "classifier.net.")},
    "with arguments": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, amp=True)},
    "with a score": lambda s: {"state_dict": s, "best": np.float64(0.93)},
    "without counters": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
}

AVERAGES: dict[str, tuple[str, Callable[[State], object]]] = {
    "timm": ("state_dict_ema", lambda s: {"state_dict": other(s), "state_dict_ema": s}),
    "torchvision": (
        "model_ema",
        lambda s: {
            "model": other(s),
            "model_ema": {**prefixed(s, "module."), "n_averaged": torch.tensor(9)},
        },
    ),
    "ema": ("ema", lambda s: {"ema": s, "model": other(s)}),
    "Lightning": (
        "ema",
        lambda s: {"state_dict": {**prefixed(other(s), "model."), **prefixed(s, "ema.module.")}},
    ),
}


def assert_loaded(module: nn.Module, expected: State) -> None:
    loaded = module.state_dict()
    assert loaded.keys() == {*expected, "norm.num_batches_tracked"}
    for name, value in expected.items():
        assert torch.equal(loaded[name], value), name


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(trained: State, tmp_path: Path, wrapping: str) -> None:
    path = save(WRAPPINGS[wrapping](trained), tmp_path / "weights.pth")
    module = nets.tiny()
    assert load_weights(module, path, "tiny") == path
    assert_loaded(module, {k: v for k, v in trained.items() if "num_batches" not in k})


@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_is_taken_first_and_named(trained: State, tmp_path: Path, kind: str) -> None:
    key, wrap = AVERAGES[kind]
    path = save(wrap(trained), tmp_path / "weights.pth")
    module = nets.tiny()
    assert load_weights(module, path, "tiny") == f"{path} ({key})"
    assert_loaded(module, trained)


def test_safetensors(trained: State, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "weights.bin"  # its content counts
    safetensors.save_file(prefixed(trained, "module."), path)
    module = nets.tiny()
    assert load_weights(module, str(path), "tiny") == str(path)
    assert_loaded(module, trained)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(EdgewfError, match="not a readable safetensors file"):
        load_weights(module, str(path), "tiny")


def test_origin_and_graph_are_those_of_the_file(trained: State, tmp_path: Path) -> None:
    path = save({"state_dict": other(trained), "ema": trained}, tmp_path / "weights.pth")
    source = load_source("tests.nets:tiny", weights=path, image_size=SIZE)
    assert source.origin == f"tests.nets:tiny, {path} (ema)"
    tensors = [value.const_value for value in source.graph.graph.initializers.values()]
    stored = {tensor.tobytes() for tensor in tensors if tensor is not None}
    for name in ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "fc.bias"):
        assert trained[name].numpy().tobytes() in stored, name


def test_another_number_of_classes(trained: State, tmp_path: Path) -> None:
    state = {**trained, "fc.weight": torch.zeros(7, 8), "fc.bias": torch.zeros(7)}
    path = save({"model": prefixed(state, "module.")}, tmp_path / "weights.pth")
    refused(
        f"{path}: does not fit tests.nets:tiny: its fc has 7 classes, the model was built with 4",
        "--classes 7",
        model="tests.nets:tiny",
        weights=path,
    )


def test_fingerprint_does_not_depend_on_the_export(
    trained: dict[str, Tensor], tmp_path: Path
) -> None:
    own = load_source("tests.nets:tiny", image_size=SIZE).fingerprint
    assert own == load_source("tests.nets:tiny", image_size=48).fingerprint
    path = save({"state_dict": trained}, tmp_path / "weights.pth")
    found = load_source("tests.nets:tiny", weights=path, image_size=SIZE).fingerprint
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
    message = refused(
        f"{path}: does not fit tests.nets:tiny", what, model="tests.nets:tiny", weights=path
    )
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
    for model in ("tests.nets:tiny", "resnet18", "efficientnet_lite0"):
        refused(f"{path}: ", what, model=model, weights=str(path), classes=4)


def test_checkpoint_without_a_state_dict(tmp_path: Path) -> None:
    path = save([torch.zeros(3)], tmp_path / "weights.pth")
    refused(
        f"{path}: holds no state dict",
        "torch.save(model.state_dict(), FILE)",
        model="tests.nets:tiny",
        weights=path,
    )


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m, "epoch": 3}])
def test_checkpoint_runs_no_code(tmp_path: Path, wrap: Callable[[nn.Module], object]) -> None:
    """A pickled module could do anything when it is loaded."""
    path = save(wrap(nets.tiny()), tmp_path / "module.pth")
    refused(
        f"{path}: ",
        "without running code",
        "tests.nets.Classifier",
        "torch.save(model.state_dict(), FILE)",
        model="tests.nets:tiny",
        weights=path,
    )
