"""Builds the model before any data is read, without memory for its weights, and asks what it could not do."""

import re

import torch
from torch import nn

from defcn_ext.config import flat_keys
from defcn_ext.layers import build_norm
from detectron2.config import CfgNode
from detectron2.layers import ModulatedDeformConv
from detectron2.modeling import META_ARCH_REGISTRY

KEY = re.compile(r"\b[A-Z]+\.[A-Z_]+")
CHANNELS = {"L": 1}  # of INPUT.FORMAT; all others have 3


def check_model(cfg: CfgNode, *, train: bool, processes: int = 1) -> None:
    """
    Args:
        train: whether it is to be trained.
        processes: how many train it.

    Raises:
        ValueError: the model cannot be built from the config, or cannot work so; with the key.
    """
    _check_channels(cfg)
    if train and cfg.MODEL.META_ARCHITECTURE == "DeFCN" and cfg.MODEL.DEFCN.INFERENCE_ONLY:
        raise ValueError("MODEL.DEFCN.INFERENCE_ONLY: such a model cannot be trained; set it to False")
    _check_backbone(cfg)
    model = build_without_weights(cfg)
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    if on_cpu and any(isinstance(m, ModulatedDeformConv) for m in model.modules()) and not deforms_on_cpu():
        raise ValueError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE: this Detectron2 computes deformable convs on GPUs alone, and "
            "MODEL.DEVICE is cpu"
        )
    if train and on_cpu and processes > 1 and any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()):
        raise ValueError(f"{_keys_with(cfg, 'SyncBN')}: SyncBN cannot be trained in {processes} processes on the CPU")


def build_without_weights(cfg: CfgNode) -> nn.Module:
    """The model on the meta device; on the CPU if a layer of it needs numbers. The random state stays as it was.

    Raises:
        ValueError: it cannot be built.
    """
    build = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    try:
        with torch.device("meta"):
            return build(cfg)
    except Exception:  # whatever it is: what the config is to blame for comes again below
        pass
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return build(cfg)
    except Exception as error:
        if isinstance(error, ValueError) and KEY.search(str(error)):
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        raise ValueError(
            f"MODEL: the detector {cfg.MODEL.META_ARCHITECTURE} cannot be built ({type(error).__name__}: {reason}); "
            "look at MODEL.BACKBONE, MODEL.RESNETS and MODEL.FPN"
        ) from error


def _check_channels(cfg: CfgNode) -> None:
    channels = CHANNELS.get(cfg.INPUT.FORMAT, 3)
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != channels:
            raise ValueError(
                f"MODEL.{key}: expected {channels} numbers, one for each channel of INPUT.FORMAT {cfg.INPUT.FORMAT}, "
                f"got {list(cfg.MODEL[key])}"
            )


def _check_backbone(cfg: CfgNode) -> None:
    """What Detectron2's own layers find too, but without the key."""
    name, out, used = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.OUT_FEATURES, cfg.MODEL.FPN.IN_FEATURES
    missing = [feature for feature in used if feature not in out]
    if missing and "resnet" in name and "fpn" in name:
        raise ValueError(f"MODEL.FPN.IN_FEATURES: {missing[0]!r} is not among MODEL.RESNETS.OUT_FEATURES {list(out)}")
    resnets = cfg.MODEL.RESNETS
    for channels in (resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS):
        build_norm(resnets.NORM, channels, "MODEL.RESNETS.NORM")
    build_norm(cfg.MODEL.FPN.NORM, cfg.MODEL.FPN.OUT_CHANNELS, "MODEL.FPN.NORM")


def _keys_with(cfg: CfgNode, norm: str) -> str:
    return ", ".join(k for k, v in flat_keys(cfg).items() if k.endswith("NORM") and isinstance(v, str) and norm in v)


def deforms_on_cpu() -> bool:
    """Whether Detectron2's deformable convs run without a GPU."""
    layer = ModulatedDeformConv(1, 1, 3, padding=1)
    image, offsets, factors = (torch.zeros(1, channels, 3, 3) for channels in (1, 18, 9))
    try:
        with torch.no_grad():
            layer(image, offsets, factors)
    except (NotImplementedError, RuntimeError):
        return False
    return True
