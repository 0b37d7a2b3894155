"""Pyramids that Detectron2 does not have; importing this registers them."""

from .fpn import build_defcn_resnet_fpn_backbone

__all__ = ["build_defcn_resnet_fpn_backbone"]
