"""The loop that runs a model over a data set, and the interface of what judges its outputs."""

import datetime
import logging
import time
from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds

PROGRESS_PERIOD = 5  # seconds


class DatasetEvaluator:
    """Takes the outputs of a model batch by batch, then gives results."""

    def reset(self):
        """Forgets everything. Called before a round."""

    def process(self, inputs, outputs):
        """Takes one batch.

        Args:
            inputs: what the model got, a list of dicts.
            outputs: what it returned, as long.
        """

    def evaluate(self):
        """Results as {task: {metric: number}} or None; with several workers, those of all of them on rank 0."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one."""

    def __init__(self, evaluators):
        super().__init__()
        self._evaluators = evaluators

    def reset(self):
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs, outputs):
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self):
        """Raises AssertionError if two evaluators give results under one name."""
        merged = OrderedDict()
        for evaluator in self._evaluators:
            results = evaluator.evaluate()
            if not is_main_process() or results is None:
                continue
            for task, metrics in results.items():
                assert task not in merged, f"Two evaluators give results under the name {task!r}"
                merged[task] = metrics
        return merged


def inference_on_dataset(model, data_loader, evaluator, callbacks=None):
    """Runs a model over all batches in eval mode, without gradients, and times it.

    Args:
        model: a module, whose mode is put back afterwards, or any callable.
        data_loader: has a length.
        evaluator: a DatasetEvaluator, a list of them, or None to run the model only.
        callbacks: optional functions "on_start", "before_inference", "after_inference", "on_end".

    Returns:
        dict: what `evaluator.evaluate()` returns, {} instead of None.
    """
    logger = logging.getLogger(__name__)
    logger.info(f"Start inference on {len(data_loader)} batches")
    if evaluator is None or isinstance(evaluator, list):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()

    def notify(moment: str) -> None:
        (callbacks or {}).get(moment, lambda: None)()

    clock = _Clock(len(data_loader))
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        notify("on_start")
        clock.start()
        for index, inputs in enumerate(data_loader):
            clock.lap("data")
            clock.skip_warmup(index)
            notify("before_inference")
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            notify("after_inference")
            clock.lap("compute")
            evaluator.process(inputs, outputs)
            clock.lap("eval")
            if clock.is_worth_telling(index):
                log_every_n_seconds(logging.INFO, clock.progress(index), n=PROGRESS_PERIOD, name=__name__)
        notify("on_end")
    for line in clock.summary():
        logger.info(line)
    return evaluator.evaluate() or {}


@contextmanager
def inference_context(model):
    """Eval mode inside, the old mode afterwards (not after an exception)."""
    training = model.training
    model.eval()
    yield
    model.train(training)


@dataclass
class _Clock:
    """Seconds that loading, the model and the evaluator take. The first batches are slow and do not count."""

    batches: int

    def __post_init__(self):
        self.warmup = min(5, self.batches - 1)

    def start(self) -> None:
        self.begin = self.last = time.perf_counter()
        self.seconds = {"data": 0.0, "compute": 0.0, "eval": 0.0}

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] += now - self.last
        self.last = now

    def skip_warmup(self, index: int) -> None:
        if index == self.warmup:
            self.start()

    def is_worth_telling(self, index: int) -> bool:
        return index >= 2 * self.warmup or self.seconds["compute"] / self._counted(index) > PROGRESS_PERIOD

    def progress(self, index: int) -> str:
        count = self._counted(index)
        whole = (self.last - self.begin) / count
        left = datetime.timedelta(seconds=int(whole * (self.batches - index - 1)))
        return (
            f"Inference done {index + 1}/{self.batches}. Dataloading: {self.seconds['data'] / count:.4f} s/iter. "
            f"Inference: {self.seconds['compute'] / count:.4f} s/iter. "
            f"Eval: {self.seconds['eval'] / count:.4f} s/iter. Total: {whole:.4f} s/iter. ETA={left}"
        )

    def summary(self) -> list[str]:
        count, workers = self.batches - self.warmup, get_world_size()
        total, compute = time.perf_counter() - self.begin, self.seconds["compute"]
        return [
            f"Total inference time: {datetime.timedelta(seconds=total)} "
            f"({total / count:.6f} s / iter per device, on {workers} devices)",
            f"Total inference pure compute time: {datetime.timedelta(seconds=int(compute))} "
            f"({compute / count:.6f} s / iter per device, on {workers} devices)",
        ]

    def _counted(self, index: int) -> int:
        """Batches since the clock was last started."""
        return index + 1 - self.warmup * int(index >= self.warmup)
