"""Every objective against the update that its paper describes, written in PyTorch.

The networks are the same and in float64 there, float32 here, so vectors agree to rounding errors;
several steps follow each other, with momentum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgewf import settings as settings_module
from edgewf.bundle import FISHER, Bundle
from edgewf.burst import run_burst
from edgewf.calibrate import calibrate, draw_windows
from edgewf.calibration import Calibration
from edgewf.commands import options
from edgewf.engines import Images
from edgewf.engines.gpu import Gpu
from edgewf.engines.host import HostEngine
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.fisher import estimate_fisher, fisher_hash, keep_fisher
from edgewf.images import labelled_images
from edgewf.settings import OBJECTIVES, BurstSettings
from tests import gpu_on_host
from tests.gpu_on_host import OnHost, Recording
from tests.tiny import _trained, crops, export_tiny, network, tiny_settings, write_class_folders
from tests.truth import batch_norms, prepare, relative

BATCH, STEPS = 24, 4
CLASSES = 6
# Loose enough to admit some of every batch and not all; checked below.
SETTINGS = tiny_settings(
    window=STEPS * BATCH, batch_size=BATCH, steps=STEPS, learning_rate=0.05
).with_changes(entropy_margin=0.5, redundancy_margin=0.75, fisher_weight=1000.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("objectives"))


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> OnnxRuntimeCPU:
    return OnnxRuntimeCPU(bundle, threads=1)


@pytest.fixture(scope="module")
def batches() -> list[Images]:
    images, _ = crops(STEPS * BATCH // CLASSES, seed=11)
    return list(np.random.default_rng(2).permutation(images).reshape(STEPS, BATCH, 32, 32, 3))


class Network:
    """The exported network in float64, under batch statistics."""

    def __init__(self, bundle: Bundle, batches: list[Images]) -> None:
        self.module = network().double().eval()
        self.module.load_state_dict(_trained())
        known = batch_norms(self.module)
        self.layers = [known[name] for name, _ in bundle.manifest.layers]
        for layer in known.values():
            layer.train()
        self.module.requires_grad_(False)
        self.parameters = [p for layer in self.layers for p in (layer.weight, layer.bias)]
        for p in self.parameters:
            p.requires_grad_(True)
        self.start = [p.detach().clone() for p in self.parameters]
        self.inputs = [prepare(bundle.manifest.preprocessing, list(b))[1] for b in batches]

    def restore(self) -> None:
        with torch.no_grad():
            for p, value in zip(self.parameters, self.start, strict=True):
                p.copy_(value)

    @property
    def affine(self) -> np.ndarray:
        return torch.cat([p.detach() for p in self.parameters]).numpy()

    def sgd(self, settings: BurstSettings) -> torch.optim.SGD:
        return torch.optim.SGD(self.parameters, settings.learning_rate, settings.momentum)


def entropy(logits: Tensor) -> Tensor:
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def tent(net: Network, settings: BurstSettings) -> None:
    optimizer = net.sgd(settings)
    for x in net.inputs:
        optimizer.zero_grad()
        entropy(net.module(x)).mean().backward()
        optimizer.step()


def eta(
    net: Network,
    settings: BurstSettings,
    fishers: list[Tensor] | None = None,
    reset_every: int | None = None,
) -> None:
    """EATA's `forward_and_adapt_eata`, and RDumb's reset around it."""
    optimizer = net.sgd(settings)
    mean: Tensor | None = None
    for step, x in enumerate(net.inputs):
        if reset_every is not None and step % reset_every == 0:
            net.restore()
            optimizer, mean = net.sgd(settings), None
        logits = net.module(x)
        h = entropy(logits)
        keep = h < settings.entropy_margin
        if mean is not None:
            p = logits.detach().softmax(1)
            cosine = torch.nn.functional.cosine_similarity(mean[None], p, dim=1)
            keep = keep & (cosine.abs() < settings.redundancy_margin)
        assert 0 < keep.sum() < len(x), "the filters are to admit some, not all"
        loss = (h[keep] / torch.exp(h[keep].detach() - settings.entropy_margin)).mean()
        if fishers is not None:
            for f, p, start in zip(fishers, net.parameters, net.start, strict=True):
                loss = loss + settings.fisher_weight * (f * (p - start) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen = logits.detach().softmax(1)[keep].mean(0)
        mean = seen if mean is None else 0.9 * mean + 0.1 * seen


def fisher_of(net: Network) -> list[Tensor]:
    """EATA's loop over clean images: the gradient of a batch, squared, averaged over batches."""
    total = [torch.zeros_like(p) for p in net.parameters]
    for x in net.inputs:
        logits = net.module(x)
        loss = torch.nn.functional.cross_entropy(logits, logits.argmax(1))
        for t, g in zip(total, torch.autograd.grad(loss, net.parameters), strict=True):
            t += g**2
    return [t / len(net.inputs) for t in total]


