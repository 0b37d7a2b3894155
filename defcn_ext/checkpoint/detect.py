"""Which model weights belong to, told from their names and shapes alone: the config file and what it changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from defcn_ext.config import UserError

from .resnets import resnet_options
from .sources.registry import BOTTOM_UP, OPTIONS, Detected, Renamed, Source
from .sources.shared import is_caffe, normed, size

ONENET_COST = "MinCost(cls=2, l1=5, giou=2, select=matching)"
# With one class: CrowdHuman, whose images hold more people than COCO's 100 detections.
CROWD = {"TEST.DETECTIONS_PER_IMAGE": 500, "INPUT.MAX_SIZE_TEST": 1400}


def detect(path: str, source: Source, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
    """The model of a detector's weights.

    Args:
        extras: what else is in the file; mmdetection's config text tells what its FCOS's names do not.

    Raises:
        UserError: no model of this repository has these parts.
    """
    state = renamed.state
    if "first.cls_score.weight" not in state or "first.bbox_pred.weight" not in state:
        raise UserError(f"{path}: has no class scores or no boxes, so it is no detector known here")
    found = source.model(path, renamed, extras)
    per_cell = max(1, size(state, "first.bbox_pred.weight") // 4)
    classes = max(1, size(state, "first.cls_score.weight") // per_cell)
    classes = found.options.setdefault(OPTIONS + "NUM_CLASSES", classes)
    found.options |= _pyramid(source, state, found.notes)
    found.options |= {OPTIONS + "CONV_BIAS": "head.cls_subnet.0.bias" in state, **_sizes(state)}
    found.options |= resnet_options(path, state, BOTTOM_UP)
    if any(re.fullmatch(r"head\.cls_subnet\.\d+\.conv_offset\.weight", key) for key in state):
        found.options[OPTIONS + "DEFORM_TOWERS"] = True
    if classes == 80:
        found.options["DATASETS.TEST"] = ["coco_2017_val"]
    if classes == 1 and source.one_class:
        found.options = CROWD | _crowd_options(found) | found.options
        found.notes.append("one class: taken for CrowdHuman, with 500 detections an image and long sides up to 1400")
    _check_statistics(state, BOTTOM_UP, found)
    return found


def _crowd_options(found: Detected) -> dict[str, Any]:
    """What differs between CrowdHuman and COCO: candidates a level, and the rule of DATE's released configs."""
    counts = {"DATE": 1000, "o2f": 5000, "OneNet": 500}
    kept = next((count for name, count in counts.items() if found.title.startswith(name)), None)
    options: dict[str, Any] = {} if kept is None else {OPTIONS + "TOPK_CANDIDATES_TEST": kept}
    if found.title.startswith("DATE"):
        options[OPTIONS + "ONE_TO_ONE.RULE"] = ONENET_COST
        found.notes.append(f"released for CrowdHuman with {ONENET_COST}, which matters only for training on from here")
    return options


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Widths, and number and norm of the towers' convs, where they are not the usual ones."""
    step = 3 if normed(state) else 2  # conv, norm, ReLU; or conv, ReLU
    places = [int(m[1]) for key in state if (m := re.match(r"head\.(?:cls|bbox)_subnet\.(\d+)\.", key))]
    found: dict[str, Any] = {
        OPTIONS + "NUM_CONVS": max(places) // step + 1 if places else 4,
        "MODEL.FPN.OUT_CHANNELS": size(state, "backbone.fpn_output3.weight") or 256,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": size(state, f"{BOTTOM_UP}stem.conv1.weight") or 64,
    }
    found[OPTIONS + "NORM"] = "GN" if normed(state) or not places else ""
    usual = {
        OPTIONS + "NUM_CONVS": 4,
        OPTIONS + "NORM": "GN",
        "MODEL.FPN.OUT_CHANNELS": 256,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    }
    return {key: value for key, value in found.items() if value != usual[key]}


def _pyramid(source: Source, state: Mapping[str, Tensor], notes: list[str]) -> dict[str, str]:
    out_channels, in_channels = (size(state, "backbone.top_block.p6.weight", axis) for axis in (0, 1))
    if in_channels == out_channels:
        return {OPTIONS + "P6_FEATURE": "p5"}
    if source.name == "cvpods":
        notes.append(f"P6 reads {in_channels} channels, so it comes from res5, as in DeFCN before February 2021")
    return {OPTIONS + "P6_FEATURE": "res5"}


def _check_statistics(state: Mapping[str, Tensor], prefix: str, found: Detected) -> None:
    caffe, stated = is_caffe(state, prefix), found.preprocessing["INPUT.FORMAT"] == "BGR"
    if caffe is not None and caffe != stated:
        looks, other = ("caffe's or MSRA's", "BGR") if caffe else ("torchvision's", "RGB")
        found.notes.append(
            f"WARNING: released with {found.preprocessing['INPUT.FORMAT']} input, but the stem's statistics look like "
            f"{looks} ({other}); if it was trained so, correct INPUT.FORMAT, PIXEL_MEAN, PIXEL_STD and STRIDE_IN_1X1"
        )
