"""Options of this repository's test run, and the photographs that several files look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgewf.images import read_image
from edgewf.preprocessing import Image

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("edgewf")
    group.addoption(
        "--architectures",
        choices=("few", "all"),
        default="few",
        help="which architectures test_architectures.py exports; `all` takes an hour, and what an "
        "interrupted run measured is not measured again",
    )
    group.addoption(
        "--table",
        type=Path,
        help="with --architectures all: write the coverage table to this Markdown file",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest file, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_golden_run.py")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch's depthwise convolutions in float64 crawl with more, when cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photographs() -> list[Image]:
    """Eight photographs, uint8 [H, W, 3] RGB of different sizes."""
    skimage = pytest.importorskip("skimage", reason="scikit-image ships the photographs")
    return [read_image(Path(skimage.__file__).parent / "data" / name) for name in PHOTOGRAPHS]
