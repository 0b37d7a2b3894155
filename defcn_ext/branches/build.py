"""Branches from the config."""

from __future__ import annotations

from defcn_ext.assignment import Rule, build_rule
from defcn_ext.layers import MaxFiltering
from detectron2.config import CfgNode

from .auxiliary import AuxiliaryBranch
from .base import Branch
from .point import PointBranch


def build_branches(cfg: CfgNode, in_channels: int) -> dict[str, Branch]:
    """Builds the branches that `MODEL.DEFCN.BRANCHES` lists, keyed by their lower-case names, the first one first.

    Raises:
        ValueError: a branch or an option is unknown, listed twice, or the first branch cannot predict.
    """
    names, known = list(cfg.MODEL.DEFCN.BRANCHES), known_branches(cfg)
    for name in names:
        if name not in known:
            raise ValueError(f"MODEL.DEFCN.BRANCHES: unknown branch {name!r}; known: {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"MODEL.DEFCN.BRANCHES: list at least one branch and none twice, got {names}")
    if cfg.MODEL.DEFCN[names[0]].TYPE == "auxiliary":
        raise ValueError(f"MODEL.DEFCN.BRANCHES: the first branch must predict boxes, {names[0]} only adds a loss")
    return {name.lower(): _build_branch(cfg, name, in_channels) for name in names}


def known_branches(cfg: CfgNode) -> list[str]:
    """The nodes of `MODEL.DEFCN` that describe a branch."""
    return [name for name, node in cfg.MODEL.DEFCN.items() if isinstance(node, CfgNode) and "TYPE" in node]


def _build_branch(cfg: CfgNode, name: str, in_channels: int) -> Branch:
    node = cfg.MODEL.DEFCN[name]
    key = f"MODEL.DEFCN.{name}"
    if node.TYPE == "auxiliary":
        return AuxiliaryBranch(rule=_build_rule(node, key), cls_weight=node.CLS_WEIGHT)
    if node.TYPE != "point":
        raise ValueError(f"{key}.TYPE: unknown type {node.TYPE!r}; known: 'point', 'auxiliary'")
    window, rule = node.MAX_FILTERING, _build_rule(node, key)
    try:
        max_filtering = MaxFiltering(in_channels, window.TAU, window.KERNEL, window.NORM) if window.ENABLED else None
        return PointBranch(
            in_channels=in_channels,
            num_classes=cfg.MODEL.DEFCN.NUM_CLASSES,
            prior_prob=cfg.MODEL.DEFCN.PRIOR_PROB,
            rule=rule,
            cls_weight=node.CLS_WEIGHT,
            box_weight=node.BOX_WEIGHT,
            box_form=node.BOX_FORM,
            centerness=node.CENTERNESS,
            centerness_score=node.CENTERNESS_SCORE,
            max_filtering=max_filtering,
        )
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _build_rule(node: CfgNode, key: str) -> Rule:
    try:
        return build_rule(node.RULE)
    except ValueError as error:
        raise ValueError(f"{key}.RULE: {error}") from None
