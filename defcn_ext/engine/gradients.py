"""Only finite gradients reach the weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

logger = logging.getLogger(__name__)

PATIENCE = 5  # steps in a row whose gradient may be lost
# float16 begins with losses times 65536, and finds the scale that fits by halving it, a step each.
PATIENCE_SCALED = 25


def largest_gradient(optimizer: Optimizer) -> Tensor:
    """The greatest absolute value in all gradients, on their device; not finite exactly if one of them is not."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not grads:
        return torch.zeros((), device=optimizer.param_groups[0]["params"][0].device)
    return torch.stack([norm.float() for norm in torch._foreach_norm(grads, math.inf)]).max()


def to_host(values: Iterable[Tensor]) -> list[Tensor]:
    """Scalars as float32 on the CPU, in one copy."""
    return list(torch.stack([value.detach().float().reshape(()) for value in values]).cpu())


class GradientGuard:
    """Says which steps may change the weights, counts the others, and ends a training that only has such.

    Attributes:
        skipped: steps that were left out so far.
        in_a_row: of them those since the last good one.
    """

    def __init__(self, scaled: bool = False):
        """
        Args:
            scaled: losses are scaled, and steps are left out until the scale fits.
        """
        self.patience = PATIENCE_SCALED if scaled else PATIENCE
        self.skipped = self.in_a_row = 0

    def admits(self, largest: float, iteration: int) -> bool:
        """Whether a step with this largest gradient may be taken. Records "skipped_steps" in the event storage.

        Raises:
            FloatingPointError: too many steps in a row were left out (main process).
        """
        good = math.isfinite(largest)
        self.skipped += not good
        self.in_a_row = 0 if good else self.in_a_row + 1
        get_event_storage().put_scalar("skipped_steps", self.skipped, smoothing_hint=False)
        if good:
            return True
        if self.in_a_row >= self.patience and comm.is_main_process():
            raise FloatingPointError(
                f"the gradients of {self.in_a_row} steps in a row, up to iteration {iteration}, are not finite, though "
                "the losses are: resume with a lower SOLVER.BASE_LR, SOLVER.CLIP_GRADIENTS, or without SOLVER.AMP"
            )
        logger.warning("Gradient of iteration %d is not finite: step left out (%d so far)", iteration, self.skipped)
        return False

    def state_dict(self) -> dict[str, int]:
        return {"total": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state.get("total", 0), state.get("in_a_row", 0)
