"""Pairs of a point and an object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class DenseTargets(NamedTuple):
    """What every point stands for, as detectors with dense targets write it.

    Attributes:
        classes: (R,) the class of the point's object; K for background, -1 for a point that is neither.
        boxes: (R, 4) the box of the point's object; zeros where there is none.
        object: (R,) its index, -1 where there is none.
        positive: (R,) the pair's positive weight, 1 where the rule is hard; 0 where there is no pair.
    """

    classes: Tensor
    boxes: Tensor
    object: Tensor
    positive: Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a point and an object: candidates on the way through an assignment rule, positives at its end.

    >>> pairs = Pairs(torch.tensor([1, 7]), torch.tensor([0, 1]))  # of two images with five points each
    >>> second = pairs.of_image(1, 5)
    >>> second.point.tolist(), second.object.tolist()
    ([2], [1])
    >>> boxes, classes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 4, 4]]), torch.tensor([1, 0])
    >>> second.targets(5, boxes, classes, num_classes=2).classes.tolist()
    [2, 2, 0, 2, 2]

    Attributes:
        point: (P,) index into the points; image `n` of a batch has the points `n R ... (n + 1) R - 1`.
        object: (P,) index into the objects.
        positive: (P,) how much the pair pulls its class score up, or None where the rule is hard (1).
        negative: (P,) weight of the pair's negative term, or None where the rule is hard (0). That term is
            `-log(1 - s)`, or, where `focal_negative` holds, what a background point has: `-s^g log(1 - s)`.
        covered: (G,) whether the object had any candidate at all; None before the candidates are complete.
        ignored: (I,) points that are neither positive nor background, or None where there are none.
        focal_negative: whether the loss multiplies the negative term by an importance s^g (DW), with `negative` 1 for
            an ordinary background point, or takes it as it is (soft labels).
        quality: (P,) what the rule thinks of each pair, larger is better; None where nobody asked.
        box: (P,) weight of the pair's box loss, or None where the rule leaves it to the loss.
    """

    point: Tensor
    object: Tensor
    positive: Tensor | None = None
    negative: Tensor | None = None
    covered: Tensor | None = None
    ignored: Tensor | None = None
    focal_negative: bool = False
    quality: Tensor | None = None
    box: Tensor | None = None

    def __len__(self) -> int:
        return len(self.point)

    def __getitem__(self, index: Tensor) -> Pairs:
        """The pairs that a mask or an index tensor picks; `covered` and `ignored` are not of the pairs and stay."""
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)  # once, and not for each of the tensors

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[index]

        return replace(
            self,
            point=self.point[index],
            object=self.object[index],
            positive=pick(self.positive),
            negative=pick(self.negative),
            quality=pick(self.quality),
            box=pick(self.box),
        )

    @property
    def weights(self) -> tuple[Tensor, Tensor]:
        """(P,), (P,) the positive and the negative weights; 1 and 0 where the rule is hard."""
        hard = torch.ones(len(self), device=self.point.device)
        positive = hard if self.positive is None else self.positive
        return positive, torch.zeros_like(hard) if self.negative is None else self.negative

    def of_image(self, image: int, num_points: int) -> Pairs:
        """The pairs of one image of a batch, with its points counted from 0.

        Objects, and `covered` of them, stay those of the batch.

        Args:
            image: index n of the image.
            num_points: R.
        """
        first = image * num_points

        def here(point: Tensor) -> Tensor:
            return (point >= first) & (point < first + num_points)

        kept = self[here(self.point)]
        ignored = None if self.ignored is None else self.ignored[here(self.ignored)] - first
        return replace(kept, point=kept.point - first, ignored=ignored)

    def targets(self, num_points: int, boxes: Tensor, classes: Tensor, *, num_classes: int) -> DenseTargets:
        """What every point stands for; of several objects of a point (DW) the one with the largest positive weight.

        Args:
            num_points: R of one image, or N R of a batch.
            boxes: (G, 4) of the objects.
            classes: (G,) of the objects.
            num_classes: K, which stands for background.
        """
        device = self.point.device
        weight = torch.ones(len(self), device=device) if self.positive is None else self.positive.float()
        order = weight.argsort(stable=True, descending=True)
        order = order[self.point[order].argsort(stable=True)]
        point, object = self.point[order], self.object[order]
        first = torch.ones_like(point, dtype=torch.bool)
        first[1:] = point[1:] != point[:-1]
        order, point, object = order[first], point[first], object[first]
        found = torch.full((num_points,), num_classes, dtype=torch.long, device=device)
        if self.ignored is not None:
            found[self.ignored] = -1
        found[point] = classes[object]
        return DenseTargets(
            classes=found,
            boxes=torch.zeros(num_points, 4, device=device).index_copy(0, point, boxes[object].float()),
            object=torch.full_like(found, -1).index_copy(0, point, object),
            positive=torch.zeros(num_points, device=device).index_copy(0, point, weight[order]),
        )
