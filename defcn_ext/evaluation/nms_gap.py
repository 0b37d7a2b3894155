"""Evaluates a detector with and without NMS in one pass over the data."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from detectron2.evaluation import DatasetEvaluator

logger = logging.getLogger(__name__)


class NMSGapEvaluator(DatasetEvaluator):
    """Runs two evaluators of one kind, one on the detections with NMS and one on those without.

    The results of the way the model is configured appear under their usual names ("bbox"), the others as
    "bbox_with_nms" or "bbox_without_nms", and the difference of every metric as "bbox_nms_gap": what NMS still adds.
    A gap of zero is the aim of an end-to-end detector.

    Args:
        make: makes an evaluator from the name of its folder, "" for the main one.
        nms: whether the model is configured to end in NMS.
    """

    def __init__(self, make: Callable[[str], DatasetEvaluator], *, nms: bool):
        self._main_key, self._other_key = ("with_nms", "without_nms") if nms else ("without_nms", "with_nms")
        self._nms = nms
        self._main, self._other = make(""), make(self._other_key)

    def reset(self) -> None:
        self._main.reset()
        self._other.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Takes the model's outputs with "with_nms" and "without_nms".

        Raises:
            KeyError: the outputs lack one of the two (`MODEL.DEFCN.COMPARE_NMS` was off when the model was built).
        """
        for evaluator, key in ((self._main, self._main_key), (self._other, self._other_key)):
            if outputs and key not in outputs[0]:
                raise KeyError(f"outputs have no {key!r}: build the model with MODEL.DEFCN.COMPARE_NMS True")
            evaluator.process(inputs, [{**x, "instances": x[key]} for x in outputs])

    def evaluate(self) -> dict[str, dict[str, Any]] | None:
        """The results of both ways and their difference, as the class describes; those of the main way where empty."""
        logger.info("Evaluation %s:", self._main_key.replace("_", " ").replace("nms", "NMS"))
        main = self._main.evaluate()
        logger.info("Evaluation %s:", self._other_key.replace("_", " ").replace("nms", "NMS"))
        other = self._other.evaluate()
        if not main or not other:
            return main
        results = OrderedDict(main)
        for task, metrics in main.items():
            results[f"{task}_{self._other_key}"] = other[task]
            sign = 1 if self._nms else -1
            results[f"{task}_nms_gap"] = {
                name: sign * (value - other[task][name]) for name, value in metrics.items() if name in other[task]
            }
        return results
