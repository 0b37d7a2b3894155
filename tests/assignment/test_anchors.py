"""RetinaNet: the anchors of the spec, the dense matrix of overlaps, claims and the ignore band."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.assignment import build_rule
from defcn_ext.assignment.anchors import overlapping_anchors
from defcn_ext.assignment.scene import make_scene
from defcn_ext.structures import Points
from tests import reference
from tests.assignment.scenes import ANCHORS, SHAPES, as_dict, assign, crowd

ROW = Points.with_anchors([(1, 20)], [8], torch.tensor([[4.0, 4.0]]))  # 32 x 32 around (0, 0), (8, 0), ...


def test_anchors_of_the_first_cell():
    """20-date, 'What to test': stride 8, ratio 0.5, then the squares; the next cell lies 8 to the right."""
    wide = torch.tensor([[22.63, 11.31], [28.51, 14.25], [35.92, 17.96]])
    torch.testing.assert_close(ANCHORS.anchors[:3], torch.cat([-wide, wide], 1), atol=0.01, rtol=0)
    square = torch.tensor([16.0, 20.16, 25.40])[:, None].repeat(1, 2)
    torch.testing.assert_close(ANCHORS.anchors[3:6], torch.cat([-square, square], 1), atol=0.01, rtol=0)
    shift = torch.tensor([8.0, 0, 8, 0])
    torch.testing.assert_close(ANCHORS.anchors[9:18], ANCHORS.anchors[:9] + shift)


def retinanet(points, gt_boxes, **options):
    gt_boxes = torch.as_tensor(gt_boxes, dtype=torch.float32).reshape(-1, 4)
    nothing = torch.zeros(len(points), 1), torch.zeros(len(points), 4)
    rule = build_rule("RetinaNet", **options)
    pairs = rule(points, *nothing, gt_boxes, torch.zeros(len(gt_boxes), dtype=torch.long))
    return as_dict(pairs), set(pairs.ignored.tolist()), pairs.covered.tolist()


def test_positive_ignored_and_background():
    """An object equal to anchor 5: shifted by 8, 16 pixels the IoU is 24 / 40 = 0.6, 16 / 48 = 0.33."""
    assert retinanet(ROW, [24, -16, 56, 16]) == ({4: 0, 5: 0, 6: 0}, set(), [True])
    # 3/4 as high: 0.75 of the best, 24 24 / (32 32 + 32 24 - 24 24) = 0.47 of the next, 0.27 of those beyond
    assert retinanet(ROW, [24, -12, 56, 12]) == ({5: 0}, {4, 6}, [True])


@pytest.mark.parametrize("positive, found, ignored", [(0.5, [5], []), (0.6, [], [5])])
def test_the_thresholds_belong_to_the_upper_side(positive, found, ignored):
    """An IoU of exactly 0.5, without claims: a positive from 0.5 on, and not below a lower threshold of 0.5."""
    rule = build_rule(
        "Combine(candidates=overlapping_anchors(low=0.5), quality=anchor_iou, "
        f"selection=thresholds(positive={positive}, negative=0.5, claim=False))"
    )
    nothing = torch.zeros(len(ROW), 1), torch.zeros(len(ROW), 4)
    pairs = rule(ROW, *nothing, torch.tensor([[24.0, -8, 56, 8]]), torch.tensor([0]))
    assert pairs.point.tolist() == found and pairs.ignored.tolist() == ignored


def test_an_object_claims_its_best_anchors_however_low():
    """4 x 4 pixels: IoU 16 / 1024 with every anchor that holds it; all of these are its best."""
    found, ignored, covered = retinanet(ROW, [38, -2, 42, 2])
    assert found == {4: 0, 5: 0, 6: 0} and not ignored and covered == [True]
    assert retinanet(ROW, [38, 30, 42, 34]) == ({}, set(), [False])  # meets no anchor: claims none


def test_a_claim_beats_a_positive_and_of_two_claims_the_better_wins():
    """The small object's best anchors are positives of the large one; it takes them all the same."""
    found, _, _ = retinanet(ROW, [[24, -16, 56, 16], [38, -2, 42, 2]])
    assert found == {4: 1, 5: 1, 6: 1}
    found, _, _ = retinanet(ROW, [[24, -16, 56, 16], [38, -2, 42, 2]], ties="near")
    assert found == {4: 1, 5: 0, 6: 1}  # 5 is claimed by both, and fits object 0
    # the same object twice: the first has the positives, and the later its claim; near, the first takes all
    assert retinanet(ROW, [[24, -16, 56, 16]] * 2)[0] == {4: 0, 5: 1, 6: 0}
    assert retinanet(ROW, [[24, -16, 56, 16]] * 2, ties="near")[0] == {4: 0, 5: 0, 6: 0}


