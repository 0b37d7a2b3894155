"""What flows through the detector: points, objects, dense predictions, and pairs of a point and an object.

Letters used in every docstring: `R` points of one image over all levels, `G` objects, `K` classes, `N` images,
`P` pairs. Boxes are (x1, y1, x2, y2) in pixels of the network input.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from defcn_ext.losses.focal import product_logit
from detectron2.structures import Instances


@dataclass(frozen=True, eq=False)
class Points:
    """The locations that predict, level by level, row-major inside a level.

    Attributes:
        xy: (R, 2) centre of each cell, pixels of the network input.
        stride: (R,) stride of the point's level, pixels.
        level: (R,) index of the point's level, the finest is 0.
        sizes: (height, width) of each level, in cells.
        strides: stride of each level, pixels.
        offset: position of the point inside its cell, as a share of the stride.
        per_cell: number of points of each cell, cell by cell; more than one only for anchors.
        anchors: (R, 4) box of each point, pixels, or None where points have none.
    """

    xy: Tensor
    stride: Tensor
    level: Tensor
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    offset: float = 0.5
    per_cell: int = 1
    anchors: Tensor | None = None

    @classmethod
    def from_sizes(
        cls,
        sizes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        *,
        offset: float = 0.5,
        device: torch.device | str | None = None,
    ) -> Points:
        """Lays a point into every cell of every level: `(x, y) = ((column + offset) stride, (row + offset) stride)`.

        Raises:
            ValueError: `sizes` and `strides` differ in length, or a level has no cells.
        """
        if len(sizes) != len(strides):
            raise ValueError(f"{len(sizes)} level sizes but {len(strides)} strides: give one stride a level")
        if any(h < 1 or w < 1 for h, w in sizes):
            raise ValueError(f"every level needs at least one cell, got sizes {list(sizes)}")
        xy, stride, level = [], [], []
        for index, ((h, w), s) in enumerate(zip(sizes, strides)):
            y = (torch.arange(h, device=device, dtype=torch.float32) + offset) * s
            x = (torch.arange(w, device=device, dtype=torch.float32) + offset) * s
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
            xy.append(torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2))
            stride.append(torch.full((h * w,), float(s), device=device))
            level.append(torch.full((h * w,), index, device=device, dtype=torch.long))
        every_size = tuple((h, w) for h, w in sizes)
        return cls(torch.cat(xy), torch.cat(stride), torch.cat(level), every_size, tuple(strides), offset)

    @classmethod
    def with_anchors(
        cls,
        sizes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        shapes: Tensor,
        *,
        offset: float = 0.0,
        device: torch.device | str | None = None,
    ) -> Points:
        """Lays A anchors into every cell of every level, each a point of its own: R = A times the number of cells.

        Args:
            shapes: (A, 2) width and height of the anchors of a cell, in strides.
        """
        cells = cls.from_sizes(sizes, strides, offset=offset, device=device)
        half = shapes.to(cells.xy) * cells.stride[:, None, None] / 2
        corners = torch.cat([cells.xy[:, None] - half, cells.xy[:, None] + half], dim=-1)
        count = len(shapes)
        xy, stride, level = (x.repeat_interleave(count, dim=0) for x in (cells.xy, cells.stride, cells.level))
        return cls(xy, stride, level, cells.sizes, cells.strides, offset, count, corners.flatten(0, 1))

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def counts(self) -> list[int]:
        """Number of points of each level."""
        return [h * w * self.per_cell for h, w in self.sizes]

    @property
    def starts(self) -> Tensor:
        """(L,) index of the first point of each level."""
        return torch.tensor([0, *self.counts[:-1]], device=self.xy.device).cumsum(0)

    def boxes(self, ltrb: Tensor) -> Tensor:
        """Turns distances (..., R, 4) to the left, top, right and bottom side, in pixels, into boxes (..., R, 4)."""
        return torch.cat([self.xy - ltrb[..., :2], self.xy + ltrb[..., 2:]], dim=-1)


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


@dataclass(frozen=True, eq=False)
class DensePredictions:
    """What one branch says at every point of a batch.

    Attributes:
        logits: (N, R, K) class logits.
        boxes: (N, R, 4) decoded boxes, not clipped to the image; float32.
        filter: (N, R, 1) logits of the 3D Max Filtering map that multiplies all class scores, or None.
        centerness: (N, R, 1) logits, or None.
        deltas: (N, R, 4) the boxes as deltas from their anchors, float32, where the loss wants them; or None.
    """

    logits: Tensor
    boxes: Tensor
    filter: Tensor | None = None
    centerness: Tensor | None = None
    deltas: Tensor | None = None

    def score_logits(self) -> Tensor:
        """(N, R, K) float32 logits of the scores: `logit(sigma(class) sigma(filter))`, exact in log space."""
        if self.filter is None:
            return self.logits.float()
        return product_logit(self.logits.float(), self.filter.float())

    def without_filter(self) -> DensePredictions:
        return replace(self, filter=None)

    def detach(self) -> DensePredictions:
        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.detach()

        return DensePredictions(cut(self.logits), cut(self.boxes), cut(self.filter), cut(self.centerness))

    @torch.no_grad()
    def num_nonfinite(self) -> Tensor:
        """Number of points, as a scalar tensor, of which a prediction holds a NaN or an infinity."""
        maps = [x for x in (self.logits, self.boxes, self.filter, self.centerness, self.deltas) if x is not None]
        # a sum is finite only if all its terms are
        finite = [x.sum(-1, dtype=torch.float32).isfinite() for x in maps]
        return (~torch.stack(finite).all(0)).sum()


HIGH = 1e4  # a logit beyond doubt whose focal loss is still a number


class ScoreView:
    """The scores of a batch as a (N R, K) matrix of probabilities that is computed only where it is read.

    Assignment reads a few hundred of its millions of entries. Index it with `[point]` for rows, `[point, class]` for
    entries; the index tensors broadcast. Where a logit is not finite the score is NaN.
    """

    def __init__(self, predictions: DensePredictions):
        self._logits = predictions.logits.flatten(0, 1)
        self._filter = None if predictions.filter is None else predictions.filter.flatten()

    @property
    def shape(self) -> torch.Size:
        return self._logits.shape

    @property
    def device(self) -> torch.device:
        return self._logits.device

    def __getitem__(self, index: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        score = _finite_sigmoid(self._logits[index])
        if self._filter is None:
            return score
        return score * _finite_sigmoid(self._filter_of(index))

    def logit(self, index: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """The logits of the scores at `index`, float32; exact where the scores have rounded to 0 or 1.

        Not finite where a logit is not: beside an infinite one, the other would be taken for the score.
        """
        logits = self._logits[index].float()
        if self._filter is None:
            return logits
        filter = self._filter_of(index).float()
        return product_logit(logits, filter) + 0 * (logits + filter)

    def highest(self, point: Tensor) -> ScoreView:
        """(B, T) points -> the B rows of scores of which no point of a group has a higher one; NaN counts as high."""
        logits = torch.cat([self._logits[part].amax(1) for part in point.split(256)])
        view = copy(self)
        view._logits = logits.float().nan_to_num(nan=HIGH, posinf=HIGH, neginf=-HIGH)
        if self._filter is not None:
            view._filter = self._filter[point].amax(1).float().nan_to_num(nan=HIGH, posinf=HIGH, neginf=-HIGH)
        return view

    def _filter_of(self, index: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        return self._filter[index[0]] if isinstance(index, tuple) else self._filter[index].unsqueeze(-1)


def _finite_sigmoid(logits: Tensor) -> Tensor:
    """float32 sigmoid, NaN for an infinite logit: a diverged prediction must not look like a certain one."""
    logits = logits.float()
    return logits.sigmoid() + 0 * logits


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
    """

    point: Tensor
    object: Tensor
    positive: Tensor | None = None
    negative: Tensor | None = None
    covered: Tensor | None = None
    ignored: Tensor | None = None
    focal_negative: bool = False

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
        )
