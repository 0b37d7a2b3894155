"""Trains several configs on the same data, seeds and budget, and compares them with and without NMS.

    compare configs/Quick/fcos.yaml configs/Quick/poto.yaml --seeds 0 1 2 --iterations 600 --eval-period 100
    compare "alpha 1=configs/Quick/poto.yaml:MODEL.DEFCN.ONE_TO_ONE.RULE=POTO(alpha=1.0)" configs/Quick/poto.yaml

An entry is [LABEL=]CONFIG[:KEY=VALUE;KEY=VALUE...]. KEY VALUE pairs at the end of the line change all configs, before
those of the entries. The same command goes on where an interrupted one stopped, and takes over finished runs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.config import UserError
from defcn_ext.study.entries import FORM
from defcn_ext.study.plans import Comparison, compare

PAIR_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)+")  # the first one ends the options


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, with the KEY VALUE pairs as `opts`."""
    end = next((i for i, word in enumerate(argv) if PAIR_KEY.fullmatch(word)), len(argv))
    raw = argparse.RawDescriptionHelpFormatter
    usage = "compare CONFIG [CONFIG ...] [options] [KEY VALUE ...]"
    parser = argparse.ArgumentParser(prog="compare", usage=usage, description=__doc__, formatter_class=raw)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help=FORM)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="default: 0")
    parser.add_argument("--iterations", type=int, metavar="N", help="SOLVER.MAX_ITER of all")
    parser.add_argument(
        "--eval-period", type=int, metavar="N", help="TEST.EVAL_PERIOD of all; default: a tenth of a run"
    )
    parser.add_argument("--output", default="output/compare", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="names of the configs; default: of the files")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; default: 1")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of a run; default: all cores / jobs")
    args = parser.parse_args(argv[:end])
    args.opts = list(argv[end:])
    for name in ("iterations", "eval_period", "jobs", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        parser.error("--seeds must be different numbers from 0 on")
    if len(args.opts) % 2:
        parser.error(f"{args.opts[-1]}: KEY VALUE pairs at the end of the line need a value for each key")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        failed = compare(Comparison(**vars(args)))
    except UserError as error:
        sys.exit(f"compare: error: {error}")
    except KeyboardInterrupt:
        print("\ncompare: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
