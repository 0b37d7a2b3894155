"""What a detector finds in one picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Detections:
    """Boxes of one picture, by decreasing score.

    >>> found = Detections(np.array([[1.0, 2, 5, 8]]), np.array([0.9]), np.array([1]), (20, 30), ("cat", "dog"))
    >>> len(found), found.names, len(found.above(0.95))
    (1, ['dog'], 0)

    Attributes:
        boxes: (M, 4), x1, y1, x2, y2 in pixels of the picture, inside it.
        scores: (M,).
        labels: (M,) integers.
        size: (height, width) of the picture.
        class_names: by label; () where classes have none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    size: tuple[int, int]
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """Of the class of each detection; its number where it has none."""
        known = self.class_names
        return [known[label] if label < len(known) else str(label) for label in self.labels.tolist()]

    def at(self, index: np.ndarray) -> Detections:
        """Some of them, by indices or a mask."""
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index])

    def above(self, score: float) -> Detections:
        """Those that score at least so much."""
        return self.at(self.scores >= score)

    def to_supervision(self) -> Any:
        """`supervision.Detections`; that package must be installed."""
        import supervision

        names = np.asarray(self.names, dtype=object)
        return supervision.Detections(
            xyxy=self.boxes, confidence=self.scores, class_id=self.labels.astype(int), data={"class_name": names}
        )

    def to_instances(self) -> Any:
        """Detectron2's `Instances`, with `pred_boxes`, `scores` and `pred_classes`; needs torch."""
        import torch

        import defcn_ext.config  # noqa: F401  (makes detectron2 importable)
        from detectron2.structures import Boxes, Instances

        boxes, scores, labels = (
            torch.from_numpy(np.ascontiguousarray(x)) for x in (self.boxes, self.scores, self.labels)
        )
        return Instances(self.size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=labels.long())


def fitted(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    seen: tuple[int, int],
    size: tuple[int, int],
    class_names: tuple[str, ...],
) -> Detections:
    """The detections of one picture from the rows of a file: without those that fill up, in pixels of the picture.

    Args:
        seen: (height, width) that the picture had in the file's input.
        size: its own.
    """
    found = scores > 0
    vertical, horizontal = size[0] / seen[0], size[1] / seen[1]
    scaled = boxes[found] * np.array([horizontal, vertical, horizontal, vertical], dtype=np.float32)
    scaled = np.clip(scaled, 0, np.array([size[1], size[0], size[1], size[0]], dtype=np.float32))
    every = Detections(scaled, scores[found], labels[found], size, class_names)
    return every.at((scaled[:, 2] > scaled[:, 0]) & (scaled[:, 3] > scaled[:, 1]))
