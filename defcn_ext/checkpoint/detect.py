"""Which model weights belong to, told from their names and shapes alone: the config file and what it changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from defcn_ext.config import UserError

from .layouts import BOTTOM_UP, Renamed

DEPTHS = {  # blocks of the four stages, and whether they are bottlenecks
    (2, 2, 2, 2, False): 18,
    (3, 4, 6, 3, False): 34,
    (3, 4, 6, 3, True): 50,
    (3, 4, 23, 3, True): 101,
    (3, 8, 36, 3, True): 152,
}
OPTIONS = "MODEL.DEFCN."
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
ONENET_COST = "MinCost(cls=2, l1=5, giou=2, select=matching)"
# With one class: CrowdHuman, whose images hold more people than COCO's 100 detections.
CROWD = {"TEST.DETECTIONS_PER_IMAGE": 500, "INPUT.MAX_SIZE_TEST": 1400}


@dataclass
class Detected:
    """A model: its name, its file in `configs/`, the keys that this file lacks, and what the names leave open.

    `preprocessing` holds the keys of the input, which belong to the weights whatever config they are loaded into.
    """

    title: str
    config: str
    preprocessing: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def detect(path: str, source: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
    """The model of a detector's weights.

    Args:
        extras: what else is in the file; mmdetection's config text tells what its FCOS's names do not.

    Raises:
        UserError: no model of this repository has these parts.
    """
    state = renamed.state
    if "first.cls_score.weight" not in state or "first.bbox_pred.weight" not in state:
        raise UserError(f"{path}: has no class scores or no boxes, so it is no detector known here")
    found = {"mmdet": _mmdet, "cvpods": _cvpods, "onenet": _onenet}[source](path, renamed, extras)
    per_cell = max(1, _size(state, "first.bbox_pred.weight") // 4)
    classes = max(1, _size(state, "first.cls_score.weight") // per_cell)
    found.options |= {OPTIONS + "NUM_CLASSES": classes, **_pyramid(source, state, found.notes)}
    found.options |= {OPTIONS + "CONV_BIAS": "head.cls_subnet.0.bias" in state, **_sizes(state)}
    found.options |= resnet_options(path, state, BOTTOM_UP)
    if any(re.fullmatch(r"head\.cls_subnet\.\d+\.conv_offset\.weight", key) for key in state):
        found.options[OPTIONS + "DEFORM_TOWERS"] = True
    if classes == 80:
        found.options["DATASETS.TEST"] = ["coco_2017_val"]
    if classes == 1:
        found.options = CROWD | _crowd_options(found) | found.options
        found.notes.append("one class: taken for CrowdHuman, with 500 detections an image and long sides up to 1400")
    _check_statistics(state, BOTTOM_UP, found)
    return found


def _mmdet(path: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
    names, state = renamed.origin.values(), renamed.state
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
        text = _config_text(extras)
        if not re.search(r"relu_before_extra_convs\s*=\s*True", text):
            raise UserError(
                f"{path}: mmdetection's RetinaNet, whose P7 has no ReLU before it, and here it has one. If yours was "
                "trained with relu_before_extra_convs=True, give --config configs/Base-DATE-RetinaNet.yaml"
            )
        return _retinanet(state, dict(CAFFE))
    if "first.centerness.weight" in state:
        return _mmdet_fcos(state, _config_text(extras))
    raise UserError(f"{path}: a head of mmdetection that is none of DATE, o2f, DW and FCOS; try --config FILE")


def _dw(state: Mapping[str, Tensor], refined: bool) -> Detected:
    kind, config = ("with", "Base-DW-refine.yaml") if refined else ("without", "Base-DW.yaml")
    found = Detected(f"DW {kind} box refinement", config, dict(RGB))
    if "first.center_prior.mean" in state or "first.center_prior.sigma" in state:
        found.options[OPTIONS + "ONE_TO_MANY.CLASS_PRIOR"] = True
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
    retina = _size(state, "second.bbox_pred.weight") == 4 * ANCHORS_A_CELL
    if "second.towers.cls_subnet.0.weight" in state:
        filtering |= {OPTIONS + "SHARE_TOWERS": False}
        suffix += ", own towers"
    if retina:
        return Detected(f"DATE-R{suffix}", "Base-DATE-R.yaml", dict(CAFFE), filtering)
    return Detected(f"DATE-F{suffix}", "Base-DATE-F.yaml", dict(CAFFE), filtering)


def _mmdet_fcos(state: Mapping[str, Tensor], text: str) -> Detected:
    found = Detected("FCOS", "Base-DATE-FCOS.yaml", dict(CAFFE))
    if re.search(r"norm_on_bbox\s*=\s*True", text):
        branch = OPTIONS + "ONE_TO_MANY."
        on_reg = re.search(r"centerness_on_reg\s*=\s*True", text)
        where = {branch + "CENTERNESS": "reg" if on_reg else "cls", branch + "CENTERNESS_SCORE": "product"}
        found = Detected("FCOS with normalised boxes", "Base-FCOS-centerness.yaml", dict(CAFFE), where)
    elif not text:
        found.notes.append(
            "the names do not tell FCOS's variants apart: boxes are taken for exp, centerness for the class tower's. "
            "If it was trained with norm_on_bbox, give --config configs/Base-FCOS-centerness.yaml "
            "MODEL.DEFCN.ONE_TO_MANY.CENTERNESS_SCORE product"
        )
    if is_caffe(state, BOTTOM_UP) is False:
        found.preprocessing = dict(RGB)
        found.notes.append("the stem's statistics are torchvision's, so the input is taken for RGB")
    return found


def _cvpods(path: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
    state = renamed.state
    if _size(state, "first.bbox_pred.weight") == 4 * ANCHORS_A_CELL:
        return _retinanet(state, dict(MSRA))
    if "first.max3d.conv.weight" in state or "first.filter.weight" in state:
        norm = "GN" if "first.max3d.norm.weight" in state else ""
        window = {OPTIONS + "ONE_TO_ONE.MAX_FILTERING.NORM": norm}
        note = "with or without the auxiliary loss: it has no weights"
        title = "POTO + 3D Max Filtering" + ("" if norm else " without GN")
        return Detected(title, "Base-POTO-3DMF-Aux.yaml", dict(MSRA), window, [note])
    if "first.centerness.weight" in state:
        return Detected("FCOS or ATSS, with centerness", "Base-FCOS-centerness.yaml", dict(MSRA))
    if "head.scales.0.scale" not in state:
        return Detected("Anchor", "Base-Anchor.yaml", dict(MSRA))
    note = (
        "POTO, Center, Foreground loss and FCOS without centerness have the same names and find boxes alike, but FCOS "
        "needs NMS: if it is FCOS, give --config configs/Base-FCOS.yaml"
    )
    return Detected("POTO", "Base-POTO.yaml", dict(MSRA), {}, [note])


def _onenet(path: str, renamed: Renamed, extras: Mapping[str, Any]) -> Detected:
    # its own inference takes the 100 highest scores, whatever they are
    options = {OPTIONS + "SCORE_THRESH_TEST": 0.0}
    return Detected("OneNet, FCOS head", "Base-OneNet.yaml", dict(RGB), options)


def _retinanet(state: Mapping[str, Tensor], preprocessing: dict[str, Any]) -> Detected:
    options: dict[str, Any] = {OPTIONS + "LEVEL_SCALES": "head.scales.0.scale" in state}
    return Detected("RetinaNet", "Base-DATE-RetinaNet.yaml", preprocessing, options)


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
    step = 3 if _normed(state) else 2  # conv, norm, ReLU; or conv, ReLU
    places = [int(m[1]) for key in state if (m := re.match(r"head\.(?:cls|bbox)_subnet\.(\d+)\.", key))]
    found: dict[str, Any] = {
        OPTIONS + "NUM_CONVS": max(places) // step + 1 if places else 4,
        "MODEL.FPN.OUT_CHANNELS": _size(state, "backbone.fpn_output3.weight") or 256,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": _size(state, f"{BOTTOM_UP}stem.conv1.weight") or 64,
    }
    found[OPTIONS + "NORM"] = "GN" if _normed(state) or not places else ""
    usual = {
        OPTIONS + "NUM_CONVS": 4,
        OPTIONS + "NORM": "GN",
        "MODEL.FPN.OUT_CHANNELS": 256,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    }
    return {key: value for key, value in found.items() if value != usual[key]}


def _normed(state: Mapping[str, Tensor]) -> bool:
    """Whether norms stand behind the towers' convs: weights of one axis."""
    subnets = ("head.cls_subnet.", "head.bbox_subnet.")
    return any(x.dim() == 1 for key, x in state.items() if key.startswith(subnets) and key.endswith(".weight"))


