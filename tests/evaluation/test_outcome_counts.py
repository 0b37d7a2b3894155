"""Counts of outcomes in an evaluation."""

import torch

from defcn_ext.evaluation import outcome_counts
from defcn_ext.evaluation.outcome_counts import OutcomeCounter
from detectron2.structures import Boxes, BoxMode, Instances

RECORDS = [
    {
        "image_id": 7,
        "annotations": [
            {"bbox": [0, 0, 10, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1},
            {"bbox": [40, 40, 50, 50], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
            {"bbox": [0, 0, 90, 90], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 1},
        ],
    }
]


def detections(boxes, scores, classes):
    found = Instances((100, 100), pred_boxes=Boxes(torch.tensor(boxes)), scores=torch.tensor(scores))
    found.pred_classes = torch.tensor(classes)
    return found


def test_certain_detections_without_nms_are_counted(monkeypatch):
    monkeypatch.setattr(outcome_counts, "dicts_to_look_at", lambda cfg, name: RECORDS)
    counter = OutcomeCounter(None, "mine")
    first, near, away = [0.0, 0, 10, 10], [0.0, 0, 10, 9], [70.0, 70, 90, 90]
    found = detections([first, near, away, near], [0.9, 0.8, 0.5, 0.2], [1, 1, 0, 1])
    counter.process([{"image_id": 7, "height": 100, "width": 100}], [{"without_nms": found}])
    expected = {"objects": 2, "found": 1, "duplicates": 1, "wrong": 1, "duplicates_per_object": 1.0}
    assert counter.evaluate() == {"outcomes": expected}
    counter.reset()
    assert counter.evaluate()["outcomes"]["objects"] == 0
