"""A small builder of ONNX graphs: each call adds a node and returns the name of its result."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

# Opset 18 and this format are read by every onnxruntime since 1.18 (2024).
OPSET, FORMAT = 18, 10
KINDS = {"bool": TensorProto.BOOL, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "int64": TensorProto.INT64,
         "float": TensorProto.FLOAT, "double": TensorProto.DOUBLE}

# The name of a result, or a constant: an int becomes int64 and a float double; a list becomes a tensor of them.
Value = str | int | float | list[int] | list[float] | np.generic | np.ndarray[Any, Any]


def tensor(name: str, kind: str, shape: Sequence[int | str | None]) -> ValueInfoProto:
    """Return the name, type and shape of an input or output of a graph; a named dimension has any size."""
    return helper.make_tensor_value_info(name, KINDS[kind], list(shape))


class Graph:
    """The nodes and constants of a graph: graph("Add", x, 1) adds a node and returns the name of its result."""

    def __init__(self, numbers: Iterator[int] | None = None) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        # A subgraph sees the names of the graph around it, so its own are new ones.
        self.numbers = numbers or itertools.count()

    def __call__(self, operator: str, *inputs: Value, **attributes: Any) -> str:
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        result = f"{operator.lower()}_{next(self.numbers)}"
        self.nodes.append(helper.make_node(operator, names, [result], **attributes))
        return result

    def constant(self, value: Value) -> str:
        """Add a constant."""
        name = f"constant_{next(self.numbers)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def cast(self, value: Value, kind: str) -> str:
        """Add a conversion to a type."""
        return self("Cast", value, to=KINDS[kind])

    def subgraph(self) -> "Graph":
        """Return an empty graph for the body of a Scan or a branch of an If."""
        return Graph(self.numbers)

    def include(self, other: ModelProto, given: str) -> str:
        """Add the nodes of a model of one input, which becomes `given`; return the name of its first output."""
        names = {other.graph.input[0].name: given, "": ""}
        made = [result for node in other.graph.node for result in node.output]
        names |= {name: f"model/{name}" for name in [item.name for item in other.graph.initializer] + made if name}
        for node in other.graph.node:
            attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            # A new node, because the exporter's hold stack traces, with paths of the machine that exported.
            self.nodes.append(helper.make_node(node.op_type, [names[name] for name in node.input],
                                               [names[name] for name in node.output], **attributes))
        for item in other.graph.initializer:
            self.constants.append(numpy_helper.from_array(numpy_helper.to_array(item), names[item.name]))
        return names[other.graph.output[0].name]

    def closed(self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """Return the finished graph."""
        return helper.make_graph(self.nodes, name, inputs, outputs, self.constants)


def checked_model(graph: GraphProto, properties: dict[str, str]) -> bytes:
    """Return a model file with these properties in its header, checked by onnx."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=FORMAT,
                              producer_name="trialgrid")
    helper.set_model_props(model, properties)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
