"""From a prepared graph to the whole of an ONNX file, with what may stand before and behind."""

from __future__ import annotations

import onnx

from .onnx_graph import to_onnx
from .operators import check_operators
from .prepare import Prepared
from .resize import with_resize


def onnx_file(prepared: Prepared) -> onnx.ModelProto:
    """
    Raises:
        UserError: the graph has an operator that some runtime lacks.
    """
    proto = to_onnx(prepared)
    check_operators(proto, prepared)
    if prepared.options.preprocess:
        proto = with_resize(proto, prepared.metadata)
    onnx.checker.check_model(proto)
    return proto
