"""Evaluators, the loop that feeds them, and what is done with their results."""

from detectron2.utils.left_out import left_out

from .coco_evaluation import COCOEvaluator
from .evaluator import DatasetEvaluator, DatasetEvaluators, inference_context, inference_on_dataset
from .testing import print_csv_format, verify_results

_REASON = "this evaluator is of a benchmark that is not here"
CityscapesInstanceEvaluator = left_out("CityscapesInstanceEvaluator", __name__, _REASON)
CityscapesSemSegEvaluator = left_out("CityscapesSemSegEvaluator", __name__, _REASON)
COCOPanopticEvaluator = left_out("COCOPanopticEvaluator", __name__, _REASON)
LVISEvaluator = left_out("LVISEvaluator", __name__, _REASON)
PascalVOCDetectionEvaluator = left_out("PascalVOCDetectionEvaluator", __name__, _REASON)
RotatedCOCOEvaluator = left_out("RotatedCOCOEvaluator", __name__, _REASON)
SemSegEvaluator = left_out("SemSegEvaluator", __name__, _REASON)

__all__ = [
    "CityscapesInstanceEvaluator",
    "CityscapesSemSegEvaluator",
    "COCOPanopticEvaluator",
    "LVISEvaluator",
    "PascalVOCDetectionEvaluator",
    "RotatedCOCOEvaluator",
    "SemSegEvaluator",
    "COCOEvaluator",
    "DatasetEvaluator",
    "DatasetEvaluators",
    "inference_context",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
]
