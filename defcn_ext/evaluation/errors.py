"""Which errors a detector makes, and how much AP each kind costs.

In the spirit of TIDE (Bolya et al. 2020, arXiv 2008.08115): every detection that is not right makes one error, and a
kind of error costs the AP that would be won if it alone were mended. Matching and AP are COCO's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from .image_results import EPSILON, NEAR, ImageResult, Subset, everything, match

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


class Error(IntEnum):
    """What a detection is, in the order of the question. `outcomes.judge` calls the last four "wrong"."""

    NONE = 0  # it found an object, or is on one that does not count
    DUPLICATE = 1  # on objects of its class that better-scored detections have found
    CLASS = 2  # on an object of another class
    PLACE = 3  # near an object of its class, below the IoU that counts
    BOTH = 4  # near an object of another class only
    BACKGROUND = 5  # near none


# What can be mended: the errors of detections, objects that none was meant for, and two of the order. "rank": all right
# detections come before all others. "order": those that are right at the lowest IoU exchange their scores, so that
# those that are right at a higher one come first.
KINDS = ("missed", "duplicate", "place", "class", "both", "background", "rank", "order")
DROPPED = {"duplicate": Error.DUPLICATE, "both": Error.BOTH, "background": Error.BACKGROUND}
MOVED = {"place": Error.PLACE, "class": Error.CLASS}


@dataclass(frozen=True)
class Errors:
    """Of a data set or a subset of its objects.

    Attributes:
        objects: how many count.
        ap: (T,) AP in [0, 1] by IoU threshold, mean over the classes that have an object; nan where there is none.
        won: for each of `KINDS` the (T,) AP that mending it alone would add. They do not add up.
    """

    objects: int
    ap: np.ndarray
    won: dict[str, np.ndarray]


def find_errors(
    images: Sequence[ImageResult], subset: Subset = everything, thresholds: np.ndarray = THRESHOLDS
) -> Errors:
    """AP at each IoU threshold, and what mending each kind of error would win.

    A mended detection ("class", "place") takes its object, unless a better-scored one has it; the worse one then goes.
    Other errors go. Missed objects stop counting; a class that has no other is taken as found.

    Args:
        thresholds: (T,) rising.
    """
    found = _Findings.over(images, subset, thresholds)
    classes = np.unique(found.object_classes[found.counts])
    ap, won = np.full(len(thresholds), np.nan), {kind: np.full(len(thresholds), np.nan) for kind in KINDS}
    for t in range(len(thresholds)) if len(classes) else ():
        at = found.at(t)
        ap[t] = at.mean_ap(classes)
        for kind in KINDS:
            won[kind][t] = at.mended(kind).mean_ap(classes) - ap[t]
    return Errors(int(found.counts.sum()), ap, won)


def count_errors(images: Iterable[ImageResult], score: float, threshold: float = 0.5) -> dict[str, int]:
    """How many detections above a score found an object or make which error, and how many objects are missed."""
    found = _Findings.over([image.better_than(score) for image in images], everything, np.array([threshold]))
    at = found.at(0)
    counts = {"objects": int(found.counts.sum()), "found": int(at.right.sum()), "missed": int(at.missed.sum())}
    return counts | {error.name.lower(): int((at.error == error).sum()) for error in Error if error}


def explain(image: ImageResult, matched: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, D) `Error` of each detection; and (T, D) the object that it should have taken, of errors of class and place.

    Args:
        matched: (T, D) as `match` returns.
    """
    plain = np.where(image.crowd, -1.0, image.overlap)
    plain = np.concatenate([plain, np.full((len(plain), 1), -1.0)], 1)  # so that there is a highest without objects
    same = np.concatenate([image.same, np.zeros((len(plain), 1), dtype=bool)], 1)
    own, other = np.where(same, plain, -1.0), np.where(same, -1.0, plain)
    on, near = np.minimum(thresholds, 1 - EPSILON)[:, None], np.full((len(thresholds), 1), NEAR)
    tests = [matched >= 0, own.max(1) >= on, other.max(1) >= on, own.max(1) >= near, other.max(1) >= near]
    error = np.select(tests, list(Error)[:-1], Error.BACKGROUND)
    target = np.select([error == Error.CLASS, error == Error.PLACE], [other.argmax(1), own.argmax(1)], -1)
    return error, target


