"""What branches predict from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class HeadFeatures:
    """The features of the towers, level by level, finest first.

    >>> levels = [torch.ones(1, 4, 2, 2), torch.ones(1, 4, 1, 1)]
    >>> len(HeadFeatures(cls=levels, box=levels).detach().box)
    2

    Attributes:
        cls, box: of each tower a tensor (N, C, H_l, W_l) a level.
        scales: of each level the factor on its raw boxes, as a function; none for a factor of 1.
        pyramid: what the towers saw, for branches with towers of their own.
    """

    cls: Sequence[Tensor]
    box: Sequence[Tensor]
    scales: Sequence[Callable[[Tensor], Tensor]] = ()
    pyramid: Sequence[Tensor] = ()

    def detach(self) -> HeadFeatures:
        """The same numbers, through which no gradient flows, into the factors either."""
        if not torch.is_grad_enabled():
            return self
        cls, box, pyramid = ([x.detach() for x in maps] for maps in (self.cls, self.box, self.pyramid))
        return HeadFeatures(cls, box, [_constant(scale) for scale in self.scales], pyramid)


def _constant(scale: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    if not isinstance(scale, nn.Module):
        return scale
    frozen = {name: value.detach() for name, value in scale.named_parameters()}
    return partial(_call_with, scale, frozen)


def _call_with(module: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    out: Tensor = torch.func.functional_call(module, parameters, (x,))
    return out
