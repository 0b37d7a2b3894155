import importlib

import numpy as np
import pytest
import torch

from defcn_ext.assignment import Rule, build_rule, candidates, quality, register_rule, rules, selection
from defcn_ext.assignment.scene import make_scene
from defcn_ext.structures import Pairs, Points
from tests import reference
from tests.assignment.scenes import POINTS, as_dict, crowd

TOY = Points.from_sizes([(2, 3)], [8])
TOY_BOXES = torch.tensor(
    [[0, 0, 16, 16], [0, 0, 16, 16], [8, 0, 24, 16], [0, 4, 16, 16], [8, 0, 24, 16], [12, 0, 24, 16]],
    dtype=torch.float32,
)
TOY_SCORES = torch.tensor([[0.6, 0.5, 0.1, 0.3, 0.2, 0.1], [0.1, 0.4, 0.7, 0.1, 0.9, 0.3]]).T
TOY_OBJECTS = torch.tensor([[0.0, 0, 16, 16], [8, 0, 24, 16]]), torch.tensor([0, 1])


def test_toy_of_the_spec():
    """10-defcn, 'What to test': qualities, prior and matches."""
    scene = reference.dense_poto_quality(TOY_SCORES, TOY_BOXES, *TOY_OBJECTS)
    expected = [[0.9029, 0.8706, 0.2620, 0.6244, 0.3010, 0.1505], [0.2620, 0.3457, 0.9311, 0.2231, 0.9791, 0.6244]]
    torch.testing.assert_close(scene, torch.tensor(expected), atol=5e-5, rtol=0)
    pairs = build_rule("POTO", prior="inside")(TOY, TOY_SCORES, TOY_BOXES, *TOY_OBJECTS)
    assert as_dict(pairs) == {0: 0, 4: 1}
    listed = candidates.inside()(make_scene_of_toy(), None)
    values = quality.poto(0.8)(make_scene_of_toy(), listed.point, listed.object)
    torch.testing.assert_close(values, torch.tensor(expected)[listed.object, listed.point], atol=5e-5, rtol=0)


def make_scene_of_toy():
    return make_scene(TOY, TOY_SCORES, TOY_BOXES, *TOY_OBJECTS)


@pytest.mark.parametrize("combine, value", [("mul", 0.5785155), ("add", 0.58)])
def test_quality_of_one_pair(combine, value):
    points = Points.from_sizes([(1, 1)], [8])
    scene = make_scene(
        points,
        torch.tensor([[0.5]]),
        torch.tensor([[0.0, 0, 6, 10]]),
        torch.tensor([[0.0, 0, 10, 10]]),
        torch.tensor([0]),
    )
    zero = torch.tensor([0])
    assert quality.poto(0.8, combine)(scene, zero, zero).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("prior, radius", [("center", 1.5), ("inside", None), ("global", None)])
@pytest.mark.parametrize("num_objects, seed", [(0, 0), (1, 1), (12, 2), (60, 3), (60, 4)])
def test_poto_is_the_optimum_of_the_dense_matrix(prior, radius, num_objects, seed):
    scores, boxes, gt_boxes, gt_classes = crowd(num_objects, seed)
    pairs = build_rule("POTO", prior=prior)(POINTS, scores, boxes, gt_boxes, gt_classes)
    dense = reference.dense_poto_quality(scores, boxes, gt_boxes, gt_classes)
    valid = (
        torch.ones_like(dense, dtype=torch.bool)
        if prior == "global"
        else reference.dense_prior(POINTS, gt_boxes, radius)
    )
    expected, _ = reference.dense_match(dense, valid)
    got = dense[pairs.object, pairs.point].sum().item()
    assert len(as_dict(pairs)) == len(expected)
    assert got == pytest.approx(sum(dense[g, r].item() for g, r in expected), abs=1e-4)
    assert valid[pairs.object, pairs.point].all()


def test_more_objects_than_points():
    points = Points.from_sizes([(2, 2)], [8])
    gt_boxes = torch.tensor([[0.0, 0, 16, 16]]).expand(9, 4)
    pairs = build_rule("POTO", prior="inside")(
        points, torch.rand(4, 1), torch.rand(4, 4) * 16, gt_boxes, torch.zeros(9, dtype=torch.long)
    )
    assert sorted(as_dict(pairs)) == [0, 1, 2, 3]


