"""A detector small enough to build and step in a test."""

from contextlib import contextmanager

import pytest
import torch

from defcn_ext.config import add_defcn_config
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances


def tiny_cfg(*opts):
    """ResNet-18 with 64 channels, on the CPU; `opts` are KEY, VALUE, ..."""
    cfg = get_cfg()
    add_defcn_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "DeFCN"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_defcn_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    cfg.MODEL.DEFCN.NUM_CONVS = 1
    cfg.MODEL.DEFCN.NUM_CLASSES = 3
    cfg.merge_from_list(list(opts))
    return cfg


BOTH = ("MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "ONE_TO_MANY"])
ONE, MANY = "MODEL.DEFCN.ONE_TO_ONE.", "MODEL.DEFCN.ONE_TO_MANY."
ONENET = (
    *("MODEL.DEFCN.CONV_BIAS", False, ONE + "RULE", "MinCost(cls=2, l1=5, giou=2, select=matching)"),
    *(ONE + "CLS_WEIGHT", 2.0, ONE + "BOX_WEIGHT", 2.0, ONE + "L1_WEIGHT", 5.0),
)
DATE_FCOS = (
    *(MANY + "RULE", "FCOS(prior=inside)", MANY + "BOX_FORM", "exp", MANY + "BOX_LOSS", "iou"),
    *(MANY + "CENTERNESS", "cls", MANY + "CENTERNESS_SCORE", "product"),
)
DATE_RETINANET = (
    *(MANY + "RULE", "RetinaNet", MANY + "LOSS_WEIGHT", 2.0, MANY + "BOX_LOSS", "delta_l1", MANY + "BOX_FORM", "delta"),
    *(MANY + "ANCHORS.SCALES", [4.0, 5.039684, 6.349604], MANY + "ANCHORS.RATIOS", [0.5, 1.0, 2.0]),
    *(MANY + "ANCHORS.OFFSET", 0.0, MANY + "NORMALIZER", "images", MANY + "IGNORE_PADDING", True),
)
DATE = (*ONENET, *BOTH, ONE + "RULE", "POTO(alpha=0.8, prior=center, radius=1.5, invalid=0)")
DATE_F, DATE_R = (*DATE, *DATE_FCOS), (*DATE, *DATE_RETINANET)
O2F = (
    *(ONE + "TYPE", "weighted", ONE + "RULE", "O2F", ONE + "BOX_WEIGHT", 2.0),
    *(ONE + "QUALITY.ENABLED", True, ONE + "QUALITY.CONVS", 3),
)
DW = (
    *("MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY"], "MODEL.DEFCN.NMS", True, "MODEL.DEFCN.PRIOR_PROB", 0.02),
    *(MANY + "TYPE", "dual", MANY + "RULE", "DW", MANY + "CLS_WEIGHT", 0.25, MANY + "BOX_WEIGHT", 1.25),
    *(MANY + "BOX_BIAS", 4.0, MANY + "QUALITY.ENABLED", True, MANY + "QUALITY.CONVS", 0),
)
DW_REFINE = (*DW, MANY + "REFINE.ENABLED", True)
DW_ONE_TO_ONE = (*DW, *BOTH, ONE + "BOX_BIAS", 4.0, "MODEL.DEFCN.NMS", False)

ALL = {
    "fcos": ("MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY"], "MODEL.DEFCN.NMS", True),
    "fcos_centerness": ("MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY"], "MODEL.DEFCN.ONE_TO_MANY.CENTERNESS", "reg"),
    "poto": (),
    "poto_argmax": ("MODEL.DEFCN.ONE_TO_ONE.RULE", "POTO(select=argmax)"),
    "poto_3dmf": ("MODEL.DEFCN.ONE_TO_ONE.MAX_FILTERING.ENABLED", True),
    "poto_3dmf_aux": (
        "MODEL.DEFCN.ONE_TO_ONE.MAX_FILTERING.ENABLED",
        True,
        "MODEL.DEFCN.BRANCHES",
        ["ONE_TO_ONE", "AUX"],
    ),
    "dual": BOTH,
    "onenet": ONENET,
    "date_f": DATE_F,
    "date_f_3dmf": (*DATE_F, ONE + "MAX_FILTERING.ENABLED", True),
    "date_r": DATE_R,
    "date_r_own_towers": (*DATE_R, "MODEL.DEFCN.SHARE_TOWERS", False),
    "anchor": (*(ONE + "RULE", "Anchor(scale=4)", ONE + "BOX_FORM", "delta", "MODEL.DEFCN.LEVEL_SCALES", False),),
    "center": (ONE + "RULE", "Center"),
    "foreground_loss": (ONE + "RULE", "ForegroundLoss"),
    "o2f": O2F,
    "dw": DW,
    "dw_refine": DW_REFINE,
    "dw_one_to_one": DW_ONE_TO_ONE,
}

# what stands on a one-to-many branch in place of NMS
STANDING = {
    f"dw_{kind}": (
        *(*DW, f"MODEL.DEFCN.{kind.upper()}.TYPE", kind, "MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY", kind.upper()]),
        *("MODEL.DEFCN.TEST_BRANCH", kind.upper(), "MODEL.DEFCN.NMS", False),
    )
    for kind in ("peaks", "selector")
}


def _only_once(assign):
    answers = []

    def call(*args):
        if not answers:
            answers.append(assign(*args))
        return answers[0]

    return call


def mostly_slow(cases, fast):
    """Parameters of a test of which only some run by default: those whose name, or first value, is in `fast`."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if name in fast else pytest.mark.slow)
        for case in cases
        for name in [case[0] if isinstance(case, tuple) else case]
    ]


@contextmanager
def kept_labels(model):
    """Inside, every branch answers every call with the labels of its first one."""
    for branch in model.branches.values():
        branch.assign = _only_once(branch.assign)
    try:
        yield
    finally:
        for branch in model.branches.values():
            del branch.assign


def image_with(boxes, classes, size=(96, 128), seed=0):
    """One record as a mapper makes it, of noise."""
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.long)
    rng = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, *size), generator=rng).to(torch.uint8)
    return {"image": image, "instances": instances, "height": size[0], "width": size[1], "file_name": f"{seed}.jpg"}


def batch():
    """Three images: some objects, none, and a crowd with a tiny object that covers no point."""
    crowd = [[10 + 4 * i, 8 + 3 * i, 60 + 4 * i, 50 + 3 * i] for i in range(10)]
    return [
        image_with([[8, 8, 70, 80], [30, 20, 120, 90]], [0, 2], seed=1),
        image_with([], [], size=(80, 112), seed=2),
        image_with([*crowd, [100.5, 60.5, 101.5, 61.5]], [i % 3 for i in range(11)], seed=3),
    ]
