"""Time and memory of the assignment rules alone, beside the obvious dense form of the same rule.

The dense forms build full (objects x points) matrices, one image after the other, and solve matchings with scipy's
dense solver. They stand for the papers' released code, and are written for this comparison. "trained" is a
half-trained detector, "untrained" one that says the same of every point.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from defcn_ext.assignment import build_rule, rules
from defcn_ext.losses.boxes import normalized_l1, paired_giou, paired_iou
from defcn_ext.structures import Points

from .scenes import SIZE, crowded_image, seconds

MORE = ["POTO(prior=inside)", "POTO(prior=global)", "MinCost(select=argmin)"]
SHAPES = torch.tensor([(s * r**-0.5, s * r**0.5) for s in (4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)) for r in (0.5, 1, 2)])
MIB = 1 << 20


class Batch(NamedTuple):
    """What a rule is called with; see `Rule.__call__`."""

    points: Points
    scores: Tensor
    boxes: Tensor
    gt_boxes: Tensor
    gt_classes: Tensor
    image: Tensor


def make_batch(
    images: int,
    objects: int,
    classes: int,
    trained: bool,
    anchors: bool,
    device: str,
    size: tuple[int, int] = SIZE,
) -> Batch:
    """Crowded images. An untrained detector gives every class about 0.01, and predicts boxes of about two pixels."""
    parts = [crowded_image(objects, classes, n, size) for n in range(images)]
    points = parts[0][0]
    scores, boxes, gt_boxes, gt_classes = (torch.cat(x) for x in list(zip(*parts))[1:])
    if not trained:
        rng = torch.Generator().manual_seed(0)
        scores = (torch.randn(scores.shape, generator=rng) * 0.1 - 4.6).sigmoid()
        ltrb = (torch.randn(boxes.shape, generator=rng) * 0.1).exp()
        boxes = points.boxes(ltrb.view(images, -1, 4)).flatten(0, 1)
    if anchors:
        points = Points.with_anchors(points.sizes, points.strides, SHAPES)
        scores, boxes = (x.repeat_interleave(len(SHAPES), dim=0) for x in (scores, boxes))
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(points).items()}
    image = torch.arange(images).repeat_interleave(objects)
    tensors = (x.to(device) for x in (scores, boxes, gt_boxes, gt_classes, image))
    return Batch(Points(**moved), *tensors)


def _center(points: Points, gt_boxes: Tensor) -> Tensor:
    """(G, R): strictly inside the box and nearer than 1.5 strides to its centre."""
    xy, reach = points.xy[None], 1.5 * points.stride[None, :, None]
    middle = (gt_boxes[:, None, :2] + gt_boxes[:, None, 2:]) / 2
    low = torch.maximum(middle - reach, gt_boxes[:, None, :2])
    high = torch.minimum(middle + reach, gt_boxes[:, None, 2:])
    return torch.cat([xy - low, high - xy], -1).amin(-1) > 0


def _poto_quality(scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> Tensor:
    return scores[:, gt_classes].T ** 0.2 * paired_iou(boxes[None], gt_boxes[:, None]) ** 0.8


def _solve(matrix: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = linear_sum_assignment(matrix.cpu().numpy(), maximize=True)
    return torch.as_tensor(columns), torch.as_tensor(rows)


def dense_poto(points: Points, *image: Tensor, prior: bool = True) -> tuple[Tensor, Tensor]:
    """Point and object of each pair of one image, here and below; R points, G objects."""
    quality = _poto_quality(*image)
    if prior:
        quality = quality.where(_center(points, image[2]), torch.tensor(-1.0, device=quality.device))
    return _solve(quality)


def dense_min_cost(
    points: Points, scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor
) -> tuple[Tensor, Tensor]:
    p = scores.clamp(1e-7, 1 - 1e-7)
    gain = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
    size = torch.tensor([side * points.strides[0] for side in points.sizes[0]], dtype=torch.float32, device=p.device)
    l1 = normalized_l1(boxes[None], gt_boxes[:, None], size)
    return _solve(2 * paired_giou(boxes[None], gt_boxes[:, None]) - 2 * gain[:, gt_classes].T - 5 * l1)


def dense_fcos(points: Points, scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> tuple:
    reach = torch.cat([points.xy - gt_boxes[:, None, :2], gt_boxes[:, None, 2:] - points.xy], -1).amax(-1)
    low = torch.where(points.level == 0, -1.0, 4 * points.stride)
    high = torch.where(points.level == len(points.sizes) - 1, float("inf"), 8 * points.stride)
    possible = _center(points, gt_boxes) & (reach >= low) & (reach <= high)
    area = (gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(-1)[:, None].expand_as(reach).masked_fill(~possible, float("inf"))
    smallest, object = area.min(0)
    point = smallest.isfinite().nonzero().squeeze(1)
    return point, object[point]


def dense_retinanet(points: Points, scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> tuple:
    iou = paired_iou(points.anchors[None], gt_boxes[:, None])
    best, object = iou.max(0)
    claims = (iou == iou.amax(1, keepdim=True)) & (iou > 0)
    claimed, claimer = (claims * torch.arange(1, len(iou) + 1, device=iou.device)[:, None]).max(0)
    point = ((best >= 0.5) | (claimed > 0)).nonzero().squeeze(1)
    return point, torch.where(claimed > 0, claimer, object)[point]


def dense_quality_atss(points: Points, *image: Tensor) -> tuple[Tensor, Tensor]:
    quality, gt_boxes = _poto_quality(*image), image[2]
    levels = quality.split(points.counts, dim=1)
    kept = torch.cat([torch.zeros_like(q).scatter(1, q.topk(min(9, q.shape[1]), 1).indices, 1) for q in levels], 1) > 0
    std, mean = torch.std_mean(quality[kept].view(len(gt_boxes), -1), dim=1, keepdim=True)
    inside = torch.cat([points.xy - gt_boxes[:, None, :2], gt_boxes[:, None, 2:] - points.xy], -1).amin(-1) > 0
    best, object = quality.where(kept & inside & (quality >= mean + std), torch.zeros_like(quality)).max(0)
    point = (best > 0).nonzero().squeeze(1)
    return point, object[point]


DENSE: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "POTO": dense_poto,
    "POTO(prior=global)": lambda *image: dense_poto(*image, prior=False),
    "MinCost": dense_min_cost,
    "FCOS": dense_fcos,
    "RetinaNet": dense_retinanet,
    "QualityATSS": dense_quality_atss,
}


@torch.no_grad()
def run_dense(name: str, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """The dense form of a rule, image by image: points and objects counted within the image."""
    count, found = len(batch.points), []
    for n in range(len(batch.boxes) // count):
        mine, part = batch.image == n, slice(n * count, (n + 1) * count)
        objects = batch.gt_boxes[mine], batch.gt_classes[mine]
        found.append(DENSE[name](batch.points, batch.scores[part], batch.boxes[part], *objects))
    return found


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of the CPU tensors that torch creates, as long as they live; `peak` is their maximum.

    Deterministic, unlike the memory of the process. What numpy and scipy hold by themselves is not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in given and key not in self._seen:
                self._add(x.untyped_storage(), key)
        return out

    def _add(self, storage: torch.UntypedStorage, key: int) -> None:
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def peak_memory(run: Callable[[], object], device: str) -> float:
    """MiB that a call takes beyond its arguments: on CUDA the allocator's peak, on the CPU see `TensorMemory`."""
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    with TensorMemory() as memory:
        run()
    return memory.peak / MIB


