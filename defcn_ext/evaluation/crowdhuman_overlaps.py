"""Which detections of CrowdHuman's images overlap which ground truth boxes: the common ground of all its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

THRESHOLD = 0.5  # of IoU and of IoA; exceeded, not reached
EPSILON = 1e-6  # square pixels, in the protocol's denominators

Size = tuple[float, float]  # height, width of an image, pixels


@dataclass(frozen=True)
class GroundTruth:
    """The boxes of one image: (G, 4) as x, y, w, h in pixels, (G,) bool whether it is ignored, and the image's size."""

    boxes: np.ndarray
    ignored: np.ndarray
    size: Size | None = None


@dataclass(frozen=True)
class Detections:
    """What was found in one image: (D, 4) as x, y, w, h in pixels, (D,), and the size if the ground truth lacks it."""

    boxes: np.ndarray
    scores: np.ndarray
    size: Size | None = None


@dataclass(frozen=True)
class Overlaps:
    """All D detections and all G boxes that are not ignored, of N images in a row, and the P pairs with IoU > 0.5.

    Pairs are ordered by image, then box, then detection.
    """

    num_images: int
    scores: np.ndarray  # (D,)
    detection_image: np.ndarray  # (D,) index of the image
    detection_absorbed: np.ndarray  # (D,) bool, IoA > 0.5 with an ignored box
    object_image: np.ndarray  # (G,) index of the image
    object_absorbed: np.ndarray  # (G,) bool, IoA > 0.5 with an ignored box
    detection: np.ndarray  # (P,)
    object: np.ndarray  # (P,)
    iou: np.ndarray  # (P,)


def find_overlaps(
    truth: Mapping[str, GroundTruth], detections: Mapping[str, Detections], *, round_like_crowddet: bool = False
) -> Overlaps:
    """Clips both sides to the images and compares them, image by image.

    Args:
        truth: by the ID of the image, in the order of the annotation file.
        detections: by the ID of the image; images that are missing have none.
        round_like_crowddet: round detections to 0.1 pixels and scores to 5 decimals first, as CrowdDet's files are.

    Raises:
        ValueError: a detection's ID is unknown, an image has no size, or arrays have wrong shapes or values that are
            not finite; names the ID.
    """
    unknown = [name for name in detections if name not in truth]
    if unknown:
        raise ValueError(f"detections for the unknown image ID {unknown[0]!r} ({len(unknown)} unknown in all)")
    nothing = Detections(np.zeros((0, 4)), np.zeros(0))
    found = [detections.get(name, nothing) for name in truth]
    sizes = np.array([_size(n, g, d) for (n, g), d in zip(truth.items(), found)], dtype=np.float64).reshape(-1, 2)
    real, ignored = [], []
    for name, annotated in truth.items():
        boxes, mask = _checked(name, "ground truth", annotated.boxes, annotated.ignored)
        real.append(boxes[~mask.astype(bool)])
        ignored.append(boxes[mask.astype(bool)])
    pairs = [_checked(name, "detections", d.boxes, d.scores) for name, d in zip(truth, found)]
    boxes, scores = [x for x, _ in pairs], _joined((x for _, x in pairs), (0,))
    if round_like_crowddet:
        boxes, scores = [x.round(1) for x in boxes], scores.round(5)
    return _compare(_Boxes(boxes, sizes), _Boxes(real, sizes), _Boxes(ignored, sizes), scores)


def _size(name: str, annotated: GroundTruth, found: Detections) -> Size:
    size = annotated.size or found.size
    if size is None:
        raise ValueError(f"image {name!r}: neither ground truth nor detections give its height and width")
    if not (np.isfinite(size).all() and min(size) > 0):
        raise ValueError(f"image {name!r}: height and width must be positive, not {size}")
    return size


def _checked(name: str, what: str, boxes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    boxes, values = np.asarray(boxes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if boxes.size == 0 and values.size == 0:
        return boxes.reshape(0, 4), values.reshape(0)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or values.shape != boxes.shape[:1]:
        raise ValueError(f"image {name!r}: {what} have shapes {boxes.shape} and {values.shape}, not (M, 4) and (M,)")
    if not (np.isfinite(boxes).all() and np.isfinite(values).all()):
        raise ValueError(f"image {name!r}: {what} hold numbers that are not finite")
    return boxes, values


def _joined(parts: Iterable[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros(empty), *parts])


class _Boxes:
    """Boxes of N images in a row, clipped.

    Args:
        boxes: N arrays (M_i, 4), x, y, w, h.
        sizes: (N, 2) height, width.
    """

    def __init__(self, boxes: list[np.ndarray], sizes: np.ndarray):
        counts = np.array([len(x) for x in boxes], dtype=np.int64)
        self.image = np.repeat(np.arange(len(boxes)), counts)
        self.start = np.concatenate([[0], counts.cumsum()]).tolist()
        height, width = sizes[self.image].T
        x, y, w, h = _joined(boxes, (0, 4)).T
        # The protocol's bounds: a box beyond the right or the lower edge keeps one pixel.
        self.corners = np.stack(
            [x.clip(0, width - 1), y.clip(0, height - 1), (x + w).clip(0, width), (y + h).clip(0, height)]
        )
        self.area = (self.corners[2] - self.corners[0]) * (self.corners[3] - self.corners[1])

    def __len__(self) -> int:
        return len(self.image)

    def of(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        """(4, M_i) corners and (M_i,) areas."""
        rows = slice(self.start[image], self.start[image + 1])
        return self.corners[:, rows], self.area[rows]


def _compare(found: _Boxes, real: _Boxes, ignored: _Boxes, scores: np.ndarray) -> Overlaps:
    absorbed, object_absorbed = np.zeros(len(found), dtype=bool), np.zeros(len(real), dtype=bool)
    pairs = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
    num_images = len(found.start) - 1
    for image in range(num_images):
        (det, det_area), (obj, obj_area), (ign, _) = found.of(image), real.of(image), ignored.of(image)
        first_det, first_obj = found.start[image], real.start[image]
        if ign.size:
            absorbed[first_det : first_det + len(det_area)] = _inside_any(det, det_area, ign)
            object_absorbed[first_obj : first_obj + len(obj_area)] = _inside_any(obj, obj_area, ign)
        if det.size and obj.size:
            common = _intersection(obj, det)
            iou = common / (det_area + obj_area[:, None] - common + EPSILON)
            row, column = np.nonzero(iou > THRESHOLD)
            pairs.append((column + first_det, row + first_obj, iou[row, column]))
    detection, objects, iou = (np.concatenate(x) for x in zip(*pairs))
    return Overlaps(
        num_images, scores, found.image, absorbed, real.image, object_absorbed, detection, objects, iou
    )  # fmt: skip


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(4, A), (4, B) corners to (A, B) square pixels."""
    width = np.minimum(a[2, :, None], b[2]) - np.maximum(a[0, :, None], b[0])
    height = np.minimum(a[3, :, None], b[3]) - np.maximum(a[1, :, None], b[1])
    return np.maximum(width, 0, out=width) * np.maximum(height, 0, out=height)


def _inside_any(boxes: np.ndarray, area: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Which boxes share more than half of their own area with one of the regions: (4, B), (B,), (4, I) to (B,)."""
    return (_intersection(regions, boxes) / (area + EPSILON) > THRESHOLD).any(0)
