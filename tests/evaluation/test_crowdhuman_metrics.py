"""CrowdHuman's metrics: worked examples, a slow implementation on random data, and where the official ones crash."""

import dataclasses
import itertools
import logging
import math
import time

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from defcn_ext.benchmarks.crowdhuman import crowd
from defcn_ext.evaluation import crowdhuman_ji
from defcn_ext.evaluation.crowdhuman_ji import maximum_weight_matching
from defcn_ext.evaluation.crowdhuman_metrics import Detections, crowdhuman_metrics
from tests.evaluation.crowdhuman_examples import EXAMPLES, SIZE, A, B, found, image
from tests.evaluation.crowdhuman_reference import images_of, ioa, iou, random_case, slow_metrics

EMPTY = Detections(np.zeros((0, 4)), np.zeros(0))


def values(truth, detections, **options):
    m = crowdhuman_metrics(truth, detections, **options)
    return m.ap, m.mr, m.recall, m.ji


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples(name):
    truth, detections, expected = EXAMPLES[name]
    assert values(truth, detections) == pytest.approx(expected, abs=2e-6)
    ap, mr, recall, (low, high) = slow_metrics(truth, detections)
    assert values(truth, detections) == pytest.approx((ap, mr, recall, low), abs=1e-12)
    assert low == high


@pytest.mark.parametrize("seed", range(40))
def test_equal_to_the_slow_protocol(seed):
    """Ten data sets each; every third on a grid, with equal scores and boxes."""
    rng = np.random.default_rng(seed)
    compared = 0
    for case in range(10):
        truth, detections = random_case(rng, grid=case % 3 == 0, most=2 + case % 5)
        if all(gt.ignored.all() for gt in truth.values()):
            continue
        ap, mr, recall, (low, high) = slow_metrics(truth, detections)
        m = crowdhuman_metrics(truth, detections)
        assert (m.ap, m.mr, m.recall) == pytest.approx((ap, mr, recall), abs=1e-12)
        assert low - 1e-12 <= m.ji <= high + 1e-12
        compared += high - low < 1e-12
    assert compared > 4


def test_ji_of_large_crowds_equals_the_dense_solver(monkeypatch):
    """Components of many objects, and so small chunks that components must be kept whole."""
    monkeypatch.setattr(crowdhuman_ji, "CHUNK", 3)
    truth, detections = crowd(3, 150, duplicates=1000, seed=3)
    assert crowdhuman_metrics(truth, detections).ji == pytest.approx(dense_ji(truth, detections), abs=1e-9)


def dense_ji(truth, detections):
    """JI by scipy's dense assignment, image by image, with non-edges of weight 0."""
    images = images_of(truth, detections)
    means = []
    for i in range(10):
        ratios = []
        for real, ignored, dets in images:
            boxes = [box for score, box in dets if score > 0.1 * i]
            weight = np.array([[iou(d, g) for g in real] for d in boxes]).reshape(len(boxes), len(real))
            weight[weight <= 0.5] = 0
            pairs = [(d, g) for d, g in zip(*linear_sum_assignment(weight, maximize=True)) if weight[d, g] > 0]
            taken, hit = {d for d, _ in pairs}, {g for _, g in pairs}
            n = sum(d in taken or not any(ioa(b, r) > 0.5 for r in ignored) for d, b in enumerate(boxes))
            m = sum(g in hit or not any(ioa(b, r) > 0.5 for r in ignored) for g, b in enumerate(real))
            ratios += [len(pairs) / (m + n - len(pairs) + 1e-6)] if m or n else []
        means.append(sum(ratios) / len(ratios))
    return max(means)


