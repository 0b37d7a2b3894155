"""The registry of whole models."""

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")
META_ARCH_REGISTRY.__doc__ = """Whole models: classes or functions of the config that return an `nn.Module`."""


def build_model(cfg: CfgNode) -> nn.Module:
    """The model named by `MODEL.META_ARCHITECTURE`, on `MODEL.DEVICE`, in train mode, without loading weights."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))
