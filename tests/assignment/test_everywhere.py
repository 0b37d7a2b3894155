"""Rules that look at all points find what a full matrix finds, from a few of its entries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from defcn_ext.assignment import build_rule, dense, quality
from defcn_ext.assignment.scene import make_scene
from defcn_ext.assignment.tiles import SIDE, rises_with_fit, tile_points, tile_scene
from defcn_ext.structures import DensePredictions, Points, ScoreView

# sides that tiles do not divide, and a level of fewer points than a tile
POINTS = Points.from_sizes([(11, 18), (6, 9), (3, 5), (1, 2)], [8, 16, 32, 64])
R = len(POINTS)
QUALITIES = {
    "poto": quality.poto(),
    "add": quality.poto(0.5, "add"),
    "box alone": quality.poto(1.0),
    "class alone": quality.poto(0.0),
    "min_cost": quality.min_cost(),
    "corners": quality.min_cost(l1=20.0, form="xyxy"),
}


def crowd(num_objects, seed, kind, images=1, classes=3):
    """Objects and predictions of a batch. "ties": few different objects, scores and boxes; "far": nothing overlaps;
    "wild": boxes of any order of corners and size, some predictions not finite."""
    rng = torch.Generator().manual_seed(seed)
    centre = torch.rand(num_objects, 2, generator=rng) * torch.tensor([144.0, 88.0])
    side = 4 + torch.rand(num_objects, 2, generator=rng) ** 2 * 80
    scores = torch.rand(images * R, classes, generator=rng) ** 3
    boxes = POINTS.boxes(torch.rand(images, R, 4, generator=rng) * 3 * POINTS.stride[:, None]).flatten(0, 1)
    if kind == "ties":
        centre, side = (centre / 48).round() * 48, (side / 40).ceil() * 40
        scores, boxes = (scores * 2).round() / 2, (boxes / 32).round() * 32
    elif kind == "far":
        boxes = boxes + 1000
    elif kind == "wild":
        boxes = boxes + 60 * torch.randn(boxes.shape, generator=rng)
        bad = torch.rand(len(boxes), generator=rng) < 0.05
        boxes[bad, 1] = torch.tensor([float("nan"), float("inf")])[torch.randint(2, (int(bad.sum()),), generator=rng)]
        scores[torch.rand(len(scores), generator=rng) < 0.05, 0] = float("nan")
    gt_classes = torch.randint(classes, (num_objects,), generator=rng)
    image = torch.randint(images, (num_objects,), generator=rng)
    return POINTS, scores, boxes, torch.cat([centre - side / 2, centre + side / 2], 1), gt_classes, image


def full_matrix(scene, judge):
    """(G, N R) quality; -inf at the points of other images."""
    matrix = judge(scene, torch.arange(len(scene.boxes))[None], torch.arange(scene.num_objects)[:, None])
    other = torch.arange(len(scene.boxes))[None] // R != scene.image[:, None]
    return matrix.masked_fill(other, -float("inf"))


def optimum(matrix, invalid):
    """Total quality of the best matching, an object left out being worth `invalid`, and how many are matched."""
    alone = np.where(np.eye(len(matrix)) > 0, invalid, -1e12)
    matrix = np.concatenate([np.where(np.isfinite(matrix), matrix, -1e12), alone], axis=1)
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    kept = columns < matrix.shape[1] - len(matrix)
    return matrix[rows, columns][kept].sum(), kept.sum()


kinds = st.sampled_from(["smooth", "ties", "far", "wild"])
seeds = st.integers(0, 2**32 - 1)
RULES = {
    "MinCost()": ("min_cost", -1e6),
    "POTO(prior=global)": ("poto", -1.0),
    "POTO(prior=global, combine=add, alpha=0.5, invalid=0.0)": ("add", 0.0),
}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(RULES)), st.integers(0, 60), seeds, kinds, st.integers(1, 2))
def test_matching_reaches_the_optimum_of_the_full_matrix(rule, num_objects, seed, kind, images):
    batch = crowd(num_objects, seed, kind, images)
    judge, invalid = RULES[rule]
    matrix = full_matrix(make_scene(*batch), QUALITIES[judge]).double().numpy()
    pairs = build_rule(rule)(*batch)
    total, matched = optimum(matrix, invalid)
    assert len(pairs) == len(set(pairs.point.tolist())) == len(set(pairs.object.tolist()))
    assert len(pairs) == matched or invalid == 0  # an object left out at 0 ties with a pair of quality 0
    assert matrix[pairs.object, pairs.point].sum() == pytest.approx(total, rel=1e-6, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), seeds, kinds)
def test_every_object_that_wins_has_its_best_point(num_objects, seed, kind):
    batch = crowd(num_objects, seed, kind)
    matrix = full_matrix(make_scene(*batch), QUALITIES["min_cost"])
    pairs = build_rule("MinCost(select=argmin)")(*batch)
    assert torch.equal(matrix[pairs.object, pairs.point], matrix.amax(1)[pairs.object])
    assert len(pairs) >= 1


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(QUALITIES)), st.integers(1, 12), seeds, kinds, st.integers(1, 2), st.integers(1, 20))
def test_best_points_of_each_level(name, num_objects, seed, kind, images, k):
    scene = make_scene(*crowd(num_objects, seed, kind, images))
    matrix = full_matrix(scene, QUALITIES[name])
    pairs = dense.best_per_level(k)(scene, QUALITIES[name])
    assert torch.equal(pairs.object, pairs.object.sort().values)
    for g in range(num_objects):
        mine, first = pairs.point[pairs.object == g], int(scene.image[g]) * R
        assert len(set(mine.tolist())) == len(mine)
        for level, count in enumerate(POINTS.counts):
            found = matrix[g, mine[POINTS.level[mine % R] == level]].sort(descending=True).values
            expected = matrix[g, first : first + count].topk(min(k, count)).values
            assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
            first += count


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(QUALITIES)), st.integers(1, 12), seeds, kinds, st.sampled_from(["tensor", "view", "filter"])
)
def test_no_point_is_better_than_the_bound_of_its_tile(name, num_objects, seed, kind, form):
    points, scores, boxes, *objects = crowd(num_objects, seed, kind)
    if form != "tensor":
        logits, rng = 6 * scores[None] - 3, torch.Generator().manual_seed(seed)
        filter = torch.randn(1, R, 1, generator=rng) if form == "filter" else None
        scores = ScoreView(DensePredictions(logits, boxes[None], filter))
    scene = make_scene(points, scores, boxes, *objects)
    tiles, counts = tile_points(points)
    assert sorted(tiles[tiles >= 0].tolist()) == list(range(R))
    assert counts == [-(-h // SIDE) * -(-w // SIDE) for h, w in points.sizes]
    g = torch.arange(num_objects)[:, None]
    bound = QUALITIES[name](tile_scene(scene, tiles), torch.arange(len(tiles))[None], g)
    matrix = QUALITIES[name](scene, torch.arange(R)[None], g)
    best = matrix[:, tiles.clamp(min=0)].where(tiles >= 0, torch.tensor(-float("inf"))).amax(-1)
    assert (best <= bound + 1e-6).all()


def test_an_object_keeps_as_many_points_as_others_want_them():
    """One object far from 20 equal ones: 8 points are enough for it, and 32 for each of the others."""
    boxes = torch.tensor([[100.0, 40, 140, 80]] + 20 * [[4.0, 4, 44, 44]])
    predicted = POINTS.boxes(torch.ones(R, 4) * POINTS.stride[:, None])
    scene = make_scene(POINTS, torch.full((R, 1), 0.5), predicted, boxes, torch.zeros(21, dtype=torch.long))
    pairs = dense.everywhere()(scene, quality.min_cost())
    assert torch.bincount(pairs.object).tolist() == [8] + 20 * [32]


def test_more_objects_than_points():
    points = Points.from_sizes([(2, 3)], [8])
    boxes = torch.tensor([[0.0, 0, 16, 16]]).repeat(9, 1)
    scores = torch.linspace(0.1, 0.9, 6)[:, None]
    pairs = build_rule("MinCost")(points, scores, boxes[:6], boxes, torch.zeros(9, dtype=torch.long))
    assert sorted(pairs.point.tolist()) == list(range(6))


@pytest.mark.parametrize("name", ["poto", "min_cost"])
def test_few_points_are_asked(name):
    points, asked = Points.from_sizes([(100, 152), (50, 76), (25, 38)], [8, 16, 32]), []
    rng = torch.Generator().manual_seed(0)
    centre = torch.rand(40, 2, generator=rng) * torch.tensor([1216.0, 800.0])
    boxes = points.boxes(2 * points.stride[:, None] * torch.rand(len(points), 4, generator=rng))
    scores = torch.rand(len(points), 3, generator=rng)
    gt_classes = torch.randint(3, (40,), generator=rng)
    scene = make_scene(points, scores, boxes, torch.cat([centre - 20, centre + 20], 1), gt_classes)

    @rises_with_fit
    def counted(scene, point, object):
        value = QUALITIES[name](scene, point, object)
        asked.append(value.numel())
        return value

    dense.everywhere()(scene, counted)
    assert sum(asked) < {"poto": 0.15, "min_cost": 0.3}[name] * 40 * len(points)


def test_a_quality_of_ones_own_is_asked_everywhere_in_parts(monkeypatch):
    batch = crowd(10, 0, "smooth", images=2)
    scene, table, sizes = make_scene(*batch), torch.rand(10, 2 * R), []

    def read(scene, point, object):
        value = table[object, point]
        sizes.append(value.numel())
        return value

    whole = dense.everywhere()(scene, read)
    monkeypatch.setitem(dense.PAIRS_AT_ONCE, "cpu", 2 * R)
    sizes.clear()
    parts = dense.everywhere()(scene, read)
    assert max(sizes) == 2 * R
    assert torch.equal(whole.point, parts.point) and torch.equal(whole.object, parts.object)
    assert torch.equal(whole.point >= R, scene.image[whole.object] == 1)
    kept = whole.point[whole.object == 3]
    assert set(kept.tolist()) == set(
        full_matrix(scene, lambda s, p, o: table[o, p])[3].topk(len(kept)).indices.tolist()
    )
