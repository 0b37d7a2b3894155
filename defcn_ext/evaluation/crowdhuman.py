"""The evaluator of CrowdHuman, and of any data set of persons that is to be judged as CrowdHuman is."""

from __future__ import annotations

import itertools
import logging
import os
from collections import OrderedDict
from typing import Any

import numpy as np

from defcn_ext.data.crowdhuman_files import ResultLine, write_results
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from .crowdhuman_inputs import to_detections
from .crowdhuman_metrics import GroundTruth, crowdhuman_metrics

logger = logging.getLogger(__name__)

RESULT_FILE = "crowdhuman_results.json"


def image_name(record: dict[str, Any]) -> str:
    """CrowdHuman's ID of an image: what the record says, else its file name without folder and extension."""
    return record.get("ID") or os.path.splitext(os.path.basename(record["file_name"]))[0]


def crowdhuman_truth(dataset_name: str) -> dict[str, GroundTruth]:
    """The ground truth of a registered data set by ID, in the order of its records.

    `iscrowd` marks what is ignored; classes are not looked at. Records hold all images and boxes of an .odgt, so that
    nothing is read twice, and what the data set left out with a warning is left out here.

    Raises:
        ValueError: two images have the same ID.
    """
    truth: dict[str, GroundTruth] = {}
    for record in DatasetCatalog.get(dataset_name):
        name, annotations = image_name(record), record.get("annotations", [])
        if name in truth:
            raise ValueError(f"{dataset_name}: two images have the ID {name!r}; give the records different 'ID's")
        boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYWH_ABS) for a in annotations]
        ignored = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
        size = (record["height"], record["width"]) if "height" in record else None
        truth[name] = GroundTruth(np.array(boxes, dtype=np.float64).reshape(-1, 4), ignored, size)
    return truth


class CrowdHumanEvaluator(DatasetEvaluator):
    """AP, MR^-2, recall and JI of the "instances" that a model outputs, in percent, and their file.

    "AP", "recall" and "JI" are better if higher; "MR" is MR^-2, a miss rate, better if lower. "AP" is CrowdHuman's own
    at IoU 0.5, not COCO's. No detection is left out: TEST.DETECTIONS_PER_IMAGE of the model must suit the crowds (500).

    Args:
        dataset_name: a registered data set; see `crowdhuman_truth`.
        distributed: gather the detections of all workers.
        output_dir: folder for crowdhuman_results.json, in CrowdHuman's format; None writes nothing.

    Raises:
        as `crowdhuman_truth`.
    """

    def __init__(self, dataset_name: str, *, distributed: bool = True, output_dir: str | None = None):
        self._name = dataset_name
        self._distributed = distributed
        self._output_dir = output_dir
        self._truth = crowdhuman_truth(dataset_name)
        self.reset()

    def reset(self) -> None:
        self._lines: list[ResultLine] = []
        self._num_dropped = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with "file_name" or "ID".
            outputs: dicts with "instances": pred_boxes in the original image, scores.

        Raises:
            ValueError: an image is not in the ground truth.
        """
        for record, output in zip(inputs, outputs):
            name = image_name(record)
            if name not in self._truth:
                raise ValueError(f"{self._name}: the ground truth has no image with the ID {name!r}")
            self._lines.append(self._line(name, output["instances"]))

    def _line(self, name: str, instances: Instances) -> ResultLine:
        corners = instances.pred_boxes.tensor.detach().double().cpu().numpy()
        scores = instances.scores.detach().double().cpu().numpy()
        usable = np.isfinite(corners).all(1) & np.isfinite(scores)
        self._num_dropped += int((~usable).sum())
        corners, scores = corners[usable], scores[usable]
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        return ResultLine(name, boxes, scores, *instances.image_size)

    def evaluate(self) -> OrderedDict | dict:
        """{"bbox": {"AP", "MR", "recall", "JI"}} in percent, NaN where undefined; {} on ranks above 0."""
        lines, num_dropped = self._lines, self._num_dropped
        if self._distributed:
            comm.synchronize()
            lines = list(itertools.chain(*comm.gather(lines, dst=0)))
            num_dropped = sum(comm.gather(num_dropped, dst=0))
            if not comm.is_main_process():
                return {}
        if num_dropped:
            logger.warning("%s: left out %d detections that are not finite", self._name, num_dropped)
        found = {line.id: line for line in lines}
        lines = [found[name] for name in self._truth if name in found]  # whoever worked on them
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, RESULT_FILE)
            logger.info("Saving results to %s", path)
            write_results(path, lines)
        metrics = crowdhuman_metrics(self._truth, to_detections(lines))
        fractions = {"AP": metrics.ap, "MR": metrics.mr, "recall": metrics.recall, "JI": metrics.ji}
        percent = {name: 100 * value for name, value in fractions.items()}
        logger.info("CrowdHuman's metrics (MR: lower is better):\n%s", create_small_table(percent))
        return OrderedDict(bbox=percent)
