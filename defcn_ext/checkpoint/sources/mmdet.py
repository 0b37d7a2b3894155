"""mmdetection: DATE, o2f and DW, which are built on it, and its own FCOS, ATSS and RetinaNet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from defcn_ext.config import UserError
from detectron2.config import CfgNode

from .mmdet_names import head_rules, neck_rules
from .registry import BOTTOM_UP, OPTIONS, Detected, Renamed, Rule, Source, register_source
from .shared import ANCHORS_A_CELL, CAFFE, COUNTERS, MSRA, RGB, is_caffe, resnet_rules, retinanet, size

MANY = OPTIONS + "ONE_TO_MANY."
DELTA_STDS = (0.1, 0.1, 0.2, 0.2)  # of ATSS's deltas


@register_source
class MMDetection(Source):
    name = "mmdet"
    mark = r"bbox_head\.(?:cls_convs|conv_cls|predictors|retina_cls|atss_cls)\..+"
    refused = {
        r"bbox_head\.controller\..+": "CondInst, which this repository does not have",
        r"(?:bbox_head|head)\.gfl_.+": "GFL, whose boxes are distributions; here they are distances",
    }
    one_class = True

    def rules(self, state: Mapping[str, Tensor]) -> list[Rule]:
        return [COUNTERS, *resnet_rules("backbone.", BOTTOM_UP), *neck_rules(), *head_rules(state)]

    def model(self, path: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
        names, state, text = renamed.origin.values(), renamed.state, _config_text(extras)
        if any(key.startswith("bbox_head.predictors.") for key in names):
            return _date(state)
        refined = "first.refinement.offset.weight" in state
        if refined or "first.filter.weight" in state:
            return _dw(state, refined)
        convs = sum(re.fullmatch(r"bbox_head\.centerness_convs\.\d\.conv\.weight", key) is not None for key in names)
        if convs:
            quality = {OPTIONS + "ONE_TO_ONE.QUALITY.CONVS": convs}
            return Detected(f"o2f, {convs} convs before the score map", "Base-O2F.yaml", dict(RGB), quality)
        if any(key.startswith("bbox_head.retina_cls.") for key in names):
            return _retinanet(state, text)
        if any(key.startswith("bbox_head.atss_cls.") for key in names):
            return _atss(state, text)
        if "first.centerness.weight" in state:
            return _fcos(state, text)
        raise UserError(
            f"{path}: a head of mmdetection that is none of DATE, o2f, DW, FCOS, ATSS and RetinaNet; try --config FILE"
        )

    def adapt(self, state: dict[str, Tensor], renamed: Renamed, cfg: CfgNode, branch: str, notes: list[str]) -> None:
        """ATSS multiplies its deltas by fixed numbers, here the last conv does."""
        if not any(name.startswith("bbox_head.atss_reg.") for name in renamed.origin.values()):
            return
        for key in [f"branches.{branch.lower()}.bbox_pred.{part}" for part in ("weight", "bias")]:
            if size(state, key) == 4:
                state[key] = state[key] * torch.tensor(DELTA_STDS).view(4, *[1] * (state[key].dim() - 1))
        notes.append(f"the last conv of the boxes is multiplied by the deltas' {list(DELTA_STDS)}: the same boxes")


def _dw(state: Mapping[str, Tensor], refined: bool) -> Detected:
    kind, config = ("with", "Base-DW-refine.yaml") if refined else ("without", "Base-DW.yaml")
    found = Detected(f"DW {kind} box refinement", config, dict(RGB))
    if "first.center_prior.mean" in state or "first.center_prior.sigma" in state:
        found.options[MANY + "CLASS_PRIOR"] = True
        found.notes.append("its center prior has a mean and a width for each class, which are kept: CLASS_PRIOR")
    return found


def _date(state: Mapping[str, Tensor]) -> Detected:
    filtering = {OPTIONS + "ONE_TO_ONE.MAX_FILTERING.ENABLED": True} if "first.filter.weight" in state else {}
    if filtering and "first.max3d.norm.weight" not in state:
        filtering[OPTIONS + "ONE_TO_ONE.MAX_FILTERING.NORM"] = ""
    suffix = " + 3D Max Filtering" if filtering else ""
    if "second.cls_score.weight" not in state:
        note = "the branch that only trains is not in the file"
        return Detected(f"DATE{suffix}", "Base-DATE-POTO.yaml", dict(CAFFE), filtering, [note])
    retina = size(state, "second.bbox_pred.weight") == 4 * ANCHORS_A_CELL
    if "second.towers.cls_subnet.0.weight" in state:
        filtering |= {OPTIONS + "SHARE_TOWERS": False}
        suffix += ", own towers"
    if retina:
        return Detected(f"DATE-R{suffix}", "Base-DATE-R.yaml", dict(CAFFE), filtering)
    return Detected(f"DATE-F{suffix}", "Base-DATE-F.yaml", dict(CAFFE), filtering)


def _fcos(state: Mapping[str, Tensor], text: str) -> Detected:
    found = Detected("FCOS", "Base-DATE-FCOS.yaml", dict(CAFFE))
    if _says(text, "norm_on_bbox"):
        where = {
            MANY + "CENTERNESS": "reg" if _says(text, "centerness_on_reg") else "cls",
            MANY + "CENTERNESS_SCORE": "product",
            OPTIONS + "NMS_CLIPPED": True,
            OPTIONS + "TOPK_WITHIN_POINTS": False,
        }
        found = Detected("FCOS with normalised boxes", "Base-FCOS-centerness.yaml", dict(CAFFE), where)
    elif not text:
        found.notes.append(
            "the names do not tell FCOS's variants apart: boxes are taken for exp, centerness for the class tower's. "
            "If it was trained with norm_on_bbox, give --config configs/Base-FCOS-centerness.yaml "
            "MODEL.DEFCN.ONE_TO_MANY.CENTERNESS_SCORE product"
        )
    _complete(state, text, found)
    return found


def _retinanet(state: Mapping[str, Tensor], text: str) -> Detected:
    found = retinanet(state, dict(MSRA), P7_RELU=_says(text, "relu_before_extra_convs"))
    _complete(state, text, found)
    _tell_relu(text, found)
    return found


def _atss(state: Mapping[str, Tensor], text: str) -> Detected:
    options = {
        OPTIONS + "P7_RELU": _says(text, "relu_before_extra_convs"),
        OPTIONS + "NMS_CLIPPED": True,
        OPTIONS + "TOPK_WITHIN_POINTS": False,
        MANY + "TYPE": "anchor",
        MANY + "RULE": "ATSS(k=9, scale=8)",
        MANY + "ANCHORS.SCALES": [8.0],
        MANY + "ANCHORS.RATIOS": [1.0],
        MANY + "ANCHORS.OFFSET": 0.0,
        MANY + "BOX_WEIGHT": 2.0,
        MANY + "CENTERNESS_SCORE": "product",
    }
    found = Detected("ATSS", "Base-FCOS-centerness.yaml", dict(MSRA), options)
    _complete(state, text, found)
    _tell_relu(text, found)
    return found


def _complete(state: Mapping[str, Tensor], text: str, found: Detected) -> None:
    """The NMS that the file's config says; and the input, for its models exist for both kinds of ResNets."""
    iou = re.search(r"nms\s*=\s*dict\([^()]*iou_threshold\s*=\s*([0-9.]+)", text)
    if iou:
        found.options[OPTIONS + "NMS_THRESH_TEST"] = float(iou[1])
    if is_caffe(state, BOTTOM_UP) is False:
        found.preprocessing = dict(RGB)
        found.notes.append("the stem's statistics are torchvision's, so the input is taken for RGB")


def _tell_relu(text: str, found: Detected) -> None:
    if not text:
        found.notes.append(
            "no ReLU before P7, as in mmdetection's own configs; if yours says relu_before_extra_convs=True, add "
            "MODEL.DEFCN.P7_RELU True"
        )


def _says(text: str, option: str) -> bool:
    return re.search(rf"{option}\s*=\s*True", text) is not None


def _config_text(extras: Mapping[str, Any]) -> str:
    """The config that mmdetection keeps in its checkpoints; "" where there is none."""
    meta = extras.get("meta")
    text = (meta.get("config") or meta.get("cfg")) if isinstance(meta, dict) else None
    return text if isinstance(text, str) else ""
