"""AdelaiDet's FCOS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from defcn_ext.config import UserError
from detectron2.config import CfgNode

from .registry import OPTIONS, Detected, Renamed, Rule, Source, register_source
from .shared import MSRA, detectron2_rules, has_level_scales

HEAD = r"proposal_generator\.fcos_head\."
TOWERS = {"cls": "cls_subnet", "bbox": "bbox_subnet"}
PREDICTORS = {"cls_logits": "cls_score", "bbox_pred": "bbox_pred", "ctrness": "centerness"}


@register_source
class AdelaiDet(Source):
    name = "adelaidet"
    mark = HEAD + r"cls_logits\..+"
    refused = {
        r"(?:controller|mask_branch|mask_head)\..+": "AdelaiDet's CondInst; of AdelaiDet only FCOS can be read",
        r"(?:basis_module|blender|top_layer)\..+": "AdelaiDet's BlendMask; of AdelaiDet only FCOS can be read",
        HEAD + r"(?:cls|bbox|share)_tower\.\d+\.(?:conv|offset)\..+": "AdelaiDet's FCOS with deformable towers",
        HEAD + r"(?:cls|bbox|share)_tower\.\d+\.\d+\..+": "AdelaiDet's FCOS with a batch norm for each level",
    }

    def rules(self, state: Mapping[str, Tensor]) -> list[Rule]:
        """The convs that both towers share become the first of each; `adapt` repeats them in the second."""
        shared = 1 + max(
            (int(m[1]) for key in state if (m := re.match(HEAD + r"share_tower\.(\d+)\.", key))), default=-1
        )
        step = 3 if any(re.fullmatch(HEAD + r".+_tower\.1\.weight", key) for key in state) else 2
        before = -(-shared // step) * step  # the last layer, a ReLU, has no entry
        return [
            *detectron2_rules(),
            (HEAD + r"share_tower\.(.+)", r"head.cls_subnet.\1"),
            (HEAD + r"(cls|bbox)_tower\.(\d+)\.(.+)", lambda m: f"head.{TOWERS[m[1]]}.{int(m[2]) + before}.{m[3]}"),
            (HEAD + r"(cls_logits|bbox_pred|ctrness)\.(.+)", lambda m: f"first.{PREDICTORS[m[1]]}.{m[2]}"),
            (HEAD + r"scales\.(\d)\.scale", r"head.scales.\1.scale"),
        ]

    def model(self, path: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
        if "backbone.top_block.p7.weight" not in renamed.state:
            raise UserError(f"{path}: AdelaiDet's FCOS of a pyramid without P6 and P7, as in FCOS-RT; here it has both")
        keys = {"CANDIDATES_BY": "order", "TOPK_WITHIN_POINTS": False, "LEVEL_SCALES": has_level_scales(renamed.state)}
        options = {OPTIONS + key: value for key, value in keys.items()}
        return Detected("FCOS", "Base-FCOS-centerness.yaml", dict(MSRA), options)

    def adapt(self, state: dict[str, Tensor], renamed: Renamed, cfg: CfgNode, branch: str, notes: list[str]) -> None:
        shared = [key for key, name in renamed.origin.items() if ".share_tower." in name]
        for key in shared:
            state[key.replace("cls_subnet", "bbox_subnet")] = state[key]
        if shared:
            notes.append("the convs that both towers share are there twice, at the start of each: the same model")
