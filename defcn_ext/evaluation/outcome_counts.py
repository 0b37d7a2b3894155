"""Counts, beside the metrics of an evaluation, what became of the detections without NMS."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from defcn_ext.data.loaders import dicts_to_look_at
from defcn_ext.evaluation.outcomes import SCORE, Tally, judge, objects_of, tally
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm


class OutcomeCounter(DatasetEvaluator):
    """Results {"outcomes": {"objects", "found", "duplicates", "wrong", "duplicates_per_object"}} of a `DeFCN`.

    Detections that score above 0.3, without NMS; `Tally` says what is counted. The model must be built with
    `MODEL.DEFCN.COMPARE_NMS`.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str):
        records = dicts_to_look_at(cfg, dataset_name)
        self._annotations = {x["image_id"]: x["annotations"] for x in records}
        self._total = Tally()

    def reset(self) -> None:
        self._total = Tally()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for x, output in zip(inputs, outputs):
            objects = objects_of(self._annotations[x["image_id"]], (x["height"], x["width"]))
            found = output["without_nms"].to("cpu")
            self._total += tally(judge(found[found.scores > SCORE], objects), len(objects))

    def evaluate(self) -> dict[str, dict[str, float]]:
        total = sum(comm.all_gather(self._total), Tally())
        return {"outcomes": {**asdict(total), "duplicates_per_object": total.duplicates_per_object}}
