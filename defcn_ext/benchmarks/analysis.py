"""What detectors cost, by config and pass, as tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from defcn_ext.benchmarks.costs import measure
from defcn_ext.config import UserError
from defcn_ext.engine.preflight import load_config
from defcn_ext.meta_arch import DeFCN
from detectron2.config import CfgNode
from detectron2.modeling import build_model

ONLY = "MODEL.DEFCN.INFERENCE_ONLY"
PASSES = {"training": False, "inference": True}


def analyze(configs: Sequence[str], size: Sequence[int], counter: str, opts: Sequence[str]) -> dict[str, Any]:
    """The costs of all configs, of both passes.

    Returns:
        "counter", and "detectors": dicts of "config", "pass", "size" (padded) and what `Cost` holds.

    Raises:
        UserError: a config is missing or wrong, or no detector of this project.
    """
    if ONLY in opts[::2]:
        raise UserError(f"{ONLY} is set by this tool, which counts both ways")
    detectors = []
    for config, cfg in [(config, load_detector_config(config, opts)) for config in configs]:
        for name, inference_only in PASSES.items():
            model = build_detector(config, cfg, inference_only)
            multiple = max(1, model.backbone.size_divisibility)
            padded = [-(-x // multiple) * multiple for x in size]
            print(f"{config}: {name}", file=sys.stderr, flush=True)
            detectors.append(
                {"config": config, "pass": name, "size": padded, **asdict(measure(model, padded, counter))}
            )
    return {"counter": counter, "detectors": detectors}


def load_detector_config(config: str, opts: Sequence[str]) -> CfgNode:
    """
    Raises:
        UserError: the file is missing or wrong, or no detector of this project.
    """
    if not Path(config).is_file():
        raise UserError(f"{config}: no such file")
    cfg = load_config(config, [*opts, "MODEL.DEVICE", "cpu"])
    if cfg.MODEL.META_ARCHITECTURE != "DeFCN":
        raise UserError(f"{config}: MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}: only DeFCN is counted")
    return cfg


def build_detector(config: str, cfg: CfgNode, inference_only: bool) -> DeFCN:
    """The model with all its branches, or only with the one that predicts; without weights.

    Raises:
        UserError: an option does not fit.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([ONLY, inference_only])
    try:
        return build_model(cfg)
    except (ValueError, KeyError) as error:
        raise UserError(f"{config}: {error}") from error


def costs_table(detectors: Sequence[dict[str, Any]]) -> str:
    """Markdown, a row a detector and pass."""
    rows = [
        "| config | pass | input | parameters | trainable | GFLOPs | of which convs | activations (M) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for x in detectors:
        conv, (height, width) = x["operators"]["conv"], x["size"]
        rows.append(
            f"| {x['config']} | {x['pass']} | {height} x {width} | {x['parameters']:,} | {x['trainable']:,} "
            f"| {x['flops'] / 1e9:.2f} | {conv / 1e9:.2f} | {x['activations'] / 1e6:.1f} |"
        )
    return "\n".join(rows)


def parts_table(detectors: Sequence[dict[str, Any]]) -> str:
    """Markdown, a row a part of a detector and pass."""
    rows = ["| config | pass | part | parameters | GFLOPs | share |", "|---|---|---|---|---|---|"]
    for x in detectors:
        for name, part in x["parts"].items():
            share = part["flops"] / x["flops"]
            rows.append(
                f"| {x['config']} | {x['pass']} | {name} | {part['parameters']:,} | {part['flops'] / 1e9:.2f} "
                f"| {share:.1%} |"
            )
    return "\n".join(rows)


def footnote(result: dict[str, Any]) -> str:
    """Which operators occur and count nothing."""
    names = sorted({name for x in result["detectors"] for name in x["not_counted"]})
    return f"Counter: {result['counter']}. Not counted: {', '.join(names) or 'nothing'}."
