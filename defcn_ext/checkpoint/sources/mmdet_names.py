"""mmdetection's names of a pyramid and of the heads that are built on it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .registry import Rule
from .shared import FPN

TOWERS = {"cls": "cls_subnet", "reg": "bbox_subnet"}
PRIOR = {"mean": 0.0, "sigma": 1.11}  # DW's center prior at the start


def neck_rules() -> list[Rule]:
    def output(match: re.Match[str]) -> str:
        index = int(match[1])
        return f"{FPN}.fpn_output{index + 3}.{match[2]}" if index < 3 else f"{FPN}.top_block.p{index + 3}.{match[2]}"

    return [
        (r"neck\.lateral_convs\.([0-2])\.conv\.(weight|bias)", lambda m: f"{FPN}.fpn_lateral{int(m[1]) + 3}.{m[2]}"),
        (r"neck\.fpn_convs\.([0-4])\.conv\.(weight|bias)", output),
    ]


def head_rules(state: Mapping[str, Tensor]) -> list[Rule]:
    """Towers, and the predictors of DATE, o2f, DW, FCOS, ATSS or RetinaNet.

    FCOS calls its centerness what o2f and DW call the map that multiplies all scores.
    """
    head = r"bbox_head\."
    normed = any(re.fullmatch(head + r"cls_convs\.(?:\d\.)?0\.gn\.weight", key) for key in state)
    convs = len({key.split(".")[2] for key in state if key.startswith("bbox_head.centerness_convs.")})
    quality = convs > 0 or any(key.startswith(("bbox_head.center_prior.", "bbox_head.reg_offset.")) for key in state)
    last = (f"filter.{3 * convs}." if convs else "filter.") if quality else "centerness."
    layer = r"(\d)\.(conv|gn)\.(.+)"

    def index(number: str, part: str) -> int:
        return (3 if normed else 2) * int(number) + (part == "gn")

    def tower(match: re.Match[str]) -> str:
        return f"head.{TOWERS[match[1]]}.{index(match[2], match[3])}.{match[4]}"

    def own_tower(match: re.Match[str]) -> str:
        where = "head" if match[2] == "0" else "second.towers"
        return f"{where}.{TOWERS[match[1]]}.{index(match[3], match[4])}.{match[5]}"

    predictor = r"predictors\.([01])\."
    branch = {"0": "first", "1": "second"}
    names = {"conv_cls": "cls_score", "conv_reg": "bbox_pred", "conv_ctr": "centerness"}
    return [
        (head + r"(cls|reg)_convs\." + layer, tower),
        (head + r"(cls|reg)_convs\.([01])\." + layer, own_tower),
        (head + r"scales\.(\d)\.scale", r"head.scales.\1.scale"),
        (head + r"centerness_convs\." + layer, lambda m: f"first.filter.{index(m[1], m[2])}.{m[3]}"),
        (head + predictor + r"(conv_cls|conv_reg|conv_ctr)\.(.+)", lambda m: f"{branch[m[1]]}.{names[m[2]]}.{m[3]}"),
        (head + predictor + r"((?:max3d|filter)\..+)", lambda m: f"{branch[m[1]]}.{m[2]}"),
        (head + r"(?:conv_cls|retina_cls|atss_cls)\.(weight|bias)", r"first.cls_score.\1"),
        (head + r"(?:conv_reg|retina_reg|atss_reg)\.(weight|bias)", r"first.bbox_pred.\1"),
        (head + r"atss_centerness\.(weight|bias)", r"first.centerness.\1"),
        (head + r"conv_centerness\.(weight|bias)", rf"first.{last}\1"),
        (head + r"reg_offset\.(weight|bias)", r"first.refinement.offset.\1"),
        (head + r"center_prior\.(mean|sigma)", r"first.center_prior.\1" if _own_prior(state) else ""),
    ]


def _own_prior(state: Mapping[str, Tensor]) -> bool:
    """Whether DW's center prior is another than the one that the release starts from, and never trains."""
    found = {name: state.get(f"bbox_head.center_prior.{name}") for name in PRIOR}
    return any(x is not None and bool((x.float() - PRIOR[name]).abs().max() > 1e-6) for name, x in found.items())
