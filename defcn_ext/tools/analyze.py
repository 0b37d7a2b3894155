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

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.benchmarks.analysis import analyze, costs_table, footnote, parts_table
from defcn_ext.benchmarks.costs import COUNTERS
from defcn_ext.config import UserError


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
