"""Step four: how much each selected pair pulls its score up and down.

A weighting step takes the scene, the selected pairs, their quality (P,) and the training progress in [0, 1], and
returns the pairs with `positive` and `negative` filled in: the loss of a pair is
`-positive log(s) - negative log(1 - s)` (DW Eq. 1), the second term times an importance s^g where the step says so.
A rule without this step is hard: every pair is a full positive, everything else background. Weights are constants to
the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from defcn_ext._elementwise import alike, power
from defcn_ext.structures import Pairs

from .groups import first_of_group
from .progress import epoch_of
from .scene import Scene
from .steps import register_step

Weighting = Callable[[Scene, Pairs, Tensor, float], Pairs]
SIGMA = 1.11  # of DW's center prior, strides
TINY = torch.finfo(torch.float32).tiny
LIGHTEST = 1e-12  # scale of the weights of a score that has reached its label, which the weights must still tell


@register_step("weighting")
def soft_labels(
    t_max: float = 0.6,
    t_min: float = 0.2,
    schedule: str = "step",
    epochs: int = 12,
    ambiguous: float = 0.4,
    scaled: bool = True,
) -> Weighting:
    """The best pair of each object is certain, the others are positives to a degree that falls (o2f Eqs. 2-3).

    An ambiguous pair has the label `t = T p / max p`, where p is its score and the maximum is over the object's
    ambiguous pairs; T falls from `t_max` to `t_min` over the training. The weights are `w t` and `w (1 - t)`.

    Args:
        t_max, t_min: T at the start and at the end. Equal ones give a static label (o2f, Table 1).
        schedule: "step", T changes from epoch to epoch; "linear", from iteration to iteration.
        epochs: number of epochs of the training, for "step".
        ambiguous: w of ambiguous pairs, 0.4 in the release, 1 in the paper; that of certain ones is 1.
        scaled: whether T is scaled by p / max p.
    """
    if schedule not in ("step", "linear"):
        raise ValueError(f"soft_labels: schedule must be 'step' or 'linear', got {schedule!r}")
    if not (0 <= t_min <= 1 and 0 <= t_max <= 1) or ambiguous < 0 or epochs < 1:
        raise ValueError(
            f"soft_labels: t_max, t_min in [0, 1], ambiguous >= 0, epochs >= 1 must hold; got {t_max}, {t_min}, "
            f"{ambiguous}, {epochs}"
        )

    def weigh(scene: Scene, pairs: Pairs, quality: Tensor, progress: float) -> Pairs:
        ceiling = label_ceiling(progress, t_max, t_min, epochs if schedule == "step" else None)
        certain = torch.zeros(len(pairs), dtype=torch.bool, device=pairs.point.device)
        certain[first_of_group(pairs.object, quality, pairs.point)] = True
        label = torch.full_like(quality, ceiling)
        if scaled:
            label = label * _share_of_highest(scene, pairs, certain)
        label = torch.where(certain, 1.0, label)
        weight = torch.where(certain, 1.0, torch.full_like(label, ambiguous))
        return replace(pairs, positive=weight * label, negative=weight * (1 - label))

    return weigh


def label_ceiling(progress: float, t_max: float, t_min: float, epochs: int | None) -> float:
    """T of `soft_labels` (o2f Eq. 3).

    Args:
        progress: iteration / (iterations - 1), in [0, 1]; with a `Progress` epochs begin at their own iteration.
        epochs: number of steps, or None for a straight line.
    """
    if epochs is not None:
        progress = epoch_of(progress, epochs) / max(1, epochs - 1)
    return t_max + (t_min - t_max) * progress


def _share_of_highest(scene: Scene, pairs: Pairs, certain: Tensor) -> Tensor:
    """(P,) score over the highest score among the object's ambiguous pairs; 1 where that is 0."""
    score = scene.score(pairs.point, pairs.object).nan_to_num(0.0)
    highest = score.new_zeros(scene.num_objects)
    highest = highest.scatter_reduce(0, pairs.object, torch.where(certain, 0.0, score), "amax")[pairs.object]
    return torch.where(highest > 0, score / highest.clamp(min=TINY), 1.0).clamp(max=1.0)


