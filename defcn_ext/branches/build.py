"""Branches from the config."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from detectron2.config import CfgNode

from .base import Branch
from .nodes import import_modules
from .registry import branch_class, branch_node


def build_branches(cfg: CfgNode, in_channels: int) -> dict[str, Branch]:
    """Builds the branches that `MODEL.DEFCN.BRANCHES` lists, keyed by their lower-case names, the first one first.

    With `MODEL.DEFCN.INFERENCE_ONLY` only the one that predicts is built, and those that it needs.

    Raises:
        ValueError: a branch or an option is unknown, out of range or listed twice, the first branch cannot predict, or
            a branch needs one that is not before it.
    """
    _check_numbers(cfg)
    import_modules(cfg.MODEL.DEFCN.IMPORTS)
    names = list(cfg.MODEL.DEFCN.BRANCHES)
    _check_names(cfg, names)
    kinds = {name: _kind(cfg, name) for name in names}
    if not kinds[names[0]].predicts:
        raise ValueError(f"MODEL.DEFCN.BRANCHES: the first branch must predict boxes, {names[0]} only adds a loss")
    needs = {name: _needs(cfg, name, kinds[name], names) for name in names}
    if cfg.MODEL.DEFCN.INFERENCE_ONLY:
        names = _needed_at_inference(cfg, kinds, needs)
    branches: dict[str, Branch] = {}
    for name in names:
        branches[name.lower()] = _build_branch(cfg, name, kinds[name], in_channels, branches)
    return branches


def known_branches(cfg: CfgNode) -> list[str]:
    """The nodes of `MODEL.DEFCN` that describe a branch."""
    return [name for name, node in cfg.MODEL.DEFCN.items() if isinstance(node, CfgNode) and "TYPE" in node]


def _check_numbers(cfg: CfgNode) -> None:
    num_classes, prior_prob = cfg.MODEL.DEFCN.NUM_CLASSES, cfg.MODEL.DEFCN.PRIOR_PROB
    if num_classes < 1:
        raise ValueError(f"MODEL.DEFCN.NUM_CLASSES: must be at least 1, got {num_classes}")
    if not 0 < prior_prob < 1:
        raise ValueError(f"MODEL.DEFCN.PRIOR_PROB: must lie between 0 and 1, got {prior_prob}")


def _check_names(cfg: CfgNode, names: list[str]) -> None:
    known = known_branches(cfg)
    for name in names:
        if name not in known:
            advice = "a node of another name needs a TYPE"
            raise ValueError(f"MODEL.DEFCN.BRANCHES: unknown branch {name!r}; known: {', '.join(known)}; {advice}")
        if hasattr(nn.ModuleDict, name.lower()):
            raise ValueError(f"MODEL.DEFCN.BRANCHES: {name!r} is a name that torch keeps for itself; choose another")
    if not names or len({name.lower() for name in names}) < len(names):
        raise ValueError(f"MODEL.DEFCN.BRANCHES: list at least one branch and none twice, got {names}")


def _kind(cfg: CfgNode, name: str) -> type[Branch]:
    node, key = cfg.MODEL.DEFCN[name], f"MODEL.DEFCN.{name}"
    kind = branch_class(f"{key}.TYPE", node.TYPE)
    missing = [known for known in branch_node(node.TYPE) if known not in node]
    if missing:
        raise ValueError(f"{key}: lacks {', '.join(missing)}; merge it from a file or a list, which fills in defaults")
    return kind.kind(node)


def _needs(cfg: CfgNode, name: str, kind: type[Branch], names: list[str]) -> list[str]:
    """The names of the branches that one leans on, as they stand in BRANCHES."""
    before = {other.lower(): other for other in names[: names.index(name)]}
    found = []
    leans_on = kind.leans_on(cfg, name)
    for key, wanted in (("BASE", leans_on["base"]), ("TOWERS", leans_on["features_of"])):
        if wanted and wanted not in before:
            known = ", ".join([*before.values(), *(["shared", "own"] if key == "TOWERS" else [])]) or "none"
            raise ValueError(f"MODEL.DEFCN.{name}.{key}: no branch {wanted!r} before it in BRANCHES; there: {known}")
        found += [before[wanted]] if wanted else []
    return found


def _needed_at_inference(cfg: CfgNode, kinds: dict[str, type[Branch]], needs: dict[str, list[str]]) -> list[str]:
    """The branch that predicts and those it leans on; all where `MODEL.DEFCN.TEST_BRANCH` names none that can."""
    wanted = (cfg.MODEL.DEFCN.TEST_BRANCH or next(iter(kinds))).lower()
    needed = [name for name, kind in kinds.items() if kind.predicts and name.lower() == wanted]
    for name in needed:
        needed += [other for other in needs[name] if other not in needed]
    return [name for name in kinds if name in needed] or list(kinds)


def _build_branch(cfg: CfgNode, name: str, kind: type[Branch], in_channels: int, branches: dict[str, Branch]) -> Branch:
    """
    Args:
        branches: those built so far.
    """
    try:
        with _aside() if kind.draws_aside else nullcontext():
            branch: Branch = kind(cfg, name, in_channels)
        if branch.base:
            branch.stand_on(branches[branch.base])
        branch.try_rule()
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith("MODEL.") else f"MODEL.DEFCN.{name}: {message}") from None
    return branch


@contextmanager
def _aside() -> Iterator[None]:
    """Inside, other random numbers are drawn, which depend on the seed; after it those that would have been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), device="cpu")))
        yield