@pytest.mark.parametrize("seed", range(5))
def test_matching_by_brute_force(seed):
    """All matchings of random graphs of up to 5 x 5 nodes."""
    rng = np.random.default_rng(seed)
    for _ in range(8):
        edges = np.argwhere(rng.random(rng.integers(1, 6, 2)) < 0.6)
        weight = rng.uniform(0.5, 1, len(edges))
        chosen = maximum_weight_matching(edges[:, 0], edges[:, 1], weight)
        assert len(set(edges[chosen, 0])) == len(set(edges[chosen, 1])) == len(chosen)
        best = 0.0
        for size in range(1, min(len(edges), 5) + 1):
            for subset in map(list, itertools.combinations(range(len(edges)), size)):
                if len(set(edges[subset, 0])) == len(set(edges[subset, 1])) == size:
                    best = max(best, weight[subset].sum())
        assert weight[chosen].sum() == pytest.approx(best, abs=1e-12)


def test_the_heaviest_matching_may_have_fewer_pairs():
    """A path of five edges: .51 .95 .51 .95 .51; two pairs weigh 1.9, three 1.53."""
    left, right = np.array([0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2])
    assert sorted(maximum_weight_matching(left, right, np.array([0.51, 0.95, 0.51, 0.95, 0.51]))) == [1, 3]


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_detections_and_images_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    truth, detections = random_case(rng)
    shuffled = {}
    for name in reversed(detections):
        order = rng.permutation(len(detections[name].scores))
        shuffled[name] = Detections(detections[name].boxes[order], detections[name].scores[order])
    expected = pytest.approx(values(truth, detections), abs=1e-12, nan_ok=True)
    assert values(dict(reversed(truth.items())), shuffled) == expected


def test_a_detection_in_an_ignored_region_changes_nothing():
    truth, detections, _ = EXAMPLES["E1"]
    more = Detections(
        np.concatenate([detections["a"].boxes, [[72, 30, 10, 10]]]), np.append(detections["a"].scores, 0.99)
    )
    assert values(truth, {**detections, "a": more}) == values(truth, detections)


def test_a_last_false_positive_leaves_ap_and_recall():
    truth, detections, _ = EXAMPLES["E8"]
    more = Detections(np.concatenate([detections["9"].boxes, [[0, 60, 9, 9]]]), np.append(detections["9"].scores, 1e-3))
    before, after = crowdhuman_metrics(truth, detections), crowdhuman_metrics(truth, {**detections, "9": more})
    assert (after.ap, after.recall) == (before.ap, before.recall)
    # FPPI .5 after all the others: the two largest references now take the last point, which had it before as well
    assert after.mr == before.mr


def test_late_duplicates_cost_nothing_and_early_ones_do():
    truth, detections, _ = EXAMPLES["E8"]
    late = {n: twice(d, lambda s: s / 1000) for n, d in detections.items()}
    early = {n: twice(d, lambda s: s - 1e-4) for n, d in detections.items()}
    before = crowdhuman_metrics(truth, detections)
    assert crowdhuman_metrics(truth, late).ap == pytest.approx(before.ap)
    assert crowdhuman_metrics(truth, late).recall == before.recall
    assert crowdhuman_metrics(truth, early).ap < before.ap - 0.1


def twice(detections, change):
    scores = np.concatenate([detections.scores, change(detections.scores)])
    return Detections(np.concatenate([detections.boxes] * 2), scores)


def test_ties_go_by_the_order_of_images_then_of_detections():
    """Precision after the true positives: first and third of three, or second and third."""
    truth = {"a": image([A]), "b": image([A])}
    hit, both = found((*A, 0.5)), found((*A, 0.5), (70, 70, 9, 9, 0.5))
    assert crowdhuman_metrics(truth, {"a": both, "b": hit}).ap == pytest.approx((1 / 2 + 2 / 3) / 2 * 0.5)
    turned = found((70, 70, 9, 9, 0.5), (*A, 0.5))
    expected = (0 + 1 / 2) / 2 * 0.5 + (1 / 2 + 2 / 3) / 2 * 0.5
    assert crowdhuman_metrics(truth, {"a": turned, "b": hit}).ap == pytest.approx(expected)


def test_of_equal_overlaps_the_first_object_is_taken():
    """A detection between two objects takes the first, which leaves the second to the next detection."""
    objects = [(0, 0, 20, 10), (4, 0, 20, 10)]
    middle, last = (2, 0, 20, 10, 0.9), (8, 0, 20, 10, 0.8)
    assert crowdhuman_metrics({"a": image(objects)}, {"a": found(middle, last)}).recall == 1
    assert crowdhuman_metrics({"a": image(objects[::-1])}, {"a": found(middle, last)}).recall == 0.5


