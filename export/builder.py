"""Write ONNX nodes as calls: `op.Mul(a, b)` appends a node and returns its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

# The operator set of every graph we write: the newest that TensorRT 8.6 (JetPack 6.0) reads.
OPSET = 18
IR_VERSION = 9


class Builder:
    """Append nodes to a list, each distinct one once.

    A call with the operator, inputs and attributes of an earlier call returns that call's
    output, so rules may repeat themselves without the graph doing so.
    """

    def __init__(self, prefix: str) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self._prefix = prefix
        self._known: dict[Any, ir.Value] = {}

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)

        def call(*inputs: ir.Value | None, **attributes: Any) -> ir.Value:
            key = (op_type, inputs, repr(sorted(attributes.items())))
            if key not in self._known:
                self._known[key] = self.multi(op_type, inputs, 1, **attributes)[0]
            return self._known[key]

        return call

    def multi(
        self, op_type: str, inputs: tuple[ir.Value | None, ...], outputs: int, **attributes: Any
    ) -> list[ir.Value]:
        """Append a node with several outputs and return them."""
        names = [f"{self._prefix}{op_type}_{len(self.nodes)}"]
        names += [f"{names[0]}_{i}" for i in range(1, outputs)]
        node = ir.node(
            op_type,
            inputs,
            attributes=attributes,
            name=names[0],
            outputs=[ir.Value(name=name) for name in names],
        )
        self.nodes.append(node)
        return list(node.outputs)

    def constant(self, value: ArrayLike, dtype: Any = np.float32) -> ir.Value:
        """Return a small constant; equal ones are shared."""
        array = np.asarray(value, dtype=dtype)
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = f"{self._prefix}constant_{len(self.constants)}"
            self._known[key] = initializer(name, array)
            self.constants.append(self._known[key])
        return self._known[key]

    def ints(self, *values: int) -> ir.Value:
        """Return an int64 vector."""
        return self.constant(values, np.int64)

    def insert(self, graph: ir.Graph, before: ir.Node | None = None) -> None:
        """Put nodes and constants into `graph`, before a node of it or at the end."""
        for constant in self.constants:
            graph.register_initializer(constant)
        if before is None:
            graph.extend(self.nodes)
        else:
            graph.insert_before(before, self.nodes)

    def replace(self, graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
        """Insert in the place of `node`, whose only output hands its name and readers over."""
        self.insert(graph, before=node)
        old = node.outputs[0]
        name, output.shape, output.type = old.name, old.shape, old.type
        old.replace_all_uses_with(output, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        output.name = name


def initializer(name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """Return a graph value that holds `array`."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def graph_value(name: str, shape: list[int | str], dtype: ir.DataType) -> ir.Value:
    """Return a typed graph input or output."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def float_array(value: ir.Value | None) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return a stored float32 weight."""
    assert value is not None
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy(), dtype=np.float32)
