"""The released checkpoints' entries, written down independently of the converter: name there, name here, shape.

A name here that is empty is dropped. Weights are made of one number each, another for every entry, so that a full model
takes no memory and every mix-up shows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STATISTICS = ("weight", "bias", "running_mean", "running_var")
D2 = "backbone.bottom_up."
ONE, MANY = "branches.one_to_one.", "branches.one_to_many."


class Entry(NamedTuple):
    theirs: str
    ours: str
    shape: tuple[int, ...]


def resnet(depth=50, theirs="backbone.", ours=D2, dcn=False):
    """torchvision's and mmdetection's names; 318 entries at depth 50, 624 at 101."""
    out = []

    def conv_bn(conv, bn, new, shape):
        out.append(Entry(f"{theirs}{conv}.weight", f"{ours}{new}.weight", shape))
        out.extend(Entry(f"{theirs}{bn}.{x}", f"{ours}{new}.norm.{x}", shape[:1]) for x in STATISTICS)
        out.append(Entry(f"{theirs}{bn}.num_batches_tracked", "", ()))

    conv_bn("conv1", "bn1", "stem.conv1", (64, 3, 7, 7))
    before = 64
    for stage, count in enumerate(BLOCKS[depth], start=1):
        width, after = 32 * 2**stage, 128 * 2**stage
        for block in range(count):
            old, new = f"layer{stage}.{block}.", f"res{stage + 1}.{block}."
            conv_bn(f"{old}conv1", f"{old}bn1", f"{new}conv1", (width, before, 1, 1))
            conv_bn(f"{old}conv2", f"{old}bn2", f"{new}conv2", (width, width, 3, 3))
            conv_bn(f"{old}conv3", f"{old}bn3", f"{new}conv3", (after, width, 1, 1))
            if dcn and stage > 1:
                offset = (f"{theirs}{old}conv2.conv_offset.", f"{ours}{new}conv2_offset.")
                out.append(Entry(f"{offset[0]}weight", f"{offset[1]}weight", (27, width, 3, 3)))
                out.append(Entry(f"{offset[0]}bias", f"{offset[1]}bias", (27,)))
            if block == 0:
                conv_bn(f"{old}downsample.0", f"{old}downsample.1", f"{new}shortcut", (after, before, 1, 1))
            before = after
    return out


def both(theirs, ours, weight):
    return [Entry(f"{theirs}.weight", f"{ours}.weight", weight), Entry(f"{theirs}.bias", f"{ours}.bias", weight[:1])]


def mmdet_neck(p6=256):
    out = []
    for n, channels in enumerate((512, 1024, 2048)):
        out += both(f"neck.lateral_convs.{n}.conv", f"backbone.fpn_lateral{n + 3}", (256, channels, 1, 1))
    for n, ours in enumerate(("fpn_output3", "fpn_output4", "fpn_output5", "top_block.p6", "top_block.p7")):
        shape = (256, p6 if n == 3 else 256, 3, 3)
        out += both(f"neck.fpn_convs.{n}.conv", f"backbone.{ours}", shape)
    return out


def same(entries):
    """What cvpods and OneNet share with Detectron2: our names."""
    return [Entry(x.ours, x.ours, x.shape) for x in entries if x.ours]


def d2_backbone(depth=50, p6=256):
    return same(resnet(depth) + mmdet_neck(p6))


def mmdet_towers(bias, ours="head.", index="", dcn=False, norm=True):
    out = []
    for old, new in (("cls_convs", "cls_subnet"), ("reg_convs", "bbox_subnet")):
        for n in range(4):
            conv = both(f"bbox_head.{old}.{index}{n}.conv", f"{ours}{new}.{(3 if norm else 2) * n}", (256, 256, 3, 3))
            out += conv if bias else conv[:1]
            if norm:
                out += both(f"bbox_head.{old}.{index}{n}.gn", f"{ours}{new}.{3 * n + 1}", (256,))
        if dcn:
            out += both(f"bbox_head.{old}.3.conv.conv_offset", f"{ours}{new}.9.conv_offset", (27, 256, 3, 3))
    return out


def mmdet_scales():
    return [Entry(f"bbox_head.scales.{n}.scale", f"head.scales.{n}.scale", ()) for n in range(5)]


def conv(theirs, ours, out_channels, in_channels=256):
    return both(theirs, ours, (out_channels, in_channels, 3, 3))


def max_filtering(theirs, ours, norm=True):
    out = conv(f"{theirs}max3d.conv", f"{ours}max3d.conv", 256) + conv(f"{theirs}filter", f"{ours}filter", 1)
    return out + (both(f"{theirs}max3d.norm", f"{ours}max3d.norm", (256,)) if norm else [])


def date(second="F", classes=80, depth=50, filtering=False, unshared=False):
    zero, one = "bbox_head.predictors.0.", "bbox_head.predictors.1."
    out = resnet(depth) + mmdet_neck() + mmdet_scales()
    if unshared:
        out += mmdet_towers(False, index="0.") + mmdet_towers(False, f"{MANY}towers.", "1.")
    else:
        out += mmdet_towers(False)
    out += conv(f"{zero}conv_cls", f"{ONE}cls_score", classes) + conv(f"{zero}conv_reg", f"{ONE}bbox_pred", 4)
    if filtering:
        out += max_filtering(zero, ONE)
    anchors = 9 if second == "R" else 1
    out += conv(f"{one}conv_cls", f"{MANY}cls_score", anchors * classes)
    out += conv(f"{one}conv_reg", f"{MANY}bbox_pred", anchors * 4)
    return out + (conv(f"{one}conv_ctr", f"{MANY}centerness", 1) if second == "F" else [])


def mmdet_point(branch, classes, depth, bias=True, dcn=False):
    out = resnet(depth, dcn=dcn) + mmdet_neck() + mmdet_towers(bias, dcn=dcn) + mmdet_scales()
    out += conv("bbox_head.conv_cls", f"{branch}cls_score", classes)
    return out + conv("bbox_head.conv_reg", f"{branch}bbox_pred", 4)


def o2f(classes=80, depth=50, convs=3):
    out = mmdet_point(ONE, classes, depth)
    for n in range(convs):
        old, new = f"bbox_head.centerness_convs.{n}", f"{ONE}filter."
        out += conv(f"{old}.conv", f"{new}{3 * n}", 64, 256 if n == 0 else 64)
        out += both(f"{old}.gn", f"{new}{3 * n + 1}", (64,))
    return out + conv("bbox_head.conv_centerness", f"{ONE}filter.{3 * convs}", 1, 64)


def dw(refine=True, depth=50, dcn=False):
    out = mmdet_point(MANY, 80, depth, dcn=dcn)
    out += conv("bbox_head.conv_centerness", f"{MANY}filter", 1)
    if refine:
        out += conv("bbox_head.reg_offset", f"{MANY}refinement.offset", 8)
    return out + [Entry(f"bbox_head.center_prior.{x}", "", (80, 2)) for x in ("mean", "sigma")]


def mmdet_fcos(classes=80, bias=False):
    out = mmdet_point(MANY, classes, 50, bias)
    return out + conv("bbox_head.conv_centerness", f"{MANY}centerness", 1)


def defcn(branch=ONE, kind="", classes=80, depth=50, p6=256):
    """`kind`: "", "centerness", "3dmf", "3dmf_wo_gn" or "anchor"."""
    towers = same(mmdet_towers(True))
    out = d2_backbone(depth, p6) + towers
    if kind == "anchor":
        out += [Entry(f"anchor_generator.cell_anchors.{n}", "", (1, 4)) for n in range(5)]
    else:
        out += [Entry(f"head.scales.{n}.scale", f"head.scales.{n}.scale", (1,)) for n in range(5)]
    out += conv("head.cls_score", f"{branch}cls_score", classes) + conv("head.bbox_pred", f"{branch}bbox_pred", 4)
    if kind.startswith("3dmf"):
        out += max_filtering("head.", branch, norm=kind == "3dmf")
    return out + (conv("head.centerness", f"{branch}centerness", 1) if kind == "centerness" else [])


def cvpods_retinanet(p6=256, classes=80):
    out = d2_backbone(p6=p6) + same(mmdet_towers(True, norm=False))
    out += conv("head.cls_score", f"{MANY}cls_score", 9 * classes) + conv("head.bbox_pred", f"{MANY}bbox_pred", 36)
    return out + [Entry(f"anchor_generator.cell_anchors.{n}", "", (9, 4)) for n in range(5)]


def onenet(classes=80):
    out = d2_backbone(p6=2048)
    for old, new in (("cls_conv_module", "cls_subnet"), ("reg_conv_module", "bbox_subnet")):
        for n in range(4):
            out.append(Entry(f"head.{old}.{3 * n}.weight", f"head.{new}.{3 * n}.weight", (256, 256, 3, 3)))
            out += both(f"head.{old}.{3 * n + 1}", f"head.{new}.{3 * n + 1}", (256,))
    out += [Entry(f"head.scales.{n}.scale", f"head.scales.{n}.scale", (1,)) for n in range(5)]
    return out + conv("head.cls_score", f"{ONE}cls_score", classes) + conv("head.ltrb_pred", f"{ONE}bbox_pred", 4)


def weights(entries):
    """Entry n is full of the number n + 1, without taking the memory; DW's prior and the counters as they come."""
    fixed = {"center_prior.mean": 0.0, "center_prior.sigma": 1.11}
    out = {}
    for n, entry in enumerate(entries):
        known = next((value for name, value in fixed.items() if entry.theirs.endswith(name)), None)
        out[entry.theirs] = torch.tensor(n + 1.0 if known is None else known).expand(entry.shape)
        if entry.theirs.endswith("num_batches_tracked"):
            out[entry.theirs] = torch.tensor(0)
    return out


def parameters(entries):
    """Numbers that mmdetection calls parameters: all but running statistics and counters."""
    kept = [x for x in entries if x.theirs.split(".")[-1] not in ("running_mean", "running_var", "num_batches_tracked")]
    return sum(torch.Size(x.shape).numel() for x in kept)