def test_argmax_gives_the_loser_nothing():
    """Two objects whose best point is the same; matching gives the second its next best."""
    points = Points.from_sizes([(1, 2)], [8])
    gt_boxes = torch.tensor([[0.0, 0, 16, 8], [0, 0, 16, 8]])
    scores = torch.tensor([[0.60, 0.58], [0.55, 0.10]])
    boxes = gt_boxes.clone()
    classes = torch.tensor([0, 1])
    argmax = build_rule("POTO", prior="inside", select="argmax", alpha=0.0)(points, scores, boxes, gt_boxes, classes)
    matched = build_rule("POTO", prior="inside", alpha=0.0)(points, scores, boxes, gt_boxes, classes)
    assert as_dict(argmax) == {0: 0}
    assert as_dict(matched) == {1: 0, 0: 1}


@pytest.mark.parametrize("name", ["POTO", "POTO(select=argmax)", "POTO(prior=global)", "FCOS", "QualityATSS"])
def test_a_batch_is_assigned_like_its_images(name):
    images = [crowd(n, seed) for n, seed in [(20, 0), (0, 1), (7, 2)]]
    rule = build_rule(name)
    batch = rule(
        POINTS,
        torch.cat([i[0] for i in images]),
        torch.cat([i[1] for i in images]),
        torch.cat([i[2] for i in images]),
        torch.cat([i[3] for i in images]),
        image=torch.tensor([0] * 20 + [2] * 7),
    )
    expected = {}
    for index, start in [(0, 0), (1, 20), (2, 20)]:
        for point, object in as_dict(rule(POINTS, *images[index])).items():
            expected[point + index * len(POINTS)] = object + start
    assert as_dict(batch) == expected and len(expected) > 10


@pytest.mark.parametrize("prior, radius", [("center", 1.5), ("inside", None)])
@pytest.mark.parametrize("num_objects, seed", [(0, 0), (1, 1), (30, 2), (150, 3)])
def test_fcos_equals_the_loops(prior, radius, num_objects, seed):
    scores, boxes, gt_boxes, gt_classes = crowd(num_objects, seed)
    pairs = build_rule("FCOS", prior=prior)(POINTS, scores, boxes, gt_boxes, gt_classes)
    assert as_dict(pairs) == reference.dense_fcos(POINTS, gt_boxes, radius)


@pytest.mark.parametrize("num_objects, seed", [(0, 0), (1, 1), (12, 2), (60, 3)])
def test_quality_atss_equals_the_loops(num_objects, seed):
    scores, boxes, gt_boxes, gt_classes = crowd(num_objects, seed)
    pairs = build_rule("QualityATSS")(POINTS, scores, boxes, gt_boxes, gt_classes)
    assert as_dict(pairs) == reference.dense_quality_atss(POINTS, scores, boxes, gt_boxes, gt_classes)


def test_the_threshold_counts_candidates_outside_the_box():
    """10-defcn: nine candidates on each of five levels, three of them inside: t = 0.3305 and 3 positives, not 1."""
    values = np.array([0.8, 0.6] + [0.3] * 7 + [0.5] + [0.2] * 8 + [0.1] * 27)
    assert values.mean() == pytest.approx(0.1844, abs=1e-4) and values.std(ddof=1) == pytest.approx(0.1461, abs=1e-4)
    points = Points.from_sizes([(1, 45)], [8])
    inside = torch.tensor([0, 1, 9])
    gt = torch.tensor([[0.0, 0, 16, 8]])  # holds the points 0 and 1; point 9 is moved into it
    xy = points.xy.clone()
    xy[9] = torch.tensor([10.0, 4.0])
    points = Points(xy, points.stride, points.level, points.sizes, points.strides)
    scene = make_scene(points, torch.rand(45, 1), torch.rand(45, 4), gt, torch.tensor([0]))
    pairs = Pairs(torch.arange(45), torch.zeros(45, dtype=torch.long))
    kept = selection.mean_plus_std(inside=True)(scene, pairs, torch.from_numpy(values).float())
    assert kept.point.tolist() == inside.tolist()


@pytest.mark.parametrize("name", ["POTO", "POTO(select=argmax)", "FCOS", "QualityATSS"])
def test_nonfinite_predictions_never_win(name):
    scores, boxes, gt_boxes, gt_classes = crowd(10, 5)
    bad = torch.zeros(len(POINTS), dtype=torch.bool)
    bad[::3] = True
    scores[::6] = float("nan")
    boxes[3::6] = float("inf")
    pairs = build_rule(name)(POINTS, scores, boxes, gt_boxes, gt_classes)
    assert len(pairs) > 5
    if name != "FCOS":  # FCOS does not look at predictions
        big = (gt_boxes[:, 2:] - gt_boxes[:, :2]).amin(1) > 40
        assert not bad[pairs.point[big[pairs.object]]].any()
    everything_bad = torch.full_like(scores, float("nan"))
    assert build_rule(name)(POINTS, everything_bad, boxes, gt_boxes, gt_classes).point.dtype == torch.long


