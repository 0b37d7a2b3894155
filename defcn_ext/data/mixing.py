"""Several training samples in one picture: mosaic, mixup and copy-blend, so that a picture has more objects.

What Huang et al. 2025 (DEIM, arXiv 2412.04234) call dense one-to-one. A sample is what a mapper makes: `image`, uint8
(C, H, W), `instances` with `gt_boxes` and `gt_classes`, perhaps `gt_masks` and `gt_keypoints`, and what else there is.
The result has the size of the first picture, and all else of its sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detectron2.structures import BitMasks, Instances, PolygonMasks

from .placing import Placing, covering, fitting

Sample = dict[str, Any]


def mosaic(first: Sample, samples: Sequence[Sample], center: tuple[int, int]) -> Sample:
    """Four pictures in one of the size of the first, each filling its part to one side of `center` (x, y).

    Args:
        samples: in the order upper left, upper right, lower left, lower right; usually `first` is among them.
        center: whole pixels, inside of the first picture.
    """
    height, width = canvas = size_of(first)
    x, y = center
    windows = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    image = torch.empty_like(first["image"])
    parts = []
    for sample, window in zip(samples, windows):
        placing = covering(size_of(sample), window, canvas)
        image[:, window[1] : window[3], window[0] : window[2]] = placing.image(sample["image"])
        parts.append(placing.instances(sample["instances"]))
    return _with(first, image, parts, "mosaic")


def mixup(first: Sample, second: Sample, ratio: float, where: tuple[float, float] = (0.5, 0.5)) -> Sample:
    """A second picture shines through the first one, with the objects of both.

    Args:
        ratio: weight of the first picture.
        where: see `fitting`: the second picture stays whole.
    """
    placing = fitting(size_of(second), size_of(first), where)
    image = first["image"].clone()
    _blend(image, placing, second["image"], ratio)
    return _with(first, image, [first["instances"], placing.instances(second["instances"])], "mixup")


def copy_blend(
    first: Sample, second: Sample, chosen: Sequence[int], where: Sequence[tuple[float, float]], ratio: float
) -> Sample:
    """Objects of a second picture copied into the first, which shines through them.

    What has masks is copied within its mask, else within its box. Objects larger than the first picture stay away.

    Args:
        chosen: indices of objects of `second`.
        where: for each, shares of the free space left and above.
        ratio: weight of the first picture.
    """
    height, width = canvas = size_of(first)
    image, parts, rows, columns = first["image"].clone(), [first["instances"]], *size_of(second)
    for index, share in zip(chosen, where):
        one = second["instances"][index]
        low, high = one.gt_boxes.tensor[0, :2].floor().long(), one.gt_boxes.tensor[0, 2:].ceil().long()
        (x1, y1), (x2, y2) = low.tolist(), high.minimum(torch.tensor([columns, rows])).tolist()
        if x2 - x1 > width or y2 - y1 > height:
            continue
        x, y = round(share[0] * (width - (x2 - x1))), round(share[1] * (height - (y2 - y1)))
        placing = Placing((rows, columns), (x - x1, y - y1), (x, y, x + x2 - x1, y + y2 - y1), canvas)
        _blend(image, placing, second["image"], ratio, _mask_of(one, (rows, columns)))
        parts.append(placing.instances(one))
    return _with(first, image, parts, "copy-blend")


def size_of(sample: Sample) -> tuple[int, int]:
    """(height, width) in pixels."""
    return tuple(sample["image"].shape[1:])


def fit_together(samples: Sequence[Sample]) -> bool:
    """Whether their objects, where there are any, have the same fields: masks for all or for none."""
    fields = {frozenset(x["instances"].get_fields()) for x in samples if "instances" in x and len(x["instances"])}
    return len(fields) <= 1 and all("instances" in x for x in samples)


def _blend(image: Tensor, placing: Placing, other: Tensor, ratio: float, mask: Tensor | None = None) -> None:
    """Draws another image on a canvas (C, H, W), in place; only within a mask (H', W') of it if there is one."""
    x1, y1, x2, y2 = placing.window
    under = image[:, y1:y2, x1:x2]
    mixed = (ratio * under.float() + (1 - ratio) * placing.image(other).float()).round().to(image.dtype)
    image[:, y1:y2, x1:x2] = mixed if mask is None else torch.where(placing.image(mask[None]), mixed, under)


def _mask_of(one: Instances, size: tuple[int, int]) -> Tensor | None:
    """(H, W) bool of a single object."""
    if not one.has("gt_masks"):
        return None
    masks = one.gt_masks
    return (BitMasks.from_polygon_masks(masks, *size) if isinstance(masks, PolygonMasks) else masks).tensor[0]


def _with(sample: Sample, image: Tensor, parts: Sequence[Instances], kind: str) -> Sample:
    filled = [part for part in parts if len(part)] or parts[:1]
    instances = Instances.cat(filled)
    return {**sample, "image": image, "instances": instances, "mixed": (*sample.get("mixed", ()), kind)}
