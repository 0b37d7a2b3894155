"""The picture of one training image that VIS_PERIOD asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances

MAX_BOXES = 30
# Boxes take these in turn. Drawn here: Detectron2's own visualizer needs OpenCV, and a training does not.
COLORS = ("#E4002B", "#0072B2", "#D98E00", "#009E73", "#A8418F", "#56B4E9", "#F0E442", "#7F5539")


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
    truth = _with_boxes(image, record["instances"].gt_boxes.tensor.tolist())
    best = found[:MAX_BOXES]
    labels = [f"{score:.2f}" for score in best.scores.tolist()]
    detections = _with_boxes(image, best.pred_boxes.tensor.tolist(), labels)
    return np.hstack([truth, detections]).transpose(2, 0, 1)


def _with_boxes(image: np.ndarray, boxes: Sequence[Sequence[float]], labels: Sequence[str] = ()) -> np.ndarray:
    """A copy of an image (H, W, 3) with boxes (x1, y1, x2, y2), the first on top, and a text at each one's corner."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(picture)
    for index in reversed(range(len(boxes))):
        color = COLORS[index % len(COLORS)]
        draw.rectangle(boxes[index], outline=color, width=2)
        if labels:
            draw.text(boxes[index][:2], labels[index], fill="white", stroke_width=1, stroke_fill=color)
    return np.asarray(picture)