def sar(net: Network, settings: BurstSettings, recovery: float, rho: float = 0.05) -> int:
    """SAR's `forward_and_adapt_sar` with its SAM optimiser; returns how often it started again."""
    optimizer = net.sgd(settings)
    ema: float | None = None
    restarts = 0
    for x in net.inputs:
        optimizer.zero_grad()
        h = entropy(net.module(x))
        first = h < settings.entropy_margin
        assert 0 < first.sum() < len(x), "the filter is to admit some, not all"
        h[first].mean().backward()
        norm = torch.stack([p.grad.norm() for p in net.parameters]).norm()
        home = [p.detach().clone() for p in net.parameters]
        with torch.no_grad():
            for p in net.parameters:
                p += p.grad * (rho / (norm + 1e-12))
        optimizer.zero_grad()
        h = entropy(net.module(x))[first]
        loss = h[h < settings.entropy_margin].mean()
        ema = loss.item() if ema is None else 0.9 * ema + 0.1 * loss.item()
        loss.backward()
        with torch.no_grad():
            for p, value in zip(net.parameters, home, strict=True):
                p.copy_(value)
        optimizer.step()
        if ema < recovery:
            net.restore()
            optimizer = net.sgd(settings)
            restarts += 1
    return restarts


def adapted(engine: HostEngine, batches: list[Images], settings: BurstSettings) -> np.ndarray:
    engine.reset(settings)
    for batch in batches:
        engine.step(batch)
    assert all(trace.moved for trace in engine.read().steps)
    return engine.affine.copy()


def agrees(bundle: Bundle, found: np.ndarray, expected: np.ndarray) -> None:
    """Compare the ways, not the ends: the deployed vector is most of both."""
    moved = found - bundle.affine
    assert np.linalg.norm(moved) > 1e-3
    assert relative(moved, expected - bundle.affine.astype(np.float64)) < 2e-3


@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize(("name", "truth"), [("tent", tent), ("eta", eta), ("rdumb", eta)])
def test_selection_and_weights(
    bundle: Bundle,
    engine: OnnxRuntimeCPU,
    batches: list[Images],
    name: str,
    truth: Callable[[Network, BurstSettings], None],
    steps: int,
) -> None:
    net = Network(bundle, batches[:steps])
    truth(net, SETTINGS)
    settings = SETTINGS.with_changes(objective=name)
    agrees(bundle, adapted(engine, batches[:steps], settings), net.affine)


def test_rdumb_starts_again(
    bundle: Bundle,
    engine: OnnxRuntimeCPU,
    batches: list[Images],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings_module, "RDUMB_RESET", 2)
    net = Network(bundle, batches[:3])
    eta(net, SETTINGS, reset_every=2)
    settings = SETTINGS.with_changes(objective="rdumb")
    agrees(bundle, adapted(engine, batches[:3], settings), net.affine)
    alone = adapted(engine, batches[2:3], settings)
    np.testing.assert_array_equal(adapted(engine, batches[:3], settings), alone)


