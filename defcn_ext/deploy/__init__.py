"""Model files run without torch: numpy, Pillow and ONNX Runtime."""

from .detections import Detections
from .detector import Detector
from .metadata import ModelFileError, ModelMetadata
from .tiles import Tiling

__all__ = ["Detections", "Detector", "ModelFileError", "ModelMetadata", "Tiling"]
