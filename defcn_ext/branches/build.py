"""Branches from the config."""

from __future__ import annotations

import importlib

import torch

from defcn_ext.assignment import Rule, build_rule
from defcn_ext.layers import BoxRefinement, MaxFiltering
from defcn_ext.layers.towers import SharedHead
from defcn_ext.structures import Points
from detectron2.config import CfgNode

from .anchor import AnchorBranch
from .auxiliary import AuxiliaryBranch
from .base import Branch
from .point import PointBranch
from .weighted import DualWeightingBranch, WeightedBranch


def build_branches(cfg: CfgNode, in_channels: int) -> dict[str, Branch]:
    """Builds the branches that `MODEL.DEFCN.BRANCHES` lists, keyed by their lower-case names, the first one first.

    With `MODEL.DEFCN.INFERENCE_ONLY` only the one that predicts is built.

    Raises:
        ValueError: a branch or an option is unknown, out of range or listed twice, or the first branch cannot predict.
    """
    _check_numbers(cfg)
    _import_modules(cfg.MODEL.DEFCN.IMPORTS)
    names, known = list(cfg.MODEL.DEFCN.BRANCHES), known_branches(cfg)
    for name in names:
        if name not in known:
            raise ValueError(f"MODEL.DEFCN.BRANCHES: unknown branch {name!r}; known: {', '.join(known)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"MODEL.DEFCN.BRANCHES: list at least one branch and none twice, got {names}")
    if cfg.MODEL.DEFCN[names[0]].TYPE == "auxiliary":
        raise ValueError(f"MODEL.DEFCN.BRANCHES: the first branch must predict boxes, {names[0]} only adds a loss")
    if cfg.MODEL.DEFCN.INFERENCE_ONLY:
        names = _needed_at_inference(cfg, names)
    branches = {name.lower(): _build_branch(cfg, name, in_channels) for name in names}
    first, *others = branches.values()
    if any(branch.reads_first for branch in others) and first.per_cell > 1:
        count = first.per_cell
        raise ValueError(
            f"MODEL.DEFCN.BRANCHES: an auxiliary loss wants one point a cell, and {names[0]} has {count}; leave it out"
        )
    return branches


def _check_numbers(cfg: CfgNode) -> None:
    num_classes, prior_prob = cfg.MODEL.DEFCN.NUM_CLASSES, cfg.MODEL.DEFCN.PRIOR_PROB
    if num_classes < 1:
        raise ValueError(f"MODEL.DEFCN.NUM_CLASSES: must be at least 1, got {num_classes}")
    if not 0 < prior_prob < 1:
        raise ValueError(f"MODEL.DEFCN.PRIOR_PROB: must lie between 0 and 1, got {prior_prob}")


def _needed_at_inference(cfg: CfgNode, names: list[str]) -> list[str]:
    """The branch that predicts; all of them where `MODEL.DEFCN.TEST_BRANCH` names none that can."""
    wanted = (cfg.MODEL.DEFCN.TEST_BRANCH or names[0]).lower()
    able = [name for name in names if cfg.MODEL.DEFCN[name].TYPE != "auxiliary"]
    return [name for name in able if name.lower() == wanted] or names


def _import_modules(names: list[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"MODEL.DEFCN.IMPORTS: cannot import {name!r} ({error}); give modules that PYTHONPATH finds"
            ) from error


def known_branches(cfg: CfgNode) -> list[str]:
    """The nodes of `MODEL.DEFCN` that describe a branch."""
    return [name for name, node in cfg.MODEL.DEFCN.items() if isinstance(node, CfgNode) and "TYPE" in node]


def _build_branch(cfg: CfgNode, name: str, in_channels: int) -> Branch:
    node, key = cfg.MODEL.DEFCN[name], f"MODEL.DEFCN.{name}"
    builders = {"auxiliary": _build_auxiliary, "point": _build_point, "weighted": _build_point, "dual": _build_point}
    if node.TYPE not in builders:
        raise ValueError(f"{key}.TYPE: unknown type {node.TYPE!r}; known: {', '.join(map(repr, sorted(builders)))}")
    try:
        rule = build_rule(node.RULE)
    except ValueError as error:
        raise ValueError(f"{key}.RULE: {error}") from None
    try:
        return builders[node.TYPE](cfg, name, rule, in_channels)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _build_auxiliary(cfg: CfgNode, name: str, rule: Rule, in_channels: int) -> Branch:
    branch = AuxiliaryBranch(rule=rule, cls_weight=cfg.MODEL.DEFCN[name].CLS_WEIGHT)
    _try_rule(branch)
    return branch


def _build_point(cfg: CfgNode, name: str, rule: Rule, in_channels: int) -> Branch:
    options, node = cfg.MODEL.DEFCN, cfg.MODEL.DEFCN[name]
    _check_box_form(node)
    window, anchors = node.MAX_FILTERING, node.ANCHORS
    own_towers = not options.SHARE_TOWERS and name != options.BRANCHES[0]
    common = {
        "in_channels": in_channels,
        "num_classes": options.NUM_CLASSES,
        "prior_prob": options.PRIOR_PROB,
        "rule": rule,
        "cls_weight": node.CLS_WEIGHT,
        "box_weight": node.BOX_WEIGHT,
        "l1_weight": node.L1_WEIGHT,
        "loss_weight": node.LOSS_WEIGHT,
        "box_loss": node.BOX_LOSS,
        "normalizer": node.NORMALIZER,
        "centerness": node.CENTERNESS,
        "centerness_score": node.CENTERNESS_SCORE,
        "max_filtering": MaxFiltering(in_channels, window.TAU, window.KERNEL, window.NORM) if window.ENABLED else None,
        "quality_convs": node.QUALITY.CONVS if node.QUALITY.ENABLED else None,
        "refinement": BoxRefinement(in_channels, node.REFINE.PADDING) if node.REFINE.ENABLED else None,
        "box_bias": node.BOX_BIAS,
        "towers": build_towers(cfg, in_channels, level_scales=False) if own_towers else None,
    }
    if node.BOX_FORM == "delta" and node.TYPE != "point":
        raise ValueError(f"TYPE {node.TYPE!r} is made for points, not for anchors: set BOX_FORM to relu or exp")
    if node.TYPE == "weighted":
        branch = WeightedBranch(
            box_form=node.BOX_FORM, background=node.BACKGROUND_WEIGHT, box_weights=node.BOX_WEIGHTS, **common
        )
    elif node.TYPE == "dual":
        branch = DualWeightingBranch(
            box_form=node.BOX_FORM,
            neg_weight=node.NEG_WEIGHT,
            neg_gamma=node.NEG_GAMMA,
            detach_negative=node.DETACH_NEGATIVE,
            **common,
        )
    elif node.BOX_FORM != "delta":
        branch = PointBranch(box_form=node.BOX_FORM, **common)
    else:
        branch = AnchorBranch(
            scales=anchors.SCALES,
            ratios=anchors.RATIOS,
            offset=anchors.OFFSET,
            ignore_padding=node.IGNORE_PADDING,
            **common,
        )
    _try_rule(branch)
    return branch


def _check_box_form(node: CfgNode) -> None:
    """
    Raises:
        ValueError: the form is unknown, or another key has no meaning with it.
    """
    known = (*PointBranch.box_forms, *AnchorBranch.box_forms)
    if node.BOX_FORM not in known:
        raise ValueError(f"BOX_FORM: unknown value {node.BOX_FORM!r}; known: {', '.join(map(repr, known))}")
    for key, used in (("BOX_LOSS", node.BOX_LOSS == "delta_l1"), ("IGNORE_PADDING", node.IGNORE_PADDING)):
        if used and node.BOX_FORM != "delta":
            raise ValueError(f"{key}: {node[key]} is for anchors; set BOX_FORM to 'delta', got {node.BOX_FORM!r}")


def build_towers(cfg: CfgNode, in_channels: int, *, level_scales: bool) -> SharedHead:
    """The towers that `MODEL.DEFCN` describes."""
    options = cfg.MODEL.DEFCN
    return SharedHead(
        in_channels=in_channels,
        num_levels=len(options.IN_FEATURES),
        num_convs=options.NUM_CONVS,
        norm=options.NORM,
        conv_bias=options.CONV_BIAS,
        level_scales=level_scales,
        deform=options.DEFORM_TOWERS,
    )


def _try_rule(branch: Branch) -> None:
    """Lets the rule assign one object on a level of four cells, so that one that does not suit the branch says so now,
    whether it does so early or late in the training.

    Raises:
        ValueError: it does not.
    """
    places = branch.places(Points.from_sizes([(2, 2)], [8]))
    box = torch.tensor([[2.0, 2.0, 14.0, 14.0]])
    scores, boxes = torch.full((len(places), 1), 0.5), box.expand(len(places), 4)
    for progress in (0.0, 1.0):
        branch.rule(places, scores, boxes, box, torch.tensor([0]), progress=progress)