@register_step("weighting")
def dual(
    mu: float = 5.0,
    norm_mu: float = 3.0,
    sigma: float = SIGMA,
    g1: float = 2.0,
    zero_at: float = 1.0,
    renormalize: bool = True,
) -> Weighting:
    """Separate positive and negative weights for every candidate (DW Eqs. 3-8). The quality is the consistency t.

    `positive = c t exp(mu t) / sum over the object of c t exp(norm_mu t)`, with the soft center prior c.
    `negative = P`, the probability of being a negative, from the IoU alone; its importance `s^2` is left to the loss,
    which lets the gradient through it.

    Args:
        mu, norm_mu: exponents above and below; 5 and 3 in the release, equal in the paper.
        sigma: width of the prior `exp(-d^2 / (2 sigma^2))`, strides; 0 for none.
        g1: exponent of the IoU in P.
        zero_at: IoU at which P reaches 0; 1 in the release, 0.95 in the paper.
        renormalize: stretch P over each object's candidates, so that the best IoU has P = 0 (release).
    """
    if not 0.5 < zero_at <= 1 or g1 <= 0 or sigma < 0:
        raise ValueError(f"dual: 0.5 < zero_at <= 1, g1 > 0, sigma >= 0 must hold; got {zero_at}, {g1}, {sigma}")

    prior = partial(_center_prior, sigma=sigma) if sigma > 0 else None
    return DualWeights(mu, norm_mu, g1, zero_at, renormalize, prior)


@dataclass(frozen=True)
class DualWeights:
    """The weighting that `dual` builds; `prior` gives the (P,) center prior of the pairs, None for none."""

    mu: float
    norm_mu: float
    g1: float
    zero_at: float
    renormalize: bool
    prior: Callable[[Scene, Pairs], Tensor] | None
    leaves_importance: ClassVar[bool] = True

    def __call__(self, scene: Scene, pairs: Pairs, quality: Tensor, progress: float) -> Pairs:
        consistency = quality.clamp(min=0)  # below it stand predictions that are not finite
        share = consistency if self.prior is None else consistency * self.prior(scene, pairs)
        divisor = share * alike(torch.exp, self.norm_mu * consistency)
        total = share.new_zeros(scene.num_objects).index_add(0, pairs.object, divisor)
        positive = share * alike(torch.exp, self.mu * consistency) / total.clamp(min=1e-12)[pairs.object]
        negative = _negative_probability(scene, pairs, self.g1, self.zero_at, self.renormalize)
        return replace(pairs, positive=positive, negative=negative, focal_negative=True)


class ClassCenterPrior(nn.Module):
    """DW's center prior with a mean and a width for each class and axis, as the release keeps it in its weights.

    `c = exp(-(dx^2 / (2 sigma_x^2) + dy^2 / (2 sigma_y^2)))`, `dx = (x - cx) / stride - mu_x`, dy alike (50-dw,
    section 4). The release never trains them: both are buffers, `mean` and `sigma` (K, 2), in strides.

    Raises:
        ValueError: a width is not above 0.
    """

    mean: Tensor
    sigma: Tensor

    def __init__(self, num_classes: int, mean: float = 0.0, sigma: float = SIGMA):
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma of the center prior: must be above 0, got {sigma}")
        # with numbers also in a model that is built without: a rule is tried before the weights come
        self.register_buffer("mean", torch.full((num_classes, 2), mean, device="cpu"))
        self.register_buffer("sigma", torch.full((num_classes, 2), sigma, device="cpu"))

    def forward(self, scene: Scene, pairs: Pairs) -> Tensor:
        classes = scene.gt_classes[pairs.object]
        away = (_offset(scene, pairs) - self.mean[classes]) / self.sigma[classes]
        return alike(torch.exp, away.square().sum(-1) / -2)


def _center_prior(scene: Scene, pairs: Pairs, sigma: float) -> Tensor:
    """(P,) `exp(-d^2 / (2 sigma^2))`, d the distance from the point to the object's centre in strides."""
    return alike(torch.exp, _offset(scene, pairs).square().sum(-1) / (-2 * sigma**2))


def _offset(scene: Scene, pairs: Pairs) -> Tensor:
    """(P, 2) from the object's centre to the point, in strides of the point."""
    location = scene.location(pairs.point)
    box = scene.gt_boxes[pairs.object]
    return (scene.points.xy[location] - (box[:, :2] + box[:, 2:]) / 2) / scene.points.stride[location, None]


