from .build import build_evaluator
from .crowdhuman import CrowdHumanEvaluator
from .nms_gap import NMSGapEvaluator

__all__ = ["CrowdHumanEvaluator", "NMSGapEvaluator", "build_evaluator"]
