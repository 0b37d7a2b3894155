"""COCO content as people write it, turned into content that loaders and COCOeval can use."""

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from defcn_ext.config import UserError
from defcn_ext.data.dirt import Dirt
from defcn_ext.data.headers import probe_header
from defcn_ext.data.ids import Id, Ids, free_numbers, key
from defcn_ext.data.masks import box_of_mask, read_keypoints, read_mask, turned_box, turned_rectangle
from defcn_ext.data.numbers import (
    LARGEST_BOX,
    as_box,
    as_flag,
    as_index,
    as_number,
    as_size,
    holds_text,
    shown,
)

TEXT = "numbers written as text, or whole ones as 1.0: read as numbers"


class _Where(NamedTuple):
    """The id of an annotation and the name of its image; put into words only where there is a flaw to tell."""

    id: Any
    name: str

    def __str__(self) -> str:
        return f"id {shown(self.id)} in {self.name}"


class Repaired(NamedTuple):
    """Usable content, and for each id that had to be replaced there, the one of the file."""

    content: dict
    image_ids: dict[Id, Id]
    category_ids: dict[Id, Id]


def sanitize_coco(content: dict, image_root: str, dirt: Dirt) -> Repaired:
    """A copy in which every id is unique and known, every number is one, every box is four numbers, masks can be read.

    What is dropped or repaired is counted in `dirt`. Boxes without area stay, so that results remain comparable with
    those of other tools on the same file: COCOeval counts such an object as missed, and training skips it. COCOeval
    takes an annotation id of 0 for "unmatched", so ids that are not whole numbers above 0 are replaced as well.

    Args:
        content: as of `read_coco`.
        image_root: where the images are, for sizes that the file lacks.

    Raises:
        UserError: its boxes are shares of the image, not pixels.
    """
    images, image_ids = _repair_images(content["images"], image_root, dirt)
    categories, category_ids = _repair_categories(content["categories"], dirt)
    names = {image["id"]: image["file_name"] for image in images}
    annotations = []
    for original in content.get("annotations", []):
        annotation = _placed(original, image_ids, category_ids, names, dirt)
        if annotation is not None and _repair_annotation(annotation, names[annotation["image_id"]], dirt):
            annotations.append(annotation)
    annotations = _with_own_ids(annotations, names, dirt)
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    check_pixels((a["bbox"], sizes[a["image_id"]]) for a in annotations)
    clean = {**content, "images": images, "categories": categories}
    if "annotations" in content:
        clean["annotations"] = annotations
    return Repaired(clean, image_ids.original, category_ids.original)


def check_pixels(boxes: Iterable[tuple[Any, tuple[Any, Any]]]) -> None:
    """Refuses boxes that are shares of the image (0 to 1), as several tools write them, which would train as dots.

    Args:
        boxes: x, y, width, height (or corners), and (height, width) of the image; what is neither is left out.

    Raises:
        UserError: nine in ten of the boxes are.
    """
    total = shares = 0
    for given, sides in boxes:
        box = as_box(given)
        if box is None or max(box[2:]) <= 0:
            continue
        total += 1
        if 0 <= min(box) and max(box) <= 1:
            size = as_size(*sides)
            total, shares = (total - 1, shares) if size and min(size) < 8 else (total, shares + 1)
    if shares > 0.9 * total:
        raise UserError(
            f"{shares} of {total} boxes lie between 0 and 1: they are shares of the image, and pixels are expected; "
            "multiply x and width by the image's width, y and height by its height"
        )


def _repair_images(originals: list, image_root: str, dirt: Dirt) -> tuple[list[dict], Ids]:
    usable: dict[tuple, dict] = {}
    for image in originals:
        image = dict(image) if isinstance(image, dict) else {}
        name, own = image.get("file_name"), key(image.get("id"))
        if own is None or not _is_name(name):
            dirt.add("images without id or file_name: skipped", shown(image))
        elif own in usable:
            dirt.add("images whose id is taken: skipped", f"id {shown(image['id'])}: {name}")
        elif _repair_file(image, image_root, dirt):
            usable[own] = image
    ids = Ids((image["id"] for image in usable.values()), keep_text=True)
    images = list(usable.values())
    for image in images:
        code = ids.find(image["id"])
        if code in ids.original:
            dirt.add("image ids that are not whole numbers: replaced, and put back in results", shown(image["id"]))
        image["id"] = code
    return images, ids


