"""Which operators a file may have: those that ONNX Runtime, TensorRT, OpenVINO and WebGPU all know."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from defcn_ext.config import UserError

from .prepare import Prepared

LAYERS = {
    "Conv",
    "InstanceNormalization",
    "BatchNormalization",
    "MaxPool",
    "Relu",
    "Sigmoid",
    "Softplus",
    "Resize",
    "Pad",
}
ARITHMETIC = {"Abs", "Add", "Sub", "Mul", "Div", "Neg", "Exp", "Log", "Sqrt", "Floor", "Sign", "Min", "Max", "Clip"}
ARITHMETIC |= {"ReduceMax", "ReduceMin", "ReduceSum", "ArgMax", "MatMul"}
CHOICES = {"TopK", "Where", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Not"}
CHOICES |= {"Gather", "GatherElements"}
SHAPES = {"Shape", "Reshape", "Transpose", "Concat", "Slice", "Split", "Expand", "Flatten", "Squeeze", "Unsqueeze"}
SHAPES |= {"Range", "Cast", "Identity", "Constant", "ConstantOfShape"}
KNOWN = LAYERS | ARITHMETIC | CHOICES | SHAPES

NMS = {"NonMaxSuppression", "ScatterND"}
REFINEMENT = {"GridSample"}  # boxes that are read again at their sides (DW)


def operators(proto: onnx.ModelProto) -> set[str]:
    """Names of all operators of a model, those of subgraphs and functions too."""
    graphs = [proto.graph.node, *(function.node for function in proto.functions)]
    return {node.op_type for nodes in graphs for node in _with_inner(nodes)}


def _with_inner(nodes) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _with_inner(graph.node)


def check_operators(proto: onnx.ModelProto, prepared: Prepared) -> None:
    """
    Raises:
        UserError: the graph has an operator that some runtime lacks.
    """
    known = KNOWN | (NMS if prepared.graph.end.nms else set())
    if getattr(prepared.graph.branch, "refinement", None) is not None:
        known = known | REFINEMENT
    unknown = sorted(operators(proto) - known)
    if unknown:
        raise UserError(
            f"the model cannot be exported: its graph has {', '.join(unknown)}, which not every runtime knows; "
            "backbone, norms and branches made of convolutions and pooling can"
        )
