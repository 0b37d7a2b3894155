"""Shows what a detector sees: boxes beside ground truth, and which points of the pyramid fire.

    python -m defcn_ext.tools.visualize --weights output/model_final.pth
    python -m defcn_ext.tools.visualize --config-file A.yaml --weights a.pth --compare-config B.yaml \\
        --compare-weights b.pth --score-maps --output output/compare

KEY VALUE pairs at the end of the line change the configs of all detectors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.config import UserError
from defcn_ext.data import UnreadableImageError
from defcn_ext.pictures.sheets import SCORE_MAP_IMAGES, draw_detections

MAX_IMAGES = 64  # of one sheet


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="visualize", description=__doc__, formatter_class=raw)
    parser.add_argument("--config-file", default="", metavar="FILE", help="default: that of the checkpoint")
    parser.add_argument("--weights", default="", metavar="FILE", help="its checkpoint (or MODEL.WEIGHTS FILE)")
    parser.add_argument(
        "--compare-config", action="append", default=[], metavar="FILE", help="another detector; may be repeated"
    )
    parser.add_argument(
        "--compare-weights", action="append", default=[], metavar="FILE", help="one for each --compare-config"
    )
    parser.add_argument("--dataset", default="", metavar="NAME", help="data set (default: the first of DATASETS.TEST)")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many images (default: %(default)s)")
    parser.add_argument("--crowded", action="store_true", help="the most crowded images, not an even spread")
    parser.add_argument("--score", type=float, default=0.3, help="show what scores more (default: %(default)s)")
    parser.add_argument(
        "--score-maps", action="store_true", help=f"also the score maps of the first {SCORE_MAP_IMAGES} images"
    )
    parser.add_argument("--output", default="output/visualize", metavar="DIR", help="default: %(default)s")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the configs")
    args = parser.parse_args(arguments)
    if len(args.compare_config) != len(args.compare_weights):
        parser.error("give one --compare-weights for each --compare-config")
    if not args.config_file and not args.weights:
        parser.error("give --weights, and --config-file where the checkpoint carries no config")
    if not 1 <= args.images <= MAX_IMAGES or not 0 <= args.score < 1:
        parser.error(f"--images must be in [1, {MAX_IMAGES}], --score in [0, 1)")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    first = (args.config_file, args.weights) if args.config_file else (args.weights, "")
    try:
        written = draw_detections(
            [first, *zip(args.compare_config, args.compare_weights)],
            args.opts,
            Path(args.output),
            dataset=args.dataset,
            images=args.images,
            crowded=args.crowded,
            score=args.score,
            with_score_maps=args.score_maps,
        )
    except (UserError, UnreadableImageError) as error:
        sys.exit(f"visualize: error: {error}")
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
