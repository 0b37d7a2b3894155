"""torchvision's FCOS and RetinaNet (`fcos_resnet50_fpn`, `retinanet_resnet50_fpn` and its second version)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from defcn_ext.config import UserError
from detectron2.config import CfgNode

from .registry import BOTTOM_UP, OPTIONS, Detected, Renamed, Rule, Source, register_source
from .shared import ANCHORS_A_CELL, COUNTERS, FPN, RGB, resnet_rules, size

TOWERS = {"classification": "cls_subnet", "regression": "bbox_subnet"}
PREDICTORS = {"cls_logits": "cls_score", "bbox_reg": "bbox_pred", "bbox_ctrness": "centerness"}
COCO_CHANNELS = 91  # one for each category id of COCO, from 0, the background, to 90
UNUSED_IDS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
EPS = 1e-5  # of Detectron2's frozen norms

# Points and anchors at the corners of cells that fill the padded image; boxes cut off before NMS.
INFERENCE = {"POINTS.OFFSET": 0.0, "POINTS.FILL": True, "NMS_CLIPPED": True, "TOPK_WITHIN_POINTS": False}
FCOS = {**INFERENCE, "CANDIDATES_BY": "final", "SCORE_THRESH_TEST": 0.2, "LEVEL_SCALES": False}
SIDES = [[x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))] for x in (32, 64, 128, 256, 512)]
RETINANET = {
    **INFERENCE,
    "LEVEL_SCALES": False,
    "ONE_TO_MANY.ANCHORS.SIZES": SIDES,
    "ONE_TO_MANY.ANCHORS.WHOLE_PIXELS": True,
}


@register_source
class TorchvisionDetectors(Source):
    name = "torchvision"
    mark = r"head\.classification_head\.cls_logits\.(?:weight|bias)"
    refused = {
        r"head\.classification_head\.module_list\..+": "torchvision's SSD, whose boxes are no pyramid's",
        r"backbone\.fpn\.inner_blocks\.3\..+": "a detector on a pyramid from P2; here it starts at P3",
        r"backbone\.body\.(?:features|\d+)\..+": "a backbone other than a ResNet",
    }

    def rules(self, state: Mapping[str, Tensor]) -> list[Rule]:
        """Towers are one sequence of conv, norm and ReLU in FCOS and the first RetinaNet files, and one of blocks in
        later ones; a block's conv has a bias only without a norm.
        """
        step = 3 if "head.classification_head.conv.0.1.weight" in state else 2

        def block(match: re.Match[str]) -> str:
            return f"head.{TOWERS[match[1]]}.{step * int(match[2]) + int(match[3])}.{match[4]}"

        pyramid = r"backbone\.fpn\."
        return [
            COUNTERS,
            *resnet_rules("backbone.body.", BOTTOM_UP),
            (pyramid + r"inner_blocks\.([0-2])(?:\.0)?\.(weight|bias)", lambda m: _level("lateral", m)),
            (pyramid + r"layer_blocks\.([0-2])(?:\.0)?\.(weight|bias)", lambda m: _level("output", m)),
            (pyramid + r"extra_blocks\.(p[67])\.(weight|bias)", rf"{FPN}.top_block.\1.\2"),
            (r"head\.(\w+)_head\.conv\.(\d+)\.([01])\.(weight|bias)", block),
            (r"head\.(\w+)_head\.conv\.(\d+)\.(weight|bias)", lambda m: f"head.{TOWERS[m[1]]}.{m[2]}.{m[3]}"),
            (r"head\.\w+_head\.(cls_logits|bbox_reg|bbox_ctrness)\.(.+)", lambda m: f"first.{PREDICTORS[m[1]]}.{m[2]}"),
        ]

    def model(self, path: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
        state = renamed.state
        per_cell = size(state, "first.bbox_pred.weight") // 4
        if "first.centerness.weight" in state:
            found = Detected("torchvision's FCOS", "Base-FCOS-centerness.yaml", dict(RGB), _keys(FCOS))
        elif per_cell == ANCHORS_A_CELL:
            found = Detected("torchvision's RetinaNet", "Base-DATE-RetinaNet.yaml", dict(RGB), _keys(RETINANET))
            found.options["TEST.DETECTIONS_PER_IMAGE"] = 300
        else:
            raise UserError(f"{path}: torchvision's RetinaNet with {per_cell} anchors a cell; its own have 9")
        channels = size(state, "first.cls_score.weight") // max(1, per_cell)
        if channels == COCO_CHANNELS:
            found.options[OPTIONS + "NUM_CLASSES"] = COCO_CHANNELS - len(UNUSED_IDS)
        else:
            found.notes.append(
                f"the {channels} channels of the class scores stay as they are, as labels from 0, which is often the "
                "background"
            )
        return found

    def adapt(self, state: dict[str, Tensor], renamed: Renamed, cfg: CfgNode, branch: str, notes: list[str]) -> None:
        prefix = f"branches.{branch.lower()}."
        per_cell = max(1, size(state, f"{prefix}bbox_pred.weight") // 4)
        kept = [n for n in range(COCO_CHANNELS) if n not in UNUSED_IDS]
        if cfg.MODEL.DEFCN.NUM_CLASSES == len(kept):
            for key in (f"{prefix}cls_score.weight", f"{prefix}cls_score.bias"):
                if size(state, key) == per_cell * COCO_CHANNELS:
                    state[key] = state[key].unflatten(0, (per_cell, -1))[:, kept].flatten(0, 1)
            notes.append("of the channels for COCO's ids 0 to 90 the 80 in use are kept, in the order of the classes")
        retinanet = "first.centerness.weight" not in renamed.state and "head.cls_subnet.0.bias" in renamed.state
        if retinanet and not any(key.endswith("num_batches_tracked") for key in renamed.dropped):
            _without_eps(state)
            notes.append(
                "frozen norms are taken for those of the released weights, which torchvision runs with an eps of 0"
            )


def _keys(options: Mapping[str, Any]) -> dict[str, Any]:
    return {OPTIONS + key: value for key, value in options.items()}


def _level(kind: str, match: re.Match[str]) -> str:
    return f"{FPN}.fpn_{kind}{int(match[1]) + 3}.{match[2]}"


def _without_eps(state: dict[str, Tensor]) -> None:
    """Takes the eps that Detectron2's norms add off the variances."""
    for key in [key for key in state if key.startswith(BOTTOM_UP) and key.endswith("norm.running_var")]:
        state[key] = (state[key].double() - EPS).to(state[key].dtype) if state[key].is_floating_point() else state[key]
