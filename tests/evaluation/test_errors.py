import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.evaluation.errors import KINDS, average_precision, count_errors, find_errors
from defcn_ext.evaluation.image_results import SUBSETS, everything
from defcn_ext.evaluation.outcomes import judge, tally
from detectron2.structures import Boxes, Instances
from tests.evaluation.error_examples import image, random_images, slow_errors

ONE = [(0, 0, 10, 10, 0)]
TWO = [*ONE, (50, 50, 10, 10, 0)]


def won(found, objects, t=0.5, crowd=()):
    errors = find_errors([image(found, objects, crowd)], thresholds=np.array([t]))
    return round(float(errors.ap[0]), 6), {k: round(float(v[0]), 6) for k, v in errors.won.items() if v[0]}


def test_a_duplicate_before_the_second_object():
    """Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1: AP (51 + 50 * 2/3) / 101; without the duplicate 1."""
    found = [(0, 0, 10, 10, 0, 0.9), (0, 0, 10, 9, 0, 0.8), (50, 50, 10, 10, 0, 0.7)]
    ap = (51 + 50 * 2 / 3) / 101
    assert won(found, TWO) == (round(ap, 6), {"duplicate": round(1 - ap, 6), "rank": round(1 - ap, 6)})


def test_a_badly_placed_box_takes_its_object_when_mended():
    """IoU 40 / 160 with the first object, which nothing else finds."""
    found = [(0, 6, 10, 10, 0, 0.9), (50, 50, 10, 10, 0, 0.7)]
    ap = 51 / 101 / 2
    assert won(found, TWO) == (round(ap, 6), {"place": round(1 - ap, 6), "rank": round(51 / 101 - ap, 6)})


def test_a_mended_box_gives_way_to_a_better_one_and_takes_the_object_of_a_worse_one():
    right = (0, 0, 10, 10, 0)
    after, before = [(*right, 0.9), (0, 6, 10, 10, 0, 0.5)], [(0, 6, 10, 10, 0, 0.9), (*right, 0.5)]
    assert won(after, ONE) == (1.0, {})
    assert won(before, ONE) == (0.5, {"place": 0.5, "rank": 0.5})


def test_the_wrong_class_mended_counts_for_the_right_one():
    """Class 1 has AP 0 and then 1; class 0 has a false positive above its object, and then none."""
    found = [(50, 50, 10, 10, 0, 0.9), (0, 0, 10, 10, 0, 0.8)]
    assert won(found, [*ONE, (50, 50, 10, 10, 1)]) == (0.25, {"class": 0.75, "rank": 0.25})


def test_both_and_background():
    near_another_class, nowhere = (50, 56, 10, 10, 0, 0.9), (80, 80, 10, 10, 0, 0.8)
    hit = (0, 0, 10, 10, 0, 0.7)
    objects = [*ONE, (50, 50, 10, 10, 1)]
    ap, gains = won([near_another_class, nowhere, hit], objects)
    assert ap == round(1 / 6, 6)
    # The object of class 1 is missed, and no other is left of its class.
    expected = {"missed": 0.5, "both": round(1 / 4 - 1 / 6, 6), "background": round(1 / 4 - 1 / 6, 6)}
    assert gains == {**expected, "rank": round(1 / 2 - 1 / 6, 6)}


def test_missed_objects_no_longer_count():
    assert won([(0, 0, 10, 10, 0, 0.9)], TWO) == (round(51 / 101, 6), {"missed": round(50 / 101, 6)})


def test_the_order_of_right_boxes_matters_above_the_lowest_iou():
    """The better-scored box has IoU .6, the other 1: at .75 the first is wrong, and stands above the right one."""
    found = [(0, 0, 10, 6, 0, 0.9), (50, 50, 10, 10, 0, 0.8)]
    errors = find_errors([image(found, TWO)], thresholds=np.array([0.5, 0.75]))
    assert errors.won["order"].tolist() == pytest.approx([0, 51 / 101 / 2])
    assert errors.won["rank"].tolist() == pytest.approx([0, 51 / 101 / 2])


def test_crowds_are_no_errors():
    found = [(0, 0, 10, 10, 0, 0.9), (50, 50, 4, 4, 0, 0.95), (51, 51, 4, 4, 0, 0.96)]
    assert won(found, TWO, crowd=[1]) == (1.0, {})


