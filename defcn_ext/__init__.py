"""Detectors that need no NMS, as a Detectron2 extension."""

import importlib
import sys
from typing import Any

from defcn_ext._late import RegisteringFinder, register
from defcn_ext._platform import describe, ensure_detectron2

__version__ = "0.1.0"

PLATFORM = describe(ensure_detectron2())

if "detectron2" in sys.modules:
    register()
else:
    sys.meta_path.insert(0, RegisteringFinder())


def __getattr__(name: str) -> Any:
    """Parts of the package that nobody has imported yet."""
    if name == "add_defcn_config":
        return importlib.import_module("defcn_ext.config").add_defcn_config
    if name in ("backbones", "config", "data", "meta_arch"):
        return importlib.import_module(f"defcn_ext.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["PLATFORM", "add_defcn_config"]
