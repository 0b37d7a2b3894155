"""Detectors that need no NMS, as a Detectron2 extension."""

from defcn_ext._platform import ensure_detectron2

__version__ = "0.1.0"

ensure_detectron2()
