"""How a synthetic data set is written: all or nothing, once, with its parameters and a digest beside it."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Parameters = dict[str, int]


@dataclass(frozen=True)
class Recipe:
    """What one synthetic data set is.

    Attributes:
        name: what to call it.
        folder: its folder below the root of the data sets.
        version: part of the parameters; raised when any pixel or box changes, so that old copies are written anew.
        classes: names of the classes.
        image_folder: folder of the images.
        train, val: default numbers of images.
        size_help: what `--size` is.
        write_split: (folder, index of the split, number of images, seed, size, digest): writes the images and the
            annotations of a split, and feeds annotations and pixels to the digest.
        files: the files, relative to the folder, that given parameters lead to.
    """

    name: str
    folder: str
    version: int
    classes: list[str]
    image_folder: str
    train: int
    val: int
    size_help: str
    write_split: Callable[[Path, int, int, int, int, Any], None]
    files: Callable[[Parameters], Iterable[str]]


def tell(split: str, done: int, count: int, step: int) -> None:
    """Progress on one line of standard error, every `step` images."""
    if done % step == 0 or done == count:
        print(f"\r{split}: {done}/{count} images", end="\n" if done == count else "", file=sys.stderr, flush=True)


def read_meta(folder: Path) -> dict | None:
    """The meta.json that `prepare` wrote, or None."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) and "parameters" in meta and "sha256" in meta else None


def is_complete(recipe: Recipe, folder: Path, parameters: Parameters) -> bool:
    """Whether the folder holds what these parameters give (every file is there; contents are not read)."""
    meta = read_meta(folder)
    if meta is None or meta["parameters"] != parameters:
        return False
    images = folder / recipe.image_folder
    present = {f"{recipe.image_folder}/{name}" for name in os.listdir(images)} if images.is_dir() else set()
    return all(file in present or (folder / file).is_file() for file in recipe.files(parameters))


def prepare(recipe: Recipe, output: str | os.PathLike, train: int, val: int, seed: int, size: int) -> bool:
    """Writes the data set, all or nothing. Returns whether anything had to be written.

    Raises:
        ValueError: a number is out of range.
        FileExistsError: `output` holds something that this function did not write.
    """
    for name, value, low in (("--train", train, 1), ("--val", val, 1), ("--seed", seed, 0), ("--size", size, 64)):
        if value < low:
            raise ValueError(f"{name} {value}: must be at least {low}")
    output = Path(output)
    parameters = {"version": recipe.version, "train": train, "val": val, "seed": seed, "size": size}
    if is_complete(recipe, output, parameters):
        return False
    ours = output.is_dir() and (not os.listdir(output) or read_meta(output) is not None)
    if output.exists() and not ours:
        raise FileExistsError(f"{output} was not written by this script: remove it, or choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        (folder / recipe.image_folder).mkdir()
        digest = hashlib.sha256()
        for split, count in enumerate((train, val)):
            recipe.write_split(folder, split, count, seed, size, digest)
        meta = {"parameters": parameters, "classes": recipe.classes, "sha256": digest.hexdigest()}
        (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        folder.chmod(0o755)
        if output.exists():
            shutil.rmtree(output)
        os.replace(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def main(recipe: Recipe, description: str, arguments: list[str] | None = None) -> None:
    """The command of a data set."""
    parser = argparse.ArgumentParser(description=description)
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / recipe.folder
    parser.add_argument("--output", default=str(default), help="folder to write (default: %(default)s)")
    parser.add_argument("--train", type=int, default=recipe.train, help="training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=recipe.val, help="validation images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=160, help=f"{recipe.size_help} (default: %(default)s)")
    args = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        written = prepare(recipe, args.output, args.train, args.val, args.seed, args.size)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    took = f"written in {time.perf_counter() - start:.1f} s" if written else "already there"
    print(f"{recipe.name}: {args.train} training and {args.val} validation images, {took}: {args.output}")
