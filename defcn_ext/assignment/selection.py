"""Step three: which of the candidates count.

A selection step takes the scene, the candidates ordered by object, and their quality (P,), and returns the pairs that
stay. After it, no point serves two objects; `every` (DW) is the exception.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from defcn_ext.structures import Pairs

from .candidates import covering
from .groups import Floats, Ints, first_of_group, first_of_group_on_host, ranked
from .matching import match_pairs
from .progress import Moving, ends, moving_number
from .scene import Scene
from .steps import register_step

TIE = 1e-5  # relative difference of quality that counts as none, where the highest is claimed
Selection = Callable[[Scene, Pairs, Tensor], Pairs]


@register_step("selection", "one_to_one", "ranks_points", "unit")
def matching(invalid: float = -1.0) -> Selection:
    """One-to-one: the matching of largest total quality (DeFCN Eq. 3), exact.

    Args:
        invalid: what leaving an object out is worth. For a quality in [0, 1]: with -1 (DeFCN) as many objects as
            possible get a point before the quality decides; with 0 (DATE) the quality alone decides. A quality of
            another range wants a lower value, since pairs below it are never taken.
    """

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        return pairs[match_pairs(pairs.point, pairs.object, quality, invalid=invalid)]

    return select


@register_step("selection", "one_to_one", "ranks_points")
def full_matching() -> Selection:
    """One-to-one, for qualities of any range such as a negative cost.

    As many objects as possible get a point, and of such matchings the one of largest total quality is taken.
    """
    return matching(invalid=-1e8)


@register_step("selection", "one_to_one", "ranks_points")
def top_of_object(above: float = -math.inf) -> Selection:
    """One-to-one without matching ("argmax"): each object takes its best point; if two want one point, the better wins.

    The loser gets no positive (DeFCN, section 3.1, "POTO argmax").

    Args:
        above: a pair counts only if its quality is larger.
    """

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        best = first_of_group(pairs.object, quality, pairs.point)
        best = best[quality[best] > above]
        return _one_object_a_point(covering(scene, pairs[best]), quality[best])

    return select


@register_step("selection", "shares_points")
def every() -> Selection:
    """One-to-many: every candidate counts, and a point may serve several objects (DW, section 3).

    Only losses that weight each pair can make use of that.
    """

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        return pairs

    return select


@register_step("selection", "ranks_points")
def top_k(k: Moving[int] = 9, above: float = -math.inf, conflicts: str = "quality") -> Selection:
    """One-to-many: the `k` best points of each object; a point wanted by several objects goes to one of them.

    Args:
        k: points an object; a pair (start, end) goes from one number to the other, each for an equal share of the
            training.
        above: a pair counts only if its quality is larger.
        conflicts: which object has a point: the one of the best "quality", or of the largest "iou" (TOOD, YOLOv8).
    """
    choose = _top(k, above, conflicts, "top_k")

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        return pairs[choose(scene, pairs, quality)]

    return select


@register_step("selection", "ranks_points")
def top_k_then_one(k: Moving[int] = 7, above: float = -math.inf) -> Selection:
    """One-to-one in two cuts: the `k` best points of each object, then the best of those that it keeps (YOLO26).

    Between the two, a point wanted by several objects goes to the one of the largest IoU. So an object that loses its
    best point still has another, which `top_of_object` does not give it.

    Args:
        k, above: as for `top_k`.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> rule = build_rule("Combine(candidates=inside, quality=tal(alpha=0.5), selection=top_k_then_one(k=7))")
        >>> pairs = rule(*examples.two_objects())
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([0, 64], [0, 1])
    """
    choose = _top(k, above, "iou", "top_k_then_one")

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        kept = choose(scene, pairs, quality)
        return pairs[kept[first_of_group(pairs.object[kept], quality[kept], pairs.point[kept])]]

    return select


def _top(k: Moving[int], above: float, conflicts: str, name: str) -> Callable[[Scene, Pairs, Tensor], Tensor]:
    """Finds the indices, ascending, of the `k` best pairs of each object, less those whose point another object has."""
    if min(ends(k)) < 1:
        raise ValueError(f"{name}: k must be at least 1, got {k}")
    if conflicts not in ("quality", "iou"):
        raise ValueError(f"{name}: conflicts must be 'quality' or 'iou', got {conflicts!r}")

    def choose(scene: Scene, pairs: Pairs, quality: Tensor) -> Tensor:
        order, rank = ranked(pairs.object, quality, pairs.point)
        best = order[(rank < moving_number(k, scene.progress)) & (quality[order] > above)].sort().values
        point, object = pairs.point[best], pairs.object[best]
        merit = quality[best] if conflicts == "quality" else scene.iou(point, object).nan_to_num(-1.0)
        return best[first_of_group(point, merit, object).sort().values]

    return choose


@register_step("selection", "ranks_points")
def best_level() -> Selection:
    """One-to-many: all candidates of an object on the level of its best candidate (Quality-FCOS, DeFCN appendix A)."""

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        level = scene.points.level[scene.location(pairs.point)]
        best = first_of_group(pairs.object, quality, pairs.point)
        chosen = level.new_full((scene.num_objects,), -1)
        chosen[pairs.object[best]] = level[best]
        keep = level == chosen[pairs.object]
        return _one_object_a_point(pairs[keep], quality[keep])

    return select


@register_step("selection")
def best_of_point() -> Selection:
    """One-to-many: every candidate counts; a point wanted by several objects goes to the best of them."""

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        return _one_object_a_point(pairs, quality)

    return select


@register_step("selection", "ranks_points", "unit")
def mean_plus_std(inside: bool = True) -> Selection:
    """One-to-many: candidates at least as good as mean + standard deviation of their object's candidates.

    The threshold of ATSS (Zhang et al. 2020), with the unbiased deviation, on any quality (10-defcn, section 6). It
    is taken over all candidates; only then those outside the box are dropped. A quality of 0 never counts. A point
    wanted by several objects goes to the best of them.
    """

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        if quality.device.type == "cpu":
            return _above_mean_plus_std_on_host(scene, pairs, quality, inside)
        keep = (quality >= _thresholds(scene, pairs, quality)[pairs.object]) & (quality > 0)
        if inside:
            keep &= scene.ltrb(pairs.point, pairs.object).amin(-1) > 0
        return _one_object_a_point(covering(scene, pairs[keep]), quality[keep])

    return select


def _above_mean_plus_std_on_host(scene: Scene, pairs: Pairs, quality: Tensor, inside: bool) -> Pairs:
    """The selection of `mean_plus_std` in numpy, whose calls are a third of torch's for the few pairs of a step."""
    object, point, value = pairs.object.numpy(), pairs.point.numpy(), quality.numpy()
    least = _thresholds_on_host(scene.num_objects, object, value)
    keep = ((value >= least[object]) & (value > 0)).nonzero()[0]
    object, point, value = object[keep], point[keep], value[keep]
    if inside:
        xy, box = scene.points.xy.numpy()[point % len(scene.points)], scene.gt_boxes.numpy()[object]
        keep = ((xy > box[:, :2]) & (xy < box[:, 2:])).all(1).nonzero()[0]
        object, point, value = object[keep], point[keep], value[keep]
    covered = np.zeros(scene.num_objects, dtype=bool)
    covered[object] = True
    if scene.num_objects > 1:
        keep = first_of_group_on_host(point, value, object)
        keep.sort()
        object, point, value = object[keep], point[keep], value[keep]
    kept = torch.from_numpy(point), torch.from_numpy(object)
    return Pairs(*kept, covered=torch.from_numpy(covered), quality=torch.from_numpy(value))


