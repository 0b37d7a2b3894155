#!/usr/bin/env python3
"""Converts the public BCCD_Dataset (VOC xml) to the COCO layout that `bccd_train` and `bccd_val` read.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python datasets/prepare_bccd.py BCCD_Dataset --output datasets/bccd

Reads BCCD/Annotations/*.xml, BCCD/JPEGImages/*.jpg and BCCD/ImageSets/Main/{train,val,test}.txt; writes
`train.json`, `val.json` (and `test.json` where there is such a split) and copies the photographs to `images/`.
Boxes are [xmin, ymin, xmax - xmin, ymax - ymin] and stay as published, those without area included: training skips
them. Needs the standard library only.
"""

import argparse
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

CLASSES = ("RBC", "WBC", "Platelets")
SPLITS = ("train", "val", "test")


def number(node: ElementTree.Element, tag: str, source: Path) -> float:
    text = node.findtext(tag)
    try:
        return float(text)
    except (TypeError, ValueError):
        raise ValueError(f"{source}: <{tag}> is {text!r}, expected a number") from None


def read_annotation(path: Path) -> tuple[dict, list[dict]]:
    """The image entry (without id) and the annotations (without ids) of one VOC xml file.

    Raises:
        ValueError: the file is no xml, lacks a number, or names a class that is not one of CLASSES.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: not valid xml ({error})") from None
    size = root.find("size")
    if size is None:
        raise ValueError(f"{path}: <size> is missing")
    image = {"width": int(number(size, "width", path)), "height": int(number(size, "height", path))}
    annotations = []
    for node in root.iter("object"):
        name = node.findtext("name")
        if name not in CLASSES:
            raise ValueError(f"{path}: unknown class {name!r}; known: {', '.join(CLASSES)}")
        corners = node.find("bndbox")
        if corners is None:
            raise ValueError(f"{path}: an object without <bndbox>")
        x1, y1, x2, y2 = (number(corners, tag, path) for tag in ("xmin", "ymin", "xmax", "ymax"))
        box = [x1, y1, x2 - x1, y2 - y1]
        category = CLASSES.index(name) + 1
        annotations.append({"category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    return image, annotations


def convert_split(source: Path, output: Path, split: str) -> tuple[int, int]:
    """Writes SPLIT.json and copies its images. Returns the numbers of images and objects."""
    images, annotations = [], []
    for stem in (source / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8").split():
        photograph = source / "JPEGImages" / f"{stem}.jpg"
        image, objects = read_annotation(source / "Annotations" / f"{stem}.xml")
        shutil.copyfile(photograph, output / "images" / photograph.name)
        images.append({"id": len(images) + 1, "file_name": photograph.name, **image})
        for obj in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": len(images), **obj})
    content = {
        "info": {"description": "BCCD blood cell detection (MIT licence)"},
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        "images": images,
        "annotations": annotations,
    }
    partial = output / f".{split}.json.partial"
    partial.write_text(json.dumps(content), encoding="utf-8")
    os.replace(partial, output / f"{split}.json")
    return len(images), len(annotations)


def convert(source: str | os.PathLike, output: str | os.PathLike) -> dict[str, tuple[int, int]]:
    """Converts every split that is there: split -> (images, objects).

    Raises:
        FileNotFoundError: `source` is neither the repository nor its BCCD folder, or a file it names is missing.
        ValueError: see `read_annotation`.
    """
    source, output = Path(source), Path(output)
    source = source / "BCCD" if (source / "BCCD").is_dir() else source
    splits = [s for s in SPLITS if (source / "ImageSets" / "Main" / f"{s}.txt").is_file()]
    if not splits:
        raise FileNotFoundError(f"{source}: no ImageSets/Main/train.txt; expected a clone of BCCD_Dataset")
    (output / "images").mkdir(parents=True, exist_ok=True)
    return {split: convert_split(source, output, split) for split in splits}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / "bccd"
    parser.add_argument("source", help="the clone of BCCD_Dataset")
    parser.add_argument("--output", default=str(default), help="folder to write (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        written = convert(args.source, args.output)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for split, (images, objects) in written.items():
        print(f"{split}: {images} images, {objects} objects -> {Path(args.output) / split}.json")


if __name__ == "__main__":
    main()
