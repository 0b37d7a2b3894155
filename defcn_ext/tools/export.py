"""A trained detector as one file that takes pixels and gives boxes, and the proof that the two are equal.

    python -m defcn_ext.tools.export --weights output/demo/defcn/model_final.pth --output defcn.onnx
    python -m defcn_ext.tools.export --config-file C --weights W --output model.onnx --size 320 416 --images DIR
    python -m defcn_ext.tools.export --weights W --output model.onnx --preprocess

The file takes `images` (N, 3, H, W), float, 0 to 255, in the config's order of channels, or with --preprocess one
`image` (H, W, 3), uint8 RGB, of any size; it gives `boxes` (N, k, 4), `scores` (N, k), decreasing and filled up with 0,
and `labels` (N, k). It appears under its name only when it says what the model says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.config import UserError
from defcn_ext.data.classes import category_ids
from defcn_ext.deploy.metadata import ModelFileError
from defcn_ext.export import FORMATS, ExportOptions, Origin, ParityError, export_detector
from defcn_ext.export.pictures import pictures_of
from defcn_ext.predictor import Predictor


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    try:
        options = ExportOptions(
            format=args.format,
            size=tuple(args.size) if args.size else None,
            batch=args.batch,
            top_k=args.top_k,
            one_class=args.one_class,
            with_nms=args.with_nms,
            preprocess=args.preprocess,
            exporter=args.exporter,
        )
        found = Predictor.load(args.config_file or args.weights, args.weights if args.config_file else "", args.opts)
        cfg = found.cfg
        sizes = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        origin = Origin(tuple(found.class_names), sizes, cfg.dump(), category_ids(cfg))
        done = export_detector(
            found.model,
            Path(args.output),
            options,
            origin=origin,
            pictures=pictures_of(args.images, cfg, args.compare),
            tell=lambda text: print(text, flush=True),
        )
    except (UserError, ModelFileError, ParityError) as error:
        sys.exit(f"export: error: {error}")
    print(f"{done.path}: {done.megabytes:.1f} MB, k = {done.metadata.top_k}, score = {done.metadata.score}")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="export", description=__doc__, formatter_class=raw)
    parser.add_argument("--config-file", default="", help="the config, where the checkpoint does not hold it")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FILE")
    parser.add_argument("--format", default="onnx", help=f"{', '.join(FORMATS)}; default: %(default)s")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the images; default: any")
    size.add_argument("--dynamic", action="store_true", help="any size, the default")
    parser.add_argument("--batch", type=int, metavar="N", help="number of images; default: any")
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="detections of an image; default: TEST.DETECTIONS_PER_IMAGE"
    )
    parser.add_argument("--one-class", action="store_true", help="let a point name its best class alone")
    parser.add_argument("--with-nms", action="store_true", help="end in NMS, which FCOS and its like need")
    parser.add_argument("--preprocess", action="store_true", help="resize in the graph")
    parser.add_argument("--exporter", default="auto", help="of torch: auto, export or script; default: %(default)s")
    parser.add_argument("--images", metavar="DIR", help="pictures to compare on; default: the config's test set")
    parser.add_argument("--compare", type=int, default=8, metavar="N", help="how many; default: %(default)s")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes to the config")
    return parser


if __name__ == "__main__":
    main()
