"""Model files run without torch: numpy, Pillow and ONNX Runtime."""

from typing import Any

from .detections import Detections
from .metadata import ModelFileError, ModelMetadata
from .tiles import Tiling

__all__ = ["Detections", "Detector", "ModelFileError", "ModelMetadata", "Tiling"]


def __getattr__(name: str) -> Any:
    """`Detector`, for which ONNX Runtime must be there."""
    if name != "Detector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .detector import Detector
    except ModuleNotFoundError as error:
        raise ModelFileError(f"{error.name} is not installed: pip install 'defcn_ext[export]'") from error
    return Detector
