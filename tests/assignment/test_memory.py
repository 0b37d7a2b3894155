"""What rules allocate: the largest tensor that any operation makes, which is the same on every machine."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from defcn_ext.assignment import build_rule
from defcn_ext.structures import DensePredictions, Points, ScoreView
from tests.assignment.scenes import SHAPES

SIZES, STRIDES = [(100, 152), (50, 76), (25, 38), (13, 19), (7, 10)], [8, 16, 32, 64, 128]  # 800 x 1216
NUM_OBJECTS, NUM_CLASSES = 500, 80
CHUNK = 1 << 20  # pairs of a dense chunk


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest storage among the results of all operations, but for the storages given."""

    def __init__(self, *given):
        super().__init__()
        self.known, self.bytes = {x.untyped_storage().data_ptr() for x in given}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_flatten(result)[0]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in self.known:
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return result


def largest(name):
    """Bytes of the largest tensor, and those of one float32 a pair of point and object."""
    points = Points.from_sizes(SIZES, STRIDES)
    if name == "RetinaNet":
        points = Points.with_anchors(SIZES, STRIDES, SHAPES)
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(1, len(points), NUM_CLASSES, generator=rng) - 3
    boxes = points.boxes(torch.rand(len(points), 4, generator=rng) * 4 * points.stride[:, None])
    middle = torch.rand(NUM_OBJECTS, 2, generator=rng) * torch.tensor([1216.0, 800.0])
    half = 4 + torch.rand(NUM_OBJECTS, 2, generator=rng) ** 2 * 80
    gt_boxes = torch.cat([middle - half, middle + half], 1)
    classes = torch.randint(NUM_CLASSES, (NUM_OBJECTS,), generator=rng)
    scores, rule = ScoreView(DensePredictions(logits, boxes[None])), build_rule(name)
    anchors = [] if points.anchors is None else [points.anchors]
    with LargestTensor(logits, boxes, points.xy, points.stride, points.level, *anchors) as counted:
        pairs = rule(points, scores, boxes, gt_boxes, classes)
    assert len(pairs) >= 100
    return counted.bytes, 4 * len(points) * NUM_OBJECTS


def test_the_count_sees_a_dense_matrix():
    with LargestTensor() as counted:
        torch.zeros(100, 1)[:, 0].expand(50, 100) + 1
    assert counted.bytes == 4 * 50 * 100


@pytest.mark.parametrize("name", ["POTO", "POTO(select=argmax)", "FCOS", "Center", "Anchor", "ATSS", "RetinaNet"])
def test_sparse_rules_stay_far_below_the_dense_matrix(name):
    found, dense = largest(name)
    assert found < dense / 20, f"{found / 2**20:.1f} of {dense / 2**20:.1f} MiB"


@pytest.mark.parametrize("name", ["MinCost", "QualityATSS"])
def test_rules_over_all_points_are_bounded_by_their_chunks(name):
    """Four coordinates of the pairs of one chunk; the whole matrix of boxes would be ten times that."""
    found, dense = largest(name)
    assert found <= 4 * 4 * CHUNK < 4 * dense / 9, f"{found / 2**20:.1f} MiB"
