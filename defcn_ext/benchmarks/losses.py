"""Time and memory of a training step's share behind the predictions: assignment, losses, gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from defcn_ext.assignment import build_rule, rules
from defcn_ext.branches.anchor import AnchorBranch
from defcn_ext.branches.base import Branch
from defcn_ext.branches.dual import DualWeightingBranch
from defcn_ext.branches.point import PointBranch
from defcn_ext.branches.weighted import WeightedBranch
from defcn_ext.structures import DensePredictions, Objects, Points

from .assignment import Batch, make_batch, median, peak_memory
from .scenes import SIZE


def branch_of(name: str, classes: int) -> Branch:
    """The branch that trains with the rule, with its own default losses; its convs are not used."""
    rule = build_rule(name)
    if name.startswith("RetinaNet"):
        return AnchorBranch(
            scales=[4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)],
            ratios=[0.5, 1.0, 2.0],
            in_channels=8,
            num_classes=classes,
            prior_prob=0.01,
            rule=rule,
        )
    if rule.weighting is None:
        kind = PointBranch
    else:
        kind = DualWeightingBranch if getattr(rule.weighting, "leaves_importance", False) else WeightedBranch
    return kind(in_channels=8, num_classes=classes, prior_prob=0.01, rule=rule)


def training_step(branch: Branch, batch: Batch, size: tuple[int, int] = SIZE) -> Callable[[], list[Tensor]]:
    """A call that assigns, sums the losses, and gives their gradients to class logits, boxes and score map."""
    images, classes = len(batch.boxes) // len(batch.points), batch.scores.shape[1]
    rng = torch.Generator().manual_seed(0)
    quality = (1 + torch.randn(images, len(batch.points), 1, generator=rng)).to(batch.boxes.device)
    logits = batch.scores.clamp(1e-6, 1 - 1e-6).logit().view(images, -1, classes)
    maps = [x.requires_grad_() for x in (logits, batch.boxes.view(images, -1, 4).clone(), quality)]
    sizes = torch.tensor([size] * images, dtype=torch.float32, device=batch.boxes.device)
    points = Points.from_sizes(batch.points.sizes, batch.points.strides, device=batch.boxes.device)
    objects = Objects(batch.gt_boxes, batch.gt_classes, batch.image, sizes)

    def run() -> list[Tensor]:
        predictions = DensePredictions(*maps)
        pairs = branch.assign(points, predictions, objects, progress=0.5)
        losses = branch.losses(points, predictions, objects, pairs)
        return list(torch.autograd.grad(sum(losses.values()), maps))

    return run


def benchmark_losses(
    names: list[str],
    counts: list[int],
    images: int,
    classes: int,
    repeats: int,
    device: str,
    size: tuple[int, int] = SIZE,
) -> str:
    """Assignment, classification and box loss, and their gradients to the predictions, one row a rule and count.

    Args:
        names: of rules, as in yaml; all if empty.
        counts: objects an image.

    Returns:
        a markdown table: CPU time on the CPU, wall time on a GPU; the memory beyond the predictions, with gradients,
        and how many times a float32 for each class score of the batch that is.
    """
    lines = [
        "| rule | objects an image | assignment (ms) | all (ms) | all (MiB) | class maps |",
        "|---|---|---|---|---|---|",
    ]
    for name in names or [name for name in rules() if name != "Combine"]:
        branch = branch_of(name, classes).to(device)
        for count in counts:
            batch = make_batch(images, count, classes, True, name.startswith("RetinaNet"), device, size)
            run = training_step(branch, batch, size)
            alone = median(lambda batch=batch, rule=branch.rule: rule(*batch), 3 * repeats, device)
            everything, memory = median(run, 3 * repeats, device), peak_memory(run, device)
            maps = memory * 2**20 / (4 * batch.scores.numel())
            lines.append(
                f"| {name} | {count} | {1e3 * alone:.1f} | {1e3 * everything:.1f} | {memory:.0f} | {maps:.1f} |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)
