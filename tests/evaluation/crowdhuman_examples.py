"""Worked examples of CrowdHuman's protocol, E1 to E11, with results of the official evaluator."""

import numpy as np

from defcn_ext.evaluation.crowdhuman_metrics import Detections, GroundTruth

SIZE = (100, 100)


def image(real, ignored=()):
    return GroundTruth(np.array([*real, *ignored]), np.array([False] * len(real) + [True] * len(ignored)), SIZE)


def found(*boxes_and_scores):
    return Detections(np.array([x[:4] for x in boxes_and_scores]), np.array([x[4] for x in boxes_and_scores]))


A, B = (10, 10, 20, 40), (40, 10, 20, 40)
ROW = [(5 + 15 * i, 10, 10, 30) for i in range(6)]


def _e8():
    truth = {f"{i}": image([A, B]) for i in range(10)}
    detections = {}
    for i in range(10):
        boxes = [(*A, 0.95 - 0.01 * i)]
        boxes += [(*B, 0.5 - 0.01 * i)] if i % 2 == 0 else []
        boxes += [(70, 60, 20, 30, 0.7 - 0.01 * i)] if i < 4 else []
        detections[f"{i}"] = found(*boxes)
    return truth, detections


# name -> ground truth, detections, (AP, MR^-2, recall, JI)
EXAMPLES = {
    "E1": (
        {"a": image([A, B], [(70, 10, 28, 60)]), "b": image([(20, 20, 20, 40)])},
        {
            "a": found(
                (10, 10, 20, 40, 0.9),
                (12, 10, 20, 40, 0.8),
                (40, 10, 20, 34, 0.7),
                (75, 20, 10, 20, 0.6),
                (66, 10, 12, 20, 0.5),
            ),
            "b": found((60, 60, 20, 20, 0.85), (20, 20, 20, 30, 0.4)),
        },
        (0.322222, 0.666667, 1, 0.583333),
    ),
    "E2": ({"a": image(ROW)}, {"a": found(*((*b, 1.0) for b in ROW))}, (0.833333, 0, 1, 1)),
    "E3": (
        {"a": image(ROW)},
        {"a": found((*ROW[0], 0.9), (*ROW[1], 0.8), (*ROW[2], 0.7))},
        (0.333333, 0.5, 0.5, 0.5),
    ),
    "E4": (
        {"a": image([A], [(0, 0, 60, 80)])},
        {"a": found((*A, 0.9), (*A, 0.8), (55, 10, 20, 40, 0.7))},
        (0, 0, 1, 0.999999),
    ),
    "E5": (
        {"a": image([(0, 0, 20, 10), (6, 0, 20, 10)])},
        {"a": found((4, 0, 20, 10, 0.9), (0, 0, 14, 10, 0.8))},
        (0.5, 0, 1, 1),
    ),
    "E6": ({"a": image([(-20, 10, 60, 40)])}, {"a": found((0, 10, 40, 40, 0.9))}, (0, 0, 1, 0.999999)),
    "E8": (*_e8(), (0.638885, 2 ** (-11 / 9), 0.75, 0.65)),
    "E9": (
        {"a": image([A, (60, 10, 20, 40)], [(50, 0, 50, 80)])},
        {"a": found((*A, 0.9), (10, 12, 20, 40, 0.3))},
        (0, 0.5, 0.5, 0.999999),
    ),
    "E10": (
        {"a": image([A, (-60, 10, 40, 40), (120, 10, 20, 40)])},
        {"a": found((*A, 0.9), (99, 10, 30, 40, 0.8))},
        (0.333333, 0.333333, 0.666667, 0.666666),
    ),
    "E11": (
        {"a": image([(0, 0, 20, 20)], [(50, 0, 20, 20)])},
        {"a": found((0, 0, 20, 10, 0.9), (40, 0, 20, 10, 0.8))},
        (0, 1, 0, 0),
    ),
}
