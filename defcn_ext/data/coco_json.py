"""COCO json as people write it, turned into COCO json that loaders and COCOeval can read."""

import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from defcn_ext.data.cleaning import as_floats, as_index
from defcn_ext.data.dirt import Dirt
from defcn_ext.data.headers import probe_header
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager


def read_coco(json_file: str) -> dict:
    """Reads a COCO json and checks what nothing can repair.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no json, no COCO json, or has no images or no usable categories.
    """
    path = PathManager.get_local_path(str(json_file))
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{json_file}: no such file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file)
    except ValueError as error:  # covers wrong encodings too
        raise ValueError(f"{json_file}: not valid json ({error})") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"{json_file}: holds a {kind}; expected an object with images, annotations, categories")
    for key in ("images", "annotations", "categories"):
        # Test sets come without annotations; stock Detectron2 takes them, and so does this.
        if not isinstance(content.get(key, [] if key == "annotations" else None), list):
            raise ValueError(f'{json_file}: key "{key}" is missing or no list; is it in COCO format?')
    if not content["images"]:
        raise ValueError(f'{json_file}: "images" is empty')
    _check_categories(json_file, content["categories"])
    return content


def _check_categories(json_file: str, categories: list) -> None:
    if not categories:
        raise ValueError(f'{json_file}: "categories" is empty; give each class an id and a name')
    seen: dict[int, str] = {}
    for category in categories:
        number = category.get("id") if isinstance(category, dict) else None
        if as_index(number) is None or not isinstance(category.get("name"), str):
            raise ValueError(f'{json_file}: category {category!r:.100} needs a whole number "id" and a text "name"')
        if number in seen:
            raise ValueError(f"{json_file}: categories {seen[number]!r} and {category['name']!r} share the id {number}")
        seen[number] = category["name"]


def sanitize_coco(content: dict, image_root: str, dirt: Dirt) -> dict:
    """A copy in which every id is unique and known, every box is four finite numbers, and masks can be read.

    What is dropped or repaired is counted in `dirt`. Boxes without area stay, so that results remain comparable with
    those of other tools on the same file: COCOeval counts such an object as missed, and training skips it. COCOeval
    takes an annotation id of 0 for "unmatched", so ids that are not whole numbers above 0 are replaced as well.
    """
    images, names = _sanitize_images(content["images"], image_root, dirt)
    classes = {c["id"] for c in content["categories"]}
    annotations: list[dict] = []
    ids: dict[int, dict] = {}
    renumber = []
    for original in content.get("annotations", []):
        annotation = _sanitize_annotation(original, names, classes, dirt)
        if annotation is None:
            continue
        where = f"id {annotation.get('id')!r} in {names[annotation['image_id']]}"
        number = as_index(annotation.get("id"))
        if number in ids and annotation == ids[number]:
            dirt.add("annotations that are there twice: the second skipped", where)
            continue
        if not number or number in ids:
            dirt.add("annotations whose id is missing, 0, or taken: given a new one", where)
            renumber.append(annotation)
        else:
            ids[number] = annotation
        annotations.append(annotation)
    for fresh, annotation in enumerate(renumber, start=max(ids, default=0) + 1):
        annotation["id"] = fresh
    if len({isinstance(image["id"], str) for image in images}) > 1:
        _number_images(images, annotations, dirt)
    clean = {**content, "images": images}
    return {**clean, "annotations": annotations} if "annotations" in content else clean


def _sanitize_images(originals: list, image_root: str, dirt: Dirt) -> tuple[list[dict], dict[Any, str]]:
    """The usable images, and id -> file name."""
    images: list[dict] = []
    names: dict[Any, str] = {}
    for image in originals:
        image = dict(image) if isinstance(image, dict) else {}
        number, name = image.get("id"), image.get("file_name")
        if not isinstance(number, (int, str)) or not isinstance(name, str) or not name:
            dirt.add("images without id or file_name: skipped", repr(image)[:100])
            continue
        if number in names:
            dirt.add("images whose id is taken: skipped", f"id {number}: {name}")
            continue
        if not (as_index(image.get("height")) and as_index(image.get("width"))):
            header = probe_header(os.path.join(image_root, name))
            if isinstance(header, str):
                dirt.add("images without height and width, with an unreadable file: skipped", f"{name}: {header}")
                continue
            dirt.add("images without height and width: taken from the file", name)
            image["height"], image["width"] = header
        names[number] = name
        images.append(image)
    return images, names