def _is_name(name: Any) -> bool:
    # Halves of surrogate pairs are text in json, but no name of a file, and cannot be printed.
    return isinstance(name, str) and name != "" and "\0" not in name and name == name.encode(errors="ignore").decode()


def _repair_file(image: dict, image_root: str, dirt: Dirt) -> bool:
    """Whether the image's name and size could be put right, in place."""
    name = image["file_name"]
    if "\\" in name and not os.path.isfile(os.path.join(image_root, name)):
        slashed = name.replace("\\", "/")
        if os.path.isfile(os.path.join(image_root, slashed)):
            dirt.add("file names with backslashes: read with slashes", name)
            image["file_name"] = slashed
    size = as_size(image.get("height"), image.get("width"))
    if size:
        if (type(image["height"]), type(image["width"])) != (int, int):
            dirt.add(TEXT, f"height or width of {name}")
        image["height"], image["width"] = size
        return True
    header = probe_header(os.path.join(image_root, image["file_name"]))
    if isinstance(header, str):
        dirt.add("images without height and width, with an unreadable file: skipped", f"{name}: {header}")
        return False
    dirt.add("images without height and width: taken from the file", name)
    image["height"], image["width"] = header
    return True


def _repair_categories(originals: list[dict], dirt: Dirt) -> tuple[list[dict], Ids]:
    ids = Ids(category["id"] for category in originals)
    categories = []
    names = [str(category["name"]) for category in originals]
    counts = Counter(names)
    for category, name in zip(originals, names):
        code = ids.find(category["id"])
        if code in ids.original:
            dirt.add("category ids that are not whole numbers: replaced, and put back in results", name)
        if counts[name] > 1:
            dirt.add("categories that share their name: told apart by their id", f"{name}, id {shown(category['id'])}")
            name = f"{name} (id {category['id']})"
        categories.append({**category, "id": code, "name": name})
    return categories, ids


def _placed(original: Any, images: Ids, categories: Ids, names: dict[Id, str], dirt: Dirt) -> dict | None:
    """A copy of an annotation that refers to known ids by their numbers, or None."""
    annotation = dict(original) if isinstance(original, dict) else {}
    image, category = images.find(annotation.get("image_id")), categories.find(annotation.get("category_id"))
    if image is None:
        given = shown(annotation.get("image_id"))
        dirt.add("annotations of unknown images: skipped", f"id {shown(annotation.get('id'))}, image_id {given}")
        return None
    where = _Where(annotation.get("id"), names[image])
    if category is None:
        given = shown(annotation.get("category_id"))
        dirt.add("annotations of unknown categories: skipped", f"{where}, category_id {given}")
        return None
    for name, code, known in (("image_id", image, images), ("category_id", category, categories)):
        if type(annotation[name]) is not type(code) and code not in known.original:
            dirt.add("references to ids in another spelling, as text or 1.0: matched", f"{where}, {name}")
        annotation[name] = code
    return annotation


