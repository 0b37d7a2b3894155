"""Shows how a rule labels points while a detector trains: the picture of one-to-few's Figure 6, for every rule.

    python -m defcn_ext.tools.visualize_labels --config-file configs/Quick/o2f.yaml \\
        --weights output/o2f/model_0000099.pth output/o2f/model_final.pth --output output/labels

Each file of weights gives one row: a training image with the points that train each object, and its scores. The rule
runs on the model's own predictions, at the share of the training that the checkpoint's iteration is of SOLVER.MAX_ITER
or that --progress says. With several --config-file each has one file of weights.

KEY VALUE pairs at the end of the line change the configs of all detectors.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.config import UserError
from defcn_ext.data import UnreadableImageError
from defcn_ext.pictures.labelling import draw_labels

CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+|OUTPUT_DIR|SEED")  # ends the lists of files and numbers


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="visualize_labels", description=__doc__, formatter_class=raw)
    parser.add_argument("--config-file", required=True, nargs="+", metavar="FILE", help="one, or one for each weights")
    parser.add_argument("--weights", required=True, nargs="+", metavar="FILE", help="checkpoints, one a row")
    parser.add_argument("--progress", type=float, nargs="+", metavar="P", help="share of the training, one a row")
    parser.add_argument("--branch", default="", metavar="NAME", help="whose rule (default: the one that predicts)")
    parser.add_argument("--dataset", default="", metavar="NAME", help="default: the first of DATASETS.TRAIN")
    parser.add_argument("--image", default="", metavar="NAME", help="the image of that file name")
    parser.add_argument("--images", type=int, default=1, metavar="N", help="how many images (default: %(default)s)")
    parser.add_argument("--crowded", action="store_true", help="the most crowded images, not an even spread")
    parser.add_argument("--output", default="output/labels", metavar="DIR", help="default: %(default)s")
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = next((i for i, word in enumerate(words) if CONFIG_KEY.fullmatch(word)), len(words))
    args = parser.parse_args(words[:end])
    args.opts = words[end:]
    if len(args.config_file) not in (1, len(args.weights)):
        parser.error("give one --config-file, or one for each of --weights")
    if args.progress and len(args.weights) == 1:
        args.weights = args.weights * len(args.progress)
        args.config_file = args.config_file * len(args.progress)
    if args.progress and (len(args.progress) != len(args.weights) or not all(0 <= p <= 1 for p in args.progress)):
        parser.error("give one --progress in [0, 1] for each of --weights")
    if args.images < 1:
        parser.error("--images must be at least 1")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    try:
        written = draw_labels(
            args.config_file,
            args.weights,
            args.opts,
            Path(args.output),
            progress=args.progress or (),
            dataset=args.dataset,
            branch=args.branch,
            image=args.image,
            images=args.images,
            crowded=args.crowded,
        )
    except (UserError, UnreadableImageError) as error:
        sys.exit(f"visualize_labels: error: {error}")
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
