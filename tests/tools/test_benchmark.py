import pytest
import torch

from defcn_ext.assignment import build_rule
from defcn_ext.layers import max_over_neighbours
from defcn_ext.losses import paired_iou
from defcn_ext.tools import benchmark


@pytest.mark.parametrize("count", [1, 40])
def test_both_routes_reach_the_same_total_quality(count):
    """Else the ratio of their times would mean nothing."""
    _, scores, boxes, gt_boxes, gt_classes = image = benchmark.crowded_image(count, num_classes=5, seed=3)
    pairs = build_rule("POTO")(*image)
    quality = scores[pairs.point, gt_classes[pairs.object]] ** 0.2
    quality = quality * paired_iou(boxes[pairs.point], gt_boxes[pairs.object]) ** 0.8
    assert quality.sum().item() == pytest.approx(benchmark.dense_poto(*image), rel=1e-4)
    assert len(pairs) > 0.6 * count


@pytest.mark.parametrize("tau", [2, 4])
def test_both_poolings_are_equal(tau):
    features = [torch.randn(1, 2, *size) for size in [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]]
    for ours, theirs in zip(max_over_neighbours(features, tau, 3), benchmark.stacked_max_pool3d(features, tau, 3)):
        assert torch.equal(ours, theirs)


def test_the_tables_have_a_row_a_case(capsys):
    table = benchmark.benchmark_matching([2, 5], repeats=1, num_classes=3)
    assert [row.split("|")[1].strip() for row in table.splitlines()[2:]] == ["2", "5"]
    assert all(row.rstrip(" |").endswith("x") for row in table.splitlines()[2:])
