"""Parameters, FLOPs and activations of one forward pass of a detector, counted by fvcore on a trace."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis, parameter_count
from fvcore.nn.jit_handles import Handle, conv_flop_jit, elementwise_flop_counter, generic_activation_jit, get_shape
from torch import Tensor, nn

from defcn_ext.meta_arch import DeFCN
from defcn_ext.structures import DensePredictions

COUNTERS = ("paper", "fvcore")
ACTIVATIONS = "activations"


class Predictions(nn.Module):
    """The detector as a function from an image tensor to tensors, which is what a tracer follows."""

    def __init__(self, detector: DeFCN):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """From normalised images (N, 3, H, W) to all that the branches predict, one after the other."""
        points, features = self.detector.extract(images)
        said: dict[str, DensePredictions] = {}
        for name in self.detector.branches:
            self.detector.predict(points, features, name, said)
        out = [x for predictions in said.values() for x in vars(predictions).values() if isinstance(x, Tensor)]
        return tuple(out)


@dataclass(frozen=True)
class Cost:
    """What one pass of one detector costs.

    Attributes:
        parameters: number of all parameters; the statistics and factors of frozen batch norms are no parameters.
        trainable: number of those that are trained.
        flops: of the whole pass.
        operators: the same by operator.
        activations: elements that come out of convs.
        parts: by part of the detector its "parameters" and "flops".
        not_counted: how often operators occur that the counter does not know.
    """

    parameters: int
    trainable: int
    flops: int
    operators: dict[str, int]
    activations: int
    parts: dict[str, dict[str, int]]
    not_counted: dict[str, int]


def measure(model: DeFCN, size: Sequence[int], counter: str = "paper") -> Cost:
    """Traces a forward pass of one image.

    Args:
        size: height and width, pixels, multiples of the backbone's size divisibility.
        counter: "paper" or "fvcore".
    """
    analysis = FlopCountAnalysis(Predictions(model.eval()), torch.zeros(1, 3, *size, device=model.device))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    if counter == "paper":
        analysis.clear_op_handles().set_op_handle(**_paper_handles())
    analysis.set_op_handle("aten::_convolution", _conv_handle(with_bias=counter == "paper"))
    with torch.no_grad():
        counts = analysis.by_operator()
    activations = counts.pop(ACTIVATIONS)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops=int(sum(counts.values())),
        operators={name: int(value) for name, value in counts.most_common()},
        activations=int(activations),
        parts=_by_part(model, analysis),
        not_counted={name.removeprefix("aten::"): n for name, n in analysis.unsupported_ops().most_common()},
    )


def _conv_handle(with_bias: bool) -> Handle:
    """One trace for both: the FLOPs of fvcore's counter, and the elements of its counter of activations."""
    activations = generic_activation_jit(ACTIVATIONS)

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        counts = conv_flop_jit(inputs, outputs) + activations(inputs, outputs)
        if with_bias and get_shape(inputs[2]) is not None:
            counts["conv_bias"] = math.prod(get_shape(outputs[0]))
        return counts

    return count


def _paper_handles() -> dict[str, Handle]:
    """The operators behind the modules that mmcv counts: norms, ReLU, pooling. It does not see resizes."""
    pooling, relu = elementwise_flop_counter(1, 0), elementwise_flop_counter(0, 1)
    handles = {"batch_norm": _norm_handle(1), "group_norm": _norm_handle(2), "layer_norm": _norm_handle(2)}
    handles |= {name: pooling for name in ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")}
    handles |= {name: relu for name in ("relu", "relu_")}
    return {f"aten::{name}": handle for name, handle in handles.items()}


def _norm_handle(weight_at: int) -> Handle:
    """One FLOP an element, two where there are learned factors."""

    def count(inputs: list[Any], outputs: list[Any]) -> int:
        return math.prod(get_shape(inputs[0])) * (1 if get_shape(inputs[weight_at]) is None else 2)

    return count


def _by_part(model: DeFCN, analysis: FlopCountAnalysis) -> dict[str, dict[str, int]]:
    parameters = parameter_count(model)

    def flops(module: str) -> int:
        counts = analysis.by_operator(f"detector.{module}")
        return int(sum(counts.values()) - counts[ACTIVATIONS])

    return {
        part: {
            "parameters": sum(sign * parameters[module] for module, sign in modules.items()),
            "flops": sum(sign * flops(module) for module, sign in modules.items()),
        }
        for part, modules in _parts(model).items()
    }


def _parts(model: DeFCN) -> dict[str, dict[str, int]]:
    """By part the modules that make it up (1), and those inside them that belong to another part (-1)."""
    parts = {"backbone": {"backbone": 1}}
    if hasattr(model.backbone, "bottom_up"):
        parts = {"backbone": {"backbone.bottom_up": 1}, "fpn": {"backbone": 1, "backbone.bottom_up": -1}}
    parts["towers"] = {"head": 1}
    inner = {"towers": ("towers",), "3DMF": ("max3d", "filter")}
    for name, branch in model.branches.items():
        own = parts[name] = {f"branches.{name}": 1}
        for label, children in inner.items():
            modules = [f"branches.{name}.{child}" for child in children if getattr(branch, child, None) is not None]
            if modules:
                own |= dict.fromkeys(modules, -1)
                parts[f"{name} {label}"] = dict.fromkeys(modules, 1)
    return parts
