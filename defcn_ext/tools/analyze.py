"""What a detector costs: parameters, FLOPs and activations, while it trains and at inference.

    python -m defcn_ext.tools.analyze configs/Base-OneNet.yaml configs/Base-DATE-F.yaml
    python -m defcn_ext.tools.analyze configs/Base-DATE-R.yaml --by-module MODEL.DEFCN.SHARE_TOWERS False

"training" is the forward pass of the model with all its branches, "inference" that of the model built with
MODEL.DEFCN.INFERENCE_ONLY. Both end in the predictions of the branches: scores, top-k, NMS, assignment, losses and the
backward pass are left out. One image, in eval mode, on the CPU, weights not loaded. A multiply-add counts as one FLOP.

counters:
  paper    as mmcv's get_model_complexity_info, of which DATE's figures are: multiply-adds and biases of convs, 2 an
           element of a norm, 1 an element of a ReLU, 1 an element that goes into a pooling
  fvcore   fvcore's own rules: multiply-adds of convs, 2 an element of a frozen batch norm, 5 of another norm, 1 an
           element that comes out of a nearest and 4 of a bilinear resize; no ReLU, bias or max pooling

Activations are the elements that come out of convs, with either counter. KEY VALUE pairs at the end of the line change
all configs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.benchmarks.costs import COUNTERS, measure
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


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, with the KEY VALUE pairs as `opts`."""
    usage = "analyze CONFIG [CONFIG ...] [options] [KEY VALUE ...]"
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="analyze", usage=usage, description=__doc__, formatter_class=raw)
    parser.add_argument("words", nargs="+", metavar="CONFIG", help="configs, then KEY VALUE pairs")
    parser.add_argument(
        "--size", nargs=2, type=int, default=[1280, 800], metavar=("H", "W"), help="input, pixels; default: 1280 800"
    )
    parser.add_argument("--counter", choices=COUNTERS, default="paper", help="what counts; default: %(default)s")
    parser.add_argument("--by-module", action="store_true", help="also by part: backbone, fpn, towers, branches")
    parser.add_argument("--json", action="store_true", help="exact numbers as JSON")
    args = parser.parse_intermixed_args(argv)
    files = [word.endswith((".yaml", ".yml")) for word in args.words]
    end = files.index(False) if False in files else len(files)
    args.configs, args.opts = args.words[:end], args.words[end:]
    if not args.configs:
        parser.error(f"{args.words[0]}: expected a config, NAME.yaml")
    if len(args.opts) % 2:
        parser.error(f"{args.opts[-1]}: KEY VALUE pairs at the end of the line need a value for each key")
    if min(args.size) < 1:
        parser.error("--size: height and width must be positive")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        result = analyze(args.configs, args.size, args.counter, args.opts)
    except UserError as error:
        sys.exit(f"analyze: error: {error}")
    if args.json:
        print(json.dumps(result, indent=2))
        return
    print(costs_table(result["detectors"]))
    if args.by_module:
        print("\n" + parts_table(result["detectors"]))
    print("\n" + footnote(result))


if __name__ == "__main__":
    main()
