"""Step two: how good a pair is. Larger is better.

A quality step takes the scene and index tensors of points and objects that broadcast against each other: (P,) and (P,)
for pairs, (1, R) and (g, 1) for a dense chunk. A prediction that is not finite gets the worst quality, never NaN. Equal
pairs have equal quality, wherever they stand: powers and the like go through `alike`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from defcn_ext._elementwise import alike, power
from defcn_ext.losses.boxes import paired_iou

from .candidates import Quality
from .scene import Scene
from .steps import register_step
from .tiles import below_iou, rises_with_fit

WORST = -1e9  # for predictions that are not finite, below all that matching takes
BELOW_ZERO = -1e-6  # the same for qualities in [0, 1]: worse than a finite prediction of quality 0


@register_step("quality", "unit")
def poto(alpha: float = 0.8, combine: str = "mul") -> Quality:
    """`p^(1-alpha) IoU^alpha`, or `(1-alpha) p + alpha IoU`, in [0, 1] (DeFCN Eq. 4, Table 4).

    A prediction that is not finite has -1e-6.

    Args:
        alpha: share of the box; 0 looks at the class alone, 1 at the box alone.
        combine: "mul" or "add".
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"poto: alpha must lie in [0, 1], got {alpha}")
    if combine not in ("mul", "add"):
        raise ValueError(f"poto: combine must be 'mul' or 'add', got {combine!r}")

    def quality(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        score, iou = scene.score(point, object), scene.iou(point, object)
        if combine == "add":
            value = (1 - alpha) * score + alpha * iou
        else:
            value = alike(lambda p, x: p ** (1 - alpha) * x**alpha, score, iou)
        if combine == "mul" and 0 < alpha < 1:  # nothing but predictions that are not finite comes to infinity
            return torch.nan_to_num(value, nan=BELOW_ZERO, posinf=BELOW_ZERO)
        # x ** 0 is 1 even for NaN, so both are asked again
        return torch.nan_to_num(value + 0 * (score + iou), nan=BELOW_ZERO)

    return below_iou(alpha)(quality) if combine == "mul" and alpha > 0 else rises_with_fit(quality)


@register_step("quality", "same_for_object")
def smallest_area() -> Quality:
    """Minus the area of the object, in square pixels: of several objects the smallest wins (FCOS, section 3.2)."""

    def quality(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        size = scene.gt_boxes[:, 2:] - scene.gt_boxes[:, :2]
        return -(size.prod(-1)[object] + torch.zeros_like(point, dtype=torch.float32))

    return quality


@register_step("quality", "unit")
def consistency(beta: float = 5.0, form: str = "giou") -> Quality:
    """`p exp(-beta (1 - GIoU))` (DW as released), or `p IoU^beta` (DW Eq. 3; TOOD Eq. 3 with 6), in [0, 1].

    A prediction that is not finite has -1e-6.

    Args:
        form: "giou" or "iou".
    """
    if beta < 0 or form not in ("giou", "iou"):
        raise ValueError(f"consistency: beta >= 0 and form giou or iou must hold; got {beta}, {form!r}")

    def quality(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        score = scene.score(point, object)
        if form == "giou":
            fit = alike(torch.exp, beta * (scene.giou(point, object) - 1))
        else:
            fit = power(scene.iou(point, object), beta)
        return torch.nan_to_num(score * fit, nan=BELOW_ZERO)

    return below_iou(beta)(quality) if form == "iou" and beta > 0 else rises_with_fit(quality)


@register_step("quality", "unit")
def tal(alpha: float = 0.5, beta: float = 6.0) -> Quality:
    """The task-aligned metric `p^alpha IoU^beta`, in [0, 1] (TOOD Eq. 3; YOLOv8 to YOLO26).

    A prediction that is not finite has -1e-6.

    Args:
        alpha, beta: exponents of the score and of the IoU; TOOD and DDQ have 1 and 6, YOLOv8 to YOLO26 0.5 and 6.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> rule = build_rule("Combine(candidates=inside, quality=tal(alpha=0.5, beta=6), selection=top_k(k=2))")
        >>> rule(*examples.two_objects()).point.tolist()
        [0, 1, 64, 65]
    """
    if min(alpha, beta) < 0:
        raise ValueError(f"tal: alpha and beta must not be negative, got {alpha}, {beta}")

    def quality(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        score, iou = scene.score(point, object), scene.iou(point, object)
        value = alike(lambda p, u: p**alpha * u**beta, score, iou)
        return torch.nan_to_num(value + 0 * (score + iou), nan=BELOW_ZERO)  # x ** 0 is 1 even for NaN

    return below_iou(beta)(quality) if beta > 0 else rises_with_fit(quality)


@register_step("quality", "unit")
def square_anchor(scale: float = 8.0) -> Quality:
    """IoU of the object with a square around the point, `scale` strides wide (ATSS; DeFCN's Anchor rule with 4)."""
    if scale <= 0:
        raise ValueError(f"square_anchor: scale must be positive (strides), got {scale}")

    def quality(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        location = scene.location(point)
        xy, half = scene.points.xy[location], scene.points.stride[location][..., None] * (scale / 2)
        return paired_iou(torch.cat([xy - half, xy + half], dim=-1), scene.gt_boxes[object])

    return quality


@register_step("quality", "unit")
def anchor_iou() -> Quality:
    """IoU of the object with the branch's own anchor (RetinaNet, section 4)."""

    def quality(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        if scene.points.anchors is None:
            raise ValueError("anchor_iou: the branch has no anchors; set its BOX_FORM to delta")
        return paired_iou(scene.points.anchors[scene.location(point)], scene.gt_boxes[object])

    return quality


@register_step("quality")
def foreground_loss(giou: float = 2.0, alpha: float = 0.25, gamma: float = 2.0) -> Quality:
    """Minus the loss that the point would have as the object's positive (DeFCN Eq. 2; 10-defcn, section 3).

    `-(sum over all K classes of the focal loss + giou (1 - GIoU))`, without a normaliser.
    """

    def quality(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        logits = scene.class_logits(point)
        at_class = scene.logit(point, object)
        others = _as_background(logits, alpha, gamma).sum(-1) - _as_background(at_class, alpha, gamma)
        value = _as_foreground(at_class, alpha, gamma) + others + giou * (1 - scene.giou(point, object))
        value = value + 0 * logits.sum(-1)  # minus infinity has no loss as background
        return torch.where(value.isfinite(), -value, WORST)

    return quality


@register_step("quality")
def min_cost(
    cls: float = 2.0, l1: float = 5.0, giou: float = 2.0, form: str = "cxcywh", alpha: float = 0.25, gamma: float = 2.0
) -> Quality:
    """Minus OneNet's cost `cls C_cls + l1 C_L1 - giou GIoU` (20-date, section 2).

    `C_cls` is the focal loss of the score as a positive minus that as a negative, `C_L1` the L1 distance of the boxes
    as shares of the image.

    Args:
        form: coordinates of the L1 distance, "cxcywh" (DATE) or "xyxy" (OneNet).
    """
    if form not in ("cxcywh", "xyxy"):
        raise ValueError(f"min_cost: form must be 'cxcywh' or 'xyxy', got {form!r}")
    if min(cls, l1, giou, gamma) < 0 or not 0 <= alpha <= 1:
        raise ValueError("min_cost: cls, l1, giou and gamma must not be negative, and alpha must lie in [0, 1]")

    @rises_with_fit
    def quality(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        logit = scene.logit(point, object)
        value = cls * (_as_foreground(logit, alpha, gamma) - _as_background(logit, alpha, gamma))
        value = value + l1 * scene.l1(point, object, form) - giou * scene.giou(point, object)
        return torch.where(value.isfinite(), -value, WORST)

    return quality


def _as_foreground(logit: Tensor, alpha: float, gamma: float) -> Tensor:
    return alpha * alike(lambda z: z.neg().sigmoid() ** gamma * F.softplus(-z), logit)


def _as_background(logit: Tensor, alpha: float, gamma: float) -> Tensor:
    return (1 - alpha) * alike(lambda z: z.sigmoid() ** gamma * F.softplus(z), logit)
