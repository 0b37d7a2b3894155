"""A prepared graph as an ONNX model, by either of torch's exporters."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch

from defcn_ext.deploy.metadata import KEY

from .nms import translations
from .prepare import Prepared
from .recording import recorded

logger = logging.getLogger(__name__)

INPUT, OUTPUTS = "images", ("boxes", "scores", "labels")
OPSET = 18
SCRIPT_OPSET = 17  # the newest that the TorchScript exporter of torch 2.4 writes
FIRST_WITH_EXPORT = (2, 6)  # of torch: before it, the exporter on torch.export lacks operators of this graph


def to_onnx(prepared: Prepared) -> onnx.ModelProto:
    """Records the graph with torch.export, or where torch is older or that fails with TorchScript; fp32."""
    wanted = prepared.options.exporter
    able = torch_version() >= FIRST_WITH_EXPORT
    if wanted == "export" or (wanted == "auto" and able):
        try:
            return _finished(_by_export(prepared), prepared, "torch.export")
        except Exception as error:  # whatever keeps it from recording
            if wanted == "export" or prepared.options.with_nms:
                raise
            logger.warning("torch.export cannot record this model (%s): TorchScript does", _first_line(error))
    return _finished(_by_script(prepared), prepared, "TorchScript")


def torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _by_export(prepared: Prepared) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            recorded(prepared),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            custom_translation_table=translations() if prepared.options.with_nms else None,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


def _by_script(prepared: Prepared) -> onnx.ModelProto:
    options, axes = prepared.options, {}
    if options.batch is None:
        axes = {name: {0: "batch"} for name in (INPUT, *OUTPUTS)}
    if options.size is None:
        axes[INPUT] = {**axes.get(INPUT, {}), 2: "height", 3: "width"}
    file = io.BytesIO()
    torch.onnx.register_custom_op_symbolic("aten::logaddexp", _logaddexp, SCRIPT_OPSET)
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            prepared.graph,
            (prepared.example,),
            file,
            opset_version=SCRIPT_OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            **({"dynamo": False} if torch_version() >= (2, 5) else {}),
        )
    return onnx.load_from_string(file.getvalue())


def _logaddexp(graph: Any, a: Any, b: Any) -> Any:
    """max(a, b) + softplus(-|a - b|): the exporter does not know it."""
    apart = graph.op("Abs", graph.op("Sub", a, b))
    return graph.op("Add", graph.op("Max", a, b), graph.op("Softplus", graph.op("Neg", apart)))


def _finished(proto: onnx.ModelProto, prepared: Prepared, exporter: str) -> onnx.ModelProto:
    for node in proto.graph.node:
        keep_scopes(node)
    for value in proto.graph.value_info:
        del value.metadata_props[:]
    _name_sizes(proto, prepared)
    proto.graph.doc_string = proto.doc_string = ""
    del proto.metadata_props[:]
    add_metadata(proto, KEY, prepared.metadata.to_json())
    add_metadata(proto, "exporter", exporter)
    return proto


SCOPE = "pkg.torch.onnx.name_scopes"


def keep_scopes(node: onnx.NodeProto) -> None:
    """Of what the exporter notes beside a node, only the module that it comes from."""
    scopes = [x.value for x in node.metadata_props if x.key == SCOPE]
    del node.metadata_props[:]
    node.doc_string = ""
    if scopes:
        node.metadata_props.add(key=SCOPE, value=scopes[0])


def _name_sizes(proto: onnx.ModelProto, prepared: Prepared) -> None:
    """Input and outputs say their shapes, in numbers or by name."""
    options, kept = prepared.options, prepared.metadata.top_k
    batch, (height, width) = options.batch or "batch", options.size or ("height", "width")
    shapes = {INPUT: [batch, prepared.example.shape[1], height, width], "boxes": [batch, kept, 4]}
    for value in (*proto.graph.input, *proto.graph.output):
        for given, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, [batch, kept])):
            given.Clear()
            setattr(given, "dim_param" if isinstance(size, str) else "dim_value", size)


def add_metadata(proto: onnx.ModelProto, key: str, value: str) -> None:
    proto.metadata_props.add(key=key, value=value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters tell of themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [x.level for x in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels):
            each.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
