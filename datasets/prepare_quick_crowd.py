#!/usr/bin/env python3
"""Writes "Quick crowd", a small synthetic set in CrowdHuman's own layout, the same on every machine.

    python datasets/prepare_quick_crowd.py --output datasets/quick_crowd --train 300 --val 80 --seed 0 --size 160

Drawn people stand in groups and hide one another; their full boxes go on behind others and beyond the border. Far
crowds and figures on posters are ignore regions. Images have no size in the annotations, as in the official files, and
their IDs hold a comma.

Layout: `Images/ID.jpg`, `annotation_train.odgt`, `annotation_val.odgt`, and `meta.json` (parameters and a digest of
annotations and drawn pixels; those of the decoded jpg may differ by a grey level between versions of libjpeg). Needs
numpy and Pillow only.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import synthetic
from PIL import Image
from quick_crowd_scene import draw

VERSION = 1  # raise it when any pixel or box changes, so that old copies are written anew
SPLITS = ("train", "val")


def image_ids(split: int, count: int, seed: int) -> list[str]:
    """IDs like those of the official files: a number, a comma, hexadecimal digits."""
    tails = (hashlib.sha256(f"{seed}-{split}-{index}".encode()).hexdigest()[:15] for index in range(count))
    return [f"{273000 + 1000 * split + index},{tail}" for index, tail in enumerate(tails)]


def write_split(folder: Path, split: int, count: int, seed: int, size: int, digest) -> None:
    """Writes `count` images and annotation_SPLIT.odgt, and feeds annotations and pixels to `digest`."""
    lines = []
    for index, image_id in enumerate(image_ids(split, count, seed)):
        pixels, boxes = draw(seed, split, index, size)
        Image.fromarray(pixels).save(folder / "Images" / f"{image_id}.jpg", quality=92)
        digest.update(pixels.tobytes())
        lines.append(json.dumps({"ID": image_id, "gtboxes": boxes}) + "\n")
        synthetic.tell(SPLITS[split], index + 1, count, step=20)
    text = "".join(lines)
    digest.update(text.encode())
    (folder / f"annotation_{SPLITS[split]}.odgt").write_text(text, encoding="utf-8")


def files(parameters: synthetic.Parameters) -> list[str]:
    """The files that the parameters lead to."""
    ids = [i for s, name in enumerate(SPLITS) for i in image_ids(s, parameters[name], parameters["seed"])]
    return [*(f"annotation_{name}.odgt" for name in SPLITS), *(f"Images/{i}.jpg" for i in ids)]


RECIPE = synthetic.Recipe(
    name="Quick crowd",
    folder="quick_crowd",
    version=VERSION,
    classes=["person"],
    image_folder="Images",
    train=300,
    val=80,
    size_help="height in pixels",
    write_split=write_split,
    files=files,
)


def prepare(output: str | os.PathLike, train: int = 300, val: int = 80, seed: int = 0, size: int = 160) -> bool:
    """Writes the data set, all or nothing; see `synthetic.prepare`."""
    return synthetic.prepare(RECIPE, output, train, val, seed, size)


def main(arguments: list[str] | None = None) -> None:
    synthetic.main(RECIPE, __doc__.split("\n")[0], arguments)


if __name__ == "__main__":
    main()
