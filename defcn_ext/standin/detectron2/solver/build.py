"""From the SOLVER part of the config to an optimizer and a learning-rate scheduler."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

from detectron2.config import CfgNode

from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

# Only torch's own classes count: a norm layer written as a plain module keeps the ordinary weight decay.
NORM_CLASSES = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)

ParamGroups = list[dict[str, Any]]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD over the trainable parameters, with the learning rates, decays and clipping of `cfg.SOLVER`."""
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        foreach=True,
    )


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> ParamGroups:
    """Parameter groups for any torch optimizer: what is None stays out of the groups, for the optimizer to fill in.

    Args:
        base_lr, weight_decay: for every parameter.
        weight_decay_norm: for the parameters of torch's normalisation layers.
        bias_lr_factor, weight_decay_bias: for parameters named `bias`, in normalisation layers too.
        lr_factor_func: dotted parameter name -> factor on `base_lr`.
        overrides: last part of a parameter name -> hyper-parameters; they win over all of the above.

    Raises:
        ValueError: a learning-rate factor without `base_lr`, or an override of `bias` next to the bias arguments.
    """
    overrides = dict(overrides or {})
    bias = _given(weight_decay=weight_decay_bias)
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        bias["lr"] = _require_base_lr(base_lr, "bias_lr_factor") * bias_lr_factor
    if bias:
        if "bias" in overrides:
            raise ValueError("overrides['bias'] conflicts with bias_lr_factor / weight_decay_bias: give one of them")
        overrides["bias"] = bias
    if lr_factor_func is not None:
        _require_base_lr(base_lr, "lr_factor_func")

    groups: ParamGroups = []
    for module_name, module, name, parameter in _trainable_parameters(model):
        options = _given(lr=base_lr, weight_decay=weight_decay)
        if isinstance(module, NORM_CLASSES):
            options |= _given(weight_decay=weight_decay_norm)
        if lr_factor_func is not None:
            options["lr"] = base_lr * lr_factor_func(f"{module_name}.{name}")
        groups.append({"params": [parameter], **options, **overrides.get(name, {})})
    return reduce_param_groups(groups)


def reduce_param_groups(params: ParamGroups) -> ParamGroups:
    """Merges groups of equal hyper-parameters, in order of first appearance; a parameter in several takes the last."""
    merged: dict[tuple, dict[str, Any]] = {}
    for group in _expand_param_groups(params):
        options = {key: value for key, value in group.items() if key != "params"}
        target = merged.setdefault(tuple(sorted(options.items())), {**options, "params": []})
        target["params"].extend(group["params"])
    return list(merged.values())


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: type[torch.optim.Optimizer] | torch.optim.Optimizer
) -> type[torch.optim.Optimizer] | torch.optim.Optimizer:
    """Makes an optimizer (class or object) clip each gradient tensor before its step, if `CLIP_GRADIENTS.ENABLED`.

    Raises:
        ValueError: unknown `CLIP_GRADIENTS.CLIP_TYPE`.
    """
    if not cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        return optimizer
    if isinstance(optimizer, torch.optim.Optimizer):
        optimizer.__class__ = _clipping_class(type(optimizer), _gradient_clipper(cfg.SOLVER.CLIP_GRADIENTS))
        return optimizer
    return _clipping_class(optimizer, _gradient_clipper(cfg.SOLVER.CLIP_GRADIENTS))


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule named by `cfg.SOLVER.LR_SCHEDULER_NAME`, after the warmup of `cfg.SOLVER`.

    Raises:
        ValueError: unknown schedule or warmup method, or a step at MAX_ITER itself.
    """
    solver = cfg.SOLVER
    curve = WarmupParamScheduler(
        _schedule(solver),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=curve, max_iter=solver.MAX_ITER)


def _schedule(solver: CfgNode) -> ParamScheduler:
    name = solver.LR_SCHEDULER_NAME
    if name == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
        if len(steps) != len(solver.STEPS):
            logging.getLogger(__name__).warning(
                "SOLVER.STEPS %s: those beyond SOLVER.MAX_ITER %d are ignored", solver.STEPS, solver.MAX_ITER
            )
        values = [solver.GAMMA**k for k in range(len(steps) + 1)]
        return MultiStepParamScheduler(values=values, milestones=steps, num_updates=solver.MAX_ITER)
    if name == "WarmupCosineLR":
        end_value = solver.BASE_LR_END / solver.BASE_LR
        assert 0.0 <= end_value <= 1.0, f"SOLVER.BASE_LR_END {solver.BASE_LR_END} is not in [0, BASE_LR]"
        return CosineParamScheduler(1.0, end_value)
    if name == "WarmupStepWithFixedGammaLR":
        return StepWithFixedGammaParamScheduler(
            base_value=1.0, gamma=solver.GAMMA, num_decays=solver.NUM_DECAYS, num_updates=solver.MAX_ITER
        )
    raise ValueError(
        f"SOLVER.LR_SCHEDULER_NAME: unknown schedule {name!r}; "
        "known: WarmupMultiStepLR, WarmupCosineLR, WarmupStepWithFixedGammaLR"
    )


def _given(**options: float | None) -> dict[str, float]:
    return {key: value for key, value in options.items() if value is not None}


def _require_base_lr(base_lr: float | None, argument: str) -> float:
    if base_lr is None:
        raise ValueError(f"{argument} multiplies base_lr, which is None")
    return base_lr


def _trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """(module name, module, parameter name, parameter) of each trainable parameter; shared ones once."""
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield module_name, module, name, parameter


def _expand_param_groups(params: ParamGroups) -> ParamGroups:
    """One group a parameter; hyper-parameters of later groups win where a parameter occurs in several."""
    options: dict[Any, dict[str, Any]] = {}
    for group in params:
        given = {key: value for key, value in group.items() if key != "params"}
        for parameter in group["params"]:
            options.setdefault(parameter, {"params": [parameter]}).update(given)
    return list(options.values())


def _gradient_clipper(clip: CfgNode) -> Callable[[nn.Parameter], Any]:
    limit, norm_type = float(clip.CLIP_VALUE), float(clip.NORM_TYPE)
    if clip.CLIP_TYPE == "value":
        return lambda parameter: nn.utils.clip_grad_value_(parameter, limit)
    if clip.CLIP_TYPE == "norm":
        return lambda parameter: nn.utils.clip_grad_norm_(parameter, limit, norm_type)
    raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: unknown type {clip.CLIP_TYPE!r}; known: value, norm")


def _clipping_class(
    base: type[torch.optim.Optimizer], clip: Callable[[nn.Parameter], Any]
) -> type[torch.optim.Optimizer]:
    def step(self: torch.optim.Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        for group in self.param_groups:
            for parameter in group["params"]:
                clip(parameter)
        return base.step(self, closure)

    return type(f"{base.__name__}WithGradientClip", (base,), {"step": step})
