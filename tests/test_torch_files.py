"""Networks that PyTorch saved with their graph, recognised by content."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from edgewf.bundle import Bundle
from edgewf.cli import main
from edgewf.export.sources.registry import load_source
from edgewf.export.torch_module import fingerprint
from tests import nets
from tests.refusals import SIZE, logits, refused

IMAGES = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


class Dropped(nets.Classifier):
    """With a view that spells out the batch, and dropout."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).relu().mean((2, 3)).view(x.shape[0], -1)
        return self.fc(nn.functional.dropout(y, 0.2, self.training))


class TwoHeads(nets.Classifier):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))
        return y, y.sigmoid()


class Undecided(nets.Classifier):
    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))
        if y.sum() > 0:
            y = -y
        return y


def module() -> nn.Module:
    torch.manual_seed(0)
    return Dropped().eval()


def program(net: nn.Module, path: Path, *, batch: int = 2, dynamic: bool = False) -> Any:
    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    exported = torch.export.export(net, (IMAGES[:batch],), dynamic_shapes=shapes)
    torch.export.save(exported, path)
    return exported


def scripted(net: nn.Module, path: Path, *, freeze: bool = False, traced: bool = False) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if traced:
            script = torch.jit.trace(net, IMAGES[:2], check_trace=False)
        else:
            script = torch.jit.script(net)
        torch.jit.save(torch.jit.freeze(script) if freeze else script, path)


def training(net: nn.Module) -> nn.Module:
    return net.train()


WRITERS: dict[str, Callable[[Path], object]] = {
    "program": lambda path: program(module(), path),
    "program of one image": lambda path: program(module(), path, batch=1),
    "program, any batch": lambda path: program(module(), path, dynamic=True),
    "program, decomposed": lambda path: torch.export.save(
        program(module(), path).run_decompositions(), path
    ),
    "TorchScript": lambda path: scripted(module(), path),
    "TorchScript, saved while training": lambda path: scripted(training(module()), path),
    "TorchScript, traced": lambda path: scripted(module(), path, traced=True),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_logits_and_weights_are_those_of_the_module(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "net.pt"  # a program may be named so, too
    WRITERS[writer](path)
    source = load_source(str(path), image_size=SIZE)
    assert (source.name, source.origin) == ("net", str(path))
    assert source.fingerprint == fingerprint(module().state_dict())
    with torch.no_grad():
        expected = module()(IMAGES).numpy()
    np.testing.assert_allclose(logits(source, IMAGES.numpy()), expected, rtol=1e-4, atol=1e-4)
    kinds = {node.op_type for node in source.graph.graph}
    assert "BatchNormalization" in kinds
    assert not kinds & {"Dropout", "Identity", "Shape"}


@pytest.mark.parametrize(
    ("write", "parts"),
    [
        (
            lambda path: program(training(module()), path),
            ["is in training mode", "torch.export.export(model.eval(), ...)"],
        ),
        (
            lambda path: scripted(training(module()), path, traced=True),
            ["in training mode", "model.eval()"],
        ),
        (
            lambda path: scripted(training(nets.tiny()), path, traced=True),
            ["in training mode", "model.eval()"],
        ),
        (lambda path: scripted(module(), path, freeze=True), ["frozen", "torch.jit.freeze"]),
        (
            lambda path: program(TwoHeads().eval(), path),
            ["the model has 2 outputs (", "[2,4]", "--head NAME"],
        ),
        (lambda path: scripted(Undecided().eval(), path), ["runs a part of the graph on"]),
        (lambda path: scripted(nets.gray().eval(), path), ["to have 1 channels, but got 3"]),
        (lambda path: program(nets.without_norm().eval(), path), ["the model has none"]),
        (
            lambda path: torch.save(module().state_dict(), path),
            ["holds weights and no network", "--weights"],
        ),
        (
            lambda path: torch.save(
                module().state_dict(), path, _use_new_zipfile_serialization=False
            ),
            ["holds weights and no network", "--weights"],
        ),
        (lambda path: path.write_bytes(b"\0" * 100), ["neither a TorchScript", "truncated"]),
    ],
    ids=[
        "program in training",
        "trace in training",
        "trace in training without dropout",
        "frozen",
        "two heads",
        "control flow",
        "gray",
        "no batch norm",
        "weights",
        "old weights",
        "zeros",
    ],
)
def test_refused(tmp_path: Path, write: Callable[[Path], object], parts: list[str]) -> None:
    path = tmp_path / "net.pt"
    write(path)
    message = refused(str(path), *parts, model=str(path))
    assert "\n" not in message


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("writer", ["program", "TorchScript"])
def test_truncated(tmp_path: Path, writer: str, kept: float) -> None:
    path = tmp_path / "net.pt2"
    WRITERS[writer](path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    refused(str(path), "truncated", model=str(path))


def test_damaged(tmp_path: Path) -> None:
    """The archive opens, and what it says is no program."""
    path = tmp_path / "net.pt2"
    WRITERS["program"](path)
    data = path.read_bytes()
    at = data.index(b'"schema_version"')
    path.write_bytes(data[:at] + b"#" * 16 + data[at + 16 :])
    refused(str(path), "not a readable torch.export program", model=str(path))


def test_head_of_several(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    net = TwoHeads().eval()
    exported = program(net, path)
    name = exported.graph_signature.user_outputs[0]
    with torch.no_grad():
        expected = net(IMAGES)[0].numpy()
    found = logits(load_source(str(path), head=name), IMAGES.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_arguments_that_contradict_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    WRITERS["program"](path)
    refused("fixed to 32 pixels, not --image-size 64", model=str(path), image_size=64)
    refused("4 classes, not --classes 5", model=str(path), classes=5)
    refused("holds its own weights: leave --weights none out", model=str(path), weights="none")
    for name in ("nothing.pt2", "nothing.onnx", "folder/nothing.ts"):
        refused(f"--model {name}: no such file", model=name)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--model FILE` names the bundle after the file, and takes ONNX files too."""
    monkeypatch.chdir(tmp_path)
    WRITERS["program"](tmp_path / "mine.pt2")
    data = Path(__file__).parent / "data"
    shutil.copy(data / "paddle.onnx", tmp_path)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    for file, side in (("mine.pt2", SIZE), ("./paddle.onnx", 16)):
        done = CliRunner().invoke(main, ["export", "--model", file, "--labels", "names.txt"])
        assert done.exit_code == 0, done.output
        manifest = Bundle.load(tmp_path / "bundles" / Path(file).stem).manifest
        assert (manifest.origin, manifest.preprocessing.image_size) == (file, side)
        assert [label.name for label in manifest.labels or ()] == list("abcd")
