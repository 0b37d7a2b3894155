"""Which errors remain of one or several detectors, and how much AP each kind costs.

    errors output/compare                                    # all detectors of a comparison, means over their seeds
    errors output/run FCOS=configs/Quick/fcos.yaml:output/fcos/model_final.pth MODEL.DEVICE cpu
    errors A=a.json B=b.json --annotations val.json          # files of COCO results of whatever detectors

A training's folder is read as its last evaluation left it; a checkpoint is evaluated first, with and without NMS. Also
by size (COCO's) and crowding (objects that overlap another with IoU above .3). KEY VALUE pairs at the end of the line
change the configs of checkpoints.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext._text import explained
from defcn_ext.config import UserError
from defcn_ext.data import UnreadableImageError
from defcn_ext.study.error_sources import FORM
from defcn_ext.study.errors import analyse_errors

PAIR_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)+")  # the first one ends the options


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, with the KEY VALUE pairs as `opts`."""
    end = next((i for i, word in enumerate(argv) if PAIR_KEY.fullmatch(word)), len(argv))
    raw = argparse.RawDescriptionHelpFormatter
    usage = "errors DETECTOR [DETECTOR ...] [options] [KEY VALUE ...]"
    parser = argparse.ArgumentParser(prog="errors", usage=usage, description=__doc__, formatter_class=raw)
    parser.add_argument("entries", nargs="+", metavar="DETECTOR", help=FORM)
    parser.add_argument("--annotations", default="", metavar="FILE", help="COCO json of the RESULTS.json")
    parser.add_argument(
        "--max-detections", type=int, default=100, metavar="N", help="of an image and class; default: %(default)s"
    )
    parser.add_argument("--output", default="output/errors", metavar="DIR", help="default: %(default)s")
    args = parser.parse_args(argv[:end])
    args.opts = list(argv[end:])
    if len(args.opts) % 2:
        parser.error(f"{args.opts[-1]}: KEY VALUE pairs at the end of the line need a value for each key")
    if args.max_detections < 1:
        parser.error("--max-detections must be at least 1")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        print(analyse_errors(**vars(args)))
    except (UserError, UnreadableImageError, OSError, ValueError) as error:
        sys.exit(f"errors: error: {explained(error)}")
    print(f"\nIn {args.output}: errors.md, errors.json, errors.png")


if __name__ == "__main__":
    main()
