"""OneNet's FCOS head on Detectron2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .registry import OPTIONS, Detected, Renamed, Rule, Source, register_source
from .shared import RGB, detectron2_rules

TOWERS = {"cls": "cls_subnet", "reg": "bbox_subnet"}


@register_source
class OneNet(Source):
    name = "onenet"
    mark = r"head\.(?:cls|reg)_conv_module\..+"
    one_class = True

    def rules(self, state: Mapping[str, Tensor]) -> list[Rule]:
        return [
            *detectron2_rules(),
            (r"head\.scales\.\d\.scale", r"\g<0>"),
            (r"head\.(cls|reg)_conv_module\.(.+)", lambda m: f"head.{TOWERS[m[1]]}.{m[2]}"),
            (r"head\.cls_score\.(weight|bias)", r"first.cls_score.\1"),
            (r"head\.ltrb_pred\.(weight|bias)", r"first.bbox_pred.\1"),
        ]

    def model(self, path: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
        # its own inference takes the 100 highest scores, whatever they are
        options = {OPTIONS + "SCORE_THRESH_TEST": 0.0}
        return Detected("OneNet, FCOS head", "Base-OneNet.yaml", dict(RGB), options)
