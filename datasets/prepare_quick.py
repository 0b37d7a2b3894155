#!/usr/bin/env python3
"""Writes "Quick", the embedded synthetic detection set: small, crowded, and the same on every machine.

    python datasets/prepare_quick.py --output datasets/quick --train 400 --val 100 --seed 0 --size 160

Four classes told apart by shape alone, on textured backgrounds with distractors. Objects come in groups of one class
that overlap by a box IoU of about 0.15 to 0.7, so that NMS removes some true objects, and a detector that fires twice
on an object is punished at once.

Layout: `images/*.png`, `train.json`, `val.json` (COCO format) and `meta.json` (parameters and a digest of json and
pixels). Boxes and masks are those of the *visible* part, as in COCO; masks are uncompressed RLE; every object shows at
least `MIN_VISIBLE` of its shape. Needs numpy and Pillow only.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import synthetic
from PIL import Image
from quick_scene import CLASSES, draw

VERSION = 2  # raise it when any pixel or box changes, so that old copies are written anew
SPLITS = ("train", "val")


def file_name(split: int, index: int) -> str:
    return f"{SPLITS[split]}_{index:05d}.png"


def write_split(folder: Path, split: int, count: int, seed: int, size: int, digest) -> None:
    """Writes `count` images and SPLIT.json, and feeds json and pixels to `digest`."""
    images, annotations = [], []
    for index in range(count):
        pixels, objects = draw(seed, split, index, size)
        Image.fromarray(pixels).save(folder / "images" / file_name(split, index), compress_level=1)
        digest.update(pixels.tobytes())
        height, width = pixels.shape[:2]
        images.append({"id": index + 1, "file_name": file_name(split, index), "height": height, "width": width})
        for obj in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **obj})
        synthetic.tell(SPLITS[split], index + 1, count, step=50)
    content = {
        "info": {"description": f"Quick, synthetic, seed {seed}", "version": str(VERSION)},
        "licenses": [],
        "categories": [{"id": i + 1, "name": c} for i, c in enumerate(CLASSES)],
        "images": images,
        "annotations": annotations,
    }
    text = json.dumps(content, separators=(",", ":"))
    digest.update(text.encode())
    (folder / f"{SPLITS[split]}.json").write_text(text, encoding="utf-8")


def files(parameters: synthetic.Parameters) -> list[str]:
    """The files that the parameters lead to."""
    images = [f"images/{file_name(s, i)}" for s, name in enumerate(SPLITS) for i in range(parameters[name])]
    return [*(f"{name}.json" for name in SPLITS), *images]


RECIPE = synthetic.Recipe(
    name="Quick",
    folder="quick",
    version=VERSION,
    classes=CLASSES,
    image_folder="images",
    train=400,
    val=100,
    size_help="shorter side in pixels",
    write_split=write_split,
    files=files,
)


def prepare(output: str | os.PathLike, train: int = 400, val: int = 100, seed: int = 0, size: int = 160) -> bool:
    """Writes the data set, all or nothing; see `synthetic.prepare`."""
    return synthetic.prepare(RECIPE, output, train, val, seed, size)


def main(arguments: list[str] | None = None) -> None:
    synthetic.main(RECIPE, __doc__.split("\n")[0], arguments)


if __name__ == "__main__":
    main()
