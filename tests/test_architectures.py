"""Every architecture that docs/architectures.md lists exports, with the gradient of PyTorch.

By default the smallest of each kind; `make architectures` measures all and writes the table.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewf.engines import Images
from edgewf.export.sources.torchvision_models import import_torchvision
from tests.architectures import FEW, TIMM, TORCHVISION, Architecture, Measurement, measure, versions

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "architectures.md"
MEASURED = ROOT / "build" / "architectures.jsonl"

pytestmark = pytest.mark.usefixtures("one_thread")


def measured() -> dict[str, Measurement]:
    """What earlier runs of `--architectures all` found, by name."""
    if not MEASURED.exists():
        return {}
    rows = [json.loads(line) for line in MEASURED.read_text().splitlines()]
    return {row["name"]: Measurement(**row) for row in rows}


@pytest.mark.parametrize("architecture", [*TORCHVISION, *TIMM], ids=lambda a: a.name)
def test_gradient(
    architecture: Architecture,
    photographs: list[Images],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    everything = request.config.getoption("--architectures") == "all"
    if not everything and architecture.name not in FEW:
        pytest.skip("measured by `make architectures`")
    if architecture.name.startswith("timm/"):
        import_torchvision()  # which timm imports, and which may need help
        pytest.importorskip("timm", reason="timm is an extra: pip install 'edgewf[timm]'")
    found = measured().get(architecture.name) if everything else None
    if found is None:
        found = measure(architecture, photographs, tmp_path)
        if everything:
            MEASURED.parent.mkdir(exist_ok=True)
            with MEASURED.open("a") as file:
                file.write(json.dumps(found.to_json()) + "\n")
    assert found.gradient_error <= found.limit
    assert found.logits_error <= found.logits_limit
    assert found.infer_error <= found.infer_limit
    assert not found.tensorrt


def test_table(request: pytest.FixtureRequest) -> None:
    """The documentation's table lists architectures that are tested here, in their order."""
    path = request.config.getoption("--table")
    if path is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(render(measured()))
    known = [a.name for a in (*TORCHVISION, *TIMM)]
    rows = [line.split("|") for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    listed = [cells[1].strip(" `") for cells in rows]
    assert listed == known
    assert all(float(cells[4]) <= max(1e-3, 2.1 * float(cells[5])) for cells in rows)  # rounded


def render(rows: dict[str, Measurement]) -> str:
    text = f"""# Architectures

Written by `make architectures` with {versions()}.

Each network has random weights with random BatchNorm scales and shifts, and was exported as
`edgewf export --model NAME --weights FILE --image-size S` does. The gradient of the entropy
with respect to all scales and shifts, over a batch of photographs under batch statistics, was
taken from the bundle's graphs in ONNX Runtime and compared with PyTorch's autograd in float64.
"Error" is the relative L2 distance. It has to be at most 1e-3 or twice the distance of PyTorch's
own float32, whichever is larger: a ReLU whose input rounds to the other side of 0 moves the
gradient of a random network by more than all other rounding. P counts scales and shifts; nodes
are those of the infer, probe, forward and backward graphs. TensorRT: whether the ONNX parser of
TensorRT for RTX takes all graphs.

Networks without BatchNorm (AlexNet, SqueezeNet, transformers, ConvNeXt, NFNets) cannot be adapted
this way; export refuses them.
"""
    for title, architectures in (("torchvision", TORCHVISION), ("timm", TIMM)):
        known = [rows[a.name] for a in architectures]
        text += f"\n## {title}: {len(known)} architectures\n\n"
        text += "| --model | pixels | batch | error | PyTorch float32 | P | BatchNorm layers "
        text += "| nodes | weights, MB | TensorRT |\n|---|--:|--:|--:|--:|--:|--:|---|--:|---|\n"
        text += "".join(map(_line, known))
    return text


def _line(row: Measurement) -> str:
    verdict = {None: "not tried", "": "accepted"}.get(row.tensorrt, row.tensorrt)
    nodes = " / ".join(str(count) for count in row.nodes.values())
    return (
        f"| `{row.name}` | {row.image_size} | {row.batch} | {row.gradient_error:.1e} "
        f"| {row.float32_error:.1e} | {row.parameters:,} | {row.layers} | {nodes} "
        f"| {row.weights_mb:,.1f} | {verdict} |\n"
    )
