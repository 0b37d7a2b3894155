"""The config of a detector with a selector on it, of which only the selector is trained; and what it may stand on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from defcn_ext.branches import Branch, SelectorBranch
from defcn_ext.checkpoint import load_weights
from defcn_ext.config import UserError
from defcn_ext.data.classes import weights_of_run, with_classes
from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import check_run, load_config
from defcn_ext.engine.stored_config import config_of
from defcn_ext.meta_arch import DeFCN
from defcn_ext.structures import Points
from detectron2.config import CfgNode

NAME = "SELECTOR"
NODE = f"MODEL.DEFCN.{NAME}."
ANCHOR_RULE = "Combine(candidates=overlapping_anchors(low=0.4), quality=poto(alpha=0.8), selection=matching)"
# Of the selector alone: the base's own schedule is for weights that begin at random, or for months of images.
SCHEDULE: dict[str, Any] = {
    "OPTIMIZER": "ADAMW",
    "BASE_LR": 0.003,
    "WEIGHT_DECAY": 0.05,
    "WEIGHT_DECAY_NORM": 0.0,
    "WEIGHT_DECAY_BIAS": 0.0,
    "BIAS_LR_FACTOR": 1.0,
    "ONE_CYCLE.ENABLED": True,
    "LR_SCHEDULER_NAME": "WarmupCosineLR",
    "STEPS": (),
    "CLIP_GRADIENTS.ENABLED": True,
    "CLIP_GRADIENTS.CLIP_TYPE": "norm",
    "CLIP_GRADIENTS.FULL_MODEL": True,
    "CLIP_GRADIENTS.CLIP_VALUE": 10.0,
    "EMA.ENABLED": True,
    "EMA.DECAY": 0.99,
}
TRIED = ((0.02, 0.98), (0.1, 0.7), (0.15, 0.85), (0.3, 0.73))  # sides of objects, as shares of an image of 16 cells
CHECKPOINTS = 4  # of a training, for one that is interrupted


def base_config(config: str, weights: str, out: Path, opts: Sequence[str]) -> CfgNode:
    """The detector as it is.

    Args:
        config: its yaml; "" for the config that the checkpoint carries.
        opts: KEY, VALUE, ...; those of the selector's node are passed over.

    Raises:
        UserError: there is no config, it is none, or it does not fit the data or the checkpoint.
    """
    pairs = [(k, v) for k, v in zip(opts[::2], opts[1::2]) if not k.startswith(NODE)]
    changes = [word for pair in pairs for word in pair] + list(opts[len(opts) // 2 * 2 :])
    changes += ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(out), "MODEL.DEFCN.COMPARE_NMS", "True"]
    cfg = load_config(config, changes) if config else config_of(weights, changes)
    if cfg is None:
        raise UserError(f"{weights}: carries no config; give it with --config-file")
    if cfg.MODEL.META_ARCHITECTURE != "DeFCN":
        raise UserError(f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}: a selector stands on a DeFCN")
    check_run(cfg, _arguments(eval_only=True))
    return with_classes(cfg, cfg.DATASETS.TEST, weights_of_run(cfg, False), keep=True)


def load_base(cfg: CfgNode) -> DeFCN:
    """The detector with its weights, in evaluation mode.

    Raises:
        UserError: the weights are those of another model, or it needs no NMS as it is.
    """
    model = Trainer.build_model(cfg).eval()
    name = model.test_branch.upper()
    branch = model.branches[model.test_branch]
    if isinstance(branch, SelectorBranch):
        raise UserError(f"{name}: is a selector already; give the detector without it")
    if one_to_one(branch, model.strides):
        rule = cfg.MODEL.DEFCN[name].RULE
        raise UserError(f"{name}: its rule {rule} gives an object one point, so that it needs no NMS as it is")
    load_weights(model, cfg.MODEL.WEIGHTS)
    return model


def one_to_one(branch: Branch, strides: Sequence[int]) -> bool:
    """Whether the rule of a branch leaves an object no more than one point at the end of a training."""
    side, device = 16 * strides[0], next(branch.parameters()).device
    sizes = [(-(-side // stride), -(-side // stride)) for stride in strides]
    places = branch.places(Points.from_sizes(sizes, list(strides), device=device))
    scores = torch.full((len(places), 1), 0.5, device=device)
    classes = torch.zeros(1, dtype=torch.long, device=device)
    for low, high in TRIED:
        box = torch.tensor([[low, low, high, high]], device=device) * side
        if len(branch.rule(places, scores, box.expand(len(places), 4), box, classes, progress=1.0)) > 1:
            return False
    return True


def selector_config(base: CfgNode, model: DeFCN, iterations: int, opts: Sequence[str]) -> CfgNode:
    """The config of the base with a selector, of which that alone is trained; of a schedule of its own.

    Raises:
        UserError: a key of `opts` is unknown or has a value of another type, or a training with it cannot be run.
    """
    content = yaml.safe_load(base.dump())
    settings = [str(word) for pair in _settings(base, model, iterations) for word in pair]
    cfg = load_config(content, [*settings, *opts], name="the detector with a selector")
    if NAME not in cfg.MODEL.DEFCN.BRANCHES:
        raise UserError(f"MODEL.DEFCN.BRANCHES: {NAME} is trained here; leave the key out")
    check_run(cfg, _arguments(eval_only=False))
    return cfg


def _settings(base: CfgNode, model: DeFCN, iterations: int) -> Iterator[tuple[str, Any]]:
    """What differs from the base; its branches that only train are left out."""
    used = [name for name in base.MODEL.DEFCN.BRANCHES if model.needs_to_detect(f"branches.{name.lower()}.")]
    yield "MODEL.DEFCN.BRANCHES", [*used, NAME]
    yield "MODEL.DEFCN.TEST_BRANCH", NAME
    yield "MODEL.DEFCN.TRAIN_ONLY", [NAME]
    yield "MODEL.DEFCN.INFERENCE_ONLY", False
    yield "MODEL.DEFCN.NMS", False
    yield NODE + "TYPE", "selector"
    yield NODE + "BASE", model.test_branch.upper()
    if model.branches[model.test_branch].per_cell > 1:
        yield NODE + "RULE", ANCHOR_RULE
    yield "SOLVER.MAX_ITER", iterations
    yield "SOLVER.CHECKPOINT_PERIOD", max(1, -(-iterations // CHECKPOINTS))
    for key, value in SCHEDULE.items():
        yield f"SOLVER.{key}", value
    yield "TEST.EVAL_PERIOD", 0
    yield "TEST.EXPECTED_RESULTS", []


def _arguments(eval_only: bool) -> argparse.Namespace:
    """Those of train_net.py, of which a training goes on if it was interrupted."""
    return argparse.Namespace(num_gpus=1, num_machines=1, dist_url="", eval_only=eval_only, resume=not eval_only)
