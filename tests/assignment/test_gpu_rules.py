"""Every rule finds the same pairs on a GPU as on the CPU: run with `pytest -m gpu`."""

from dataclasses import replace

import pytest
import torch

from defcn_ext.assignment import build_rule
from tests.assignment.scenes import RULES, crowd, points_for

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def on_gpu(points):
    moved = {name: getattr(points, name).cuda() for name in ("xy", "stride", "level")}
    return replace(points, **moved, anchors=None if points.anchors is None else points.anchors.cuda())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_objects, seed", [(0, 0), (1, 1), (60, 2), (500, 3)])
def test_the_same_pairs(rule, num_objects, seed):
    points = points_for(rule)
    scene = crowd(num_objects, seed, points=points)
    expected = build_rule(rule)(points, *scene)
    found = build_rule(rule)(on_gpu(points), *[x.cuda() for x in scene])
    assert found.point.is_cuda
    assert found.point.tolist() == expected.point.tolist()
    assert found.object.tolist() == expected.object.tolist()
    assert found.covered.tolist() == expected.covered.tolist()
    assert (found.ignored is None) == (expected.ignored is None)
    assert found.ignored is None or found.ignored.tolist() == expected.ignored.tolist()
