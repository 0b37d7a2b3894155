"""A quality is a function of the pair alone, so that of two equal annotations the first has all."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.assignment import build_rule, steps
from defcn_ext.assignment.expression import parse_call
from defcn_ext.assignment.scene import make_scene
from defcn_ext.assignment.steps import find_step
from defcn_ext.structures import DensePredictions, ScoreView
from tests.assignment.scenes import POINTS, crowd, points_for

QUALITIES = [
    "poto()",
    "poto(alpha=0.3)",
    "poto(combine=add)",
    "tal()",
    "tal(alpha=1, beta=0)",
    "consistency()",
    "consistency(form=iou, beta=6)",
    "foreground_loss()",
    "foreground_loss(gamma=1.5)",
    "min_cost()",
    "min_cost(form=xyxy)",
    "square_anchor()",
    "anchor_iou()",
    "smallest_area()",
]
ANCHORS = points_for("RetinaNet")


def test_every_quality_is_here():
    assert {parse_call(x).name for x in QUALITIES} == set(steps("quality"))


def scene_of(name, form, seed, num_objects=5):
    points = ANCHORS if name == "anchor_iou()" else POINTS
    scores, boxes, *objects = crowd(num_objects, seed, points=points)
    if form != "probabilities":
        logits = (8 * scores - 6)[None]
        filter = torch.randn(1, len(points), 1, generator=torch.Generator().manual_seed(seed))
        scores = ScoreView(DensePredictions(logits, boxes[None], filter if form == "filter" else None))
    return make_scene(points, scores, boxes, *objects)


@pytest.mark.parametrize("form", ["probabilities", "filter"])
@pytest.mark.parametrize("name", QUALITIES)
def test_pairs_of_arrays_of_1_to_40(name, form):
    """Each pair is judged alone and in arrays that end at it or later."""
    _, judge = find_step("quality", parse_call(name))
    scene, rng = scene_of(name, form, 3), torch.Generator().manual_seed(0)
    near = scene.iou(torch.arange(len(POINTS)), torch.tensor(2)).nonzero().squeeze(1)
    point = near[torch.randint(len(near), (40,), generator=rng)]
    object = torch.full((40,), 2)
    alone = torch.cat([judge(scene, point[i : i + 1], object[:1]) for i in range(40)])
    for length in range(1, 41):
        assert torch.equal(judge(scene, point[:length], object[:length]), alone[:length]), length


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(QUALITIES),
    st.sampled_from(["probabilities", "logits", "filter"]),
    st.integers(0, 2**32 - 1),
    st.integers(1, 90),
)
def test_pairs_matrices_and_orders_agree(name, form, seed, count):
    _, judge = find_step("quality", parse_call(name))
    scene, rng = scene_of(name, form, seed), torch.Generator().manual_seed(seed)
    point = torch.randint(len(scene.points), (count,), generator=rng)
    object = torch.arange(scene.num_objects)
    matrix = judge(scene, point[None], object[:, None])
    for g in object:
        assert torch.equal(judge(scene, point, g.expand(count)), matrix[g])
    order = torch.randperm(count, generator=rng)
    assert torch.equal(judge(scene, point[order], torch.ones_like(order)), matrix[1, order])
    assert torch.equal(judge(scene, point[:, None], object[None]), matrix.t())


ONE_TO_MANY = [
    "QualityATSS",
    "QualityFCOS",
    "QualityTopK",
    "O2F",
    "FCOS",
    "ATSS",
    "TOOD",
    "RetinaNet(ties=near)",
    "Center",
]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*ONE_TO_MANY, "POTO(select=argmax)", "MinCost(select=argmin)", "Anchor"]),
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(0, 11),
)
def test_of_two_equal_annotations_the_first_has_all(rule, seed, num_objects, repeated):
    """And the others have what they have without the second."""
    points = points_for(rule)
    scores, boxes, gt_boxes, gt_classes = crowd(num_objects, seed, points=points)
    repeated %= num_objects
    more = (
        torch.cat([gt_boxes, gt_boxes[repeated : repeated + 1]]),
        torch.cat([gt_classes, gt_classes[repeated].view(1)]),
    )
    pairs = build_rule(rule)(points, scores, boxes, gt_boxes, gt_classes)
    twice = build_rule(rule)(points, scores, boxes, *more)
    expected = dict(zip(pairs.point.tolist(), pairs.object.tolist()))
    assert dict(zip(twice.point.tolist(), twice.object.tolist())) == expected
