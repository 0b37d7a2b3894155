"""A detector small enough to build and step in a test."""

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
    "dual": ("MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "ONE_TO_MANY"]),
}


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