def test_the_later_of_two_claims_wins_however_badly_it_fits():
    """As in DATE's release, which writes claims object by object. Both claim 5, the first with IoU 1."""
    boxes = [[24, -16, 56, 16], [38, -2, 42, 2]]
    assert retinanet(ROW, boxes)[0][5] == 1 and retinanet(ROW, boxes[::-1])[0][5] == 1
    assert retinanet(ROW, boxes, ties="near")[0][5] == 0


def test_only_anchors_that_float32_leaves_equal_are_claimed():
    """Five pixels high, and 0.001 pixels out of the middle: two anchors of nearly the same IoU."""
    shift = 4 + 1e-5
    box = [[24 + shift, -16, 56 + shift, -11]]
    iou = reference.dense_iou(ROW.anchors, torch.tensor(box, dtype=torch.float32))[:, 0]
    assert 0 < abs(iou[5] - iou[6]) < 1e-5 * iou[5] and iou.max() in (iou[5], iou[6])
    assert len(retinanet(ROW, box)[0]) == 1 and set(retinanet(ROW, box, ties="near")[0]) == {5, 6}
    with pytest.raises(ValueError, match="'equal' or 'near', got 'exact'"):
        build_rule("RetinaNet", ties="exact")


coordinate = st.one_of(st.integers(-64, 384).map(float), st.floats(-64, 384, width=32))
box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(box, min_size=1, max_size=8))
def test_candidates_hold_all_that_can_count(boxes):
    gt_boxes = torch.tensor(boxes)
    nothing = torch.zeros(len(ANCHORS), 1), torch.zeros(len(ANCHORS), 4)
    scene = make_scene(ANCHORS, *nothing, gt_boxes, torch.zeros(len(boxes), dtype=torch.long))
    pairs = overlapping_anchors(0.4)(scene, None)
    found = torch.zeros(len(ANCHORS), len(boxes), dtype=torch.bool)
    found[pairs.point, pairs.object] = True
    assert len(pairs) == int(found.sum()), "a pair is listed twice"
    iou = reference.dense_iou(ANCHORS.anchors, gt_boxes)
    needed = (iou >= 0.4) | ((iou >= iou.amax(0) * (1 - 1e-5)) & (iou > 0))
    assert not (needed & ~found).any()
    assert torch.equal(pairs.object, pairs.object.sort().values)


@pytest.mark.parametrize("num_objects, seed", [(0, 0), (1, 1), (20, 2), (20, 3), (80, 4), (80, 5), (200, 6)])
@pytest.mark.parametrize("ties, tie", [("equal", 0.0), ("near", 1e-5)])
def test_equals_the_dense_matrix(num_objects, seed, ties, tie):
    scene = crowd(num_objects, seed, points=ANCHORS)
    pairs = assign(f"RetinaNet(ties={ties})", *scene)
    expected, ignored = reference.dense_retinanet(ANCHORS.anchors, scene[2], tie=tie)
    assert as_dict(pairs) == expected
    assert set(pairs.ignored.tolist()) == ignored and len(pairs.ignored) == len(ignored)
    assert not ignored & set(expected)


def test_few_candidates_are_looked_at():
    """The rectangles hold little else: of 15,354 anchors an object of 64 pixels looks at 110."""
    nothing = torch.zeros(len(ANCHORS), 1), torch.zeros(len(ANCHORS), 4)
    scene = make_scene(ANCHORS, *nothing, torch.tensor([[100.0, 100, 164, 164]]), torch.tensor([0]))
    assert len(ANCHORS) == 15_354 and len(SHAPES) == 9
    assert len(overlapping_anchors(0.4)(scene, None)) == 110


def test_several_anchors_a_cell_are_not_for_rules_of_points():
    scene = crowd(3, points=ANCHORS)
    for rule in ("POTO", "FCOS", "ATSS", "Anchor", "Center", "QualityTopK"):
        with pytest.raises(ValueError, match="one point a cell, and the branch has 9 anchors a cell"):
            build_rule(rule)(ANCHORS, *scene)
    with pytest.raises(ValueError, match="the branch has no anchors; set its BOX_FORM to delta"):
        build_rule("RetinaNet")(Points.from_sizes([(4, 4)], [8]), torch.zeros(16, 1), torch.zeros(16, 4), *scene[2:])
