"""A trained one-to-many detector (FCOS, ATSS, RetinaNet, DW, ...) becomes one that needs no NMS, in minutes.

    python -m defcn_ext.tools.make_nms_free --config-file configs/Quick/fcos.yaml \\
        --weights output/demo/fcos/model_final.pth output/fcos_nms_free
    python -m defcn_ext.tools.make_nms_free --weights released.pth output/mine DATASETS.TRAIN "('mine_train',)"

The detector stands still, running statistics included. One more map is trained one-to-one, a selector, which says which
of the points that fire on an object is the one to keep. WEIGHTS are a checkpoint of this project, or what
defcn_ext.tools.convert_checkpoint writes; without --config-file its own config is taken. What comes out is evaluated as
the detector was before, with and without NMS, and lies in OUT: config.yaml and model_final.pth.

KEY VALUE pairs at the end of the line change the config: of the data, of the selector's schedule (SOLVER...), or of the
selector (MODEL.DEFCN.SELECTOR...). The same command again goes on with what was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import defcn_ext.data  # noqa: F401  (makes detectron2 importable, registers the data sets)
from defcn_ext._text import say
from defcn_ext.engine.endings import for_the_user
from defcn_ext.study.nms_free import ITERATIONS, make_nms_free, report


def main(arguments: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="make_nms_free", description=__doc__, formatter_class=raw)
    parser.add_argument("output", metavar="OUT", type=Path, help="folder of the run")
    parser.add_argument("--config-file", default="", metavar="FILE", help="default: the one in the checkpoint")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint of the trained detector")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, metavar="N", help="default: %(default)s")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_intermixed_args(arguments)
    if args.iterations < 1:
        parser.error("--iterations must be at least 1")
    try:
        outcome = make_nms_free(args.config_file, args.weights, args.output, args.iterations, args.opts)
    except Exception as error:
        line = for_the_user(error)
        if line is None:
            raise
        sys.exit(f"make_nms_free: error: {line}")
    say(report(outcome, args.output))


if __name__ == "__main__":
    main()
