"""Resizing inside the file: from a picture of any size to the images of the graph, and its boxes back.

Pillow's bilinear filter, which the training resizes with, is a product with a matrix of weights along each axis,
widened where it shrinks. As matrix products every runtime has it, which is not so of ONNX's Resize with `antialias`.
Like Pillow it rounds to whole grey levels after each axis, columns first; unlike Pillow, which weights in fixed point
of 22 bits, it does so in float32. The size is exact arithmetic of integers, where Detectron2 rounds a float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from defcn_ext.deploy.metadata import ModelMetadata


class Nodes:
    """A graph that grows by calls: operator and inputs, names or numbers, to the name of the output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, kind: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        names = [x if isinstance(x, str) else self._constant(x) for x in inputs]
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return name

    def _constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def as_outputs(self, **names: str) -> None:
        """Gives values the names of outputs: NAME=value."""
        for name, value in names.items():
            self.nodes.append(helper.make_node("Identity", [value], [name], name=name))


def whole_number(value: int) -> np.ndarray:
    return np.array(value, dtype=np.int32)


def row(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


ONE, TWO, HALF = whole_number(1), whole_number(2), np.array(0.5, dtype=np.float32)


def with_resize(proto: onnx.ModelProto, metadata: ModelMetadata) -> onnx.ModelProto:
    """The model with `image` (H, W, 3), uint8 RGB, in place of `images`, and boxes in pixels of that."""
    opsets = list(proto.opset_import)
    before = compose.add_prefix(before_graph(metadata, opsets, proto.ir_version), "before/")
    core = compose.add_prefix(proto, "core/")
    both = compose.merge_models(before, core, io_map=[("before/images", "core/images")])
    after = compose.add_prefix(_after_graph(metadata.top_k, opsets, proto.ir_version), "after/")
    links = [("core/boxes", "after/found"), ("before/scale", "after/factor"), ("before/most", "after/limit")]
    whole = compose.merge_models(both, after, io_map=links)
    names = {"before/image": "image", "after/boxes": "boxes", "core/scores": "scores", "core/labels": "labels"}
    _rename(whole.graph, names)
    _one_image(whole.graph, metadata.top_k)
    del whole.metadata_props[:]
    whole.metadata_props.extend(proto.metadata_props)
    return whole


def before_graph(
    metadata: ModelMetadata, opsets: Sequence[onnx.OperatorSetIdProto], ir_version: int
) -> onnx.ModelProto:
    """`image` to `images`, the factors that lead back, and the limits of boxes."""
    op = Nodes()
    old = op("Cast", op("Slice", op("Shape", "image"), row(0), row(2)), to=TensorProto.INT32)
    new = _new_size(op, old, *metadata.resize)
    planes = op("Transpose", op("Cast", "image", to=TensorProto.FLOAT), perm=[2, 0, 1])
    columns = op("Transpose", _weights(op, old, new, 1), perm=[1, 0])
    across = op("Floor", op("Add", op("MatMul", planes, columns), HALF))
    down = op("Floor", op("Add", op("MatMul", _weights(op, old, new, 0), across), HALF))
    order = (0, 1, 2) if metadata.channel_order == "RGB" else (2, 1, 0)
    images = op("Unsqueeze", op("Gather", down, row(*order), axis=0), row(0))
    size = op("Cast", old, to=TensorProto.FLOAT)
    factors = op("Div", size, op("Cast", new, to=TensorProto.FLOAT))
    scale, most = (op("Reshape", op("Gather", x, row(1, 0, 1, 0)), row(1, 1, 4)) for x in (factors, size))
    op.as_outputs(images=images, scale=scale, most=most)
    shapes = {"images": [1, 3, "height", "width"], "scale": [1, 1, 4], "most": [1, 1, 4]}
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["rows", "columns", 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    return _model(op, [image], outputs, opsets, ir_version)


def _new_size(op: Nodes, old: str, short: int, most: int) -> str:
    """(2,) int32: the size times num / den, which is the rule of the shorter side, or the limit of the longer one."""
    if short == 0:
        return old
    shorter, longer = op("ReduceMin", old, keepdims=0), op("ReduceMax", old, keepdims=0)
    limit, length = whole_number(most), whole_number(short)
    too_long = op("Greater", op("Mul", longer, length), op("Mul", shorter, limit))
    num, den = op("Where", too_long, limit, length), op("Where", too_long, longer, shorter)
    doubled = op("Add", op("Mul", op("Mul", old, num), TWO), den)
    return op("Div", doubled, op("Mul", den, TWO))


def _weights(op: Nodes, old: str, new: str, axis: int) -> str:
    """(new, old) weights of one axis: a triangle around the middle of each output, a pixel of the coarser grid wide."""
    before, after = (op("Gather", x, np.array(axis, dtype=np.int64)) for x in (old, new))
    zero = whole_number(0)
    to, source = op("Range", zero, after, ONE), op("Range", zero, before, ONE)
    middle = op("Mul", op("Unsqueeze", op("Add", op("Mul", to, TWO), ONE), row(1)), before)
    place = op("Mul", op("Unsqueeze", op("Add", op("Mul", source, TWO), ONE), row(0)), after)
    apart = op("Cast", op("Abs", op("Sub", middle, place)), to=TensorProto.FLOAT)
    width = op("Cast", op("Mul", op("Max", before, after), TWO), to=TensorProto.FLOAT)
    raw = op("Relu", op("Sub", np.array(1, dtype=np.float32), op("Div", apart, width)))
    return op("Div", raw, op("ReduceSum", raw, row(1), keepdims=1))


def _after_graph(kept: int, opsets: Sequence[onnx.OperatorSetIdProto], ir_version: int) -> onnx.ModelProto:
    """Boxes back into the picture."""
    op = Nodes()
    op.as_outputs(boxes=op("Min", op("Mul", "found", "factor"), "limit"))
    shapes = {"found": [1, kept, 4], "factor": [1, 1, 4], "limit": [1, 1, 4], "boxes": [1, kept, 4]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    return _model(op, values[:3], values[3:], opsets, ir_version)


def _model(
    op: Nodes,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    opsets: Sequence[onnx.OperatorSetIdProto],
    ir_version: int,
) -> onnx.ModelProto:
    graph = helper.make_graph(op.nodes, "resize", inputs, outputs, initializer=op.constants)
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(x, x) for x in node.input]
        node.output[:] = [names.get(x, x) for x in node.output]


def _one_image(graph: onnx.GraphProto, kept: int) -> None:
    """The outputs in their order, and for one image."""
    outputs = {value.name: value for value in graph.output}
    del graph.output[:]
    for name in ("boxes", "scores", "labels"):
        shape = [1, kept, 4] if name == "boxes" else [1, kept]
        graph.output.append(onnx.helper.make_tensor_value_info(name, outputs[name].type.tensor_type.elem_type, shape))