def _pyramid(source: str, state: Mapping[str, Tensor], notes: list[str]) -> dict[str, str]:
    out_channels, in_channels = (_size(state, "backbone.top_block.p6.weight", axis) for axis in (0, 1))
    if in_channels == out_channels:
        return {OPTIONS + "P6_FEATURE": "p5"}
    if source == "cvpods":
        notes.append(f"P6 reads {in_channels} channels, so it comes from res5, as in DeFCN before February 2021")
    return {OPTIONS + "P6_FEATURE": "res5"}


def resnet_options(path: str, state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """Depth, groups, widths and deformable stages of a ResNet whose entries begin with `prefix`.

    Raises:
        UserError: its stages have other numbers of blocks than any ResNet known here.
    """
    stages = [_blocks(state, f"{prefix}res{index}.") for index in range(2, 6)]
    deep = f"{prefix}res2.0.conv3.weight" in state
    depth = DEPTHS.get((*stages, deep))
    if depth is None:
        raise UserError(f"{path}: {stages} blocks in the four stages: no ResNet of 18, 34, 50, 101 or 152 layers")
    options: dict[str, Any] = {"MODEL.RESNETS.DEPTH": depth}
    last = f"{prefix}res2.0.conv{3 if deep else 2}.weight"
    width, usual = _size(state, last), 256 if deep else 64
    if not deep or width not in (0, usual):
        options["MODEL.RESNETS.RES2_OUT_CHANNELS"] = width or usual
    if not deep:
        return options
    width, a_group = (_size(state, f"{prefix}res2.0.conv2.weight", axis) for axis in (0, 1))
    if width and a_group and (width, a_group) != (64, 64):
        options |= {"MODEL.RESNETS.NUM_GROUPS": width // a_group, "MODEL.RESNETS.WIDTH_PER_GROUP": a_group}
    offsets = [_size(state, f"{prefix}res{index}.0.conv2_offset.weight") for index in range(2, 6)]
    if any(offsets):
        options["MODEL.RESNETS.DEFORM_ON_PER_STAGE"] = [channels > 0 for channels in offsets]
        options["MODEL.RESNETS.DEFORM_MODULATED"] = 27 in offsets
    return options


def _size(state: Mapping[str, Tensor], key: str, axis: int = 0) -> int:
    """0 where the entry is missing, or has no such axis: what is wrong with it is told when all are compared."""
    return state[key].shape[axis] if key in state and state[key].dim() > axis else 0


def _blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def is_caffe(state: Mapping[str, Tensor], prefix: str) -> bool | None:
    """Whether the stem's statistics are folded away, as in caffe's and MSRA's ResNets; None where that is unknown."""
    mean = state.get(f"{prefix}stem.conv1.norm.running_mean")
    return None if mean is None else not mean.any().item()


def _check_statistics(state: Mapping[str, Tensor], prefix: str, found: Detected) -> None:
    caffe, stated = is_caffe(state, prefix), found.preprocessing["INPUT.FORMAT"] == "BGR"
    if caffe is not None and caffe != stated:
        looks, other = ("caffe's or MSRA's", "BGR") if caffe else ("torchvision's", "RGB")
        found.notes.append(
            f"WARNING: released with {found.preprocessing['INPUT.FORMAT']} input, but the stem's statistics look like "
            f"{looks} ({other}); if it was trained so, correct INPUT.FORMAT, PIXEL_MEAN, PIXEL_STD and STRIDE_IN_1X1"
        )


def _config_text(extras: Mapping[str, Any]) -> str:
    """The config that mmdetection keeps in its checkpoints; "" where there is none."""
    meta = extras.get("meta")
    text = meta.get("config") if isinstance(meta, dict) else None
    return text if isinstance(text, str) else ""
