"""NMS as one operator of a graph whose sizes are constants; for detectors that need it, and to compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from detectron2.layers import batched_nms

OPSET = 18


@torch.library.custom_op("defcn_ext::kept_by_nms", mutates_args=())
def kept_by_nms(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, threshold: float) -> Tensor:
    """Which boxes of each image NMS keeps, of those with a score above 0.

    Args:
        boxes: (N, M, 4).
        scores: (N, M).
        groups: (N, M) int32 in [0, num_groups); boxes of different groups never meet.
        threshold: IoU above which the box of the lower score goes.

    Returns:
        (N, M) bool.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for row, box, score, group in zip(kept, boxes, scores, groups):
        candidates = (score > 0).nonzero().squeeze(1)
        best = batched_nms(box[candidates], score[candidates], group[candidates].long(), threshold)
        row[candidates[best]] = True
    return kept


@kept_by_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def translations() -> dict:
    """For `torch.onnx.export(custom_translation_table=...)`: NonMaxSuppression, which knows images and classes."""
    from onnxscript import opset18 as op

    def translate(boxes, scores, groups, num_groups: int, threshold: float):
        classes = op.Constant(value_ints=list(range(num_groups)))
        mine = op.Equal(op.Unsqueeze(op.Cast(groups, to=7), [1]), op.Reshape(classes, [1, num_groups, 1]))
        by_class = op.Where(mine, op.Unsqueeze(scores, [1]), op.Constant(value_float=0.0))
        most = op.Gather(op.Shape(scores), [1])
        limits = (op.Constant(value_floats=[threshold]), op.Constant(value_floats=[0.0]))
        found = op.NonMaxSuppression(boxes, by_class, most, *limits)  # (found, 3): image, class, box
        where = op.Gather(found, [0, 2], axis=1)
        marks = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(where), [0], [1]))
        zeros = op.Expand(op.Constant(value_float=0.0), op.Shape(scores))
        return op.Cast(op.ScatterND(zeros, where, marks), to=9)

    return {torch.ops.defcn_ext.kept_by_nms.default: translate}
