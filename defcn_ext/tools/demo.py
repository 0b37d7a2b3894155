"""The main job: trains FCOS and DeFCN on the embedded data set, and shows what becomes of each without NMS.

    python -m defcn_ext.tools.demo --output output/demo

A training that has finished with the same config on the same data is taken over, so a second call takes seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.config import UserError
from defcn_ext.data import UnreadableImageError
from defcn_ext.study.demo import run_demo


def main(arguments: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="demo", description=__doc__, formatter_class=raw)
    parser.add_argument("--output", default="output/demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--iterations", type=int, metavar="N", help="shorter or longer trainings than the configs say")
    args = parser.parse_args(arguments)
    if args.iterations is not None and args.iterations < 1:
        parser.error("--iterations must be at least 1")
    try:
        run_demo(Path(args.output), args.iterations)
    except (UserError, UnreadableImageError) as error:
        sys.exit(f"demo: error: {error}")


if __name__ == "__main__":
    main()
