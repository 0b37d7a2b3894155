#!/usr/bin/env python3
"""Checks CrowdHuman's files and converts its annotations to COCO json.

    python datasets/prepare_crowdhuman.py --root datasets/CrowdHuman

Expects annotation_train.odgt, annotation_val.odgt and Images/*.jpg under `--root` (nothing is unpacked) and writes
train.json and val.json beside them. `crowdhuman_train` and `crowdhuman_val` do not need the json: they read the odgt
files. It serves tools that know COCO's format only, and a call checks a download before a training does.

One category (1, person). `bbox` is the full body, as annotated, so it may leave the image; `iscrowd` is 1 where the
tag is not "person" or `extra.ignore` is not 0; `vbox`, `hbox` and `head_ignore` are kept, and each image has its `ID`.
Image ids count from 1 in the order of the file; images without boxes stay. What is wrong is counted and named: lines
that are no annotation and images that cannot be read are left out, boxes without area or outside the image stay.

A call that was stopped goes on where it was, and one that has nothing to do does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from defcn_ext._text import whole_file
from defcn_ext.data.crowdhuman import OFFICIAL_IMAGES, CrowdHuman, read_crowdhuman, where
from defcn_ext.data.crowdhuman_files import AnnotationLine, PersonBox

VERSION = 1
BAD_LINES_SHOWN = 20
SPLITS = ("train", "val")


def coco_image(line: AnnotationLine, number: int, size: tuple[int, int]) -> dict:
    return {"id": number, "ID": line.id, "file_name": f"{line.id}.jpg", "height": size[0], "width": size[1]}


def coco_annotation(person: PersonBox, number: int, image: int) -> dict:
    width, height = person.fbox[2:]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": list(person.fbox),
        "area": max(width, 0.0) * max(height, 0.0),
        "iscrowd": int(person.ignored),
        "vbox": person.vbox,
        "hbox": person.hbox,
        "head_ignore": int(person.head_ignored),
    }


def write_coco(path: Path, content: CrowdHuman, source: dict) -> tuple[int, int, int]:
    """Writes the json, whole or not at all. Returns the numbers of images, people and boxes to ignore.

    Raises:
        ValueError: no image can be read.
    """
    # An image keeps its number when others cannot be read, so that ids are those of the data set in this project.
    readable = [
        (number, line) for number, line in enumerate(content.lines, 1) if not isinstance(content.sizes[line.id], str)
    ]
    if not readable:
        first = content.lines[0].id
        raise ValueError(f"none of the {len(content.lines)} images can be read, {first}.jpg: {content.sizes[first]}")
    people = [(image, person) for image, line in readable for person in line.boxes]
    with whole_file(path) as file:
        file.write(f'{{"info": {json.dumps(source)}, "categories": [{{"id": 1, "name": "person"}}],\n'.encode())
        file.write(b'"images": [\n')
        file.writelines(_joined(coco_image(line, n, content.sizes[line.id]) for n, line in readable))
        file.write(b'],\n"annotations": [\n')
        file.writelines(_joined(coco_annotation(person, n, image) for n, (image, person) in enumerate(people, 1)))
        file.write(b"]}\n")
    ignored = sum(person.ignored for _, person in people)
    return len(readable), len(people) - ignored, ignored


def _joined(entries: Iterable[dict]) -> Iterator[bytes]:
    for index, entry in enumerate(entries):
        yield b",\n" * (index > 0) + json.dumps(entry, allow_nan=False).encode()
    yield b"\n"


def source_of(odgt: Path) -> dict:
    """What tells one odgt file from another: written into the json, and compared by the next call."""
    state = odgt.stat()
    return {
        "description": f"CrowdHuman, from {odgt.name}",
        "version": VERSION,
        "source": {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns},
    }


def is_done(path: Path, source: dict) -> bool:
    """Whether the json was written, whole, from this odgt file. It is not read: its head and its end tell."""
    try:
        with open(path, "rb") as file:
            head = file.readline()
            file.seek(-4, os.SEEK_END)
            end = file.read()
    except OSError:
        return False
    return head.startswith(f'{{"info": {json.dumps(source)},'.encode()) and end.endswith(b"]}\n")


def convert(root: str | os.PathLike, split: str) -> bool:
    """Writes ROOT/SPLIT.json and tells what was found. Returns whether anything had to be written.

    Raises:
        FileNotFoundError: annotations or images are missing; says what to put where.
        ValueError: nothing in the annotations can be used, or no image can be read.
        OSError: the images are not there, or the json cannot be written.
    """
    root = Path(root)
    odgt, path = root / f"annotation_{split}.odgt", root / f"{split}.json"
    if odgt.is_file() and is_done(path, source_of(odgt)):
        print(f"{split}: already there: {path}")
        return False
    content = read_crowdhuman(odgt, root / "Images", progress=_tell)
    counts = write_coco(path, content, source_of(odgt))
    print(f"{split}: {counts[0]} images, {counts[1]} people, {counts[2]} boxes to ignore -> {path}")
    for bad in content.bad[:BAD_LINES_SHOWN]:
        print(f"  {odgt.name}: {where(bad)}")
    for line in content.flaws().lines():
        print(f"  {line}")
    official = OFFICIAL_IMAGES[split]
    agree = "as in the official file" if counts[0] == official else f"the official file has {official}"
    print(f"  {counts[0]} images, {agree}")
    return True


def _tell(done: int, total: int, seconds_left: float) -> None:
    minutes, seconds = divmod(round(seconds_left), 60)
    print(f"reading image sizes: {done} of {total}, eta {minutes}:{seconds:02d}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / "CrowdHuman"
    parser.add_argument("--root", default=str(default), help="folder of the odgt files (default: %(default)s)")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    args = parser.parse_args(arguments)
    for split in args.splits:
        try:
            convert(args.root, split)
        except (OSError, ValueError) as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
