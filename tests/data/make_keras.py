"""Write small classifiers with Keras' own ONNX exporters, and what Keras says they answer.

Written with tensorflow-cpu 2.21.0, keras 3.15.1, tf_keras 2.21.0, tf2onnx 1.17.0, onnx 1.17.0:

    pip install tensorflow-cpu tf_keras tf2onnx 'onnx<1.18'
    python make_keras.py

keras3.onnx         Keras 3, with its BatchNorm layers kept apart as README.md says
keras3_folded.onnx  Keras 3 as it is, BatchNorm folded away
keras2.onnx         Keras 2, with the scaling of its pixels inside the graph
"""

import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tf2onnx.optimizer
import tf_keras

FOLDER = Path(__file__).parent
SIDE = 16


def network(k, scaling):
    """Asymmetric padding, a depthwise layer, hard swish, squeeze and excitation, a shortcut."""
    layers = k.layers
    images = k.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 127.5, -1)(images) if scaling else images
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization()(y)
    y = layers.Multiply()([y, layers.Activation("hard_sigmoid")(y)])
    s = layers.GlobalAveragePooling2D(keepdims=True)(y)
    s = layers.Conv2D(4, 1, activation="relu")(s)
    s = layers.Conv2D(8, 1, activation="hard_sigmoid")(s)
    y = layers.Multiply()([y, s])
    y = layers.Conv2D(8, 1, use_bias=False)(y)
    y = layers.BatchNormalization()(y)
    x = layers.Add()([x, y])
    x = layers.MaxPool2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    model = k.Model(images, layers.Dense(4, activation="softmax")(x))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


def fused_batch_norm(x, mean, variance, axis, offset=None, scale=None, epsilon=1e-3):
    norm = tf.compat.v1.nn.fused_batch_norm
    return norm(x, scale, offset, mean, variance, epsilon, is_training=False)[0]


def main():
    answers = {}
    images = np.random.default_rng(0).random((3, SIDE, SIDE, 3), np.float32)

    keras.utils.set_random_seed(0)
    model = network(keras, scaling=False)
    answers["keras3.onnx"] = model(images, training=False).numpy().tolist()
    model.export(FOLDER / "keras3_folded.onnx", format="onnx")

    tf2onnx.optimizer._optimizers.pop("remove_back_to_back")
    keras.src.backend.nn.batch_normalization = fused_batch_norm
    model.export(FOLDER / "keras3.onnx", format="onnx")

    tf_keras.utils.set_random_seed(0)
    model = network(tf_keras, scaling=True)
    answers["keras2.onnx"] = model(255 * images, training=False).numpy().tolist()
    signature = (tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32, name="pixels"),)
    tf2onnx.convert.from_keras(model, signature, opset=13, output_path=str(FOLDER / "keras2.onnx"))
    (FOLDER / "keras.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
