"""Write a small classifier with Paddle's own ONNX exporter, and what Paddle says it answers.

Written with paddlepaddle 3.3.1, paddle2onnx 2.1.0, onnx 1.17.0:

    pip install paddlepaddle paddle2onnx 'setuptools<81' packaging
    python make_paddle.py
"""

import json
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

FOLDER = Path(__file__).parent
SIDE = 16


class Network(nn.Layer):
    """A depthwise layer, hard swish, squeeze and excitation, a shortcut, softmax at the end."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3, 2, 1, bias_attr=False)
        self.stem_norm = nn.BatchNorm2D(8)
        self.depthwise = nn.Conv2D(8, 8, 3, 1, 1, groups=8, bias_attr=False)
        self.depthwise_norm = nn.BatchNorm2D(8)
        self.squeeze = nn.Conv2D(8, 4, 1)
        self.excite = nn.Conv2D(4, 8, 1)
        self.project = nn.Conv2D(8, 8, 1, bias_attr=False)
        self.project_norm = nn.BatchNorm2D(8)
        self.dropout = nn.Dropout(0.2)
        self.classify = nn.Linear(8, 4)

    def forward(self, x):
        x = functional.relu6(self.stem_norm(self.stem(x)))
        y = functional.hardswish(self.depthwise_norm(self.depthwise(x)))
        s = functional.relu(self.squeeze(functional.adaptive_avg_pool2d(y, 1)))
        y = y * functional.hardsigmoid(self.excite(s))
        x = functional.max_pool2d(x + self.project_norm(self.project(y)), 2)
        x = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        return functional.softmax(self.classify(self.dropout(x)))


def main():
    paddle.seed(0)
    model = Network()
    rng = np.random.default_rng(0)
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            for p in (layer.weight, layer.bias, layer._mean, layer._variance):
                p.set_value(rng.uniform(0.5, 1.5, p.shape).astype(np.float32))
    model.eval()
    images = np.random.default_rng(0).random((3, SIDE, SIDE, 3), np.float32)
    answer = model(paddle.to_tensor(images.transpose(0, 3, 1, 2))).numpy()
    signature = [paddle.static.InputSpec([-1, 3, SIDE, SIDE], "float32", "x")]
    paddle.onnx.export(model, str(FOLDER / "paddle"), input_spec=signature, opset_version=11)
    (FOLDER / "paddle.json").write_text(
        json.dumps({"paddle.onnx": answer.tolist()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
