"""Step one: which points may stand for an object.

A candidate step takes the scene and the quality step and returns `Pairs`, ordered by object. Local priors enumerate
the few points inside a region of each object and never look at the quality. Those that look at all points are in
dense.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from defcn_ext.structures import Pairs, Points

from .scene import Scene
from .steps import register_step

Quality = Callable[[Scene, Tensor, Tensor], Tensor]
Candidates = Callable[[Scene, Quality], Pairs]

# Upper end of the sizes that a level is for, in strides: 64 pixels for stride 8 and so on (FCOS, section 3.2).
SIZE_RANGE_STRIDES = 8


@register_step("candidates")
def center(radius: float = 1.5, uncovered: str = "drop") -> Candidates:
    """Points strictly inside the box and strictly nearer than `radius` strides to its centre, on every level.

    The FCOS "center sampling" prior (00-common, section 7), the default of POTO on COCO.

    Args:
        radius: half the side of the square region, in strides of the level.
        uncovered: what becomes of an object without any such point: "drop" leaves it out, "nearest" gives it the
            nearest point of all levels.
    """
    if radius <= 0:
        raise ValueError(f"center: radius must be positive (strides), got {radius}")
    return _local(radius, uncovered)


@register_step("candidates")
def inside(uncovered: str = "drop") -> Candidates:
    """Points strictly inside the box, on every level. For `uncovered` see `center`."""
    return _local(None, uncovered)


def prior_of(name: str, radius: float, uncovered: str) -> Candidates:
    """The local prior of a name; for the options see its step.

    Raises:
        ValueError: unknown name.
    """
    if name == "center":
        return center(radius, uncovered)
    if name == "inside":
        return inside(uncovered)
    raise ValueError(f"unknown spatial prior {name!r}; known: center, inside")


@register_step("candidates")
def near(radius: float = 1.7) -> Candidates:
    """Points strictly inside the box and nearer to its centre than `radius` strides, on every level (DW, Table 4)."""
    if radius <= 0:
        raise ValueError(f"near: radius must be positive (strides), got {radius}")
    square = _local(radius, "drop")

    def candidates(scene: Scene, quality: Quality) -> Pairs:
        pairs = square(scene, quality)
        box, location = scene.gt_boxes[pairs.object], scene.location(pairs.point)
        distance = (scene.points.xy[location] - (box[:, :2] + box[:, 2:]) / 2).square().sum(-1).sqrt()
        return covering(scene, pairs[distance < radius * scene.points.stride[location]])

    return candidates


@register_step("candidates")
def in_box(prior: Candidates) -> Candidates:
    """Of the candidates of `prior`, those strictly inside the box."""

    def candidates(scene: Scene, quality: Quality) -> Pairs:
        pairs = prior(scene, quality)
        return covering(scene, pairs[scene.ltrb(pairs.point, pairs.object).amin(-1) > 0])

    return candidates


@register_step("candidates")
def widened(prior: Candidates, below: float = 8.0, side: float = 16.0) -> Candidates:
    """The candidates that `prior` finds for boxes whose small sides are made longer (YOLO26's small-target assignment).

    Each side of its own, about the middle. All later steps see the objects as they are.

    Args:
        below, side: what is shorter than `below` counts as `side`, pixels.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> points, scores, boxes, _, _ = examples.two_objects()
        >>> gt_boxes, gt_classes = torch.tensor([[21.0, 21, 27, 27]]), torch.tensor([0])  # between four points
        >>> [
        ...     build_rule(f"Combine(candidates={x}, quality=poto, selection=top_k)")(
        ...         points, scores, boxes, gt_boxes, gt_classes).point.tolist()
        ...     for x in ("inside", "widened(prior=inside)")
        ... ]
        [[69], [18, 19, 26, 27, 69]]
    """
    if not 0 < below <= side:
        raise ValueError(f"widened: 0 < below <= side must hold (pixels), got {below} and {side}")

    def candidates(scene: Scene, quality: Quality) -> Pairs:
        low, high = scene.gt_boxes[:, :2], scene.gt_boxes[:, 2:]
        middle, short = (low + high) / 2, high - low < below
        low, high = torch.where(short, middle - side / 2, low), torch.where(short, middle + side / 2, high)
        wide = replace(scene, gt_boxes=torch.cat([low, high], dim=1))
        return prior(wide, lambda _, point, object: quality(scene, point, object))

    return candidates


@register_step("candidates")
def nearest_per_level(k: int = 9) -> Candidates:
    """The `k` points nearest to the object's centre on each level (ATSS, Algorithm 1).

    The point in the i-th nearest column and the j-th nearest row has i j - 1 points that are at least as near, so of
    each level only the few with i j <= k are looked at, and the choice is still exact.
    """
    if k < 1:
        raise ValueError(f"nearest_per_level: k must be at least 1, got {k}")

    def candidates(scene: Scene, quality: Quality) -> Pairs:
        check_one_point_a_cell(scene.points, "nearest_per_level")
        middle = (scene.gt_boxes[:, :2] + scene.gt_boxes[:, 2:]) / 2
        location, first = [], 0
        for (h, w), step in zip(scene.points.sizes, scene.points.steps):
            location.append(first + _nearest_cells(middle / step - scene.points.offset, h, w, step, k))
            first += h * w
        every_location = torch.cat(location, dim=1)
        objects = torch.arange(scene.num_objects, device=middle.device)[:, None].expand_as(every_location)
        point = every_location + scene.image[:, None] * len(scene.points)
        covered = torch.ones(scene.num_objects, dtype=torch.bool, device=middle.device)
        return Pairs(point.flatten(), objects.flatten(), covered=covered)

    return candidates


@register_step("candidates")
def size_range(prior: Candidates) -> Candidates:
    """Of the candidates of `prior`, those whose level is meant for the object's size (FCOS, section 3.2).

    The largest distance from the point to a side must lie in the level's range, closed on both ends:
    [-1, 8 s] on the finest level of stride s, [8 s / 2, 8 s] between, no upper end on the coarsest.
    """

    def candidates(scene: Scene, quality: Quality) -> Pairs:
        pairs = prior(scene, quality)
        low, high = _level_ranges(scene)
        level = scene.points.level[scene.location(pairs.point)]
        reach = scene.ltrb(pairs.point, pairs.object).amax(-1)
        return covering(scene, pairs[(reach >= low[level]) & (reach <= high[level])])

    return candidates


def covering(scene: Scene, pairs: Pairs) -> Pairs:
    """The same pairs, with `covered` according to them."""
    covered = torch.zeros(scene.num_objects, dtype=torch.bool, device=pairs.object.device)
    covered[pairs.object] = True
    return replace(pairs, covered=covered)


def _local(radius: float | None, uncovered: str) -> Candidates:
    if uncovered not in ("drop", "nearest"):
        raise ValueError(f"uncovered must be 'drop' or 'nearest', got {uncovered!r}")

    def candidates(scene: Scene, quality: Quality) -> Pairs:
        check_one_point_a_cell(scene.points, "inside" if radius is None else "center")
        pairs = _enumerate(scene, radius)
        pairs = covering(scene, pairs)
        return _with_nearest(scene, pairs) if uncovered == "nearest" else pairs

    return candidates


def _regions(scene: Scene, radius: float | None) -> Tensor:
    """(G, L, 4): where the candidates of each object lie on each level."""
    stride = torch.tensor(scene.points.strides, dtype=torch.float32, device=scene.gt_boxes.device)
    boxes = scene.gt_boxes[:, None, :].expand(-1, len(stride), -1)
    if radius is None:
        return boxes
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    reach = radius * stride[None, :, None]
    low = torch.maximum(middle - reach, boxes[..., :2])
    high = torch.minimum(middle + reach, boxes[..., 2:])
    return torch.cat([low, high], dim=-1)


def _enumerate(scene: Scene, radius: float | None) -> Pairs:
    """All pairs whose point lies strictly inside the object's region of its level.

    The cells that a region may touch form a rectangle of rows and columns; only these are visited, then tested exactly.
    """
    points, device = scene.points, scene.gt_boxes.device
    region = _regions(scene, radius)
    step = points.steps
    size_wh = torch.tensor([(w, h) for h, w in points.sizes], device=device)
    slack = 1e-3  # of a cell; more than the rounding of the division
    first = ((region[..., :2] / step - points.offset - slack).floor() + 1).clamp(min=0).minimum(size_wh).long()
    last = (region[..., 2:] / step - points.offset + slack).ceil().clamp(min=0).minimum(size_wh).long()
    cell, column, row = rectangles(first.flatten(0, 1), last.flatten(0, 1))  # `cell` is an index into (G, L)
    num_levels = len(points.sizes)
    level, object = cell % num_levels, cell.div(num_levels, rounding_mode="floor")
    start = points.starts
    location = start[level] + row * size_wh[level, 0] + column
    xy, box = points.xy[location], region.flatten(0, 1)[cell]
    keep = ((xy > box[:, :2]) & (xy < box[:, 2:])).all(-1).nonzero().squeeze(1)
    location, object = location[keep], object[keep]
    return Pairs(location + scene.image[object] * len(points), object)


def rectangles(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All cells of many rectangles of cells.

    Args:
        first, last: (M, 2) first column and row of each rectangle, and those behind its last.

    Returns:
        index of the rectangle, column and row of each cell, rectangle by rectangle, row-major.
    """
    extent = (last - first).clamp(min=0)
    count = extent.prod(-1)
    rectangle = torch.arange(len(count), device=count.device).repeat_interleave(count)
    within = torch.arange(len(rectangle), device=count.device) - (count.cumsum(0) - count)[rectangle]
    columns, corner = extent[rectangle, 0], first[rectangle]
    return rectangle, corner[:, 0] + within % columns, corner[:, 1] + within.div(columns, rounding_mode="floor")


def _nearest_cells(middle: Tensor, height: int, width: int, step: Tensor, k: int) -> Tensor:
    """(G, min(k, cells)) indices of the cells of one level nearest to points (G, 2) in units of cells.

    `step` is the (2,) width and height of a cell, in pixels.
    """
    columns, dx = _nearest_on_axis(middle[:, 0], width, k)
    rows, dy = _nearest_on_axis(middle[:, 1], height, k)
    dy = dy * (step[1] / step[0]).square()
    i, j = torch.meshgrid(torch.arange(columns.shape[1]), torch.arange(rows.shape[1]), indexing="ij")
    possible = ((i + 1) * (j + 1) <= k).to(middle.device)
    i, j = i.to(middle.device)[possible], j.to(middle.device)[possible]
    cell, order = (rows[:, j] * width + columns[:, i]).sort(dim=1)  # of equally near cells the first counts
    distance = (dx[:, i] + dy[:, j]).gather(1, order)
    return cell.gather(1, distance.argsort(dim=1, stable=True)[:, :k])


def _nearest_on_axis(middle: Tensor, size: int, k: int) -> tuple[Tensor, Tensor]:
    """(G, min(k, size)) indices along one axis by increasing squared distance, and these distances."""
    square = (torch.arange(size, device=middle.device) - middle[:, None]).square()
    distance, index = square.sort(dim=1, stable=True)
    return index[:, :k], distance[:, :k]


def check_one_point_a_cell(points: Points, name: str) -> None:
    """
    Raises:
        ValueError: the branch has several anchors a cell.
    """
    if points.per_cell != 1:
        raise ValueError(
            f"{name} is made for one point a cell, and the branch has {points.per_cell} anchors a cell; take "
            "overlapping_anchors, or give the branch one anchor"
        )


def _with_nearest(scene: Scene, pairs: Pairs) -> Pairs:
    """Adds, for every object without a candidate, the point nearest to its centre; the finest level wins ties."""
    assert pairs.covered is not None
    alone = (~pairs.covered).nonzero().squeeze(1)
    middle = (scene.gt_boxes[alone, :2] + scene.gt_boxes[alone, 2:]) / 2
    distance, nearest, first = [], [], 0
    for (h, w), step in zip(scene.points.sizes, scene.points.steps):
        limit = torch.tensor([w - 1, h - 1], device=middle.device)
        cell = (middle / step - scene.points.offset).round().clamp(min=0).minimum(limit).long()
        distance.append((scene.points.xy[first + cell[:, 1] * w + cell[:, 0]] - middle).square().sum(-1))
        nearest.append(first + cell[:, 1] * w + cell[:, 0])
        first += h * w
    choice = torch.stack(distance, 1).argmin(1, keepdim=True)
    location = torch.stack(nearest, 1).gather(1, choice).squeeze(1)
    point = torch.cat([pairs.point, location + scene.image[alone] * len(scene.points)])
    object = torch.cat([pairs.object, alone])
    order = object.argsort(stable=True)
    return Pairs(point[order], object[order], covered=pairs.covered)


def _level_ranges(scene: Scene) -> tuple[Tensor, Tensor]:
    """(L,) lower and (L,) upper end, in pixels, of the object sizes each level is for."""
    high = SIZE_RANGE_STRIDES * torch.tensor(scene.points.strides, dtype=torch.float32, device=scene.gt_boxes.device)
    low = torch.cat([high.new_tensor([-1.0]), high[:-1]])
    high = torch.cat([high[:-1], high.new_tensor([float("inf")])])
    return low, high
