import pytest

from defcn_ext.evaluation import NMSGapEvaluator
from detectron2.evaluation import DatasetEvaluator


class Counting(DatasetEvaluator):
    """'AP' is the number of detections it was given."""

    def __init__(self, folder):
        self.folder, self.seen = folder, None

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += [x["instances"] for x in outputs]

    def evaluate(self):
        return {"bbox": {"AP": float(sum(self.seen)), "AP-cell": 1.0}}


OUTPUT = [{"instances": 99, "with_nms": 30, "without_nms": 10}]


@pytest.mark.parametrize("nms, main, other_key, other", [(False, 20, "with_nms", 60), (True, 60, "without_nms", 20)])
def test_both_ways_are_scored_from_one_pass(nms, main, other_key, other):
    folders = []
    evaluator = NMSGapEvaluator(lambda folder: folders.append(folder) or Counting(folder), nms=nms)
    evaluator.reset()
    for _ in range(2):
        evaluator.process([{}], OUTPUT)
    results = evaluator.evaluate()
    assert folders == ["", other_key]
    assert results["bbox"]["AP"] == main
    assert results[f"bbox_{other_key}"]["AP"] == other
    assert results["bbox_nms_gap"] == {"AP": 40.0, "AP-cell": 0.0}  # with NMS minus without, whichever is the main one


def test_reset_forgets():
    evaluator = NMSGapEvaluator(Counting, nms=False)
    evaluator.reset()
    evaluator.process([{}], OUTPUT)
    evaluator.reset()
    evaluator.process([{}], OUTPUT)
    assert evaluator.evaluate()["bbox"]["AP"] == 10


def test_a_model_that_does_not_compare_is_told_the_key():
    evaluator = NMSGapEvaluator(Counting, nms=False)
    evaluator.reset()
    with pytest.raises(KeyError, match=r"MODEL.DEFCN.COMPARE_NMS True"):
        evaluator.process([{}], [{"instances": 1}])
