"""COCO's evaluation of detections in the terms of the annotations that a user has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from defcn_ext._text import write_whole
from defcn_ext.data.frames import Frame
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

RESULT_FILE = "coco_instances_results.json"

Ids = Mapping[Any, Any]


class OwnTermsEvaluator(COCOEvaluator):
    """COCOEvaluator that meets the data set's own classes and pictures, and whose file has the ids of the user's json.

    A json whose ids had to be replaced to be read (see `defcn_ext.data.ids`) keeps them in the metadata's
    `original_ids`; the file of results gets them back after the evaluation.
    """

    def __init__(self, dataset_name: str, *, classes: Sequence[int] = (), output_dir: str | None = None, **kwargs: Any):
        """
        Args:
            classes: for each class of the model, its index in the data set; () where they are the same.
            output_dir: as for COCOEvaluator, like what is in `kwargs`.
        """
        super().__init__(dataset_name, output_dir=output_dir, **kwargs)
        self._classes = torch.tensor(classes, dtype=torch.long) if list(classes) != sorted(classes) else None
        self._results_in = output_dir
        self._original: Mapping[str, Ids] = MetadataCatalog.get(dataset_name).get("original_ids") or {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """As COCOEvaluator's; `pred_classes` are the model's, and all positions pixels of the image as it was read.

        Args:
            inputs: where annotations lie in another picture, with its `frame`: see `defcn_ext.data.frames`.
        """
        super().process(inputs, [self._in_own_terms(*pair) for pair in zip(inputs, outputs)])

    def _in_own_terms(self, record: dict, output: dict) -> dict:
        frame = record.get("frame")
        if "instances" not in output or (self._classes is None and frame is None):
            return output
        found = output["instances"].to("cpu")
        fields = found.get_fields() if frame is None else _within(found, frame.inverse())
        if self._classes is not None:
            fields = {**fields, "pred_classes": self._classes[found.pred_classes]}
        return {**output, "instances": Instances(frame.size if frame else found.image_size, **fields)}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict:
        """As COCOEvaluator's."""
        results = super().evaluate(*args, **kwargs)
        if self._results_in and comm.is_main_process() and any(self._original.values()):
            put_back(Path(self._results_in) / RESULT_FILE, self._original)
        return results


def _within(found: Instances, frame: Frame) -> dict[str, Any]:
    """The fields of detections with their positions moved by a frame."""
    fields = dict(found.get_fields())
    fields["pred_boxes"] = Boxes(torch.from_numpy(frame.boxes(found.pred_boxes.tensor.numpy())).float())
    if "pred_masks" in fields:
        masks = [torch.from_numpy(frame.mask(mask.numpy()).astype(bool)) for mask in fields["pred_masks"]]
        fields["pred_masks"] = torch.stack(masks) if masks else torch.zeros((0, *frame.image), dtype=torch.bool)
    if "pred_keypoints" in fields:
        points = fields["pred_keypoints"].clone()
        points[..., :2] = torch.from_numpy(frame.points(points[..., :2].double().numpy())).float()
        fields["pred_keypoints"] = points
    return fields


def put_back(path: Path, original: Mapping[str, Ids]) -> None:
    """Replaces ids in a file of COCO results.

    Args:
        original: for "image_id" and "category_id" what to write in place of an id that is not the user's.
    """
    if not path.is_file():
        return
    results = json.loads(path.read_text(encoding="utf-8"))
    for result in results:
        result.update({key: ids.get(result[key], result[key]) for key, ids in original.items()})
    write_whole(path, json.dumps(results))
