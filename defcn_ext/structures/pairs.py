"""Pairs of a point and an object."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a point and an object: candidates on the way through an assignment rule, positives at its end.

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
    """

    point: Tensor
    object: Tensor
    positive: Tensor | None = None
    negative: Tensor | None = None
    covered: Tensor | None = None
    ignored: Tensor | None = None
    focal_negative: bool = False
    quality: Tensor | None = None

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
        )
