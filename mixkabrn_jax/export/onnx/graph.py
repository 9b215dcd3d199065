"""Nodes of an ONNX graph, put down in the order in which they are computed."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

_OPSET, _IR_VERSION = 25, 13
"""The first with integers of 2 bits."""
FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
INT8, INT64, BOOL = TensorProto.INT8, TensorProto.INT64, TensorProto.BOOL
_CODES = ((TensorProto.INT2, -2, 1), (TensorProto.INT4, -8, 7), (TensorProto.INT8, -128, 127))


class Port(NamedTuple):
    """What goes into a graph or comes out of it."""

    name: str
    type: int
    shape: Sequence[int | str | None]


class Graph:
    """A graph, or one within another, which sees the other's values.

    `g("Add", x, y)` is the name of a sum: an argument is the name of a value, or a number or array, which becomes a
    constant of the outermost graph. What was computed before, here or outside, is not computed again.
    """

    def __init__(self, outer: "Graph | None" = None):
        self.outer, self.nodes, self._found = outer, [], {}
        self.root = self if outer is None else outer.root
        if outer is None:
            self.constants, self._names = {}, map(str, itertools.count())

    def __call__(self, op: str, *inputs, outputs: int = 1, **attributes):
        """The name of what a node gives; a list of names for several outputs."""
        inputs = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        key = op, tuple(inputs), outputs, str(sorted(attributes.items()))
        if (found := self._find(key)) is None:
            found = self._found[key] = self._node(op, inputs, outputs, attributes)
        return found[0] if outputs == 1 else found

    def constant(self, value) -> str:
        """A number or array as it is; Python's numbers are float32."""
        array = np.asarray(value, np.float32 if type(value) in (float, int) else None)
        digest = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
        key = f"{array.dtype} {array.shape} {digest}"
        constants = self.root.constants
        if key not in constants:
            constants[key] = onnx.numpy_helper.from_array(array, self.root.name())
        return constants[key].name

    def split(self, value: str, sizes: Sequence[int]) -> list[str]:
        """The columns of a value in groups of these sizes."""
        if len(sizes) == 1:
            return [value]
        return self("Split", value, whole(sizes), axis=1, outputs=len(sizes))

    def codes(self, values: np.ndarray, to: int) -> str:
        """Whole numbers in the fewest bits that hold them, cast to a type; once, in the outermost graph."""
        kind = next(kind for kind, low, high in _CODES if values.min() >= low and values.max() <= high)
        return self.root("Cast", values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind)), to=to)

    def when(self, condition: str, compute: Callable[["Graph"], str], otherwise: np.ndarray) -> str:
        """What is computed in a graph of its own where a condition holds; a constant elsewhere."""
        then, other = Graph(self), Graph(self)
        port = FLOAT, otherwise.shape
        branches = {
            "then_branch": then.to_proto((), [Port(compute(then), *port)]),
            "else_branch": other.to_proto((), [Port(other("Identity", otherwise), *port)]),
        }
        return self._node("If", [condition], 1, branches)[0]

    def loop(self, count: str, carried: Sequence[str], body: onnx.GraphProto) -> list[str]:
        """What a body has carried and stacked after so many rounds."""
        return self._node("Loop", [count, "", *carried], len(body.output) - 1, {"body": body})

    def name(self) -> str:
        """One that is not taken."""
        return next(self.root._names)

    def to_proto(self, inputs: Sequence[Port], outputs: Sequence[Port], name: str = "graph") -> onnx.GraphProto:
        """The graph as ONNX has it."""
        inputs, outputs = ([onnx.helper.make_tensor_value_info(*port) for port in ports] for ports in (inputs, outputs))
        constants = [*self.constants.values()] if self.outer is None else []
        return onnx.helper.make_graph(self.nodes, name, inputs, outputs, constants)

    def _find(self, key):
        found = self._found.get(key)
        return found if found is not None or self.outer is None else self.outer._find(key)

    def _node(self, op, inputs, outputs, attributes):
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op, inputs, names, **attributes))
        return names


def to_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A graph as what a file holds, checked. Raises: onnx.checker.ValidationError."""
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="mixkabrn_jax",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def whole(values: Sequence[int]) -> np.ndarray:
    """Sizes, axes or places, which ONNX has as int64."""
    return np.array(values, np.int64)
