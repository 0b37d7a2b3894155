"""Counts of operations, activations and parameters, through fvcore, for models that take and return containers."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fvcore.nn
import torch
from fvcore.nn import parameter_count, parameter_count_table
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from detectron2.structures import Boxes, Instances

__all__ = [
    "activation_count_operators",
    "flop_count_operators",
    "parameter_count_table",
    "parameter_count",
    "FlopCountAnalysis",
]


class FlopCountAnalysis(fvcore.nn.FlopCountAnalysis):
    """fvcore's analysis of a model with inputs of any shape; names of modules start with `model.`.

    A multiply-add counts as 1. Operators that fvcore cannot count (elementwise ones, pooling, NMS, deformable
    convolution) count as 0 without a warning; `unsupported_ops()` lists them.

    Args:
        inputs: the argument of the model, or a tuple of them. Tensors in lists and dicts are found.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        traceable = _TensorsOnly(model, inputs)
        super().__init__(traceable, traceable.tensors)
        self.unsupported_ops_warnings(False)


def flop_count_operators(model: nn.Module, inputs: list) -> defaultdict[str, float]:
    """Billions of operations at inference by kind of operator, e.g. "conv".

    Args:
        inputs: what the model is called with; for a detector a list of dicts with `image` (C, H, W).
    """
    with _eval_mode(model):
        counts = FlopCountAnalysis(model, inputs).by_operator()
    return defaultdict(float, {name: count / 1e9 for name, count in counts.items()})


def activation_count_operators(model: nn.Module, inputs: list, **kwargs) -> defaultdict[str, float]:
    """Millions of output elements of convolutions and the like at inference, by kind of operator.

    Args:
        inputs: as for `flop_count_operators`.
        kwargs: `supported_ops`, further handles as fvcore's `activation_count` takes them.
    """
    with _eval_mode(model):
        traceable = _TensorsOnly(model, inputs)
        counts, _ = fvcore.nn.activation_count(traceable, traceable.tensors, **kwargs)
    return counts


def find_unused_parameters(model: nn.Module, inputs: Any) -> list[str]:
    """Names of the parameters that get no gradient from a training step. Clears all gradients.

    Args:
        model: in train mode; returns a loss or a dict of losses.
        inputs: its argument, or a tuple of them.
    """
    assert model.training, "find_unused_parameters needs the model in train mode"
    model.zero_grad(set_to_none=True)
    losses = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    (sum(losses.values()) if isinstance(losses, dict) else losses).backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.zero_grad(set_to_none=True)
    return unused


class _TensorsOnly(nn.Module):
    """What the tracer can digest: called with tensors, puts them where they came from, returns tensors."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.model = model
        self._leaves, self._structure = tree_flatten(inputs if isinstance(inputs, tuple) else (inputs,))
        self.tensors = tuple(leaf for leaf in self._leaves if isinstance(leaf, torch.Tensor))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        remaining = iter(tensors)
        leaves = [next(remaining) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves]
        return tuple(_tensors_in(self.model(*tree_unflatten(leaves, self._structure))))


def _tensors_in(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, Instances):
        output = output.get_fields()
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Boxes):
        yield output.tensor
    elif isinstance(output, (dict, list, tuple)):
        for item in output.values() if isinstance(output, dict) else output:
            yield from _tensors_in(item)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
