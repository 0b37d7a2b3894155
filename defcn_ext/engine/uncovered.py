"""Tells early in a training that most of its objects train nothing."""

from __future__ import annotations

import logging
from collections import Counter

from detectron2.engine import HookBase

logger = logging.getLogger(__name__)

LOOKED_AT = 50  # iterations


class UncoveredObjects(HookBase):
    """Warns after a run's first iterations if most objects cover no point, of the counts that the model records."""

    def __init__(self) -> None:
        self._objects: Counter[str] = Counter()
        self._uncovered: Counter[str] = Counter()
        self._seen = 0

    def after_step(self) -> None:
        if self._seen >= LOOKED_AT:
            return
        self._seen += 1
        latest = self.trainer.storage.latest()
        for key, (value, iteration) in latest.items():
            branch, _, name = key.rpartition("/")
            if name == "uncovered_objects" and iteration == self.trainer.storage.iter:
                self._uncovered[branch] += value
                self._objects[branch] += latest[f"{branch}/objects"][0]
        if self._seen == min(LOOKED_AT, self.trainer.max_iter - self.trainer.start_iter):
            self._tell()

    def _tell(self) -> None:
        for branch, objects in self._objects.items():
            uncovered = self._uncovered[branch]
            if not objects:
                logger.warning("No object in the first %d iterations: nothing is learned but background", self._seen)
            elif uncovered > objects / 2:
                logger.warning(
                    "%s: %d of the %d objects of the first %d iterations cover no point, and train nothing. Are they "
                    "very small? Larger images (INPUT.MIN_SIZE_TRAIN) or a finer level (MODEL.DEFCN.IN_FEATURES) help",
                    *(branch, uncovered, objects, self._seen),
                )
