"""cvpods: DeFCN's releases, POTO and its relatives, 3D Max Filtering, FCOS, ATSS, RetinaNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detectron2.config import CfgNode

from .registry import OPTIONS, Detected, Renamed, Rule, Source, register_source
from .shared import ANCHORS_A_CELL, MSRA, anchors_by_ratio, detectron2_rules, has_level_scales, retinanet, size


@register_source
class Cvpods(Source):
    name = "cvpods"
    # cvpods keeps the anchors in its files; those of Detectron2 with the same head have neither these nor level scales
    mark = r"(?:head\.scales\.\d\.scale|anchor_generator\.cell_anchors\.\d)"
    one_class = True

    def rules(self, state: Mapping[str, Tensor]) -> list[Rule]:
        return [
            *detectron2_rules(),
            (r"head\.(?:cls_subnet|bbox_subnet|scales)\..+", r"\g<0>"),
            (r"head\.((?:cls_score|bbox_pred|centerness|filter|max3d)\..+)", r"first.\1"),
        ]

    def model(self, path: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
        state = renamed.state
        if size(state, "first.bbox_pred.weight") == 4 * ANCHORS_A_CELL:
            return retinanet(state, dict(MSRA), NMS_CLIPPED=False)
        if "first.max3d.conv.weight" in state or "first.filter.weight" in state:
            return _max_filtering(state)
        if "first.centerness.weight" in state:
            return Detected("FCOS or ATSS, with centerness", "Base-FCOS-centerness.yaml", dict(MSRA))
        if not has_level_scales(state):
            return Detected("Anchor", "Base-Anchor.yaml", dict(MSRA))
        note = (
            "POTO, Center, Foreground loss and FCOS without centerness have the same names and find boxes alike, but "
            "FCOS needs NMS: if it is FCOS, give --config configs/Base-FCOS.yaml"
        )
        return Detected("POTO", "Base-POTO.yaml", dict(MSRA), {}, [note])

    def adapt(self, state: dict[str, Tensor], renamed: Renamed, cfg: CfgNode, branch: str, notes: list[str]) -> None:
        anchors_by_ratio(state, cfg, branch, notes)


def _max_filtering(state: Mapping[str, Tensor]) -> Detected:
    norm = "GN" if "first.max3d.norm.weight" in state else ""
    window = {OPTIONS + "ONE_TO_ONE.MAX_FILTERING.NORM": norm}
    note = "with or without the auxiliary loss: it has no weights"
    title = "POTO + 3D Max Filtering" + ("" if norm else " without GN")
    return Detected(title, "Base-POTO-3DMF-Aux.yaml", dict(MSRA), window, [note])