@dataclass(frozen=True)
class _Findings:
    """All images one after the other, detections best first: COCO's order, so that equal scores are no difference.

    Attributes:
        classes: (D,).
        found: (T, D) whether it takes an object that counts.
        void: (T, D) whether it does not count.
        error: (T, D).
        owner: (T, D) the object that it takes or should take, or -1.
        object_classes, counts: (G,).
    """

    classes: np.ndarray
    found: np.ndarray
    void: np.ndarray
    error: np.ndarray
    owner: np.ndarray
    object_classes: np.ndarray
    counts: np.ndarray

    @classmethod
    def over(cls, images: Sequence[ImageResult], subset: Subset, thresholds: np.ndarray) -> _Findings:
        parts, first = [], 0
        for image in images:
            chosen, shown = subset(image)
            counts = chosen & ~image.crowd
            matched = match(image, counts, thresholds)
            error, target = explain(image, matched, thresholds)
            found = (matched >= 0) & np.append(counts, False)[matched]
            void = ((matched >= 0) & ~found) | ((matched < 0) & ~shown)
            owner = np.where(matched >= 0, matched, np.where(void, -1, target))
            parts.append((found, void, np.where(void, Error.NONE, error), np.where(owner < 0, -1, owner + first)))
            parts[-1] += (image.classes, image.object_classes, counts, image.scores)
            first += len(counts)
        found, void, error, owner, classes, object_classes, counts, scores = (
            np.concatenate(part, -1) for part in zip(*parts)
        )
        best_first = np.argsort(-scores, kind="stable")
        by_threshold = (x[:, best_first] for x in (found, void, error, owner))
        return cls(classes[best_first], *by_threshold, object_classes, counts)

    def at(self, t: int) -> _Standing:
        """What there is at one threshold."""
        void, error, owner = self.void[t], self.error[t], self.owner[t]
        left = self.counts.copy()
        left[owner[self.found[t]]] = False
        left[owner[(error == Error.CLASS) | (error == Error.PLACE)]] = False
        standing = (self.classes, self.found[t], ~void, error, owner, self.found[0])
        return _Standing(*standing, self.object_classes, self.counts, left)


@dataclass(frozen=True)
class _Standing:
    """Detections, best first, at one IoU threshold, as they are or mended.

    Attributes:
        classes, right, kept, error, owner: (D,) of which `kept` are those that count.
        first_right: (D,) right at the lowest threshold.
        object_classes, counts, missed: (G,).
    """

    classes: np.ndarray
    right: np.ndarray
    kept: np.ndarray
    error: np.ndarray
    owner: np.ndarray
    first_right: np.ndarray
    object_classes: np.ndarray
    counts: np.ndarray
    missed: np.ndarray

    def mean_ap(self, classes: np.ndarray) -> float:
        """AP, the mean over `classes`, which have objects; 1 of a class that has none left."""
        values = []
        for label in classes:
            total = int((self.counts & (self.object_classes == label)).sum())
            right = self.right[self.kept & (self.classes == label)]
            values.append(average_precision(right, total) if total else 1.0)
        return float(np.mean(values))

    def mended(self, kind: str) -> _Standing:
        """With one of `KINDS` mended."""
        if kind == "missed":
            return self._with(counts=self.counts & ~self.missed)
        if kind in DROPPED:
            return self._with(kept=self.kept & (self.error != DROPPED[kind]))
        if kind in MOVED:
            return self._moved(MOVED[kind])
        return self._with(kept=self.kept & self.right) if kind == "rank" else self._ordered()

    def _with(self, **changes: np.ndarray) -> _Standing:
        return _Standing(**{**vars(self), **changes})

    def _moved(self, error: Error) -> _Standing:
        """Of the detections that have or should have an object of these, the best one takes it, and the others go."""
        moved = self.error == error
        rivals = (moved | (self.error == Error.NONE)) & np.isin(self.owner, self.owner[moved]) & (self.owner >= 0)
        index = rivals.nonzero()[0]
        _, first = np.unique(self.owner[index], return_index=True)
        winners = index[first]
        kept, right, classes = self.kept & ~rivals, self.right & ~rivals, self.classes.copy()
        kept[winners] = right[winners] = self.counts[self.owner[winners]]
        classes[winners] = self.object_classes[self.owner[winners]]
        return self._with(kept=kept, right=right, classes=classes)

    def _ordered(self) -> _Standing:
        right = self.right.copy()
        for label in np.unique(self.classes):
            places = self.first_right & self.kept & (self.classes == label)
            right[places] = np.sort(right[places])[::-1]
        return self._with(right=right)


def average_precision(right: np.ndarray, num_objects: int) -> float:
    """COCO's: the mean over 101 recalls of the highest precision at that recall or beyond.

    Args:
        right: (D,) bool, best score first.
        num_objects: above 0.
    """
    hits = right.cumsum()
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / num_objects, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[reached].mean())
