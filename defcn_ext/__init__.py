"""Detectors that need no NMS, as a Detectron2 extension."""

import warnings

from defcn_ext._platform import describe, ensure_detectron2

__version__ = "0.1.0"

PLATFORM = describe(ensure_detectron2())

with warnings.catch_warnings():
    # fvcore scripts its losses on import, which newer versions of torch call deprecated
    warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated", FutureWarning)
    # They fill Detectron2's registries, and its catalogs with the data sets of this project's configs.
    from defcn_ext import backbones, data, meta_arch  # noqa: F401
    from defcn_ext.checkpoint import guard
    from defcn_ext.config import add_defcn_config

guard.install()

__all__ = ["PLATFORM", "add_defcn_config"]
