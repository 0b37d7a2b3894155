"""What the losses are divided by."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from detectron2.utils import comm


def worker_mean(value: Tensor, *, floor: float = 1.0) -> Tensor:
    """Mean of a number over all workers, never below `floor`.

    With DDP, which averages gradients, a loss summed over a worker's images and divided by this equals the loss of the
    joint batch on one worker.

    Args:
        value: scalar tensor, the worker's own count.

    Example:
        >>> import torch
        >>> worker_mean(torch.tensor(0.0)), worker_mean(torch.tensor(7))  # of one worker
        (tensor(1.), tensor(7.))
    """
    value = value.detach().float()
    if comm.get_world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value = value / comm.get_world_size()
    return value.clamp(min=floor)
