"""What the benchmarks run on, and how they take times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.structures import Points

SIZES, STRIDES = [(100, 152), (50, 76), (25, 38), (13, 19), (7, 10)], [8, 16, 32, 64, 128]
SIZE = (800, 1216)  # height and width of an image, pixels; SIZES are those of its levels


def level_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of P3 to P7, in cells, of an image that is padded to a multiple of 32 pixels."""
    padded = [-(-side // 32) * 32 for side in size]
    return [tuple(-(-side // stride) for side in padded) for stride in STRIDES]


def crowded_image(
    num_objects: int, num_classes: int, seed: int, size: tuple[int, int] = SIZE
) -> tuple[Points, Tensor, Tensor, Tensor, Tensor]:
    """A crowded image, and what a half-trained detector would say about it.

    Objects come in clusters, their side between 12 and 300 pixels; predicted boxes lie around the objects with errors
    of a few strides.

    Returns:
        points, scores (R, K), boxes (R, 4), gt_boxes (G, 4), gt_classes (G,).
    """
    rng = torch.Generator().manual_seed(seed)
    points = Points.from_sizes(level_sizes(size), STRIDES)
    width_height = torch.tensor([size[1], size[0]])
    hubs = torch.rand(max(1, num_objects // 8), 2, generator=rng) * width_height
    near = hubs[torch.randint(len(hubs), (num_objects,), generator=rng)]
    centre = near + torch.randn(num_objects, 2, generator=rng) * 60
    side = 12 * 25 ** torch.rand(num_objects, 2, generator=rng)
    gt_boxes = torch.cat([centre - side / 2, centre + side / 2], 1)
    gt_boxes = gt_boxes.minimum(width_height.repeat(2)).clamp(min=0)
    gt_classes = torch.randint(num_classes, (num_objects,), generator=rng)
    scores = torch.rand(len(points), num_classes, generator=rng) ** 4
    nearest = torch.cdist(points.xy, centre).argmin(1)
    noise = torch.randn(len(points), 4, generator=rng) * points.stride[:, None]
    return points, scores, gt_boxes[nearest] + noise, gt_boxes, gt_classes


def seconds(run: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return statistics.median(times)
