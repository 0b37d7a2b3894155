"""What is known about COCO without reading a file: classes, ids, colours, keypoints."""

from __future__ import annotations

import colorsys
from typing import Any

# In the order of their ids, which run from 1 to 90 with gaps.
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
COCO_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_FIRST_COLORS = ([220, 20, 60], [119, 11, 32], [0, 0, 142])
GOLDEN_RATIO = 0.618034


def _coco_color(index: int) -> list[int]:
    """RGB 0..255: COCO's own for the first classes, then hues that stay far from their neighbours'."""
    if index < len(COCO_FIRST_COLORS):
        return COCO_FIRST_COLORS[index]
    rgb = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, 0.6 + 0.4 * (index % 2), 1 - 0.15 * (index % 4))
    return [round(255 * channel) for channel in rgb]


_COCO_IDS = [i for i in range(1, 91) if i not in COCO_UNUSED_IDS]

# Entries as in COCO's own category lists. Things only: the classes of boxes.
COCO_CATEGORIES = [
    {"color": _coco_color(i), "isthing": 1, "id": coco_id, "name": name}
    for i, (coco_id, name) in enumerate(zip(_COCO_IDS, COCO_CLASSES))
]

_SIDED_KEYPOINTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
COCO_PERSON_KEYPOINT_NAMES = ("nose", *(f"{side}_{part}" for part in _SIDED_KEYPOINTS for side in ("left", "right")))
COCO_PERSON_KEYPOINT_FLIP_MAP = tuple((f"left_{part}", f"right_{part}") for part in _SIDED_KEYPOINTS)


def _get_builtin_metadata(dataset_name: str) -> dict[str, Any]:
    """The metadata of "coco" (80 classes) or "coco_person" (one class, with keypoints). Raises KeyError for others."""
    if dataset_name == "coco":
        return {
            "thing_dataset_id_to_contiguous_id": {entry["id"]: i for i, entry in enumerate(COCO_CATEGORIES)},
            "thing_classes": [entry["name"] for entry in COCO_CATEGORIES],
            "thing_colors": [entry["color"] for entry in COCO_CATEGORIES],
        }
    if dataset_name == "coco_person":
        return {
            "thing_classes": ["person"],
            "keypoint_names": COCO_PERSON_KEYPOINT_NAMES,
            "keypoint_flip_map": COCO_PERSON_KEYPOINT_FLIP_MAP,
        }
    raise KeyError(f"No built-in metadata for '{dataset_name}'; known: coco, coco_person")