def _negative_probability(scene: Scene, pairs: Pairs, g1: float, zero_at: float, renormalize: bool) -> Tensor:
    """(P,) P of DW Eq. 5: 1 below an IoU of 0.5, then falling to 0 at `zero_at` as `k IoU^g1 + b`."""
    iou = scene.iou(pairs.point, pairs.object).nan_to_num(0.0)
    k = 1 / (0.5**g1 - zero_at**g1)
    curve = k * (power(iou, g1) - zero_at**g1)
    if renormalize:
        ends = curve.new_zeros(scene.num_objects)
        low = ends.scatter_reduce(0, pairs.object, curve, "amin", include_self=False)[pairs.object]
        high = ends.scatter_reduce(0, pairs.object, curve, "amax", include_self=False)[pairs.object]
        curve = (curve - low + 1e-12) / (high.clamp(max=1.0) - low + 1e-12)
    return torch.where(iou < 0.5, 1.0, curve.clamp(0.0, 1.0))


@register_step("weighting")
def gfl() -> Weighting:
    """Quality focal loss: label t = IoU, weights `(s - t)^2 t` and `(s - t)^2 (1 - t)` (GFL; DW, Table 1)."""

    def weigh(scene: Scene, pairs: Pairs, quality: Tensor, progress: float) -> Pairs:
        score, label = score_of(scene, pairs), iou_of(scene, pairs)
        return _labelled(pairs, label, (score - label).square())

    return weigh


@register_step("weighting")
def vfl() -> Weighting:
    """Varifocal loss: label t = IoU, weights `t t` and `t (1 - t)` (VFNet; DW, Table 1)."""

    def weigh(scene: Scene, pairs: Pairs, quality: Tensor, progress: float) -> Pairs:
        label = iou_of(scene, pairs)
        return _labelled(pairs, label, label)

    return weigh


@register_step("weighting")
def tood() -> Weighting:
    """Task-aligned label `t = m / max m * max IoU`, weights `(s - t)^2 t` and `(s - t)^2 (1 - t)` (TOOD; DW, Table 1).

    m is the quality, and the maxima are over the object's pairs, so that the best of them has the highest IoU as label.
    """

    def weigh(scene: Scene, pairs: Pairs, quality: Tensor, progress: float) -> Pairs:
        score, label = score_of(scene, pairs), aligned_label(scene, pairs, quality)
        return _labelled(pairs, label, (score - label).square())

    return weigh


@register_step("weighting")
def musu() -> Weighting:
    """Weights `(s - t)^2 t` and `s^2 (1 - t)^4` (MuSu; DW, Table 1).

    MuSu's own label t is not known here; it is that of `tood`.
    """

    def weigh(scene: Scene, pairs: Pairs, quality: Tensor, progress: float) -> Pairs:
        score, label = score_of(scene, pairs), aligned_label(scene, pairs, quality)
        return replace(pairs, positive=(score - label).square() * label, negative=score.square() * (1 - label) ** 4)

    return weigh


def score_of(scene: Scene, pairs: Pairs) -> Tensor:
    """(P,) scores of the pairs, 0 where the prediction is not finite."""
    return scene.score(pairs.point, pairs.object).nan_to_num(0.0)


def iou_of(scene: Scene, pairs: Pairs) -> Tensor:
    """(P,) IoU of the pairs' boxes, 0 where the prediction is not finite."""
    return scene.iou(pairs.point, pairs.object).nan_to_num(0.0)


def aligned_label(scene: Scene, pairs: Pairs, metric: Tensor) -> Tensor:
    """(P,) `m / max m * max IoU` with both maxima over the object's pairs (TOOD, section 3.2); 0 where all m are."""
    iou = iou_of(scene, pairs)
    zeros = iou.new_zeros(scene.num_objects)
    highest = zeros.scatter_reduce(0, pairs.object, metric, "amax")[pairs.object]
    best_iou = zeros.scatter_reduce(0, pairs.object, iou, "amax")[pairs.object]
    return (metric / highest.clamp(min=TINY)).clamp(0.0, 1.0) * best_iou


def _labelled(pairs: Pairs, label: Tensor, scale: Tensor) -> Pairs:
    scale = scale.clamp(min=LIGHTEST)
    return replace(pairs, positive=scale * label, negative=scale * (1 - label))