def test_nothing_there():
    errors = find_errors([image([], []), image([(0, 0, 1, 1, 0, 0.5)], [])])
    assert errors.objects == 0 and np.isnan(errors.ap).all()
    assert won([], TWO) == (0.0, {"missed": 1.0})
    assert average_precision(np.zeros(0, dtype=bool), 3) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_slow_form(seed):
    images = random_images(np.random.default_rng(seed), count=16)
    seen = set()
    for t in (0.5, 0.75):
        errors = find_errors(images, thresholds=np.array([t]))
        ap, gains = slow_errors(images, t)
        seen |= {kind for kind, value in gains.items() if value > 0}
        assert errors.ap[0] == pytest.approx(ap, abs=1e-9)
        got = {kind: float(errors.won[kind][0]) for kind in gains}
        assert got == pytest.approx(gains, abs=1e-9)
    assert seen >= {"missed", "duplicate", "place", "class", "rank"}


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_no_mend_lowers_ap(seed):
    images = random_images(np.random.default_rng(seed), count=3)
    for subset in SUBSETS.values():
        errors = find_errors(images, subset, thresholds=np.array([0.5, 0.8]))
        if errors.objects:
            assert min(errors.won[kind].min() for kind in KINDS) >= -1e-12
            assert max((errors.ap + errors.won[kind]).max() for kind in KINDS) <= 1 + 1e-12


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_the_truth_has_no_errors(seed):
    scenes = random_images(np.random.default_rng(seed), count=2)
    rows = [np.concatenate([x.objects, x.object_classes[:, None]], 1) for x in scenes]
    truth = [image([(*row, 0.5) for row in part], part) for part in rows]
    for subset in SUBSETS.values():
        errors = find_errors(truth, subset)
        if errors.objects:
            assert errors.ap.tolist() == pytest.approx([1.0] * 10)
            assert all(np.abs(errors.won[kind]).max() < 1e-12 for kind in KINDS)
    counts = count_errors(truth, 0.3)
    assert counts["found"] == counts["objects"] and sum(counts.values()) == 2 * counts["objects"]


def test_counts_are_those_of_the_pictures():
    """`outcomes.judge` finds the same right ones and duplicates; its "wrong" is the sum of the four other kinds."""
    images = [x for x in random_images(np.random.default_rng(5), count=10) if not x.crowd.any()]
    counts, total = count_errors(images, 0.3), None
    for x in images:
        kept = x.better_than(0.3)
        shapes = [np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1) for b in (kept.boxes, kept.objects)]
        found = Instances((99, 99), pred_boxes=Boxes(torch.tensor(shapes[0])), scores=torch.tensor(kept.scores))
        found.pred_classes = torch.tensor(kept.classes)
        objects = Instances((99, 99), gt_boxes=Boxes(torch.tensor(shapes[1])))
        objects.gt_classes = torch.tensor(kept.object_classes)
        one = tally(judge(found, objects), len(objects))
        total = one if total is None else total + one
    assert (counts["objects"], counts["found"], counts["duplicate"]) == (total.objects, total.found, total.duplicates)
    wrong = sum(counts[kind] for kind in ("class", "place", "both", "background"))
    assert wrong == total.wrong > 0 and counts["missed"] <= counts["objects"] - counts["found"]


def test_crowded_objects_and_their_detections():
    """The first two objects overlap with IoU 2/3, the third stands apart; one box is at each, one nowhere."""
    objects = [(0, 0, 10, 10, 0), (2, 0, 10, 10, 1), (50, 50, 10, 10, 0)]
    at = image([(0, 0, 10, 10, 0, 0.9), (49, 50, 10, 10, 0, 0.8), (80, 80, 5, 5, 0, 0.7)], objects)
    assert at.crowded.tolist() == [True, True, False]
    crowded, apart = (SUBSETS[name](at) for name in ("crowded", "apart"))
    assert [x.tolist() for x in crowded] == [[True, True, False], [True, False, True]]
    assert [x.tolist() for x in apart] == [[False, False, True], [False, True, True]]
    assert find_errors([at], SUBSETS["crowded"]).objects == 2
    assert all(x.all() for x in everything(at))