def _number_images(images: list[dict], annotations: list[dict], dirt: Dirt) -> None:
    """Replaces ids that are text among numbers, which cannot be sorted together."""
    numbers = {image["id"]: image["id"] for image in images if not isinstance(image["id"], str)}
    fresh = itertools.count(max(numbers) + 1)
    for image in images:
        if image["id"] not in numbers:
            numbers[image["id"]] = next(fresh)
            dirt.add("image ids that are text among numbers: given a number", f"{image['id']!r}")
        image["id"] = numbers[image["id"]]
    for annotation in annotations:
        annotation["image_id"] = numbers[annotation["image_id"]]


def _sanitize_annotation(original: Any, names: dict[Any, str], classes: set, dirt: Dirt) -> dict | None:
    annotation = dict(original) if isinstance(original, dict) else {}
    where = f"id {annotation.get('id')!r}"
    image, category = annotation.get("image_id"), annotation.get("category_id")
    if not isinstance(image, (int, str)) or image not in names:
        dirt.add("annotations of unknown images: skipped", f"{where}, image_id {image!r}")
        return None
    where = f"{where} in {names[image]}"
    if as_index(category) is None or category not in classes:
        dirt.add("annotations of unknown categories: skipped", f"{where}, category_id {category!r}")
        return None
    box = as_floats(annotation.get("bbox"), 4)
    if box is None:
        given = f"{annotation.get('bbox')!r:.80}"
        dirt.add("annotations whose bbox is not four finite numbers: skipped", f"{where}, {given}")
        return None
    if box != annotation["bbox"]:
        dirt.add("boxes written as text: read as numbers", where)
        annotation["bbox"] = box
    if annotation.get("ignore"):
        dirt.add('annotations with "ignore": treated as crowd', where)
        annotation.update(ignore=0, iscrowd=1)
    if annotation.get("iscrowd") not in (0, 1):
        dirt.add("annotations without iscrowd: taken as 0", where)
        annotation["iscrowd"] = 0
    if as_floats([annotation.get("area")], 1) is None:
        dirt.add("annotations without area: taken as width x height", where)
        annotation["area"] = max(box[2], 0.0) * max(box[3], 0.0)
    for key, usable in (("segmentation", _is_mask), ("keypoints", _is_keypoints)):
        if annotation.get(key) and not usable(annotation[key]):
            dirt.add(f"annotations whose {key} cannot be read: taken without", where)
            del annotation[key]
    return annotation


def _is_mask(value: Any) -> bool:
    """Whether it is run lengths, or polygons of which at least one has three corners."""
    if isinstance(value, dict):
        counts, size = value.get("counts"), value.get("size")
        if isinstance(counts, list) and None in map(as_index, counts):
            return False
        has_size = isinstance(size, list) and len(size) == 2 and all(map(as_index, size))
        return has_size and isinstance(counts, (list, str))
    if not isinstance(value, list) or not all(map(_are_numbers, value)):
        return False
    return any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in value)


def _is_keypoints(value: Any) -> bool:
    return _are_numbers(value) and len(value) % 3 == 0


def _are_numbers(values: Any) -> bool:
    # as_floats also reads numbers written as text, which nothing behind this module does
    return isinstance(values, list) and str not in map(type, values) and as_floats(values, len(values)) is not None


def usable_json(
    json_file: str, image_root: str, copy_to: str | os.PathLike, dirt: Dirt | None = None
) -> tuple[str, dict]:
    """Where to read the annotations from, and what is there: `json_file` if it is clean, else a copy at `copy_to`.

    Warns once for each kind of flaw, unless `dirt` is given, which leaves the telling to the caller. Several processes
    may write the same copy.

    Raises:
        FileNotFoundError, ValueError: as `read_coco`, and if no usable image is left.
    """
    content = read_coco(json_file)
    found = Dirt() if dirt is None else dirt
    clean = sanitize_coco(content, image_root, found)
    if not clean["images"]:
        raise ValueError(f"{json_file}: none of its images can be used: {'; '.join(found.lines())}")
    if clean == content:
        return str(json_file), content
    if dirt is None:
        found.log(str(json_file))
    copy_to = Path(copy_to)
    copy_to.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{copy_to.name}-", dir=copy_to.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(clean, file)
    os.replace(partial, copy_to)
    return str(copy_to), clean


def load_coco(json_file: str, image_root: str, dataset_name: str | None = None) -> list[dict]:
    """`load_coco_json` for a json with dirt in it: the same records and the same metadata, nothing raised."""
    with tempfile.TemporaryDirectory(prefix="defcn-coco-") as folder:
        path, _ = usable_json(json_file, image_root, Path(folder) / "annotations.json")
        return load_coco_json(path, image_root, dataset_name)