def test_rules_are_built_from_text_and_say_what_they_know():
    assert {"POTO", "FCOS", "QualityATSS"} <= set(rules())
    assert isinstance(build_rule("POTO(alpha=0.5, prior=inside)"), Rule)
    with pytest.raises(ValueError, match=r"unknown assignment rule 'potto'; known: .*POTO"):
        build_rule("potto")
    with pytest.raises(ValueError, match=r"POTO: unknown option 'aplha'; known: alpha, prior"):
        build_rule("POTO(aplha=0.5)")
    with pytest.raises(ValueError, match="alpha must lie in"):
        build_rule("POTO(alpha=2)")
    with pytest.raises(ValueError, match="unknown spatial prior 'centre'"):
        build_rule("POTO(prior=centre)")
    for text in ["POTO(0.8)", "POTO(", "os.system('x')", "POTO(**{})", "POTO(alpha=[f()])"]:
        with pytest.raises(ValueError, match="cannot read the rule"):
            build_rule(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("POTO(alpha=f(x=1))", r"option alpha must be a float, like 0.8; got f\(x=1\)"),
        ("POTO(radius=[1])", "option radius must be a float, like 1.5"),
        ("QualityATSS(k=2.5)", "option k must be a int"),
        ("POTO(invalid=none)", "option invalid must be a float"),
        ("POTO(prior=global, uncovered=nearest)", "prior=global leaves no object uncovered"),
        ("POTO(uncovered=neerest)", "'drop' or 'nearest'"),
        ("FCOS(prior=global)", "unknown spatial prior 'global'"),
    ],
)
def test_options_of_another_kind_are_refused_before_training(text, message):
    with pytest.raises(ValueError, match=message):
        build_rule(text)


def test_whole_numbers_may_stand_for_floats():
    assert isinstance(build_rule("POTO(alpha=1, radius=2)"), Rule)


def test_an_object_of_no_level_counts_as_uncovered():
    """FCOS: an object of 6 pixels holds a point of stride 16 only, and that level is for 64 pixels and more."""
    points = Points.from_sizes([(8, 8), (4, 4)], [8, 16])
    gt_boxes = torch.tensor([[21.0, 21, 27, 27], [2, 2, 40, 40]])
    pairs = build_rule("FCOS")(points, torch.rand(80, 1), torch.rand(80, 4), gt_boxes, torch.zeros(2, dtype=torch.long))
    assert pairs.covered.tolist() == [False, True]


def test_a_rule_of_ones_own_is_one_function(monkeypatch):
    """The object's best-scored point inside its box, whatever its predicted box."""
    of_rules = importlib.import_module("defcn_ext.assignment.rules")
    monkeypatch.setattr(of_rules, "_RULES", dict(of_rules._RULES))  # forgotten after the test

    @register_rule("BestScore")
    def best_score() -> Rule:
        return Rule(candidates.inside(), lambda s, point, object: s.score(point, object), selection.top_of_object())

    scores, boxes, gt_boxes, gt_classes = crowd(1, 1)
    pairs = build_rule("BestScore")(POINTS, scores, boxes, gt_boxes, gt_classes)
    inside = reference.dense_prior(POINTS, gt_boxes)[0]
    expected = torch.where(inside, scores[:, gt_classes[0]], -1.0).argmax()
    assert as_dict(pairs) == {int(expected): 0}
    with pytest.raises(ValueError, match="registered already"):
        register_rule("BestScore")(best_score)


def test_shapes_are_checked():
    scores, boxes, gt_boxes, gt_classes = crowd(3)
    rule = build_rule("POTO")
    with pytest.raises(ValueError, match="not a whole number of images"):
        rule(POINTS, scores[:-1], boxes[:-1], gt_boxes, gt_classes)
    with pytest.raises(ValueError, match=r"\(G, 4\)"):
        rule(POINTS, scores, boxes, gt_boxes[:2], gt_classes)
    with pytest.raises(ValueError, match="needs `image`"):
        rule(POINTS, scores.repeat(2, 1), boxes.repeat(2, 1), gt_boxes, gt_classes)