@pytest.mark.parametrize("steps", [1, STEPS])
def test_sar_takes_the_gradient_uphill(
    bundle: Bundle, engine: OnnxRuntimeCPU, batches: list[Images], steps: int
) -> None:
    net = Network(bundle, batches[:steps])
    assert sar(net, SETTINGS, recovery=0.0) == 0
    # The margin's share that recovery takes of it is below the losses here.
    settings = SETTINGS.with_changes(objective="sar")
    found = adapted(engine, batches[:steps], settings)
    agrees(bundle, found, net.affine)
    flat = Network(bundle, batches[:steps])
    sar(flat, SETTINGS, recovery=0.0, rho=0.0)
    assert relative(found - bundle.affine, flat.affine - bundle.affine) > 0.01


def test_sar_starts_again_when_the_entropy_collapses(
    bundle: Bundle,
    engine: OnnxRuntimeCPU,
    batches: list[Images],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.reset(SETTINGS.with_changes(objective="sar"))
    losses = []
    for batch in batches:
        engine.step(batch)
        losses.append(engine._loss)
    # Between the first and the second running mean: two steps are taken back, or one.
    recovery = float(np.mean(losses[:2]))
    monkeypatch.setattr(settings_module, "SAR_RECOVERY", recovery / SETTINGS.entropy_margin)
    for steps in range(1, STEPS + 1):
        net = Network(bundle, batches[:steps])
        restarts = sar(net, SETTINGS, recovery=recovery)
        found = adapted(engine, batches[:steps], SETTINGS.with_changes(objective="sar"))
        if np.array_equal(net.affine.astype(np.float32), bundle.affine):
            assert restarts
            np.testing.assert_array_equal(found, bundle.affine)
        else:
            agrees(bundle, found, net.affine)
    assert 0 < restarts < STEPS


def test_fisher_information(bundle: Bundle, engine: OnnxRuntimeCPU, batches: list[Images]) -> None:
    expected = torch.cat(fisher_of(Network(bundle, batches))).numpy()
    found = estimate_fisher(engine, [np.concatenate(batches)], SETTINGS)
    assert relative(found, expected) < 1e-3
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=1e-5 * expected.max())


@pytest.mark.parametrize("steps", [1, STEPS])
def test_eata_pulls_back(
    bundle: Bundle, engine: OnnxRuntimeCPU, batches: list[Images], steps: int
) -> None:
    keep_fisher(bundle, engine, [np.concatenate(batches)], SETTINGS)
    fishers = fisher_of(Network(bundle, batches))
    net, free = Network(bundle, batches[:steps]), Network(bundle, batches[:steps])
    eta(net, SETTINGS, fishers)
    found = adapted(engine, batches[:steps], SETTINGS.with_changes(objective="eata"))
    agrees(bundle, found, net.affine)
    if steps > 1:  # the first step starts where the pull is zero
        eta(free, SETTINGS)
        assert relative(found - bundle.affine, free.affine - bundle.affine) > 0.01


@pytest.mark.parametrize("make", [OnHost, Recording])
def test_gpu_engines_pull_back_and_start_again(
    bundle: Bundle,
    engine: OnnxRuntimeCPU,
    batches: list[Images],
    monkeypatch: pytest.MonkeyPatch,
    make: type[OnHost],
) -> None:
    gpu_on_host.use(monkeypatch)
    monkeypatch.setattr(settings_module, "RDUMB_RESET", 3)
    keep_fisher(bundle, engine, [np.concatenate(batches)], SETTINGS)
    device = make(bundle, Gpu())
    window = np.concatenate(batches)
    changes = []
    for name in ("eata", "eta", "rdumb", "eta", "eata"):
        settings = SETTINGS.with_changes(objective=name)
        found = run_burst(device, window, settings).record
        expected = run_burst(engine, window, settings).record
        assert found.affine_change == pytest.approx(expected.affine_change, rel=1e-3)
        changes.append(found.affine_change)
    assert len(set(changes)) == 3


