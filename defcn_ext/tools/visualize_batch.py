"""Shows a batch as a training gets it: augmented, mixed, with boxes, and masks where there are any.

    python -m defcn_ext.tools.visualize_batch --config-file configs/Quick/poto.yaml --iteration 100 \\
        --output output/batch.png INPUT.MIX.MOSAIC 0.5 INPUT.MIX.MIXUP 0.5 INPUT.MIX.COPY_BLEND 0.5 SEED 0

With a SEED it is the very batch of that iteration, of a training by one process. KEY VALUE pairs at the end of the line
change the config.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext._text import explained
from defcn_ext.config import UserError
from defcn_ext.data import UnreadableImageError
from defcn_ext.pictures.batches import draw_batch


def main(arguments: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="visualize_batch", description=__doc__, formatter_class=raw)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--iteration", type=int, default=0, metavar="I", help="from 0 on; default: %(default)s")
    parser.add_argument("--output", default="output/batch.png", metavar="FILE", help="default: %(default)s")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the config")
    args = parser.parse_args(arguments)
    try:
        draw_batch(args.config_file, args.opts, args.iteration, Path(args.output))
    except (UserError, UnreadableImageError, OSError, ValueError) as error:
        sys.exit(f"visualize_batch: error: {explained(error)}")
    print(args.output)


if __name__ == "__main__":
    main()