def test_images_without_results_count_and_so_do_images_without_boxes():
    truth, detections, _ = EXAMPLES["E8"]
    assert values(truth, {**detections, "1": EMPTY}) == values(truth, {k: d for k, d in detections.items() if k != "1"})
    more = {**truth, "empty": image([]), "ignored": image([], [A]), "nothing": image([])}
    m = crowdhuman_metrics(more, detections)
    assert m.num_images == 13
    assert m.ap == crowdhuman_metrics(truth, detections).ap
    assert m.mr == pytest.approx(
        2 ** (-12 / 9)
    )  # FPPI ends at 4/13 < .3162, so three references meet the last miss .25


def test_no_detections():
    assert values({"a": image([A]), "b": image([])}, {}) == (0, 1, 0, 0)
    assert values({"a": image([A], [A])}, {"a": EMPTY}) == (0, 1, 0, 0)


def test_no_ground_truth_is_undefined_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        ap, mr, recall, ji = values({"a": image([], [A]), "b": image([])}, {"b": found((*B, 0.9))})
    assert math.isnan(ap) and math.isnan(mr) and math.isnan(recall) and ji == 0
    assert "no ground truth" in caplog.text
    assert all(map(math.isnan, values({"a": image([])}, {})))
    assert all(map(math.isnan, values({}, {})))


def test_inputs_are_refused_by_the_name_of_their_image():
    truth = {"a,1": image([A])}
    with pytest.raises(ValueError, match="unknown image ID 'b,2'"):
        crowdhuman_metrics(truth, {"b,2": EMPTY})
    with pytest.raises(ValueError, match="'a,1'.*height and width"):
        crowdhuman_metrics({"a,1": dataclasses.replace(truth["a,1"], size=None)}, {})
    with pytest.raises(ValueError, match="'a,1'.*positive"):
        crowdhuman_metrics({"a,1": dataclasses.replace(truth["a,1"], size=(0, 10))}, {})
    with pytest.raises(ValueError, match=r"'a,1'.*shapes \(2, 4\) and \(1,\)"):
        crowdhuman_metrics(truth, {"a,1": Detections(np.ones((2, 4)), np.ones(1))})
    with pytest.raises(ValueError, match="'a,1'.*not finite"):
        crowdhuman_metrics(truth, {"a,1": found((*A, math.nan))})


def test_the_size_may_come_from_the_detections():
    truth, detections, _ = EXAMPLES["E6"]
    bare = {"a": dataclasses.replace(truth["a"], size=None)}
    assert values(bare, {"a": dataclasses.replace(detections["a"], size=SIZE)}) == values(truth, detections)


def test_rounding_like_crowddet():
    """IoU .5004 of a box that rounding makes .5 wide; scores that rounding makes equal."""
    truth = {"a": image([(0, 0, 20, 20), (50, 50, 20, 20)])}
    detections = {"a": found((0, 0, 20, 10.01, 0.9), (50, 50, 20, 20, 0.8000011), (50, 50, 20, 20, 0.8000012))}
    assert crowdhuman_metrics(truth, detections).recall == 1
    assert crowdhuman_metrics(truth, detections, round_like_crowddet=True).recall == 0.5
    tied = {"a": found((80, 0, 9, 9, 0.8000011), (50, 50, 20, 20, 0.8000012))}
    assert crowdhuman_metrics(truth, tied).ap == 0  # the true positive is first
    assert crowdhuman_metrics(truth, tied, round_like_crowddet=True).ap == pytest.approx(0.5 * (0 + 0.5) / 2)


@pytest.mark.slow
def test_full_scale_takes_seconds():
    """4,370 images with 500 detections each; the target is 20 s of two cores."""
    for duplicates in (1, 1000):
        data = crowd(4370, 500, duplicates, seed=0)
        start = time.process_time()
        crowdhuman_metrics(*data)
        assert time.process_time() - start < 20