def test_gpu_engines_refuse_a_second_pass(
    bundle: Bundle, batches: list[Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_on_host.use(monkeypatch)
    with pytest.raises(EdgewfError, match=r"sar takes two passes .* --engine openvino"):
        OnHost(bundle, Gpu()).reset(SETTINGS.with_changes(objective="sar"))


def test_published_constants() -> None:
    settings = BurstSettings.default(1000)
    chosen = {name: replace(settings, objective=name).kernel_objective for name in OBJECTIVES}
    assert chosen["tent"].entropy_margin == math.inf
    for name in ("eta", "eata", "rdumb", "sar"):
        assert chosen[name].entropy_margin == pytest.approx(0.4 * math.log(1000))
    for name in ("eta", "eata", "rdumb"):
        assert (chosen[name].redundancy_margin, chosen[name].weighted) == (0.05, True)
    assert (chosen["eata"].fisher_weight, chosen["rdumb"].reset_every) == (2000, 1000)
    assert (chosen["sar"].sharpness, chosen["sar"].weighted) == (0.05, False)
    assert chosen["sar"].recovery == pytest.approx(0.2)
    assert BurstSettings.default(10).fisher_weight == 1


def test_the_command_line_offers_all() -> None:
    assert options.OBJECTIVES == OBJECTIVES


def test_eata_needs_a_calibration(bundle: Bundle, tmp_path: Path, batches: list[Images]) -> None:
    other = export_tiny(tmp_path)
    engine = OnnxRuntimeCPU(other, threads=1)
    settings = SETTINGS.with_changes(objective="eata")
    with pytest.raises(EdgewfError, match=r"has no fisher.npy.*calibrate .* --objective eata"):
        engine.reset(settings)
    np.save(other.path(FISHER), np.zeros(3, np.float32))
    with pytest.raises(EdgewfError, match=r"fisher.npy: float32 \(3,\), expected"):
        engine.reset(settings)
    np.save(other.path(FISHER), np.full_like(other.affine, np.nan))
    with pytest.raises(EdgewfError, match="no squares are"):
        engine.reset(settings)
    other.path(FISHER).write_bytes(b"\x93NUMPY")
    with pytest.raises(EdgewfError, match=r"fisher.npy: damaged"):
        engine.reset(settings)


def test_fisher_information_that_got_lost_is_estimated_again(tmp_path: Path) -> None:
    bundle = export_tiny(tmp_path)
    engine = OnnxRuntimeCPU(bundle, threads=1)
    settings = tiny_settings(objective="eata", entropy_margin=1.0)
    images = labelled_images(write_class_folders(tmp_path / "data", 4, seed=3), bundle.labels)
    windows = draw_windows(images, settings, 1)
    whole = calibrate(bundle, engine, windows, settings, description="crops")

    def stop(done: int, total: int, newest: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle, engine, windows, settings, description="crops", on_point=stop)
    bundle.path(FISHER).write_bytes(b"torn")
    again = calibrate(bundle, engine, windows, settings, description="crops")
    assert again.to_text() == whole.to_text()


def test_a_calibration_belongs_to_its_objective_and_fisher_information(tmp_path: Path) -> None:
    bundle = export_tiny(tmp_path)
    engine = OnnxRuntimeCPU(bundle, threads=1)
    settings = tiny_settings(objective="eata", entropy_margin=1.0)
    images = labelled_images(write_class_folders(tmp_path / "data", 4, seed=3), bundle.labels)
    windows = draw_windows(images, settings, 1)
    made = calibrate(bundle, engine, windows, settings, description="crops")
    first = bundle.path(FISHER).read_bytes()
    found = Calibration.of(bundle)
    assert found is not None
    assert found.points == made.points
    assert found.fisher == made.fisher == fisher_hash(bundle)
    found.check(bundle.manifest, settings)
    for name in ("tent", "eta", "rdumb", "sar"):
        with pytest.raises(EdgewfError, match=f"objective eata against {name}"):
            found.check(bundle.manifest, settings.with_changes(objective=name))
    keep_fisher(bundle, engine, [crops(4, seed=9)[0]], settings)
    assert bundle.path(FISHER).read_bytes() != first
    with pytest.raises(EdgewfError, match="made with other Fisher information"):
        Calibration.of(bundle)
    calibrate(bundle, engine, windows, replace(settings, objective="eta"), description="crops")
    again = Calibration.of(bundle)
    assert again is not None
    assert again.fisher is None
