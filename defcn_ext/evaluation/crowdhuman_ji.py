"""The Jaccard index JI of CrowdHuman: how well detections and objects correspond one to one (CrowdDet, section 4)."""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

from .crowdhuman_overlaps import EPSILON, Overlaps

SCORE_THRESHOLDS = tuple(0.1 * i for i in range(10))  # as products: 0.3 is 0.30000000000000004
CHUNK = 256  # objects that the solver gets at a time; what it does for each grows with their number


def jaccard_index(overlaps: Overlaps) -> float:
    """JI: the largest mean over images that a threshold of the score reaches.

    An image has k / (m + n - k): k pairs of the matching with the largest total IoU, m objects and n detections,
    without those that are unmatched and inside an ignored box. Images with m = n = 0 do not count. If none counts at
    any threshold, JI is 0 where there are objects and NaN where there are none.
    """
    matcher = _GrowingMatching(overlaps)
    ratios = [_mean_ratio(overlaps, t, matcher.grow_to(t)) for t in reversed(SCORE_THRESHOLDS)]
    defined = [ratio for ratio in ratios if not math.isnan(ratio)]
    return max(defined, default=0.0 if len(overlaps.object_image) else math.nan)


def _mean_ratio(overlaps: Overlaps, threshold: float, matched: np.ndarray) -> float:
    """The mean over images at one threshold, from the pairs that are matched there; NaN if no image counts."""
    detection, objects = overlaps.detection[matched], overlaps.object[matched]
    present = overlaps.scores > threshold
    present[detection] = False
    counting = overlaps.detection_image[present & ~overlaps.detection_absorbed]  # besides the matched ones
    missing = ~overlaps.object_absorbed
    missing[objects] = False
    k, n, m = (
        np.bincount(images, minlength=overlaps.num_images)
        for images in (overlaps.object_image[objects], counting, overlaps.object_image[missing])
    )
    valid = k + n + m > 0
    return float((k / (m + n + k + EPSILON))[valid].mean()) if valid.any() else math.nan


class _GrowingMatching:
    """Maximum-weight matchings of all images while the threshold of the score falls.

    A detection with one pair only is nobody's but its object's, so that the object's pairs with a smaller IoU are
    never needed: if it used one of them, it could change to the other and gain. Leaving those out makes further
    detections exclusive, and so on. It stays true when detections are added, so what was left out at one threshold is
    out at the next. Most of the rest are single pairs; a solver sees what remains.
    """

    def __init__(self, overlaps: Overlaps):
        best_first = np.lexsort((-overlaps.iou, overlaps.object))
        self.pair = best_first  # into `overlaps`
        self.object, self.iou = overlaps.object[best_first], overlaps.iou[best_first]
        _, self.detection = np.unique(overlaps.detection[best_first], return_inverse=True)
        self.score = overlaps.scores[overlaps.detection[best_first]]
        self.num_objects = len(overlaps.object_image)
        self.present = np.zeros(len(best_first), dtype=bool)
        self.alive = np.zeros(0, dtype=np.int64)  # positions in the above, in rising order

    def grow_to(self, threshold: float) -> np.ndarray:
        """The pairs of the matching (indices into those of the overlaps) of detections with a score above this."""
        new = (self.score > threshold) & ~self.present
        self.present |= new
        self.alive = np.union1d(self.alive, np.flatnonzero(new))
        self._leave_out_dominated()
        detection, objects = self.detection[self.alive], self.object[self.alive]
        alone = (np.bincount(detection)[detection] == 1) & (np.bincount(objects)[objects] == 1)
        rest = self.alive[~alone]
        chosen = rest[maximum_weight_matching(self.detection[rest], self.object[rest], self.iou[rest])]
        return self.pair[np.concatenate([self.alive[alone], chosen])]

    def _leave_out_dominated(self) -> None:
        while True:
            detection, objects = self.detection[self.alive], self.object[self.alive]
            exclusive = np.flatnonzero(np.bincount(detection)[detection] == 1)[::-1]
            worst = np.full(self.num_objects, len(self.alive))
            worst[objects[exclusive]] = exclusive  # the last to be written is the exclusive pair with the largest IoU
            keep = np.arange(len(self.alive)) <= worst[objects]
            if keep.all():
                return
            self.alive = self.alive[keep]


def maximum_weight_matching(left: np.ndarray, right: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The pairs of a matching with the largest total weight, which need not have the largest number of pairs.

    Args:
        left, right: (P,) the two nodes of each pair, integers from 0, sides numbered apart.
        weight: (P,) above 0.

    Returns:
        indices of the chosen pairs.
    """
    if not len(left):
        return np.zeros(0, dtype=np.int64)
    _, left = np.unique(left, return_inverse=True)
    _, right = np.unique(right, return_inverse=True)
    num_left, num_right = left.max() + 1, right.max() + 1
    joined = csr_array((np.ones(len(left)), (left, right + num_left)), shape=(num_left + num_right,) * 2)
    component = connected_components(joined, directed=False)[1][left]
    sizes = np.bincount(component[np.unique(right, return_index=True)[1]])
    chunk = (sizes.cumsum() // CHUNK)[component]  # whole components, so that chunks are independent
    order = np.argsort(chunk, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(chunk[order])) + 1)
    return np.concatenate([part[_solve(left[part], right[part], weight[part])] for part in parts])


def _solve(left: np.ndarray, right: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`maximum_weight_matching` of one chunk. Every right node may also stay alone, at a partner of its own."""
    lefts, left = np.unique(left, return_inverse=True)
    rights, right = np.unique(right, return_inverse=True)
    alone = np.arange(len(rights))
    rows, columns = np.concatenate([right, alone]), np.concatenate([left, len(lefts) + alone])
    # The solver wants a partner for every row and no weight of 0: the constant changes nothing.
    weights = np.concatenate([weight, np.zeros(len(rights))]) + 1
    graph = csr_array((weights, (rows, columns)), shape=(len(rights), len(lefts) + len(rights)))
    row, column = min_weight_full_bipartite_matching(graph, maximize=True)
    partner = np.full(len(rights), -1)
    partner[row] = column
    return np.flatnonzero(partner[right] == left)
