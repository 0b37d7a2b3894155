"""Optimizer and learning-rate schedule: what Detectron2 has, and what it lacks."""

from collections.abc import Sequence

import torch
from fvcore.common.param_scheduler import CompositeParamScheduler, CosineParamScheduler
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from defcn_ext.config import tell_new_key
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, get_default_optimizer_params
from detectron2.solver import build_lr_scheduler as build_stock_lr_scheduler

OPTIMIZERS = ("SGD", "ADAMW")
FULL_MODEL = "full_model"
CLIP_TYPES = ("value", "norm", FULL_MODEL)
SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """The optimizer that SOLVER.OPTIMIZER names, with Detectron2's parameter groups and gradient clipping.

    Raises:
        ValueError: unknown SOLVER.OPTIMIZER or SOLVER.CLIP_GRADIENTS.CLIP_TYPE.
    """
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=_backbone_factor(model, solver.BACKBONE_MULTIPLIER),
    )
    common = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY, "foreach": True}
    if solver.OPTIMIZER == "SGD":
        momentum = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
        optimizer = torch.optim.SGD(groups, **momentum, **common)
    elif solver.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(groups, **common)
    else:
        raise ValueError(f"SOLVER.OPTIMIZER: unknown optimizer {solver.OPTIMIZER!r}; known: {', '.join(OPTIMIZERS)}")
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED:
        if clip.CLIP_TYPE == FULL_MODEL:
            tell_new_key(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE {FULL_MODEL}", "SOLVER.CLIP_GRADIENTS.FULL_MODEL True")
        kind = FULL_MODEL if clip.FULL_MODEL else clip.CLIP_TYPE
        apart = model.parameters_apart() if hasattr(model, "parameters_apart") else []
        clip_before_step(optimizer, kind, clip.CLIP_VALUE, clip.NORM_TYPE, apart=apart)
    return optimizer


def _backbone_factor(model: nn.Module, factor: float):
    """Parameter name -> learning-rate factor. The layers of an FPN start from scratch, so they keep the full rate."""
    names = [name for name, _ in model.named_parameters()]
    has_fpn = any(name.startswith("backbone.bottom_up.") for name in names)
    prefix = "backbone.bottom_up." if has_fpn else "backbone."
    return lambda name: factor if name.startswith(prefix) else 1.0


def clip_before_step(
    optimizer: Optimizer,
    clip_type: str,
    clip_value: float,
    norm_type: float = 2.0,
    apart: Sequence[Sequence[nn.Parameter]] = (),
) -> None:
    """Makes every `optimizer.step()` clip the gradients first, after any gradient scaler has unscaled them.

    Args:
        clip_type: "value" (each number to +-clip_value), "norm" (the norm of each parameter's gradient) or
            "full_model" (the norm of all gradients together).
        apart: lists of parameters that learn from losses of their own; each list counts as a model of its own, so that
            the others learn as without it.

    Raises:
        ValueError: another `clip_type`.
    """

    others = {id(p) for some in apart for p in some}

    def clip(optimizer: Optimizer, args, kwargs) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        if clip_type == "value":
            clip_grad_value_(params, clip_value)
        elif clip_type == FULL_MODEL:
            for some in ([p for p in params if id(p) not in others], *apart):
                clip_grad_norm_(some, clip_value, norm_type)
        else:
            for param in params:
                clip_grad_norm_(param, clip_value, norm_type)

    if clip_type not in CLIP_TYPES:
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE: unknown type {clip_type!r}; known: {', '.join(CLIP_TYPES)}")
    optimizer.register_step_pre_hook(clip)


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
    """Detectron2's schedules, and with SOLVER.ONE_CYCLE one cosine up, one down (Smith and Topin, arXiv 1708.07120).

    Raises:
        ValueError: SOLVER.ONE_CYCLE.PEAK is not strictly between 0 and 1, or SOLVER.LR_SCHEDULER_NAME is unknown.
    """
    name, cycle = cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.ONE_CYCLE
    if name == "OneCycleLR":
        tell_new_key("SOLVER.LR_SCHEDULER_NAME OneCycleLR", "SOLVER.ONE_CYCLE.ENABLED True")
    elif name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME: unknown schedule {name!r}; known: {known}; for one cosine up and one down set "
            "SOLVER.ONE_CYCLE.ENABLED True"
        )
    if not cycle.ENABLED and name != "OneCycleLR":
        return build_stock_lr_scheduler(cfg, optimizer)
    if not 0 < cycle.PEAK < 1:
        raise ValueError(f"SOLVER.ONE_CYCLE.PEAK: {cycle.PEAK} is not between 0 and 1")
    multiplier = CompositeParamScheduler(
        [CosineParamScheduler(cycle.START_FACTOR, 1.0), CosineParamScheduler(1.0, cycle.END_FACTOR)],
        lengths=[cycle.PEAK, 1 - cycle.PEAK],
        interval_scaling=["rescaled", "rescaled"],
    )
    return LRMultiplier(optimizer, multiplier, cfg.SOLVER.MAX_ITER)
