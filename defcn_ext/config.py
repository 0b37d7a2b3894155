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
    _add_trainer_config(cfg)

    cfg.MODEL.DEFCN = _C = CN()
    # Number of object classes, without background.
    _C.NUM_CLASSES = 80
    # Pyramid levels that predict, finest first.
    _C.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # What P6 is computed from: "p5" (all released weights) or "res5" (Detectron2's RetinaNet).
    _C.P6_FEATURE = "p5"

    # The two towers shared by all branches and levels: number of 3x3 convs, their norm, whether they have a bias
    # (DeFCN: yes, DATE and OneNet: no).
    _C.NUM_CONVS = 4
    _C.NORM = "GN"
    _C.CONV_BIAS = True
    # Make the last conv of each tower a modulated deformable one (DW's DCN models).
    _C.DEFORM_TOWERS = False
    # One learned factor a level multiplies the raw boxes of all branches (all but DeFCN's Anchor rule).
    _C.LEVEL_SCALES = True
    # One pair of towers for all branches, or one pair a branch (DATE, Table 9).
    _C.SHARE_TOWERS = True
    # Score of every class at the start of training (Lin et al. 2017).
    _C.PRIOR_PROB = 0.01

    # Python modules to import first, for rules and steps that are registered outside this package.
    _C.IMPORTS = []
    # The branches: ONE_TO_ONE, ONE_TO_MANY, AUX, whose nodes follow. The first predicts, the others only train.
    _C.BRANCHES = ["ONE_TO_ONE"]

    _C.ONE_TO_ONE = _point_branch("POTO(alpha=0.8, prior=center, radius=1.5, select=matching)", box_weight=2.0)
    _C.ONE_TO_MANY = _point_branch("FCOS(prior=center, radius=1.5)", box_weight=1.0)

    # One-to-many loss on the class scores of the first branch, without its filter; no parameters (DeFCN 3.2.3).
    _C.AUX = CN()
    _C.AUX.TYPE = "auxiliary"
    _C.AUX.RULE = "QualityATSS(k=9, alpha=0.8)"
    _C.AUX.CLS_WEIGHT = 1.0

    # Inference. The branch that predicts; "" for the first.
    _C.TEST_BRANCH = ""
    # Build only that branch, for a deployed detector; such a model cannot be trained.
    _C.INFERENCE_ONLY = False
    # Detections must score strictly more.
    _C.SCORE_THRESH_TEST = 0.05
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


def _point_branch(rule: str, box_weight: float) -> CN:
    """A predictor of one box a point (FCOS, section 3)."""
    node = CN()
    # "point": hard targets. "weighted": every pair weighted as positive and negative (o2f). "dual": DW's losses.
    node.TYPE = "point"
    # Label assignment: NAME(option=value, ...); `defcn_ext.assignment.rules()` lists the names.
    node.RULE = rule
    # Weights of the focal loss, of the box loss, and of the L1 loss of (cx, cy, w, h) as shares of the image (DATE,
    # OneNet). LOSS_WEIGHT multiplies all of the branch (DATE's lambda). For "dual", CLS_WEIGHT is of the positive loss.
    node.CLS_WEIGHT = 1.0
    node.BOX_WEIGHT = box_weight
    node.L1_WEIGHT = 0.0
    node.LOSS_WEIGHT = 1.0
    # For "weighted": factor on the background's focal loss without its alpha; weights of the box loss: "" for none,
    # "centerness" (o2f as released) or "label".
    node.BACKGROUND_WEIGHT = 0.75
    node.BOX_WEIGHTS = "centerness"
    # For "dual": weight of the negative loss, exponent g2 of the importance s^g2 of candidates as negatives, whether it
    # is a constant (DW's paper) or not (release).
    node.NEG_WEIGHT = 1.0
    node.NEG_GAMMA = 2.0
    node.DETACH_NEGATIVE = False
    # Box loss: "giou", "iou" (-log IoU; DATE's FCOS branch), or "delta_l1" (L1 of the deltas; RetinaNet).
    node.BOX_LOSS = "giou"
    # What the losses are divided by: "positives", their mean over the workers, or "images", for each worker the sum
    # over its images of max(1, positives) (DATE's RetinaNet branch), or for "weighted" also "labels", their sum.
    node.NORMALIZER = "positives"
    # Leave cells behind an image's own size, padded to 32, out of the class loss; for "delta" (DATE-R).
    node.IGNORE_PADDING = False
    # How raw outputs become boxes: distances by "relu" (times stride) or "exp" (pixels), or "delta" from anchors.
    node.BOX_FORM = "relu"
    # Anchors of each cell for "delta": their sides in strides at ratio 1, their ratios of height to width, and where
    # in the cell they are centred, as a share of the stride.
    node.ANCHORS = CN()
    node.ANCHORS.SCALES = [4.0]
    node.ANCHORS.RATIOS = [1.0]
    node.ANCHORS.OFFSET = 0.5
    # Bias of the box conv at the start; 4 in DW, whose weights vanish on empty boxes.
    node.BOX_BIAS = 0.0
    # A map that multiplies all class scores, with so many 64-channel convs before it (o2f: 3; DW: 0).
    node.QUALITY = CN()
    node.QUALITY.ENABLED = False
    node.QUALITY.CONVS = 3
    # Box refinement by boundary points (DW); beyond the map they read "zeros" (release) or the "border".
    node.REFINE = CN()
    node.REFINE.ENABLED = False
    node.REFINE.PADDING = "zeros"
    # Tower that predicts the centerness: "reg" (DeFCN), "cls" (DATE), or "" for none.
    node.CENTERNESS = ""
    # Final score with centerness: "sqrt" of the product (DeFCN), or "product" (DATE).
    node.CENTERNESS_SCORE = "sqrt"
    # 3D Max Filtering: tau neighbouring levels, a window of `kernel` cells, the norm after it ("" for none).
    node.MAX_FILTERING = CN()
    node.MAX_FILTERING.ENABLED = False
    node.MAX_FILTERING.TAU = 2
    node.MAX_FILTERING.KERNEL = 3
    node.MAX_FILTERING.NORM = "GN"
    return node
