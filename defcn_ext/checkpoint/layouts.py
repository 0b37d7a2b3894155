"""What each code base calls the weights, as rules from its names to ours.

In the targets `first` and `second` stand for the branches of `MODEL.DEFCN.BRANCHES` (`branches.one_to_one` and so on).
Sequentials count conv, norm, ReLU: conv n of a tower is entry 3n, its norm 3n + 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from defcn_ext.config import UserError

# A pattern that must match a whole name, and the new name; "" drops the entry.
Rule = tuple[str, str | Callable[[re.Match[str]], str]]

SOURCES = ("cvpods", "mmdet", "onenet", "torchvision", "timm", "defcn_ext")
TOWERS = {"cls": "cls_subnet", "reg": "bbox_subnet"}
COUNTERS: Rule = (r"(?:.+\.)?num_batches_tracked", "")
FPN = "backbone"
PRIOR = {"mean": 0.0, "sigma": 1.11}  # DW's center prior at the start
BOTTOM_UP = "backbone.bottom_up."
# Keys of detectors that cannot be taken over, and why.
FOREIGN = {
    r"bbox_head\.controller\..+": "CondInst, which this repository does not have",
    r"bbox_head\.atss_.+": "mmdetection's ATSS, whose centerness belongs to anchors; here it belongs to points",
    r"(?:bbox_head|head)\.gfl_.+": "GFL, whose boxes are distributions; here they are distances",
    r"(?:rpn_head|roi_head|proposal_generator|roi_heads)\..+": "a detector of another kind",
    r"backbone\.(?:bottom_up\.)?(?:patch_embed|stages|layers)\..+": "a backbone other than a ResNet",
}
READY = {
    r"(?:backbone\.bottom_up\.)?stem\.conv1\.(?:weight|norm\..+)": "Detectron2's",
    r"(?:res_)?conv1(?:_bn)?_[ws]": "Caffe2's",
}


@dataclass
class Renamed:
    """The entries under their new names."""

    state: dict[str, Tensor] = field(default_factory=dict)
    # New name -> name in the file.
    origin: dict[str, str] = field(default_factory=dict)
    # Entries that are not needed, and those that no rule knows.
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def which_source(path: str, keys: Collection[str]) -> str:
    """Which of `SOURCES` writes such names; "torchvision" also stands for timm, whose names are the same.

    Raises:
        UserError: none of them; says what it is where that is known.
    """
    if any(re.fullmatch(r"branches\.\w+\..+", key) for key in keys):
        return "defcn_ext"
    marks = {
        "mmdet": r"bbox_head\.(?:cls_convs|conv_cls|predictors|retina_cls)\..+",
        "onenet": r"head\.(?:cls|reg)_conv_module\..+",
        "cvpods": r"head\.cls_subnet\..+",
        "torchvision": r"layer1\.0\.conv1\.weight",
    }
    for pattern, what in FOREIGN.items():
        if any(re.fullmatch(pattern, key) for key in keys):
            raise UserError(f"{path}: the weights of {what}")
    for source, pattern in marks.items():
        if any(re.fullmatch(pattern, key) for key in keys):
            return source
    for pattern, what in READY.items():
        if any(re.fullmatch(pattern, key) for key in keys):
            raise UserError(f"{path}: has {what} names already; give it to MODEL.WEIGHTS as it is")
    some = ", ".join(sorted(keys)[:3])
    raise UserError(f"{path}: weights of no code base known here (they are: {some} ...)")


def rename(source: str, state: Mapping[str, Tensor]) -> Renamed:
    """Gives all entries our names.

    Raises:
        UserError: two entries of the file would get one name.
    """
    rules, out = rules_of(source, state), Renamed()
    compiled = [(re.compile(pattern), target) for pattern, target in rules]
    for key, value in state.items():
        match, target = next(((m, t) for pattern, t in compiled if (m := pattern.fullmatch(key))), (None, ""))
        if match is None:
            out.unknown.append(key)
            continue
        name = target(match) if callable(target) else match.expand(target)
        if not name:
            out.dropped.append(key)
        elif name in out.state:
            raise UserError(f"{key} and {out.origin[name]} would both become {name}")
        else:
            out.state[name], out.origin[name] = value, key
    return out


def rules_of(source: str, state: Mapping[str, Tensor]) -> list[Rule]:
    """The rules of a code base; those of mmdetection's heads depend on which one it is."""
    if source == "defcn_ext":
        return [(r".+", r"\g<0>")]
    if source in ("torchvision", "timm"):
        return [COUNTERS, (r"fc\.(?:weight|bias)", ""), *_resnet("", "")]
    if source == "onenet":
        return [*_detectron2(), *_onenet_head()]
    if source == "cvpods":
        return [*_detectron2(), *_cvpods_head()]
    return [COUNTERS, *_resnet("backbone.", BOTTOM_UP), *_mmdet_neck(), *_mmdet_head(state)]


