#!/usr/bin/env python3
"""Splits a training set in two, so that a choice is made on pictures that neither train nor report.

    python datasets/hold_out.py datasets/quick --output datasets_tune/quick --every 4
    DETECTRON2_DATASETS=datasets_tune python train_net.py --config-file configs/Quick/poto.yaml

Every n-th image of `train.json` becomes the new `val.json`, the others the new `train.json`, under the same names, so
that every config runs on the split as it is. The old `val.json` is not touched, and `images` is a link to the old one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def split(content: dict[str, Any], every: int) -> dict[str, dict[str, Any]]:
    """The two halves of a json in COCO format: images by their id, every n-th to "val"."""
    images = sorted(content["images"], key=lambda x: str(x["id"]).zfill(20))
    halves = {"train": [x for i, x in enumerate(images) if (i + 1) % every], "val": images[every - 1 :: every]}
    out = {}
    for name, kept in halves.items():
        ids = {x["id"] for x in kept}
        annotations = [x for x in content["annotations"] if x["image_id"] in ids]
        out[name] = {**content, "images": kept, "annotations": annotations}
    return out


def hold_out(source: Path, output: Path, every: int) -> dict[str, int]:
    """Writes the split.

    Returns:
        the number of images of "train" and "val".

    Raises:
        ValueError: there is nothing to split, or the output is the source.
    """
    if every < 2:
        raise ValueError(f"--every: give 2 or more, got {every}: with 1 nothing would be left to train on")
    if not (source / "train.json").is_file():
        raise ValueError(f"{source / 'train.json'}: no such file; give the folder of a data set in COCO format")
    if output.resolve() == source.resolve():
        raise ValueError(f"--output {output}: this is the data set itself; give another folder")
    halves = split(json.loads((source / "train.json").read_text(encoding="utf-8-sig")), every)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in halves.items():
        (output / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    for name in ("images", "meta.json"):
        if (source / name).exists() and not (output / name).exists():
            (output / name).symlink_to((source / name).resolve())
    return {name: len(content["images"]) for name, content in halves.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with train.json and images")
    parser.add_argument("--output", type=Path, required=True, help="folder of the new set")
    parser.add_argument("--every", type=int, default=4, metavar="N", help="every N-th image is held out; default: 4")
    args = parser.parse_args()
    try:
        counts = hold_out(args.source, args.output, args.every)
    except ValueError as error:
        sys.exit(f"hold_out: error: {error}")
    print(f"{args.output}: {counts['train']} images to train on, {counts['val']} held out")


if __name__ == "__main__":
    main()
