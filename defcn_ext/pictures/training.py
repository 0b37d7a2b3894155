"""The picture of one training image that VIS_PERIOD asks for."""

from __future__ import annotations

from typing import Any

import numpy as np

from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer

MAX_BOXES = 30


def truth_and_detections(record: dict[str, Any], found: Instances, input_format: str) -> np.ndarray:
    """The image twice, with its objects on the left and its best detections on the right.

    Args:
        record: with `image` (C, H, W) and `instances`.
        found: `pred_boxes` and `scores` in pixels of the image, best first.
        input_format: order of the image's channels, "BGR" or "RGB".

    Returns:
        uint8 (3, H, 2 W).
    """
    image = convert_image_to_rgb(record["image"].permute(1, 2, 0), input_format)
    truth = Visualizer(image).overlay_instances(boxes=record["instances"].gt_boxes.tensor.cpu().numpy())
    best = found[:MAX_BOXES].to("cpu")
    labels = [f"{score:.2f}" for score in best.scores.tolist()]
    detections = Visualizer(image).overlay_instances(boxes=best.pred_boxes.tensor.numpy(), labels=labels)
    return np.hstack([truth.get_image(), detections.get_image()]).transpose(2, 0, 1)
