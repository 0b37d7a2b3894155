"""Renamed weights against the model they are for: every entry must find its place, and every place its entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from defcn_ext.config import UserError
from defcn_ext.engine.preflight.model import build_without_weights
from detectron2.config import CfgNode

from .reading import Checkpoint
from .sources import Renamed

SHOWN = 40  # lines of what does not fit


class ConversionError(UserError):
    """Entries that do not fit; the message lists them, a line each."""


def target_shapes(cfg: CfgNode) -> dict[str, tuple[int, ...]]:
    """Name and shape of each entry of the model's state dict.

    Raises:
        UserError: the config does not fit itself.
    """
    try:
        model = build_without_weights(cfg)
    except ValueError as error:
        raise UserError(f"the config builds no model: {error}") from error
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def fill(state: dict[str, Tensor], target: Mapping[str, Any], notes: list[str]) -> dict[str, Tensor]:
    """Level factors of shape () become (1,); towers without any bias get zeros where the model's have biases."""
    state = {k: v.reshape(1) if v.dim() == 0 and target.get(k) == (1,) else v for k, v in state.items()}
    subnets = ("head.cls_subnet.", "head.bbox_subnet.")
    biases = [k for k in target if k.startswith(subnets) and k.endswith(".bias") and _is_conv(k, target)]
    if biases and not any(key in state for key in biases):
        state |= {key: torch.zeros(target[key]) for key in biases if key.removesuffix("bias") + "weight" in state}
        notes.append(f"{len(biases)} biases of the towers' convs, which the file lacks, are zero: the same model")
    return state


def _is_conv(bias: str, target: Mapping[str, tuple[int, ...]]) -> bool:
    return len(target[bias.removesuffix("bias") + "weight"]) == 4


def dropped_entries(checkpoint: Checkpoint, renamed: Renamed, cfg: CfgNode, notes: list[str]) -> Counter[str]:
    """Counts what is not needed, by the last part of its name, after a look at what it says."""
    for key in renamed.dropped:
        value = checkpoint.state[key].float()
        if key in ("pixel_mean", "pixel_std"):
            stated = list(value_of(cfg, f"MODEL.{key.upper()}"))
            if not torch.allclose(value.flatten(), torch.tensor(stated), atol=1e-3):
                notes.append(f"WARNING: {key} is {value.flatten().tolist()} in the file, {stated} in the config")
    kinds = [".".join(key.split(".")[-2:]) if "prior" in key else key.split(".")[-1] for key in renamed.dropped]
    return Counter("cell_anchors" if kind.isdigit() else kind for kind in kinds)


def check(
    checkpoint: Checkpoint,
    base: str,
    state: Mapping[str, Tensor],
    origin: Mapping[str, str],
    unknown: Sequence[str],
    target: Mapping[str, tuple[int, ...]],
) -> None:
    """
    Args:
        base: what the weights must fit, for the message.
        origin: of each entry the name in the file.
        unknown: names in the file that no rule knows.

    Raises:
        ConversionError: entries are unknown, missing, without a place, or of another shape.
    """
    lines = [f"unknown: {key} {tuple(checkpoint.state[key].shape)}" for key in unknown]
    for key in state:
        if key not in target:
            lines.append(f"without a place in the model: {origin.get(key, key)}, as {key}{_hint(key)}")
        elif tuple(state[key].shape) != target[key]:
            shapes = f"{tuple(state[key].shape)} in the file, {target[key]} in the model"
            lines.append(f"of another shape: {origin.get(key, key)}, as {key}: {shapes}{_hint(key)}")
    lines += [f"not above 0: {origin[k]}" for k in state if k.endswith("prior.sigma") and not (state[k] > 0).all()]
    lines += [f"missing: {key} {target[key]}" for key in target if key not in state]
    if lines:
        more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        head = f"{checkpoint.path}: {len(lines)} entries do not fit {base}"
        raise ConversionError("\n  ".join([head, *lines[:SHOWN], *more]))


def _hint(key: str) -> str:
    if ".center_prior." in key:
        return "; set CLASS_PRIOR of the branch to True"
    if ".cls_score." in key:
        return "; set MODEL.DEFCN.NUM_CLASSES"
    return "; set MODEL.DEFCN.P6_FEATURE" if ".top_block.p6." in key else ""


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
