from .build import build_evaluator
from .nms_gap import NMSGapEvaluator

__all__ = ["NMSGapEvaluator", "build_evaluator"]
