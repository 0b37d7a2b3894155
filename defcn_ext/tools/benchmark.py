"""Side-by-side timings, each pair in one run.

python -m defcn_ext.tools.benchmark matching          exact matching: full matrix against sparse pairs
python -m defcn_ext.tools.benchmark max_filtering     3D Max Filtering: 3D pooling against 2D pooling
python -m defcn_ext.tools.benchmark crowdhuman        CrowdHuman's metrics at the size of its validation set
python -m defcn_ext.tools.benchmark assignment        every rule: its obvious dense form against it, time and memory
python -m defcn_ext.tools.benchmark assignment --with-loss    with the losses and their gradients to the predictions
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.assignment import build_rule
from defcn_ext.assignment.candidates import center
from defcn_ext.assignment.scene import make_scene
from defcn_ext.benchmarks.assignment import benchmark_assignment
from defcn_ext.benchmarks.crowdhuman import benchmark_crowdhuman
from defcn_ext.benchmarks.losses import benchmark_losses
from defcn_ext.benchmarks.scenes import SIZE, SIZES, crowded_image, seconds
from defcn_ext.layers import max_over_neighbours
from defcn_ext.structures import Points


def dense_poto(points: Points, scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> float:
    """The obvious route: the full quality matrix, then scipy's dense solver. Returns the total quality."""
    xy, reach = points.xy[None], 1.5 * points.stride[None, :, None]
    middle = (gt_boxes[:, None, :2] + gt_boxes[:, None, 2:]) / 2
    low = torch.maximum(middle - reach, gt_boxes[:, None, :2])
    high = torch.minimum(middle + reach, gt_boxes[:, None, 2:])
    inside = torch.cat([xy - low, high - xy], -1).amin(-1) > 0
    top_left = torch.maximum(gt_boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = torch.minimum(gt_boxes[:, None, 2:], boxes[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)
    area_a = (gt_boxes[:, 2:] - gt_boxes[:, :2]).clamp(min=0).prod(-1)
    area_b = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
    iou = intersection / (area_a[:, None] + area_b[None] - intersection).clamp(min=1e-7)
    quality = scores[:, gt_classes].T ** 0.2 * iou**0.8
    matrix = torch.where(inside, quality, -1.0).numpy()
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    return float(matrix[rows, columns].clip(min=0).sum())


def sparse_poto(points: Points, scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> int:
    """The rule of this package, everything included: candidates, quality, matching. Returns the number of pairs."""
    return len(build_rule("POTO")(points, scores, boxes, gt_boxes, gt_classes))


def benchmark_matching(counts: list[int], repeats: int, num_classes: int) -> str:
    """POTO on one 800 x 1216 image: dense quality matrix and dense solver against sparse pairs, in one run.

    Returns:
        a markdown table, with the ratio of the medians.
    """
    rows = ["| objects | candidates | dense (ms) | sparse (ms) | ratio |", "|---|---|---|---|---|"]
    for count in counts:
        image = crowded_image(count, num_classes, seed=count)
        dense = seconds(lambda image=image: dense_poto(*image), repeats)
        sparse = seconds(lambda image=image: sparse_poto(*image), repeats * 5)
        pairs = num_candidates(*image)
        rows.append(f"| {count} | {pairs} | {1e3 * dense:.1f} | {1e3 * sparse:.2f} | {dense / sparse:.0f}x |")
        print(f"{count} objects done", flush=True)
    return "\n".join(rows)


def num_candidates(points: Points, scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> int:
    """How many (point, object) pairs the center prior leaves."""
    return len(center(1.5)(make_scene(points, scores, boxes, gt_boxes, gt_classes), None))


def stacked_max_pool3d(features: list[Tensor], tau: int, kernel: int) -> list[Tensor]:
    """3D Max Filtering as the paper writes it: stack the resized levels, pool in 3D, keep one slice of the result."""
    reach, out = tau // 2, []
    for level, feature in enumerate(features):
        existing = [k for k in range(level - reach, level + reach + 1) if 0 <= k < len(features)]
        size = feature.shape[-2:]
        stack = torch.stack([F.interpolate(features[k], size=size, mode="bilinear") for k in existing], dim=2)
        padding = (reach, kernel // 2, kernel // 2)
        pooled = F.max_pool3d(stack, (tau + 1, kernel, kernel), stride=1, padding=padding)
        out.append(pooled[:, :, existing.index(level)])
    return out


def benchmark_max_filtering(repeats: int, channels: int) -> str:
    """The pooling of 3D Max Filtering on the maps of one 800 x 1216 image, without convs, forward and backward.

    Returns:
        a markdown table, with the ratio of the medians.
    """
    features = [torch.randn(1, channels, h, w, requires_grad=True) for h, w in SIZES]

    def run(pool: Callable[[list[Tensor], int, int], list[Tensor]], tau: int, backward: bool) -> None:
        with torch.set_grad_enabled(backward):
            out = pool(features, tau, 3)
        if backward:
            torch.autograd.grad(sum(x.sum() for x in out), features)

    rows = ["| tau | pass | 3D pooling (ms) | 2D pooling (ms) | ratio |", "|---|---|---|---|---|"]
    for tau in (2, 4):
        for backward in (False, True):
            slow = seconds(lambda t=tau, b=backward: run(stacked_max_pool3d, t, b), repeats)
            fast = seconds(lambda t=tau, b=backward: run(max_over_neighbours, t, b), repeats)
            name = "forward and backward" if backward else "forward"
            rows.append(f"| {tau} | {name} | {1e3 * slow:.0f} | {1e3 * fast:.0f} | {slow / fast:.1f}x |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["matching", "max_filtering", "assignment", "crowdhuman"])
    parser.add_argument("--objects", type=int, nargs="+", help="default: 20 100 300 600; for assignment 20 100 500")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both routes")
    parser.add_argument("--rules", nargs="+", default=[], help="assignment: rules as in yaml; default: all")
    parser.add_argument("--batch", type=int, default=2, help="assignment: images a batch")
    parser.add_argument(
        "--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"), help="assignment: pixels"
    )
    parser.add_argument("--with-loss", action="store_true", help="assignment: and the losses with their gradients")
    parser.add_argument("--device", default="cpu", help="assignment: cpu or cuda")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "crowdhuman":
        print(benchmark_crowdhuman())
        return
    if args.what == "assignment":
        height, width = args.size
        print(
            f"{args.batch} images of {height} x {width}, {args.classes} classes, {args.threads} thread(s), "
            f"{args.device}"
        )
        counts = args.objects or [20, 100, 500]
        benchmark = benchmark_losses if args.with_loss else benchmark_assignment
        print(benchmark(args.rules, counts, args.batch, args.classes, args.repeats, args.device, (height, width)))
        return
    subject = "POTO" if args.what == "matching" else f"3D Max Filtering of {args.channels} channels"
    print(f"{subject} on one 800 x 1216 image, {args.threads} thread(s), median of {args.repeats} runs", flush=True)
    if args.what == "matching":
        print(benchmark_matching(args.objects or [20, 100, 300, 600], args.repeats, args.classes))
    else:
        print(benchmark_max_filtering(args.repeats, args.channels))


if __name__ == "__main__":
    main()
