"""The training loop, and the hooks around each of its steps."""

import logging
import math
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import detectron2.utils.comm as comm
from detectron2.utils.events import EventStorage, get_event_storage

__all__ = ["HookBase", "TrainerBase", "SimpleTrainer", "AMPTrainer"]


class HookBase:
    """What happens around training steps. Subclasses override the moments that they need.

    A hook may also have `state_dict()` and `load_state_dict(state)`; they become part of the trainer's checkpoint.
    """

    trainer: "TrainerBase" = None
    """The trainer that the hook is registered with (a weak reference)."""

    def before_train(self):
        """Before the first iteration."""

    def after_train(self):
        """After the last iteration, and after an exception: `trainer.iter >= trainer.max_iter` means success."""

    def before_step(self):
        """Before each iteration."""

    def after_backward(self):
        """Between the backward pass and the optimizer's step."""

    def after_step(self):
        """After each iteration."""

    def state_dict(self):
        return {}


class TrainerBase:
    """Runs `run_step` between hooks, `max_iter - start_iter` times.

    Attributes:
        iter: the current iteration, from 0.
        start_iter, max_iter: first iteration, and the one after the last.
        storage: an EventStorage, open during training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Adds hooks, to be called in this order. None is left out."""
        hooks = [hook for hook in hooks if hook is not None]
        for hook in hooks:
            assert isinstance(hook, HookBase), f"{hook!r} is not a HookBase"
            # A hook outlives no trainer, and must not keep one alive.
            hook.trainer = weakref.proxy(self)
        self._hooks.extend(hooks)

    def train(self, start_iter: int, max_iter: int):
        """Runs iterations `start_iter` to `max_iter - 1`. Hooks see `after_train` even if one of them raises."""
        logger = logging.getLogger(__name__)
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1  # also where there was nothing to do, as in Detectron2
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self):
        for hook in self._hooks:
            hook.before_train()

    def after_train(self):
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self):
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self):
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self):
        for hook in self._hooks:
            hook.after_step()

    def run_step(self):
        """One iteration."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration, and under "hooks" what hooks want to keep, by class name; of equal names the first counts."""
        state: dict[str, Any] = {"iteration": self.iter}
        hooks: dict[str, Any] = {}
        for hook in self._hooks:
            kept = hook.state_dict()
            if kept:
                hooks.setdefault(type(hook).__qualname__, kept)
        if hooks:
            state["hooks"] = hooks
        return state

    def load_state_dict(self, state_dict) -> None:
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hook = next((hook for hook in self._hooks if type(hook).__qualname__ == name), None)
            if hook is None:
                logging.getLogger(__name__).warning(f"No hook {name} to load a state into")
            else:
                hook.load_state_dict(state)


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one data loader: the model returns losses, their sum is minimised."""

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        gather_metric_period=1,
        zero_grad_before_forward=False,
        async_write_metrics=False,
    ):
        """
        Args:
            model: maps a batch to a loss or a dict of losses; is put into train mode.
            data_loader: iterable of batches, long enough.
            optimizer: of torch.
            gather_metric_period: iterations between two recordings of losses. Recording waits for the device.
            zero_grad_before_forward: forget old gradients before the forward pass instead of after it.
            async_write_metrics: record in a thread, while the next iteration runs. An error then arrives one
                recording late.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._data_iterator = None
        self._recorder: ThreadPoolExecutor | None = None
        self._recording: Future | None = None

    def run_step(self):
        """
        Raises:
            AssertionError: the model is in eval mode.
            FloatingPointError: a loss is not finite; weights stay untouched.
        """
        assert self.model.training, f"{type(self).__name__}: the model was changed to eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses = self._forward(data)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(sum(losses.values()))
        self.after_backward()
        self._write_metrics(losses, data_time)
        self._update()

    def reset_data_loader(self, data_loader_builder):
        """Replaces the loader by what the builder returns. The old one is let go first."""
        self.data_loader = self._data_iterator = None
        self.data_loader = data_loader_builder()

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, Tensor], data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Records losses as means over workers, their sum as "total_loss", and times of loading. All workers call it.

        Args:
            loss_dict: name -> scalar. One loss alone appears as "total_loss" only.
            data_time: seconds that this worker waited for data.
            cur_iter: iteration to record under.
            prefix: comes before "total_loss".

        Raises:
            FloatingPointError: the sum is not finite.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        own = {name: float(value) for name, value in loss_dict.items()}
        workers = comm.gather((own, data_time))
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(seconds for _, seconds in workers), cur_iter=cur_iter)
        means = {name: sum(losses[name] for losses, _ in workers) / len(workers) for name in own}
        total = sum(means.values())
        if not math.isfinite(total):
            raise FloatingPointError(f"The loss is not finite at iteration {cur_iter}: {means}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def after_train(self):
        try:
            self._finish_recording()
        finally:
            if self._recorder is not None:  # its thread must not outlive the storage that it writes to
                self._recorder.shutdown()
                self._recorder = None
            super().after_train()

    @property
    def _data_loader_iter(self):
        # Made late: the start of workers, and a state to continue from, belong to the first step.
        if self._data_iterator is None:
            self._data_iterator = iter(self.data_loader)
        return self._data_iterator

    def _forward(self, data) -> dict[str, Tensor]:
        losses = self.model(data)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _update(self) -> None:
        self.optimizer.step()

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = "") -> None:
        if (self.iter + 1) % self.gather_metric_period != 0:
            return
        # Detached here: the thread must not keep a graph alive that the next step needs the memory of.
        arguments = ({name: torch.as_tensor(loss).detach() for name, loss in loss_dict.items()}, data_time)
        if not self.async_write_metrics:
            self.write_metrics(*arguments, self.iter, prefix)
        else:
            self._finish_recording()
            self._recorder = self._recorder or ThreadPoolExecutor(max_workers=1)
            self._recording = self._recorder.submit(self.write_metrics, *arguments, self.iter, prefix)

    def _finish_recording(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.result()


class AMPTrainer(SimpleTrainer):
    """SimpleTrainer with a forward pass in half precision and scaled gradients, on CUDA."""

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        gather_metric_period=1,
        zero_grad_before_forward=False,
        grad_scaler=None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics=False,
    ):
        """
        Args:
            model ... zero_grad_before_forward, async_write_metrics: as in SimpleTrainer.
            grad_scaler: default is torch's for CUDA.
            precision: number type of autocast.
            log_grad_scaler: record the scale as "[metric]grad_scaler".
        """
        several = isinstance(model, DistributedDataParallel) and model.device_ids and len(model.device_ids) > 1
        assert not several, "AMPTrainer works with one device a process"
        super().__init__(
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics
        )
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def run_step(self):
        """As in SimpleTrainer, and AssertionError without CUDA."""
        assert torch.cuda.is_available(), "AMPTrainer needs CUDA; set SOLVER.AMP.ENABLED False on a CPU"
        super().run_step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

    def _forward(self, data) -> dict[str, Tensor]:
        with torch.autocast("cuda", dtype=self.precision):
            return super()._forward(data)

    def _backward(self, loss: Tensor) -> None:
        self.grad_scaler.scale(loss).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
