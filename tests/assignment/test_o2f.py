"""One-to-few, with the numbers of 40-o2f."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.assignment import build_rule, weighted_rules, weighting
from defcn_ext.structures import Points
from tests.assignment.scenes import POINTS, as_dict, crowd
from tests.weighted_examples import O2F_POINTS, dense_o2f, o2f_conflict, o2f_example


def labels(pairs, ambiguous=0.4):
    """{point: (object, label)}; the weights of a pair add up to 1 where it is certain, else to `ambiguous`."""
    total = pairs.positive + pairs.negative
    certain = pairs.negative == 0
    torch.testing.assert_close(total, torch.where(certain, 1.0, ambiguous))
    as_dict(pairs)
    values = zip(pairs.object.tolist(), (pairs.positive / total).tolist())
    return dict(zip(pairs.point.tolist(), values))


# Section 12


@pytest.mark.parametrize(
    "progress, expected",
    [
        (0.0, [0.60, 0.48, 0.36, 0.24, 1, 0.12, None, 0.30, None]),
        (1.0, [0.20, 0.16, 0.12, 0.08, 1, 0.04, None, 0.1, None]),
    ],
)
@pytest.mark.parametrize("ambiguous", [0.4, 1.0])
def test_labels_of_the_example(progress, expected, ambiguous):
    pairs = build_rule("O2F", ambiguous=ambiguous)(*o2f_example().scene, progress=progress)
    expected = {point: (0, t) for point, t in zip(O2F_POINTS, expected) if t is not None}
    assert labels(pairs, ambiguous) == {k: (g, pytest.approx(t, abs=1e-6)) for k, (g, t) in expected.items()}


def test_the_papers_reading_of_k_is_one_more():
    """7 ambiguous points beside the certain one: (12, 28) joins as the best of those left out."""
    released = labels(build_rule("O2F")(*o2f_example().scene))
    paper = labels(build_rule("O2F", k=8)(*o2f_example().scene))
    assert set(paper) - set(released) == {16}
    assert paper[16] == (0, pytest.approx(0.35 / 0.5 * 0.6, abs=1e-6)) and paper[12] == (0, 1.0)


def test_all_of_the_region_where_k_is_larger():
    assert sorted(labels(build_rule("O2F", k=20)(*o2f_example().scene))) == O2F_POINTS


def test_one_to_two():
    """o2f, Table 1: the two best points count fully."""
    rule = build_rule("O2F", k=2, t_max=1.0, t_min=1.0, ambiguous=1.0)
    for progress in (0.0, 0.5, 1.0):
        pairs = rule(*o2f_example().scene, progress=progress)
        assert labels(pairs) == {12: (0, 1.0), 17: (0, 1.0)}


@pytest.mark.parametrize("scaled, at_7", [(False, 0.1), (True, 0.08)])
def test_static_labels(scaled, at_7):
    rule = build_rule("O2F", t_max=0.1, t_min=0.1, scaled=scaled)
    for progress in (0.0, 1.0):
        found = labels(rule(*o2f_example().scene, progress=progress))
        assert found[6] == (0, pytest.approx(0.1, abs=1e-6)) and found[7] == (0, pytest.approx(at_7, abs=1e-6))


# Section 13


@pytest.mark.parametrize("classes", [(0, 0), (0, 1)])
def test_conflict(classes):
    found = labels(build_rule("O2F")(*o2f_conflict(classes).scene))
    assert found == {11: (0, 1.0), 12: (1, 1.0), 13: (1, pytest.approx(0.6))}


def test_a_point_wanted_equally_goes_to_the_lower_object():
    example = o2f_conflict()
    example.gt_boxes = example.gt_boxes[[1, 1]]
    found = labels(build_rule("O2F")(*example.scene))
    assert {g for g, _ in found.values()} == {0}


# Regions and objects without positives


@pytest.mark.parametrize("centre, count", [(80, 2), (81, 3), (84, 3), (86, 3), (88, 2)])
def test_points_of_a_region(centre, count):
    """A point on the border of the region is outside."""
    points = Points.from_sizes([(30, 30)], [8])
    box = torch.tensor([[centre - 60.0, centre - 60, centre + 60, centre + 60]])
    pairs = build_rule("O2F", k=99)(points, torch.full((900, 1), 0.5), box.repeat(900, 1), box, torch.tensor([0]))
    assert len(pairs) == count**2


def test_an_object_between_points_is_uncovered():
    points = Points.from_sizes([(5, 5)], [8])
    box = torch.tensor([[13.0, 13, 19, 19]])
    pairs = build_rule("O2F")(points, torch.full((25, 1), 0.5), box.repeat(25, 1), box, torch.tensor([0]))
    assert len(pairs) == 0 and pairs.covered.tolist() == [False]


@pytest.mark.parametrize("options", [{}, {"combine": "add"}, {"alpha": 0.0}, {"alpha": 1.0}, {"k": 1}])
def test_no_positive_where_no_box_overlaps(options):
    """Section 4, points 1 and 3, with any quality; ltrb of 0 as from a dead box conv. The object is covered."""
    example = o2f_example()
    example.boxes = example.points.boxes(torch.zeros(25, 4))
    pairs = build_rule("O2F", **options)(*example.scene)
    assert len(pairs) == 0 and pairs.covered.tolist() == [True]
    example.boxes[12] = torch.tensor([6.0, 6, 20, 34])
    assert labels(build_rule("O2F", **options)(*example.scene)) == {12: (0, 1.0)}


def test_a_crowd_like_the_loops():
    for seed, count, k, alpha in [(0, 5, 7, 0.8), (1, 40, 7, 0.8), (2, 40, 4, 0.6), (3, 80, 12, 1.0)]:
        scene = crowd(count, seed)
        for progress, top in [(0.0, 0.6), (0.5, 0.4), (1.0, 0.2)]:
            rule = build_rule("O2F", k=k, alpha=alpha, schedule="linear")
            expected = dense_o2f(POINTS, *scene, ceiling=top, k=k, alpha=alpha)
            assert len(expected) >= count
            got = labels(rule(POINTS, *scene, progress=progress))
            assert got == {r: (g, pytest.approx(t, rel=1e-4)) for r, (g, t) in expected.items()}


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 30), st.integers(0, 1000))
def test_one_positive_is_argmax_poto(count, seed):
    """Where the chosen box overlaps at all."""
    scores, boxes, gt_boxes, gt_classes = crowd(count, seed)
    few = build_rule("O2F", k=1)(POINTS, scores, boxes, gt_boxes, gt_classes, progress=0.3)
    argmax = build_rule("POTO", select="argmax")(POINTS, scores, boxes, gt_boxes, gt_classes)
    low = torch.maximum(boxes[argmax.point, :2], gt_boxes[argmax.object, :2])
    high = torch.minimum(boxes[argmax.point, 2:], gt_boxes[argmax.object, 2:])
    overlaps = (high > low).all(1)
    assert as_dict(few) == as_dict(argmax[overlaps])
    assert (few.positive == 1).all() and (few.negative == 0).all()


def test_a_batch_is_assigned_like_its_images():
    images, rule = [crowd(n, seed) for n, seed in [(20, 0), (0, 1), (7, 2)]], build_rule("O2F")
    joined = [torch.cat([x[i] for x in images]) for i in range(4)]
    batch = labels(rule(POINTS, *joined, image=torch.tensor([0] * 20 + [2] * 7), progress=0.5))
    expected = {}
    for index, start in [(0, 0), (1, 20), (2, 20)]:
        for point, (g, t) in labels(rule(POINTS, *images[index], progress=0.5)).items():
            expected[point + index * len(POINTS)] = (g + start, pytest.approx(t, rel=1e-5))
    assert batch == expected and len(batch) > 50


def test_predictions_that_are_not_finite_are_never_positive():
    example = o2f_example()
    example.scores[12] = math.nan
    example.boxes[17] = math.inf
    found = labels(build_rule("O2F", k=9)(*example.scene))
    assert sorted(found) == [x for x in O2F_POINTS if x not in (12, 17)]
    assert found[7] == (0, 1.0) and all(math.isfinite(t) for _, t in found.values())


def test_the_options_of_the_label_are_written_once():
    """Those of `soft_labels`, with their defaults, and no others."""
    own = inspect.signature(weighted_rules.o2f).parameters
    theirs = inspect.signature(weighting.soft_labels).parameters
    assert list(own) == ["k", "alpha", "combine", "radius", *theirs]
    assert all(own[name].default == x.default for name, x in theirs.items())
    with pytest.raises(ValueError, match="unknown option 't_mix'; known: k, .*t_max"):
        build_rule("O2F", t_mix=0.5)
    with pytest.raises(ValueError, match="option t_max must be a float"):
        build_rule("O2F", t_max="high")
