"""What several code bases have in common: names of ResNets and pyramids, inputs, RetinaNet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from detectron2.config import CfgNode

from .registry import OPTIONS, Detected, Rule

FPN = "backbone"
COUNTERS: Rule = (r"(?:.+\.)?num_batches_tracked", "")
ANCHORS_A_CELL = 9  # of RetinaNet

# What the network input must look like, which no entry tells: the code bases' settings.
RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
MSRA = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
}
CAFFE = {**MSRA, "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717]}


def resnet_rules(old: str, new: str) -> list[Rule]:
    """torchvision's ResNet, also mmdetection's and timm's, to Detectron2's names."""
    block = re.escape(old) + r"layer(\d)\.(\d+)\."

    def to(tail: str) -> Callable[[re.Match[str]], str]:
        return lambda m: f"{new}res{int(m[1]) + 1}.{m[2]}." + m.expand(tail)

    return [
        (re.escape(old) + r"conv1\.weight", f"{new}stem.conv1.weight"),
        (re.escape(old) + r"bn1\.(\w+)", rf"{new}stem.conv1.norm.\1"),
        (block + r"conv2(?:\.conv)?_offset\.(weight|bias)", to(r"conv2_offset.\3")),
        (block + r"conv(\d)\.weight", to(r"conv\3.weight")),
        (block + r"bn(\d)\.(\w+)", to(r"conv\3.norm.\4")),
        (block + r"downsample\.0\.weight", to("shortcut.weight")),
        (block + r"downsample\.1\.(\w+)", to(r"shortcut.norm.\3")),
    ]


def detectron2_rules() -> list[Rule]:
    """Detectron2's own names of what is not in a head, also cvpods', OneNet's and AdelaiDet's."""
    return [
        (r"pixel_(?:mean|std)", ""),
        (r"anchor_generator\.cell_anchors\.\d", ""),
        (r"backbone\.(?:bottom_up|fpn_lateral\d|fpn_output\d|top_block)\..+", r"\g<0>"),
    ]


def size(state: Mapping[str, Tensor], key: str, axis: int = 0) -> int:
    """0 where the entry is missing, or has no such axis: what is wrong with it is told when all are compared."""
    return state[key].shape[axis] if key in state and state[key].dim() > axis else 0


def normed(state: Mapping[str, Tensor]) -> bool:
    """Whether norms stand behind the towers' convs: weights of one axis."""
    subnets = ("head.cls_subnet.", "head.bbox_subnet.")
    return any(x.dim() == 1 for key, x in state.items() if key.startswith(subnets) and key.endswith(".weight"))


def is_caffe(state: Mapping[str, Tensor], prefix: str) -> bool | None:
    """Whether the stem's statistics are folded away, as in caffe's and MSRA's ResNets; None where that is unknown."""
    mean = state.get(f"{prefix}stem.conv1.norm.running_mean")
    return None if mean is None else not mean.any().item()


def has_level_scales(state: Mapping[str, Tensor]) -> bool:
    return "head.scales.0.scale" in state


def retinanet(state: Mapping[str, Tensor], preprocessing: dict[str, Any], **options: Any) -> Detected:
    """RetinaNet of nine anchors a cell; `options` are keys of MODEL.DEFCN."""
    keys = {"LEVEL_SCALES": has_level_scales(state), **options}
    return Detected("RetinaNet", "Base-DATE-RetinaNet.yaml", preprocessing, {OPTIONS + k: v for k, v in keys.items()})


def anchors_by_ratio(state: dict[str, Tensor], cfg: CfgNode, branch: str, notes: list[str]) -> None:
    """Reorders RetinaNet's channels where these come by scale, as in Detectron2 and cvpods."""
    prefix, anchors = f"branches.{branch.lower()}.", cfg.MODEL.DEFCN[branch].ANCHORS
    if size(state, f"{prefix}bbox_pred.weight") != 4 * ANCHORS_A_CELL:
        return
    scales, ratios = len(anchors.SCALES), len(anchors.RATIOS)
    for key in [f"{prefix}{name}.{part}" for name in ("cls_score", "bbox_pred") for part in ("weight", "bias")]:
        if size(state, key) and state[key].shape[0] % (scales * ratios) == 0:
            state[key] = to_ratio_major(state[key], scales, ratios)
    notes.append("anchors reordered, from scale-major as in Detectron2 to ratio-major")


def to_ratio_major(value: Tensor, scales: int, ratios: int) -> Tensor:
    """Channels (scale, ratio, class or side), as Detectron2 and cvpods have them, to (ratio, scale, ...) as here."""
    return value.unflatten(0, (scales, ratios, -1)).transpose(0, 1).flatten(0, 2)
