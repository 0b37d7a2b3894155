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

    >>> objects = Objects.from_lists([[[0, 0, 8, 8], [4, 4, 9, 9]], []], [[2, 0], []], image_sizes=[(16, 24), (8, 8)])
    >>> len(objects), objects.image.tolist(), objects.classes.tolist()
    (2, [0, 0], [2, 0])

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

    @classmethod
    def from_lists(
        cls,
        boxes: Sequence[Tensor | Sequence[Sequence[float]]],
        classes: Sequence[Tensor | Sequence[int]],
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Objects:
        """From the boxes and the classes of each image, as tensors or lists.

        Args:
            boxes: of each image (G_n, 4).
            classes: of each image (G_n,).
            image_sizes: height and width of each image, pixels; only losses in shares of the image ask for them.

        Raises:
            ValueError: the lists disagree in length, or a box has not four sides.
        """
        if len(boxes) != len(classes) or (image_sizes is not None and len(image_sizes) != len(boxes)):
            raise ValueError(f"give boxes, classes and sizes of the same images, got {len(boxes)} and {len(classes)}")
        given = [torch.as_tensor(x, dtype=torch.float32) for x in boxes]
        each = [x.reshape(0, 4) if x.numel() == 0 else x for x in given]
        labels = [torch.as_tensor(x, dtype=torch.long) for x in classes]
        for n, (box, label) in enumerate(zip(each, labels)):
            if box.dim() != 2 or box.shape[1] != 4 or label.shape != box.shape[:1]:
                raise ValueError(f"image {n}: boxes {tuple(box.shape)}, classes {tuple(label.shape)}; not (G, 4), (G,)")
        counts = torch.tensor([len(x) for x in each], dtype=torch.long)
        all_boxes = torch.cat([torch.zeros(0, 4), *each]) if not each else torch.cat(each)
        device = all_boxes.device
        image = torch.arange(len(each)).repeat_interleave(counts).to(device)
        sizes = None if image_sizes is None else torch.tensor(image_sizes, dtype=torch.float32).to(device)
        return cls(all_boxes, torch.cat(labels) if labels else torch.zeros(0, dtype=torch.long), image, sizes)

    @property
    def sizes(self) -> Tensor:
        """`image_sizes`, for those who cannot do without.

        Raises:
            ValueError: there are none.
        """
        if self.image_sizes is None:
            raise ValueError("this loss is a share of the image: give Objects its image_sizes")
        return self.image_sizes

    def __len__(self) -> int:
        return len(self.boxes)