@register_step("selection", "ranks_points", "unit")
def thresholds(positive: float = 0.5, negative: float = 0.4, claim: bool = True, ties: str = "equal") -> Selection:
    """One-to-many by fixed thresholds, with an ignore band between them (RetinaNet, section 4.1).

    A point goes to the object it suits best; it is a positive from `positive` on, background below `negative`, and
    ignored between.

    Args:
        claim: an object also takes the points that suit it best of all, however badly, unless they do not suit it at
            all.
        ties: which points these are, and who wins one that two objects claim: "equal", those of equal float32 quality,
            and the later object (DATE's release, mmdet); "near", those within 1e-5 of it, and the better object.
    """
    if ties not in ("equal", "near"):
        raise ValueError(f"thresholds: ties must be 'equal' or 'near', got {ties!r}")
    if not 0 < negative <= positive <= 1:
        raise ValueError(f"thresholds: 0 < negative <= positive <= 1 must hold, got {negative} and {positive}")

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        best = first_of_group(pairs.point, quality, pairs.object)
        kept, between = best[quality[best] >= positive], best[(quality[best] < positive) & (quality[best] >= negative)]
        if claim:
            claims = _claims(scene, pairs, quality, ties)
            taken = pairs.point[claims]
            kept = torch.cat([claims, kept[~torch.isin(pairs.point[kept], taken)]])
            between = between[~torch.isin(pairs.point[between], taken)]
        return replace(pairs[kept.sort().values], ignored=pairs.point[between])

    return select


def _claims(scene: Scene, pairs: Pairs, quality: Tensor, ties: str) -> Tensor:
    """Indices of the pairs of each object's highest quality, at most one a point."""
    highest = quality.new_zeros(scene.num_objects)
    highest = highest.scatter_reduce(0, pairs.object, quality, "amax")
    least = highest if ties == "equal" else highest * (1 - TIE)
    mine = ((quality >= least[pairs.object]) & (quality > 0)).nonzero().squeeze(1)
    point, object = pairs.point[mine], pairs.object[mine]
    return mine[first_of_group(point, object if ties == "equal" else quality[mine], object)]


def _thresholds(scene: Scene, pairs: Pairs, quality: Tensor) -> Tensor:
    """(G,) mean + unbiased standard deviation of each object's candidates; one candidate has deviation 0."""
    if quality.device.type == "cpu":
        return torch.from_numpy(_thresholds_on_host(scene.num_objects, pairs.object.numpy(), quality.numpy()))
    value = quality.double()
    zeros = value.new_zeros(scene.num_objects)
    count = zeros.index_add(0, pairs.object, torch.ones_like(value))
    mean = zeros.index_add(0, pairs.object, value) / count.clamp(min=1)
    squares = zeros.index_add(0, pairs.object, (value - mean[pairs.object]).square())
    return (mean + (squares / (count - 1).clamp(min=1)).sqrt()).float()


def _thresholds_on_host(size: int, object: Ints, quality: Floats) -> Floats:
    """`_thresholds` with numpy, whose calls are cheaper for the few pairs of a step."""
    count = np.bincount(object, minlength=size)
    mean = np.bincount(object, quality, size) / np.maximum(count, 1)
    difference = quality - mean[object]
    squares = np.bincount(object, difference * difference, size)
    return (mean + np.sqrt(squares / np.maximum(count - 1, 1))).astype(np.float32)


def _one_object_a_point(pairs: Pairs, quality: Tensor) -> Pairs:
    kept = first_of_group(pairs.point, quality, pairs.object).sort().values
    return pairs[kept]
