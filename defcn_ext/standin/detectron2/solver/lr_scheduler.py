"""Learning-rate schedules: a curve over training progress in [0, 1], and the torch scheduler that follows it."""

import math
from bisect import bisect_right
from collections.abc import Callable

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRMultiplier", "WarmupCosineLR", "WarmupMultiStepLR", "WarmupParamScheduler"]


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule whose first part is replaced by a ramp (or a plateau) that joins it without a jump.

    Args:
        scheduler: the schedule after warmup; it also gives the values that the ramp starts from and ends at.
        warmup_factor: the ramp starts at this multiple of the schedule's first value.
        warmup_length: length of the ramp, as a fraction of training.
        warmup_method: "linear", or "constant" to stay at the first value of the ramp.
        rescale_interval: squeeze the whole schedule into the time after warmup, instead of hiding its beginning.

    Raises:
        ValueError: unknown `warmup_method`.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        first = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            ramp = LinearParamScheduler(first, scheduler(0.0 if rescale_interval else warmup_length))
        elif warmup_method == "constant":
            ramp = ConstantParamScheduler(first)
        else:
            raise ValueError(f"unknown warmup method {warmup_method!r}; known: linear, constant")
        super().__init__(
            [ramp, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Multiplies the initial learning rate of every parameter group by a curve over `iteration / max_iter`.

    Step it once an iteration. The curve itself is configuration and stays out of the state dict, so a resumed run
    may follow another one.
    """

    def __init__(self, optimizer: Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1) -> None:
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be a fvcore ParamScheduler, got {type(multiplier).__name__}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict:
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [lr * factor for lr in self.base_lrs]


class _WarmupLR(LRScheduler):
    """Counts in iterations: `curve(iteration)`, multiplied by a ramp from `warmup_factor` to 1 at the beginning."""

    def __init__(
        self,
        optimizer: Optimizer,
        curve: Callable[[int], float],
        warmup_factor: float,
        warmup_iters: int,
        warmup_method: str,
        last_epoch: int,
    ) -> None:
        if warmup_method not in ("linear", "constant"):
            raise ValueError(f"unknown warmup method {warmup_method!r}; known: linear, constant")
        self._curve = curve
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict:
        return {key: value for key, value in super().state_dict().items() if key != "_curve"}

    def get_lr(self) -> list[float]:
        factor = self._warmup(self.last_epoch) * self._curve(self.last_epoch)
        return [lr * factor for lr in self.base_lrs]

    def _warmup(self, iteration: int) -> float:
        if iteration >= self.warmup_iters:
            return 1.0
        if self.warmup_method == "constant":
            return self.warmup_factor
        progress = iteration / self.warmup_iters
        return self.warmup_factor * (1 - progress) + progress


class WarmupMultiStepLR(_WarmupLR):
    """Multiplies the learning rate by `gamma` at each milestone, in iterations; see `LRMultiplier` for new code."""

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: list[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones must increase, got {milestones}")
        self.milestones = milestones
        self.gamma = gamma

        def curve(iteration: int) -> float:
            return gamma ** bisect_right(milestones, iteration)

        super().__init__(optimizer, curve, warmup_factor, warmup_iters, warmup_method, last_epoch)


class WarmupCosineLR(_WarmupLR):
    """Half a cosine from the initial learning rate to 0 at `max_iters`; see `LRMultiplier` for new code."""

    def __init__(
        self,
        optimizer: Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ) -> None:
        self.max_iters = max_iters

        def curve(iteration: int) -> float:
            return 0.5 * (1 + math.cos(math.pi * iteration / max_iters))

        super().__init__(optimizer, curve, warmup_factor, warmup_iters, warmup_method, last_epoch)
