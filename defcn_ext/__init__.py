"""Detectors that need no NMS, as a Detectron2 extension."""

from defcn_ext._platform import ensure_detectron2

__version__ = "0.1.0"

ensure_detectron2()

from defcn_ext import backbone, meta_arch  # noqa: E402, F401  (fill Detectron2's registries)
from defcn_ext.config import add_defcn_config  # noqa: E402

__all__ = ["add_defcn_config"]
