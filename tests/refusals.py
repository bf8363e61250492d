"""What a source gives: the logits of its graph, or the line that a user reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.export.sources import Source
from edgewf.export.sources.registry import load_source

SIZE = 32


def refused(*parts: str, **arguments: Any) -> str:
    """`load_source` fails with one line that has the parts."""
    with pytest.raises(EdgewfError) as error:
        load_source(**{"image_size": SIZE, **arguments})
    message = str(error.value)
    for part in parts:
        assert part in message
    return message


def logits(source: Source, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the deployed network on normalised images, float32 [B, 3, S, S]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        ir.to_proto(source.graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (answer,) = session.run(["logits"], {"images": images})
    return answer