def _resnet(old: str, new: str) -> list[Rule]:
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


def _mmdet_neck() -> list[Rule]:
    def output(match: re.Match[str]) -> str:
        index = int(match[1])
        return f"{FPN}.fpn_output{index + 3}.{match[2]}" if index < 3 else f"{FPN}.top_block.p{index + 3}.{match[2]}"

    return [
        (r"neck\.lateral_convs\.([0-2])\.conv\.(weight|bias)", lambda m: f"{FPN}.fpn_lateral{int(m[1]) + 3}.{m[2]}"),
        (r"neck\.fpn_convs\.([0-4])\.conv\.(weight|bias)", output),
    ]


def _mmdet_head(state: Mapping[str, Tensor]) -> list[Rule]:
    """Towers, and the predictors of DATE, o2f, DW, FCOS or RetinaNet.

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
        (head + r"(?:conv_cls|retina_cls)\.(weight|bias)", r"first.cls_score.\1"),
        (head + r"(?:conv_reg|retina_reg)\.(weight|bias)", r"first.bbox_pred.\1"),
        (head + r"conv_centerness\.(weight|bias)", rf"first.{last}\1"),
        (head + r"reg_offset\.(weight|bias)", r"first.refinement.offset.\1"),
        (head + r"center_prior\.(mean|sigma)", r"first.center_prior.\1" if _own_prior(state) else ""),
    ]


def _own_prior(state: Mapping[str, Tensor]) -> bool:
    """Whether DW's center prior is another than the one that the release starts from, and never trains."""
    found = {name: state.get(f"bbox_head.center_prior.{name}") for name in PRIOR}
    return any(x is not None and bool((x.float() - PRIOR[name]).abs().max() > 1e-6) for name, x in found.items())


def _detectron2() -> list[Rule]:
    """Detectron2's own names, also cvpods'."""
    return [
        (r"pixel_(?:mean|std)", ""),
        (r"anchor_generator\.cell_anchors\.\d", ""),
        (r"backbone\.(?:bottom_up|fpn_lateral\d|fpn_output\d|top_block)\..+", r"\g<0>"),
        (r"head\.scales\.\d\.scale", r"\g<0>"),
        (r"head\.cls_score\.(weight|bias)", r"first.cls_score.\1"),
    ]


def _cvpods_head() -> list[Rule]:
    return [
        (r"head\.(?:cls|bbox)_subnet\..+", r"\g<0>"),
        (r"head\.((?:bbox_pred|centerness|filter|max3d)\..+)", r"first.\1"),
    ]


def _onenet_head() -> list[Rule]:
    return [
        (r"head\.(cls|reg)_conv_module\.(.+)", lambda m: f"head.{TOWERS[m[1]]}.{m[2]}"),
        (r"head\.ltrb_pred\.(weight|bias)", r"first.bbox_pred.\1"),
    ]
