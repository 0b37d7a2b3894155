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
from quick_scene import CLASSES, draw

VERSION = 2  # raise it when any pixel or box changes, so that old copies are written anew


def write_split(folder: Path, name: str, split: int, count: int, seed: int, size: int, digest) -> None:
    """Writes `count` images and NAME.json, and feeds json and pixels to `digest`."""
    images, annotations = [], []
    for index in range(count):
        pixels, objects = draw(seed, split, index, size)
        file_name = f"{name}_{index:05d}.png"
        Image.fromarray(pixels).save(folder / "images" / file_name, compress_level=1)
        digest.update(pixels.tobytes())
        height, width = pixels.shape[:2]
        images.append({"id": index + 1, "file_name": file_name, "height": height, "width": width})
        for obj in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **obj})
        if (index + 1) % 50 == 0 or index + 1 == count:
            print(f"\r{name}: {index + 1}/{count} images", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    content = {
        "info": {"description": f"Quick, synthetic, seed {seed}", "version": str(VERSION)},
        "licenses": [],
        "categories": [{"id": i + 1, "name": c} for i, c in enumerate(CLASSES)],
        "images": images,
        "annotations": annotations,
    }
    text = json.dumps(content, separators=(",", ":"))
    digest.update(text.encode())
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def read_meta(folder: Path) -> dict | None:
    """The meta.json that this script wrote, or None."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) and "parameters" in meta and "sha256" in meta else None


def is_complete(folder: Path, parameters: dict) -> bool:
    """Whether the folder holds what these parameters give (every file is there; contents are not read)."""
    meta = read_meta(folder)
    if meta is None or meta["parameters"] != parameters:
        return False
    wanted = {f"{s}_{i:05d}.png" for s in ("train", "val") for i in range(parameters[s])}
    present = set(os.listdir(folder / "images")) if (folder / "images").is_dir() else set()
    return wanted <= present and all((folder / f"{s}.json").is_file() for s in ("train", "val"))


def prepare(output: str | os.PathLike, train: int = 400, val: int = 100, seed: int = 0, size: int = 160) -> bool:
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
        (folder / "images").mkdir()
        digest = hashlib.sha256()
        write_split(folder, "train", 0, train, seed, size, digest)
        write_split(folder, "val", 1, val, seed, size, digest)
        meta = {"parameters": parameters, "classes": CLASSES, "sha256": digest.hexdigest()}
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
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / "quick"
    parser.add_argument("--output", default=str(default), help="folder to write (default: %(default)s)")
    parser.add_argument("--train", type=int, default=400, help="training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=100, help="validation images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=160, help="shorter side in pixels (default: %(default)s)")
    args = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        written = prepare(args.output, args.train, args.val, args.seed, args.size)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    took = f"written in {time.perf_counter() - start:.1f} s" if written else "already there"
    print(f"Quick: {args.train} training and {args.val} validation images, {took}: {args.output}")


if __name__ == "__main__":
    main()
