"""Detectron2's own FCOS and RetinaNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detectron2.config import CfgNode

from .registry import OPTIONS, Detected, Renamed, Rule, Source, register_source
from .shared import ANCHORS_A_CELL, MSRA, anchors_by_ratio, detectron2_rules, has_level_scales, retinanet, size

# Its FCOS compares the score with centerness to the threshold, and has no limit of candidates but the number.
FCOS = {"CANDIDATES_BY": "final", "SCORE_THRESH_TEST": 0.2, "TOPK_WITHIN_POINTS": False}


@register_source
class Detectron2(Source):
    name = "detectron2"
    mark = r"head\.cls_subnet\..+"

    def rules(self, state: Mapping[str, Tensor]) -> list[Rule]:
        return [
            *detectron2_rules(),
            (r"head\.(?:cls_subnet|bbox_subnet)\..+", r"\g<0>"),
            (r"head\.((?:cls_score|bbox_pred)\..+)", r"first.\1"),
            (r"head\.ctrness\.(.+)", r"first.centerness.\1"),
        ]

    def model(self, path: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
        state = renamed.state
        if size(state, "first.bbox_pred.weight") == 4 * ANCHORS_A_CELL or "first.centerness.weight" not in state:
            return retinanet(state, dict(MSRA), NMS_CLIPPED=False)
        options = {OPTIONS + key: value for key, value in FCOS.items()}
        options[OPTIONS + "LEVEL_SCALES"] = has_level_scales(state)
        return Detected("FCOS", "Base-FCOS-centerness.yaml", dict(MSRA), options)

    def adapt(self, state: dict[str, Tensor], renamed: Renamed, cfg: CfgNode, branch: str, notes: list[str]) -> None:
        anchors_by_ratio(state, cfg, branch, notes)
