"""The best overlapping points: those of the full matrix, the first of equals, whichever way they are found."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.assignment import build_rule, dense, overlapping, quality
from defcn_ext.assignment.scene import make_scene
from defcn_ext.structures import Points, ScoreView
from tests.assignment.test_everywhere import POINTS, R, crowd, full_matrix, kinds, seeds

WAYS = {
    "all pairs": {"SMALL": 1 << 30},
    "all boxes": {"SMALL": 0, "FEW": 1 << 30},
    "all boxes, bounded": {"SMALL": 0, "FEW": 0},
    "tiles": {"SMALL": 0, "DIRECT": 0, "FEW": 1 << 30},
    "tiles, bounded, in small parts": {"SMALL": 0, "DIRECT": 0, "FEW": 0, "OPEN_AT_ONCE": 7, "TILES_AT_ONCE": 50},
}
QUALITIES = {
    "poto": quality.poto(),
    "box alone": quality.poto(1.0),
    "little box": quality.poto(0.05),
    "tood": quality.consistency(6.0, "iou"),
}


def first_best(values, k):
    """Indices of the k largest, the first of equals."""
    return values.sort(descending=True, stable=True).indices[:k].sort().values


@pytest.mark.parametrize("way", list(WAYS))
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(list(QUALITIES)),
    st.integers(0, 15),
    seeds,
    kinds,
    st.integers(1, 3),
    st.integers(1, 20),
    st.booleans(),
)
def test_best_points_of_each_level_or_all(way, name, num_objects, seed, kind, images, k, by_level):
    points, *given_ = crowd(num_objects, seed, kind, images)
    scene = make_scene(points, *given_)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in WAYS[way].items():
            patch.setattr(overlapping, key, value)
        pairs = dense.best_points(scene, QUALITIES[name], by_level)(torch.arange(num_objects), k)
    judged = QUALITIES[name](scene, pairs.point, pairs.object)
    assert torch.equal(pairs.quality, judged), "the quality handed on is not the rule's"
    assert torch.equal(pairs.object, pairs.object.sort().values)
    matrix, counts = full_matrix(scene, QUALITIES[name]), points.counts if by_level else [R]
    for g in range(num_objects):
        start, mine = int(scene.image[g]) * R, pairs.point[pairs.object == g]
        expected = []
        for count in counts:
            part = matrix[g, start : start + count]
            expected.append(start + first_best(part, k)) if kind != "wild" else expected.append(
                part.topk(min(k, count)).values
            )
            start += count
        if kind == "wild":  # of points of quality 0 any will do
            assert torch.equal(matrix[g, mine].sort().values, torch.cat(expected).sort().values)
        else:
            assert mine.sort().values.tolist() == torch.cat(expected).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 34), seeds, kinds, st.integers(1, 2))
def test_small_and_large_batches_end_in_the_same_pairs(num_objects, seed, kind, images):
    """On either side of the size at which the way changes, both ways are taken, and the rule says the same."""
    batch, found = crowd(num_objects, seed, kind, images), []
    for small in (0, num_objects * R - 1, num_objects * R):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(overlapping, "SMALL", small)
            found.append(build_rule("QualityATSS")(*batch))
    for pairs in found[1:]:
        for name in ("point", "object", "quality", "covered"):
            assert torch.equal(getattr(pairs, name), getattr(found[0], name)), name


def test_few_qualities_are_judged():
    """Of 4 million pairs of a crowd 2 %: less than half of those that overlap."""
    sizes, strides = [(100, 152), (50, 76), (25, 38), (13, 19), (7, 10)], [8, 16, 32, 64, 128]
    points, rng = Points.from_sizes(sizes, strides), torch.Generator().manual_seed(0)
    centre = torch.rand(200, 2, generator=rng) * torch.tensor([1216.0, 800.0])
    half = 6 + 100 * torch.rand(200, 2, generator=rng) ** 2
    gt_boxes = torch.cat([centre - half, centre + half], 1)
    nearest = torch.cdist(points.xy, centre).argmin(1)
    boxes = gt_boxes[nearest] + torch.randn(len(points), 4, generator=rng) * points.stride[:, None]
    logits = torch.randn(len(points), 5, generator=rng) - 3
    scene = make_scene(points, logits.sigmoid(), boxes, gt_boxes, torch.randint(5, (200,), generator=rng))
    judged, poto = [], quality.poto()

    def counted(scene, point, object):
        judged.append(len(point))
        return poto(scene, point, object)

    counted.iou_exponent = 0.8
    dense.best_per_level(9)(scene, counted)
    assert sum(judged) < 0.02 * 200 * len(points)


def test_scores_as_logits_or_probabilities():
    _, _, boxes, *objects = crowd(8, 0, "smooth")
    logits = torch.randn(R, 3, generator=torch.Generator().manual_seed(1))
    rule = build_rule("QualityATSS")
    plain, view = (
        rule(POINTS, logits.sigmoid(), boxes, *objects),
        rule(POINTS, ScoreView.from_logits(logits), boxes, *objects),
    )
    assert torch.equal(plain.point, view.point) and torch.equal(plain.object, view.object)
