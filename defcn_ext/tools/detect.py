"""Detections in pictures, folders, videos and cameras, by a model file or a checkpoint.

    python -m defcn_ext.tools.detect model.onnx street.jpg pictures/ --output output/detections
    python -m defcn_ext.tools.detect model.onnx 0 --output output/camera --limit 300        # camera 0, 300 frames
    python -m defcn_ext.tools.detect model_final.pth pictures/ --output output/detections --config-file C

Draws the boxes, and writes `detections.json` (COCO results; image_id is the file's name) and `detections.csv`. A model
file (.onnx) runs without torch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from defcn_ext.deploy import Detections, Detector, ModelFileError, Tiling
from defcn_ext.deploy.images import files_of, read_rgb
from defcn_ext.deploy.results import drawn, write_results
from defcn_ext.deploy.video import frames_of, is_video

Look = Callable[[np.ndarray], Detections]


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    try:
        look, category_ids = _detector(args)
        _detect(look, category_ids, args)
    except ValueError as error:  # ModelFileError, and UserError of a checkpoint
        sys.exit(f"detect: error: {error}")


def _detect(look: Look, category_ids: Sequence[int | str], args: argparse.Namespace) -> None:
    folder, found, seconds = Path(args.output), [], 0.0
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in _pictures(args.source, args.limit):
        start = time.perf_counter()
        detections = look(picture).above(args.score)
        seconds += time.perf_counter() - start
        found.append((name, detections))
        if not args.no_pictures:
            drawn(picture, detections).save(folder / f"{Path(name).stem}.jpg", quality=92)
        print(f"{len(found)}: {name}: {len(detections)} detections, {len(found) / seconds:.1f} a second", flush=True)
    for path in write_results(folder, found, category_ids):
        print(path)


def _pictures(sources: Sequence[str], limit: int | None) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pixels; a frame of a video has its number behind the name."""
    count = 0
    for source in sources:
        if is_video(source):
            stem = f"camera{source}" if source.isdigit() else Path(source).stem
            pictures = ((f"{stem}_{n:06d}", frame) for n, frame in enumerate(frames_of(source)))
        else:
            pictures = ((file.name, read_rgb(file)) for file in files_of(source))
        for each in pictures:
            if count == limit:
                return
            count += 1
            yield each


def _detector(args: argparse.Namespace) -> tuple[Look, Sequence[int | str]]:
    """Who detects, and the ids of the classes in the data set's json."""
    if args.model.endswith(".onnx"):
        detector = Detector(args.model, threads=args.threads)
        if args.tiles:
            tiling = Tiling(*args.tiles)
            return lambda picture: detector.tiled(picture, tiling), detector.metadata.category_ids
        return detector, detector.metadata.category_ids
    if args.tiles:
        raise ModelFileError("--tiles is for model files: export the checkpoint first")
    from defcn_ext.data.classes import category_ids
    from defcn_ext.predictor import Predictor

    predictor = Predictor.load(args.config_file or args.model, args.model if args.config_file else "")

    def look(picture: np.ndarray) -> Detections:
        seen = predictor(picture).instances
        arrays = (x.numpy() for x in (seen.pred_boxes.tensor, seen.scores, seen.pred_classes))
        return Detections(*arrays, picture.shape[:2], tuple(predictor.class_names))

    return look, category_ids(predictor.cfg)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="detect", description=__doc__, formatter_class=raw)
    parser.add_argument("model", help="a model file (.onnx) or a checkpoint (.pth)")
    parser.add_argument("source", nargs="+", help="pictures, folders, video files, or the number of a camera")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--config-file", default="", help="of a checkpoint that does not hold its config")
    parser.add_argument("--score", type=float, default=0.3, metavar="S", help="least score; default: %(default)s")
    parser.add_argument("--tiles", type=int, nargs=2, metavar=("SIDE", "OVERLAP"), help="for large pictures")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; default: all")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after so many pictures or frames")
    parser.add_argument("--no-pictures", action="store_true", help="write no pictures")
    return parser


if __name__ == "__main__":
    main()
