"""Torch's layers and functions where Detectron2's differ: norm and activation in the conv, empty inputs, tracing."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear
interpolate = F.interpolate


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` followed by an optional norm and an optional activation.

    Args:
        norm: a module on the output channels. Its parameters are saved under `norm.`
        activation: any callable on the output.
    """

    def __init__(self, *args, norm: nn.Module | None = None, activation: Callable | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self._conv_forward(x, self.weight, self.bias)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`torch.cat` that returns a single tensor as it is, without a copy."""
    assert isinstance(tensors, (list, tuple)), f"cat: expected a list or tuple, got {type(tensors).__name__}"
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def empty_input_loss_func_wrapper(loss_func: Callable) -> Callable:
    """Makes the mean of a loss over nothing 0 rather than nan, still attached to the graph."""

    @functools.wraps(loss_func)
    def wrapped(input: Tensor, target: Tensor, *, reduction: str = "mean", **kwargs) -> Tensor:
        if target.numel() == 0 and reduction == "mean":
            return input.sum() * 0.0
        return loss_func(input, target, reduction=reduction, **kwargs)

    return wrapped


cross_entropy = empty_input_loss_func_wrapper(F.cross_entropy)


def nonzero_tuple(x: Tensor) -> tuple[Tensor, ...]:
    """Indices of the non-zero entries, one tensor per dimension."""
    return x.nonzero(as_tuple=True)


def shapes_to_tensor(x: Sequence[int | Tensor], device: torch.device | None = None) -> Tensor:
    """Sizes as one tensor; while tracing, sizes are tensors and stay part of the graph."""
    if any(isinstance(size, Tensor) for size in x):
        return torch.stack([torch.as_tensor(size) for size in x]).to(device=device)
    return torch.as_tensor(x, device=device)


def move_device_like(src: Tensor, dst: Tensor) -> Tensor:
    """`src` on the device of `dst`."""
    return src.to(dst.device)
