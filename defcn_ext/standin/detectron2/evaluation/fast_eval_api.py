"""COCOeval under the name that faster implementations of it have. Here it is pycocotools' own, logged."""

import contextlib
import io
import logging
import time

from pycocotools.cocoeval import COCOeval

logger = logging.getLogger(__name__)


class COCOeval_opt(COCOeval):
    """Same results as COCOeval; progress goes to the log instead of the terminal."""

    def evaluate(self):
        logger.info(f"Evaluate annotation type *{self.params.iouType}*")
        self._run("evaluate", super().evaluate)

    def accumulate(self):
        logger.info("Accumulating evaluation results...")
        self._run("accumulate", super().accumulate)

    def _run(self, name: str, method) -> None:
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            method()
        logger.info(f"COCOeval_opt.{name}() finished in {time.perf_counter() - start:.2f} seconds.")