def peak_of_arrays(run: Callable[[], object]) -> float:
    """MiB of Python's objects that a call takes, numpy's arrays among them, which `TensorMemory` does not see."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def median(run: Callable[[], object], repeats: int, device: str) -> float:
    """Median seconds of a call: CPU time on the CPU, of this process alone, so that others count less; else wall."""
    if device == "cpu":
        return seconds(run, repeats, time.process_time)
    return seconds(lambda: (run(), torch.cuda.synchronize()), repeats)


def benchmark_assignment(
    names: list[str],
    counts: list[int],
    images: int,
    classes: int,
    repeats: int,
    device: str,
    size: tuple[int, int] = SIZE,
) -> str:
    """Every rule on a batch of crowded images, beside its dense form where there is one, in one run.

    Args:
        names: of rules, as in yaml; all if empty.
        counts: objects an image.

    Returns:
        a markdown table, with the ratio of the medians: CPU time on the CPU, wall time on a GPU.
    """
    lines = [
        "| rule | predictions | objects an image | dense (ms) | dense (MiB) | here (ms) | here (MiB) | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names or [*sorted({*rules(), *MORE} - {"Combine"})]:
        for trained in (True, False):
            for count in counts:
                batch = make_batch(images, count, classes, trained, name.startswith("RetinaNet"), device, size)
                lines.append(
                    f"| {name} | {'trained' if trained else 'untrained'} | {count} | " + _cells(name, batch, repeats)
                )
                print(lines[-1], flush=True)
    return "\n".join(lines)


def _cells(name: str, batch: Batch, repeats: int) -> str:
    device, rule = batch.boxes.device.type, build_rule(name)
    here = median(lambda: rule(*batch), 3 * repeats, device)
    memory = peak_memory(lambda: rule(*batch), device) + peak_of_arrays(lambda: rule(*batch))
    if name not in DENSE:
        return f"- | - | {1e3 * here:.1f} | {memory:.1f} | - |"
    dense = median(lambda: run_dense(name, batch), repeats, device)
    dense_memory = peak_memory(lambda: run_dense(name, batch), device) + peak_of_arrays(lambda: run_dense(name, batch))
    return f"{1e3 * dense:.0f} | {dense_memory:.0f} | {1e3 * here:.1f} | {memory:.1f} | {dense / here:.0f}x |"
