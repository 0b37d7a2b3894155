"""The ground truth of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detectron2.structures import Instances


@dataclass(frozen=True, eq=False)
class Objects:
    """The ground truth of a batch, the objects of all images in one list.

    Attributes:
        boxes: (G, 4) float32.
        classes: (G,) in [0, K).
        image: (G,) index of the image of each object.
        image_sizes: (N, 2) height and width of each image without padding, pixels; None if nobody asks for them.
    """

    boxes: Tensor
    classes: Tensor
    image: Tensor
    image_sizes: Tensor | None = None

    @classmethod
    def from_instances(cls, instances: Sequence[Instances]) -> Objects:
        """From Detectron2's `Instances` with `gt_boxes` and `gt_classes`, one an image."""
        counts = torch.tensor([len(x) for x in instances])
        image = torch.arange(len(instances)).repeat_interleave(counts)
        boxes = torch.cat([x.gt_boxes.tensor for x in instances]).float()
        classes = torch.cat([x.gt_classes for x in instances])
        sizes = torch.tensor([x.image_size for x in instances], dtype=torch.float32)
        return cls(boxes, classes, image.to(boxes.device), sizes.to(boxes.device))

    def __len__(self) -> int:
        return len(self.boxes)
