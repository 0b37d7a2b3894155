"""CrowdHuman's protocol in plain, slow Python, one sentence at a time, and random data for it."""

import math

import numpy as np

from defcn_ext.evaluation.crowdhuman_metrics import Detections, GroundTruth

EPS = 1e-6
FPPI = [0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000]


def clipped(box, size):
    height, width = size
    x, y, w, h = (float(v) for v in box)
    x1, y1 = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    return x1, y1, min(max(x + w, 0), width), min(max(y + h, 0), height)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def intersection(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def iou(detection, real):
    common = intersection(detection, real)
    return common / (area(detection) + area(real) - common + EPS)


def ioa(box, region):
    return intersection(box, region) / (area(box) + EPS)


def images_of(truth, detections):
    """(real boxes, ignored boxes, [(score, box)] by falling score) of each image, clipped."""
    out = []
    for name, gt in truth.items():
        found = detections.get(name)
        size = gt.size or found.size
        real = [clipped(b, size) for b, i in zip(gt.boxes, gt.ignored) if not i]
        ignored = [clipped(b, size) for b, i in zip(gt.boxes, gt.ignored) if i]
        dets = [] if found is None else [(float(s), clipped(b, size)) for s, b in zip(found.scores, found.boxes)]
        out.append((real, ignored, sorted(dets, key=lambda d: -d[0])))
    return out


def kept_detections(real, ignored, dets):
    """(score, is a true positive) of those that are not discarded."""
    kept, taken = [], set()
    for score, box in dets:
        best, best_iou = None, 0.5
        for index, other in enumerate(real):
            if index not in taken and iou(box, other) > best_iou:
                best, best_iou = index, iou(box, other)
        if best is not None:
            taken.add(best)
            kept.append((score, True))
        elif not any(ioa(box, region) > 0.5 for region in ignored):
            kept.append((score, False))
    return kept


def slow_metrics(truth, detections):
    """AP, MR^-2, recall, and the smallest and largest JI that ties between matchings allow."""
    images = images_of(truth, detections)
    number = sum(len(real) for real, _, _ in images)
    kept = sorted((k for image in images for k in kept_detections(*image)), key=lambda k: -k[0])
    recall, precision, fppi, hits, misses = [], [], [], 0, 0
    for _, hit in kept:
        hits, misses = hits + hit, misses + (not hit)
        recall.append(hits / number)
        precision.append(hits / (hits + misses))
        fppi.append(misses / len(images))
    ap = sum((recall[i] - recall[i - 1]) * (precision[i] + precision[i - 1]) / 2 for i in range(1, len(kept)))
    rates = []
    for reference in FPPI:
        reached = [i for i in range(len(kept)) if fppi[i] >= reference]
        rates.append(1 - (recall[reached[0] if reached else -1] if kept else 0))
    mr = 0.0 if min(rates) == 0 else math.exp(sum(map(math.log, rates)) / 9)
    return ap, mr, recall[-1] if kept else 0.0, slow_ji(images)


def slow_ji(images):
    lows, highs = [], []
    for i in range(10):
        ratios = [r for r in (ratio_range(*image, 0.1 * i) for image in images) if r is not None]
        if ratios:
            lows.append(sum(r[0] for r in ratios) / len(ratios))
            highs.append(sum(r[1] for r in ratios) / len(ratios))
    return max(lows, default=0.0), max(highs, default=0.0)


def ratio_range(real, ignored, dets, threshold):
    """Smallest and largest k / (m + n - k) over all matchings of the largest weight; None for m = n = 0."""
    boxes = [box for score, box in dets if score > threshold]
    absorbed = [any(ioa(box, region) > 0.5 for region in ignored) for box in boxes]
    real_absorbed = [any(ioa(box, region) > 0.5 for region in ignored) for box in real]
    ratios = []
    for matched, num_absorbed in heaviest_matchings(boxes, real, absorbed):
        k = len(matched)
        n = len(boxes) - (sum(absorbed) - num_absorbed)
        m = len(real) - sum(flag for g, flag in enumerate(real_absorbed) if g not in matched)
        if m or n:
            ratios.append(k / (m + n - k + EPS))
    return (min(ratios), max(ratios)) if ratios else None


def heaviest_matchings(boxes, real, absorbed):
    """(matched objects, number of matched absorbed detections) of every matching of the largest weight.

    Goes through all matchings, of which it remembers the best for each of those two.
    """
    states = {(frozenset(), 0): 0.0}
    for box, flag in zip(boxes, absorbed):
        following = dict(states)
        for (used, count), weight in states.items():
            for index, other in enumerate(real):
                overlap = iou(box, other)
                if index not in used and overlap > 0.5:
                    key = used | {index}, count + flag
                    following[key] = max(following.get(key, 0.0), weight + overlap)
        states = following
    best = max(states.values())
    return [state for state, weight in states.items() if weight >= best - 1e-12]


def random_case(rng, *, grid=False, most=5):
    """Up to five images of 100 x 80 with crowds, ignored boxes, boxes over the border; `grid`: whole pixels and ties.

    Returns:
        ground truth and detections by ID.
    """
    truth, detections = {}, {}
    for index in range(rng.integers(1, 6)):
        size = (80, 100)
        hub = rng.uniform(-5, 90, 2)
        num = rng.integers(0, most + 1)
        boxes = np.concatenate([hub + rng.normal(0, 8, (num, 2)), rng.uniform(15, 40, (num, 2))], 1)
        source = boxes[rng.integers(0, num, 2 * num)] if num else boxes
        found = source + rng.normal(0, 3, source.shape)
        stray = np.concatenate([rng.uniform(-20, 100, (3, 2)), rng.uniform(1, 40, (3, 2))], 1)
        found = np.concatenate([found, stray])
        scores = rng.uniform(0, 1, len(found))
        if grid:
            boxes, found, scores = boxes.round(-1), found.round(-1), scores.round(1)
        order = rng.permutation(len(found))[: rng.integers(0, len(found) + 1)]
        truth[f"{index},x"] = GroundTruth(boxes, rng.random(num) < 0.25, size)
        if rng.random() < 0.85:
            detections[f"{index},x"] = Detections(found[order], scores[order])
    return truth, detections
