"""Every config key of this project, and the error that names one."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.utils.logger import log_first_n


class UserError(ValueError):
    """A mistake in the command, the config or a file; the message is all that the user needs."""


def tell_new_key(old: str, new: str) -> None:
    """Warns, once, that a value of one of Detectron2's keys has become a key of this project's."""
    message = f"{old} works here, but Detectron2's own trainer refuses it: set {new} instead"
    log_first_n(logging.WARNING, message, name=__name__, key="message")


def add_defcn_config(cfg: CN) -> None:
    """Adds this project's keys, with the defaults of the DeFCN paper, to a Detectron2 config."""
    from defcn_ext.branches.nodes import accept_new_branches
    from defcn_ext.branches.registry import branch_node

    accept_new_branches(cfg)
    _add_trainer_config(cfg)

    cfg.MODEL.DEFCN = _C = CN()
    # Number of object classes, without background.
    _C.NUM_CLASSES = 80
    # Pyramid levels that predict, finest first.
    _C.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # What P6 is computed from: "p5" (all released weights) or "res5" (Detectron2's RetinaNet).
    _C.P6_FEATURE = "p5"
    # Whether a ReLU stands between P6 and P7 (mmdetection's stock RetinaNet: no).
    _C.P7_RELU = True
    # Where in its cell a point lies, as a share of the cell (torchvision's FCOS: 0); and whether the cells of a level
    # are the image's width and height divided by their number, in whole pixels, instead of the stride (torchvision).
    _C.POINTS = CN()
    _C.POINTS.OFFSET = 0.5
    _C.POINTS.FILL = False

    # The two towers shared by all branches and levels: number of 3x3 convs, their norm, whether they have a bias
    # (DeFCN: yes, DATE and OneNet: no).
    _C.NUM_CONVS = 4
    _C.NORM = "GN"
    _C.CONV_BIAS = True
    # Make the last conv of each tower a modulated deformable one (DW's DCN models).
    _C.DEFORM_TOWERS = False
    # Pyramid shuffle (DDQ): before how many of the last convs of the class and of the box tower neighbouring levels
    # exchange channels (0 for none; DDQ: 2 and 1), and the share of the channels that goes either way.
    _C.PYRAMID_SHUFFLE = CN()
    _C.PYRAMID_SHUFFLE.CLS = 0
    _C.PYRAMID_SHUFFLE.BOX = 0
    _C.PYRAMID_SHUFFLE.SHARE = 0.25
    # One learned factor a level multiplies the raw boxes of all branches (all but DeFCN's Anchor rule).
    _C.LEVEL_SCALES = True
    # One pair of towers for all branches, or one pair a branch (DATE, Table 9).
    _C.SHARE_TOWERS = True
    # Score of every class at the start of training (Lin et al. 2017).
    _C.PRIOR_PROB = 0.01

    # Python modules to import first, for rules, steps and branches that are registered outside this package.
    _C.IMPORTS = []
    # The branches, by the names of the nodes below. The first predicts, the others only train. A node of any other name
    # may be added; it has the keys of its TYPE.
    _C.BRANCHES = ["ONE_TO_ONE"]

    # Each node's TYPE names an entry of `defcn_ext.branches.BRANCH_REGISTRY`, and the keys of a type are declared where
    # it is: "point", hard targets (branches/point.py); "anchor", the same from anchors (anchor.py); "weighted", every
    # pair weighted as positive and negative, o2f (weighted.py); "dual", DW's losses (dual.py); "auxiliary"
    # (auxiliary.py); "selector", a map on another branch in place of NMS (selector.py). ONE_TO_ONE and ONE_TO_MANY have
    # the keys of the first four.
    _C.ONE_TO_ONE = branch_node("point", "anchor", "weighted", "dual")
    _C.ONE_TO_ONE.ANCHORS.SCALES, _C.ONE_TO_ONE.ANCHORS.RATIOS, _C.ONE_TO_ONE.ANCHORS.OFFSET = [4.0], [1.0], 0.5
    _C.ONE_TO_MANY = _C.ONE_TO_ONE.clone()
    _C.ONE_TO_MANY.RULE = "FCOS(prior=center, radius=1.5)"
    _C.ONE_TO_MANY.BOX_WEIGHT = 1.0
    # One-to-many loss on the class scores of the first branch, without its filter; no parameters (DeFCN 3.2.3).
    _C.AUX = branch_node("auxiliary")

    # Inference. The branch that predicts; "" for the first.
    _C.TEST_BRANCH = ""
    # Build only that branch, for a deployed detector; such a model cannot be trained.
    _C.INFERENCE_ONLY = False
    # Train these branches alone; all the rest stands still, the statistics of norms too. [] for all.
    _C.TRAIN_ONLY = []
    # Detections must score strictly more.
    _C.SCORE_THRESH_TEST = 0.05
    # What counts where there is a centerness: the "class" score (DeFCN, DATE, mmdetection), the "final" one with the
    # centerness (torchvision, Detectron2's FCOS), or the class score for the threshold and the "order" by the final one
    # (AdelaiDet).
    _C.CANDIDATES_BY = "class"
    # (point, class) pairs kept of each level, and whether never more than the level has points (DeFCN's release: yes;
    # DATE, o2f, DW and Detectron2: no).
    _C.TOPK_CANDIDATES_TEST = 1000
    _C.TOPK_WITHIN_POINTS = True
    # Let every point name no more than its best class: one box is never given twice under two names.
    _C.ONE_CLASS_PER_POINT = False
    # Whether non-maximum suppression ends the inference, and above which IoU it suppresses.
    _C.NMS = False
    _C.NMS_THRESH_TEST = 0.6
    # Whether a box also suppresses those of other classes.
    _C.NMS_OVER_CLASSES = False
    # Whether NMS sees the boxes cut off at the border of the image (mmdetection, where DATE, o2f and DW come from), or
    # as they are predicted (DeFCN's release, Detectron2). The boxes that come out are cut off in any case.
    _C.NMS_CLIPPED = False
    # What NMS may compare (DeFCN, Table 2): boxes of all levels or only of one level, and boxes whose points lie in one
    # window of so many cells a side (odd; 0 for no limit).
    _C.NMS_PER_LEVEL = False
    _C.NMS_RANGE = 0
    # 3D Max Filtering of the final scores instead of NMS (DeFCN, Table 5): of each class only those points stay that
    # score highest among tau neighbouring levels and a window of `kernel` cells.
    _C.PEAK_FILTER = CN()
    _C.PEAK_FILTER.ENABLED = False
    _C.PEAK_FILTER.TAU = 2
    _C.PEAK_FILTER.KERNEL = 3
    # Evaluate with and without NMS in one pass over the data and report the gap. Costs one NMS an image.
    _C.COMPARE_NMS = True


def _add_trainer_config(cfg: CN) -> None:
    from defcn_ext.data.config import add_data_config
    from defcn_ext.engine.config import add_engine_config

    add_engine_config(cfg)
    add_data_config(cfg)


def flat_keys(node: CN, prefix: str = "") -> dict[str, Any]:
    """Every key of a config with its value, nodes and what is in them, by the full name."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        found[prefix + name] = value
        if isinstance(value, CN):
            found |= flat_keys(value, f"{prefix}{name}.")
    return found


def changed_trainer_keys(cfg: CN) -> list[str]:
    """The keys that only this project's trainer reads, as far as `cfg` has other values than the defaults."""
    fresh = get_cfg()
    stock = flat_keys(fresh)
    _add_trainer_config(fresh)
    ours = {k: v for k, v in flat_keys(fresh).items() if k not in stock and not isinstance(v, CN)}
    given = flat_keys(cfg)
    return [key for key, default in ours.items() if key in given and given[key] != default]
