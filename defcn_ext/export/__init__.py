"""The graph that ends in boxes, as a file for any runtime, with the proof that it equals its model."""

from . import onnx_format, openvino_format, torch_format  # noqa: F401  (they register)
from .formats import FORMATS, Format
from .graph import BoxGraph, End
from .options import ExportOptions, Origin
from .parity import Parity, ParityError
from .whole import Exported, export_detector

__all__ = [
    "FORMATS",
    "BoxGraph",
    "End",
    "ExportOptions",
    "Exported",
    "Format",
    "Origin",
    "Parity",
    "ParityError",
    "export_detector",
]
