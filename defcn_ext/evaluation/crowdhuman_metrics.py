"""CrowdHuman's metrics on numpy arrays: AP at IoU 0.5, MR^-2, recall and JI, as the data set's own evaluator has them.

AP and MR^-2 are those of Shao et al., "CrowdHuman: A Benchmark for Detecting Human in a Crowd", JI that of Chu et al.,
"Detection in Crowded Scenes: One Proposal, Multiple Predictions" (CrowdDet). AP is not COCO's AP50: it joins the points
of the precision-recall curve by straight lines and starts at the first detection, so one object alone scores 0.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .crowdhuman_ji import jaccard_index
from .crowdhuman_overlaps import Detections, GroundTruth, Overlaps, find_overlaps

__all__ = ["CrowdHumanMetrics", "Detections", "GroundTruth", "crowdhuman_metrics", "greedy_matches"]

logger = logging.getLogger(__name__)

FPPI = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)  # rounded, as the protocol has them


@dataclass(frozen=True)
class CrowdHumanMetrics:
    """Fractions; lower is better for `mr` alone. NaN where undefined."""

    ap: float
    mr: float
    recall: float
    ji: float
    num_images: int
    num_objects: int  # not ignored
    num_detections: int


def crowdhuman_metrics(
    truth: Mapping[str, GroundTruth], detections: Mapping[str, Detections], *, round_like_crowddet: bool = False
) -> CrowdHumanMetrics:
    """AP, MR^-2, recall and JI.

    Images without detections count with their ground truth, and every image of `truth` counts for FPPI. Without
    detections AP, recall and JI are 0 and MR^-2 is 1. Without any ground truth AP, MR^-2 and recall are NaN, with a
    warning; so is JI if no detection counts either. Of equal scores the image that comes first in `truth` counts as
    better, and inside an image the detection that comes first.

    Args:
        truth: by the ID of the image, in the order of the annotation file.
        detections: by the ID of the image; it limits neither their number nor their score.
        round_like_crowddet: round detections to 0.1 pixels and scores to 5 decimals, which CrowdDet does to its files.

    Raises:
        ValueError: a detection's ID is unknown, an image has no size in either mapping, or arrays have wrong shapes or
            values that are not finite; names the ID.
    """
    overlaps = find_overlaps(truth, detections, round_like_crowddet=round_like_crowddet)
    counts = overlaps.num_images, len(overlaps.object_image), len(overlaps.scores)
    if not len(overlaps.object_image):
        logger.warning("CrowdHuman: no ground truth that is not ignored, so AP, MR^-2 and recall are undefined (NaN)")
        return CrowdHumanMetrics(math.nan, math.nan, math.nan, jaccard_index(overlaps), *counts)
    recall, precision, fppi = _curve(overlaps)
    ap = float(((recall[1:] - recall[:-1]) * (precision[1:] + precision[:-1]) / 2).sum())
    last = float(recall[-1]) if len(recall) else 0.0
    return CrowdHumanMetrics(ap, _miss_rate(recall, fppi), last, jaccard_index(overlaps), *counts)


def _curve(overlaps: Overlaps) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and false positives an image after each of the kept detections, by falling score."""
    order = np.argsort(-overlaps.scores, kind="stable")
    matched = greedy_matches(overlaps, order)
    kept = order[(matched | ~overlaps.detection_absorbed)[order]]
    true_positives = matched[kept].cumsum()
    seen = np.arange(1, len(kept) + 1)
    return (
        true_positives / len(overlaps.object_image),
        true_positives / seen,
        (seen - true_positives) / overlaps.num_images,
    )


def _miss_rate(recall: np.ndarray, fppi: np.ndarray) -> float:
    """MR^-2: the geometric mean of the miss rates at nine numbers of false positives an image."""
    if not len(recall):
        return 1.0
    first = np.searchsorted(fppi, FPPI).clip(max=len(fppi) - 1)
    with np.errstate(divide="ignore"):  # a miss rate of 0 makes the mean 0
        return float(np.exp(np.log(1 - recall[first]).mean()))


def greedy_matches(overlaps: Overlaps, order: np.ndarray) -> np.ndarray:
    """Which detections are true positives, if each in turn takes the free object that it overlaps most.

    All images at once: every detection asks for its first choice, every object keeps the best score that asked, and
    who was turned away asks for the next choice. This ends in the only stable matching; as all objects agree on the
    order of the detections, it is the greedy one. Of equal IoUs the object that comes first is taken.

    Args:
        order: (D,) the detections, best first.

    Returns:
        (D,) bool.
    """
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    by_choice = np.lexsort((-overlaps.iou, overlaps.detection))
    wish, asking = overlaps.object[by_choice], overlaps.detection[by_choice]
    last = np.append(asking[1:] != asking[:-1], True)[: len(asking)]
    position = np.flatnonzero(np.append(True, last[:-1])[: len(asking)])  # the pair that each detection asks for
    nobody = len(order)
    holder = np.full(len(overlaps.object_image), nobody)  # rank of the detection that each object keeps
    held = np.zeros(len(overlaps.object_image), dtype=np.int64)  # and the position of that pair
    while len(position):
        before = holder.copy()
        np.minimum.at(holder, wish[position], rank[asking[position]])
        won = rank[asking[position]] == holder[wish[position]]
        objects = wish[position[won]]
        displaced = held[objects][before[objects] < nobody]
        held[objects] = position[won]
        position = np.concatenate([position[~won], displaced])
        position = position[~last[position]] + 1
    matched = np.zeros(len(order), dtype=bool)
    matched[order[holder[holder < nobody]]] = True
    return matched
