"""One training step: accumulation, autocast on CPU and GPU, and a fixed random state."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from defcn_ext.engine.data_order import ResumableLoader
from defcn_ext.engine.gradients import GradientGuard, largest_gradient, to_host
from defcn_ext.engine.seeding import seed_step
from detectron2.engine import SimpleTrainer

Batch = list[dict[str, Any]]


class TrainStep(SimpleTrainer):
    """Detectron2's SimpleTrainer and AMPTrainer in one, whose state says where in the data stream a run stands."""

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: Optimizer,
        *,
        seed: int,
        keep_seed: bool = True,
        accumulate: int = 1,
        amp_dtype: torch.dtype | None = None,
    ):
        """
        Args:
            seed: of the random state of each step, and of the stream of a ResumableLoader.
            keep_seed: False: a resumed run takes over the seed of the checkpoint.
            accumulate: number of parts a batch is processed in.
            amp_dtype: torch.float16 or torch.bfloat16 to run the forward pass in autocast; None: float32.
        """
        super().__init__(model, data_loader, optimizer)
        self.seed = seed
        self.keep_seed = keep_seed
        self.accumulate = accumulate
        self.amp_dtype = amp_dtype
        self.device_type = next(model.parameters()).device.type
        scaled = amp_dtype == torch.float16 and self.device_type == "cuda"
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=scaled)
        self.guard = GradientGuard(scaled)
        self._stream: Iterator[Batch] | None = None

    def run_step(self) -> None:
        """One step; with a gradient that is not finite it leaves the weights as they were.

        Raises:
            FloatingPointError: a loss is not finite, or no gradient has been for some steps; the weights stay as they
                were.
            ValueError: the batch cannot be split into `accumulate` equal parts.
        """
        assert self.model.training, "the model is in eval mode"
        start = perf_counter()
        batch = self._next_batch()
        data_time = perf_counter() - start
        seed_step(self.seed, self.iter)

        self.optimizer.zero_grad()
        parts = split(batch, self.accumulate)
        losses: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            with self._gradient_sync(last=index == len(parts) - 1):
                for name, value in self._forward_backward(part).items():
                    losses[name] = losses.get(name, 0) + value
        self.after_backward()

        *values, largest = to_host([*losses.values(), largest_gradient(self.optimizer)])
        self.write_metrics(dict(zip(losses, values)), data_time, self.iter)
        if self.guard.admits(float(largest), self.iter) or self.grad_scaler.is_enabled():
            self.grad_scaler.step(self.optimizer)  # a scaler leaves such a step out itself, and lowers the scale
            self.grad_scaler.update()

    def _next_batch(self) -> Batch:
        if self._stream is None:
            if isinstance(self.data_loader, ResumableLoader):
                self.data_loader.start = self.iter
                self.data_loader.seed = self.seed
            self._stream = iter(self.data_loader)
        return next(self._stream)

    def _forward_backward(self, part: Batch) -> dict[str, Tensor]:
        """Adds the gradients of one part, and returns its share of each loss, detached."""
        with torch.autocast(self.device_type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            losses = self.model(part)
            if isinstance(losses, Tensor):
                losses = {"total_loss": losses}
            total = sum(losses.values())
        self.grad_scaler.scale(total / self.accumulate).backward()
        return {name: value.detach() / self.accumulate for name, value in losses.items()}

    def _gradient_sync(self, last: bool) -> AbstractContextManager:
        """Workers exchange gradients once a step, in its last backward pass."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def reset_data_loader(self, data_loader_builder) -> None:
        self.data_loader = data_loader_builder()
        self._stream = None

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["seed"] = self.seed
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        if self.guard.skipped:
            state["skipped"] = self.guard.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if not self.keep_seed and "seed" in state_dict:
            self.seed = state_dict["seed"]
        self.guard.load_state_dict(state_dict.get("skipped", {}))
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cuts a batch into equal parts, in order.

    Raises:
        ValueError: the length is no multiple of `parts`.
    """
    size, rest = divmod(len(batch), parts)
    if rest:
        raise ValueError(f"SOLVER.ACCUMULATE {parts} does not divide the {len(batch)} images of one process")
    return [batch[i * size : (i + 1) * size] for i in range(parts)]
