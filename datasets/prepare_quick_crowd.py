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

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from prepare_quick import read_meta
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
        if (index + 1) % 20 == 0 or index + 1 == count:
            print(f"\r{SPLITS[split]}: {index + 1}/{count} images", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    text = "".join(lines)
    digest.update(text.encode())
    (folder / f"annotation_{SPLITS[split]}.odgt").write_text(text, encoding="utf-8")


def is_complete(folder: Path, parameters: dict) -> bool:
    """Whether the folder holds what these parameters give (every file is there; contents are not read)."""
    meta = read_meta(folder)
    if meta is None or meta["parameters"] != parameters:
        return False
    ids = [i for s, name in enumerate(SPLITS) for i in image_ids(s, parameters[name], parameters["seed"])]
    files = [folder / f"annotation_{name}.odgt" for name in SPLITS] + [folder / "Images" / f"{i}.jpg" for i in ids]
    return all(file.is_file() for file in files)


def prepare(output: str | os.PathLike, train: int = 300, val: int = 80, seed: int = 0, size: int = 160) -> bool:
    """Writes the data set, all or nothing. Returns whether anything had to be written.

    Raises:
        ValueError: a number is out of range.
        FileExistsError: `output` holds something that this script did not write.
    """
    for name, value, low in (("--train", train, 1), ("--val", val, 1), ("--seed", seed, 0), ("--size", size, 64)):
        if value < low:
            raise ValueError(f"{name} {value}: must be at least {low}")
    output = Path(output)
    parameters = {"version": VERSION, "train": train, "val": val, "seed": seed, "size": size}
    if is_complete(output, parameters):
        return False
    ours = output.is_dir() and (not os.listdir(output) or read_meta(output) is not None)
    if output.exists() and not ours:
        raise FileExistsError(f"{output} was not written by this script: remove it, or choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        (folder / "Images").mkdir()
        digest = hashlib.sha256()
        for split, count in enumerate((train, val)):
            write_split(folder, split, count, seed, size, digest)
        meta = {"parameters": parameters, "classes": ["person"], "sha256": digest.hexdigest()}
        (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        folder.chmod(0o755)
        if output.exists():
            shutil.rmtree(output)
        os.replace(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / "quick_crowd"
    parser.add_argument("--output", default=str(default), help="folder to write (default: %(default)s)")
    parser.add_argument("--train", type=int, default=300, help="training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=80, help="validation images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=160, help="height in pixels (default: %(default)s)")
    args = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        written = prepare(args.output, args.train, args.val, args.seed, args.size)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    took = f"written in {time.perf_counter() - start:.1f} s" if written else "already there"
    print(f"Quick crowd: {args.train} training and {args.val} validation images, {took}: {args.output}")


if __name__ == "__main__":
    main()
