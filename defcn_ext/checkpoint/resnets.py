"""What the shapes of a ResNet's weights say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from defcn_ext.config import UserError

from .sources.shared import size

DEPTHS = {  # blocks of the four stages, and whether they are bottlenecks
    (2, 2, 2, 2, False): 18,
    (3, 4, 6, 3, False): 34,
    (3, 4, 6, 3, True): 50,
    (3, 4, 23, 3, True): 101,
    (3, 8, 36, 3, True): 152,
}


def resnet_options(path: str, state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Depth, groups, widths and deformable stages of a ResNet whose entries begin with `prefix`.

    Raises:
        UserError: its stages have other numbers of blocks than any ResNet known here.
    """
    stages = [_blocks(state, f"{prefix}res{index}.") for index in range(2, 6)]
    deep = f"{prefix}res2.0.conv3.weight" in state
    depth = DEPTHS.get((*stages, deep))
    if depth is None:
        raise UserError(f"{path}: {stages} blocks in the four stages: no ResNet of 18, 34, 50, 101 or 152 layers")
    options: dict[str, Any] = {"MODEL.RESNETS.DEPTH": depth}
    last = f"{prefix}res2.0.conv{3 if deep else 2}.weight"
    width, usual = size(state, last), 256 if deep else 64
    if not deep or width not in (0, usual):
        options["MODEL.RESNETS.RES2_OUT_CHANNELS"] = width or usual
    if not deep:
        return options
    width, a_group = (size(state, f"{prefix}res2.0.conv2.weight", axis) for axis in (0, 1))
    if width and a_group and (width, a_group) != (64, 64):
        options |= {"MODEL.RESNETS.NUM_GROUPS": width // a_group, "MODEL.RESNETS.WIDTH_PER_GROUP": a_group}
    offsets = [size(state, f"{prefix}res{index}.0.conv2_offset.weight") for index in range(2, 6)]
    if any(offsets):
        options["MODEL.RESNETS.DEFORM_ON_PER_STAGE"] = [channels > 0 for channels in offsets]
        options["MODEL.RESNETS.DEFORM_MODULATED"] = 27 in offsets
    return options


def _blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})
