"""From a prepared graph to the whole of an ONNX file: precision, and what may stand before and behind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from .onnx_graph import to_onnx
from .operators import check_operators
from .prepare import Prepared


def onnx_file(prepared: Prepared, calibration: Sequence[np.ndarray] = ()) -> onnx.ModelProto:
    """
    Args:
        calibration: (N, C, H, W) images, as the graph takes them, for int8.
    """
    proto = to_onnx(prepared)
    check_operators(proto, prepared)
    onnx.checker.check_model(proto)
    return proto
