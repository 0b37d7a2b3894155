"""Weights of other code bases for this one, with the config that goes with them.

    python -m defcn_ext.tools.convert_checkpoint epoch_36.pth o2f.pth
    python -m defcn_ext.tools.convert_checkpoint model_final.pth fcos.pth --config configs/Base-FCOS.yaml
    python -m defcn_ext.tools.convert_checkpoint resnet50.pth R-50.pth --from torchvision

Which model it is, is told from the names and shapes of the weights. Every one of them must fit, and every one of the
model's must be there; else the list of those that do not is printed, nothing is written, and the exit status is 1.
Beside OUT, such as o2f.pth, comes o2f.yaml, a config that stands alone: the model, its input format and its inference.

sources:
  cvpods       DeFCN's releases: POTO and its relatives, 3D Max Filtering, FCOS, ATSS; also RetinaNet
  mmdet        DATE, o2f and DW, and mmdetection's FCOS, ATSS and RetinaNet
  onenet       OneNet's FCOS head on Detectron2
  adelaidet    FCOS
  detectron2   FCOS and RetinaNet of its zoo
  torchvision  FCOS and RetinaNet; or a ResNet or ResNeXt classifier, as MODEL.WEIGHTS to train from
  timm         such a classifier, also as safetensors
  defcn_ext    this project's own checkpoints, without what a training keeps in them

KEY VALUE pairs at the end of the line change the config. Files are read without running anything that is in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.checkpoint import read_checkpoint
from defcn_ext.checkpoint.convert import convert
from defcn_ext.checkpoint.writing import report, write
from defcn_ext.config import UserError


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m defcn_ext.tools.convert_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN", help="file of weights")
    parser.add_argument("output", metavar="OUT", type=Path, help="file to write; its config comes beside it")
    parser.add_argument("--from", dest="source", metavar="SOURCE", default="auto", help="default: auto")
    parser.add_argument("--config", default="", help="config that the weights must fit, instead of the one found")
    parser.add_argument("--inference", action="store_true", help="leave out the branches that only train")
    parser.add_argument("--trust", action="store_true", help="let the file run what it names; only for your own files")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        _check_output(args.output, args.input)
        checkpoint = read_checkpoint(args.input, args.trust)
        conversion = convert(checkpoint, args.source, args.config, args.opts, args.inference)
        config = write(conversion, args.output)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report(conversion, args.input, len(checkpoint.state), args.output, config))
    return 0


def _check_output(path: Path, source: str) -> None:
    """
    Raises:
        UserError: the file cannot be written there, or is the one that is read.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path}: {'a folder' if path.is_dir() else 'its folder does not exist'}; give a file name")
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"{path}: the name of a config; give the file of weights, such as {path.with_suffix('.pth')}")
    if path.resolve() == Path(source).resolve():
        raise UserError(f"{path}: the file that is read; give another name")


if __name__ == "__main__":
    sys.exit(main())
