"""What a branch says at every point, and its scores as assignment reads them."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from defcn_ext._elementwise import alike
from defcn_ext.losses.focal import product_logit, root_logit

from .features import HeadFeatures


@dataclass(frozen=True, eq=False)
class DensePredictions:
    """What one branch says at every point of a batch.

    >>> predictions = DensePredictions(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), objectness=torch.zeros(1, 2, 1))
    >>> predictions.score_logits().sigmoid()[0, 0].tolist()  # 0.5 of the class, times 0.5
    [0.25, 0.25, 0.25]

    Attributes:
        logits: (N, R, K) class logits.
        boxes: (N, R, 4) decoded boxes, not clipped to the image; float32.
        objectness: (N, R, 1) logits of a map that multiplies all class scores (DeFCN's filter, the
            score map of o2f and DW), or None.
        centerness: (N, R, 1) logits, or None.
        deltas: (N, R, 4) the boxes as deltas from their anchors, float32, where the loss wants them; or None.
        features: what all this was predicted from, for branches that read the same; or None.
        rooted: whether the score is the square root of the product of class score and objectness (DDQ).
        base: where these are another branch's predictions with one more map, what they are without it; or None.
    """

    logits: Tensor
    boxes: Tensor
    objectness: Tensor | None = None
    centerness: Tensor | None = None
    deltas: Tensor | None = None
    features: HeadFeatures | None = None
    base: DensePredictions | None = None
    rooted: bool = False

    def score_logits(self) -> Tensor:
        """(N, R, K) float32 logits of the scores: `logit(sigma(class) sigma(objectness))`, exact in log space."""
        if self.objectness is None:
            return self.logits.float()
        return (root_logit if self.rooted else product_logit)(self.logits.float(), self.objectness.float())

    def times(self, factor: Tensor) -> DensePredictions:
        """The same, whose class scores a map of (N, R, 1) logits multiplies too.

        >>> half = DensePredictions(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4)).times(torch.zeros(1, 1, 1))
        >>> half.score_logits().sigmoid().item(), half.times(torch.zeros(1, 1, 1)).score_logits().sigmoid().item()
        (0.25, 0.125)
        """
        before = self.objectness
        if self.rooted:  # no objectness stands for a root and a factor
            return replace(self, logits=self.score_logits(), objectness=factor, rooted=False)
        return replace(self, objectness=factor if before is None else product_logit(before.float(), factor.float()))

    def without_objectness(self) -> DensePredictions:
        return replace(self, objectness=None)

    def detach(self) -> DensePredictions:
        """The same numbers without gradients, as assignment sees them; deltas, features and base are left out."""
        objectness = None if self.objectness is None else self.objectness.detach()
        centerness = None if self.centerness is None else self.centerness.detach()
        logits, boxes = self.logits.detach(), self.boxes.detach()
        return DensePredictions(logits, boxes, objectness, centerness, rooted=self.rooted)

    @torch.no_grad()
    def num_nonfinite(self) -> Tensor:
        """Number of points, as a scalar tensor, of which a prediction holds a NaN or an infinity."""
        maps = [x for x in (self.logits, self.boxes, self.objectness, self.centerness, self.deltas) if x is not None]
        # a sum is finite only if all its terms are
        finite = [x.sum(-1, dtype=torch.float32).isfinite() for x in maps]
        return (~torch.stack(finite).all(0)).sum()


HIGH = 1e4  # a logit beyond doubt whose focal loss is still a number


class ScoreView:
    """The scores of a batch as a (N R, K) matrix of probabilities that is computed only where it is read.

    >>> view = ScoreView(DensePredictions(torch.tensor([[[0.0, 40.0]]]), torch.zeros(1, 1, 4)))
    >>> view.shape, view[torch.tensor([0]), torch.tensor([0])].tolist(), view.logit(torch.tensor([0])).tolist()
    (torch.Size([1, 2]), [0.5], [[0.0, 40.0]])

    Assignment reads a few hundred of its millions of entries. Index it with `[point]` for rows, `[point, class]` for
    entries; the index tensors broadcast. Where a logit is not finite the score is NaN.
    """

    def __init__(self, predictions: DensePredictions):
        self._logits = predictions.logits.flatten(0, 1)
        self._objectness = None if predictions.objectness is None else predictions.objectness.flatten()
        self._rooted = predictions.rooted

    @classmethod
    def from_logits(cls, logits: Tensor, objectness: Tensor | None = None) -> ScoreView:
        """From plain tensors: what a rule takes in place of probabilities, where these have rounded to 0 or 1.

        Args:
            logits: (N R, K) class logits.
            objectness: (N R, 1) logits of a map that multiplies all class scores, or None.

        Raises:
            ValueError: shapes disagree.

        Example:
            >>> view = ScoreView.from_logits(torch.tensor([[-20.0], [-18.5]]))
            >>> view.logit((torch.tensor([0, 1]), torch.tensor([0, 0])))
            tensor([-20.0000, -18.5000])
        """
        if logits.dim() != 2 or (objectness is not None and tuple(objectness.shape) != (len(logits), 1)):
            raise ValueError(
                f"ScoreView.from_logits wants (N R, K) and (N R, 1), got {tuple(logits.shape)}, "
                f"{None if objectness is None else tuple(objectness.shape)}"
            )
        boxes = logits.new_zeros(1, len(logits), 4)  # nobody reads them
        return cls(DensePredictions(logits[None], boxes, None if objectness is None else objectness[None]))

    @property
    def shape(self) -> torch.Size:
        return self._logits.shape

    @property
    def device(self) -> torch.device:
        return self._logits.device

    def __getitem__(self, index: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        score = _finite_sigmoid(self._logits[index])
        if self._objectness is None:
            return score
        product = score * _finite_sigmoid(self._objectness_of(index))
        return product.sqrt() if self._rooted else product

    def logit(self, index: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """The logits of the scores at `index`, float32; exact where the scores have rounded to 0 or 1.

        Not finite where a logit is not: beside an infinite one, the other would be taken for the score.
        """
        logits = self._logits[index].float()
        if self._objectness is None:
            return logits
        objectness = self._objectness_of(index).float()
        joined = root_logit if self._rooted else product_logit
        return alike(joined, logits, objectness) + 0 * (logits + objectness)

    def highest(self, point: Tensor) -> ScoreView:
        """(B, T) points -> the B rows of scores of which no point of a group has a higher one; NaN counts as high."""
        logits = torch.cat([self._logits[part].amax(1) for part in point.split(256)])
        view = copy(self)
        view._logits = logits.float().nan_to_num(nan=HIGH, posinf=HIGH, neginf=-HIGH)
        if self._objectness is not None:
            objectness = self._objectness[point].amax(1).float()
            view._objectness = objectness.nan_to_num(nan=HIGH, posinf=HIGH, neginf=-HIGH)
        return view

    def _objectness_of(self, index: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        assert self._objectness is not None
        return self._objectness[index[0]] if isinstance(index, tuple) else self._objectness[index].unsqueeze(-1)


def _finite_sigmoid(logits: Tensor) -> Tensor:
    """float32 sigmoid, NaN for an infinite logit: a diverged prediction must not look like a certain one."""
    logits = logits.float()
    return alike(torch.sigmoid, logits) + 0 * logits