def _repair_annotation(annotation: dict, name: str, dirt: Dirt) -> bool:
    """Whether its box, mask, area and flags could be put right, in place."""
    where = _Where(annotation.get("id"), name)
    for part, read in (("segmentation", read_mask), ("keypoints", read_keypoints)):
        given = annotation.get(part)
        if given:
            annotation[part] = read(given)
            if annotation[part] is None:
                dirt.add(f"annotations whose {part} cannot be read: taken without", where)
                del annotation[part]
            elif annotation[part] != given or not _has_whole_size(given):
                dirt.add(TEXT, f"{where}, {part}")
    if not _repair_box(annotation, where, dirt):
        return False
    _repair_flags(annotation, where, dirt)
    box, area = annotation["bbox"], as_number(annotation.get("area"))
    if area is None or abs(area) > LARGEST_BOX**2:
        dirt.add("annotations without a usable area: taken as width x height", where)
        annotation["area"] = max(box[2], 0.0) * max(box[3], 0.0)
    elif isinstance(annotation["area"], str):
        dirt.add(TEXT, f"{where}, area")
        annotation["area"] = area
    if "num_keypoints" in annotation and type(annotation["num_keypoints"]) is not int:
        dirt.add("annotations whose num_keypoints is no whole number: counted", where)
        annotation["num_keypoints"] = sum(v > 0 for v in annotation.get("keypoints", [])[2::3])
    return True


def _has_whole_size(mask: Any) -> bool:
    """Whether run lengths have a size of integers: pycocotools takes no 1.0, which Python calls equal to 1."""
    return not isinstance(mask, dict) or all(type(side) is int for side in mask["size"])


def _repair_box(annotation: dict, where: _Where, dirt: Dirt) -> bool:
    given, mask = annotation.get("bbox"), annotation.get("segmentation")
    box = as_box(given)
    if box is None:
        box = box_of_mask(mask) if mask else None
        if box is None:
            dirt.add("annotations whose bbox is not four finite numbers: skipped", f"{where}, {shown(given)}")
            return False
        dirt.add("annotations without a usable bbox: it is taken from their segmentation", where)
        annotation["bbox"] = box
    elif holds_text(given):
        dirt.add(TEXT, f"{where}, bbox")
        annotation["bbox"] = box
    attributes = annotation.get("attributes")
    degrees = as_number(attributes.get("rotation")) if isinstance(attributes, dict) else None
    if degrees and degrees % 360:
        turned = turned_rectangle(mask, box, degrees) if mask else None
        if turned or not mask:
            dirt.add("boxes with attributes.rotation: replaced by the upright box around them", where)
            annotation["bbox"] = turned_box(box, degrees)
            annotation.update({"segmentation": turned} if turned else {})
    return True


def _repair_flags(annotation: dict, where: _Where, dirt: Dirt) -> None:
    if as_flag(annotation.get("ignore")):
        dirt.add('annotations with "ignore": treated as crowd', where)
        annotation.update(ignore=0, iscrowd=1)
    elif annotation.get("ignore", 0) != 0:
        annotation["ignore"] = 0  # loaders would take "0" for true
        dirt.add('annotations whose "ignore" is no number: taken as 0', where)
    crowd = annotation.get("iscrowd")
    if crowd in (0, 1):
        return
    flag = as_flag(crowd)
    kind = (
        "annotations without a usable iscrowd: taken as 0"
        if flag is None
        else "iscrowd written as text or as another number: read as 0 or 1"
    )
    dirt.add(kind, where)
    annotation["iscrowd"] = flag or 0


def _with_own_ids(annotations: list[dict], names: dict[Id, str], dirt: Dirt) -> list[dict]:
    """Without those that are there twice; the others with an id above 0 that no other one has."""
    kept: list[dict] = []
    ids: dict[int, dict] = {}
    renumber = []
    for annotation in annotations:
        where = _Where(annotation.get("id"), names[annotation["image_id"]])
        number = as_index(annotation.get("id"))
        if number in ids and {**annotation, "id": number} == ids[number]:
            dirt.add("annotations that are there twice: the second skipped", where)
            continue
        kept.append(annotation)
        if not number or number in ids:
            dirt.add("annotations whose id is missing, 0, or taken: given a new one", where)
            renumber.append(annotation)
            continue
        if type(annotation["id"]) is not int:
            dirt.add("annotation ids that are text or 1.0: read as whole numbers", where)
            annotation["id"] = number
        ids[number] = annotation
    for fresh, annotation in zip(free_numbers(ids), renumber):
        annotation["id"] = fresh
    return kept
