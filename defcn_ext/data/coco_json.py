"""COCO json files of any origin: read, checked, and written anew where loaders or COCOeval would stumble over them."""

import json
import locale
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from defcn_ext._text import write_whole
from defcn_ext.config import UserError
from defcn_ext.data.coco_repair import sanitize_coco
from defcn_ext.data.dirt import Dirt
from defcn_ext.data.ids import Id, key
from defcn_ext.data.numbers import MAX_DEPTH, shown, too_deep
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

LISTS = ("images", "annotations", "categories")
NUMBERS = ("segmentation", "bbox", "keypoints")  # lists that are read number by number anyway


class CocoFile(NamedTuple):
    """Where usable annotations lie, what is there, and which ids of the user's file stand behind those there."""

    path: str
    content: dict
    image_ids: dict[Id, Id]
    category_ids: dict[Id, Id]


def read_coco(json_file: str) -> dict:
    """Reads a COCO json and checks what nothing can repair.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is no json, no COCO json, or has no images or no usable categories.
    """
    return _check(json_file, _parse(json_file, _read(json_file)))


def _read(json_file: str) -> bytes:
    path = PathManager.get_local_path(str(json_file))
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{json_file}: no such file")
    return Path(path).read_bytes()


def _parse(json_file: str, data: bytes) -> Any:
    try:
        return json.loads(data)  # of UTF-8, -16 or -32, with or without a byte-order mark
    except ValueError as error:  # covers wrong encodings too
        raise UserError(f"{json_file}: not valid json ({error})") from None
    except RecursionError:
        raise UserError(f"{json_file}: lists lie in lists more than {MAX_DEPTH} deep, which is not COCO's") from None


def _check(json_file: str, content: Any) -> dict:
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{json_file}: holds a {kind}; expected an object with images, annotations, categories")
    for name in LISTS:
        # Test sets come without annotations; stock Detectron2 takes them, and so does this.
        if not isinstance(content.get(name, [] if name == "annotations" else None), list):
            raise UserError(f'{json_file}: key "{name}" is missing or no list; is it in COCO format?')
    _check_depth(json_file, content)
    if not content["images"]:
        raise UserError(f'{json_file}: "images" is empty')
    _check_categories(json_file, content["categories"])
    return content


def _check_depth(json_file: str, content: dict) -> None:
    """Looks at what lies nested in entries; lists of numbers are left to those who read them."""
    entries = [("the json", {k: v for k, v in content.items() if k not in LISTS})]
    entries += [(name, entry) for name in LISTS for entry in content.get(name, [])]
    for name, entry in entries:
        parts = entry.items() if isinstance(entry, dict) else [("", entry)]
        nested = [x for k, x in parts if isinstance(x, dict) or (isinstance(x, list) and k not in NUMBERS)]
        if any(map(too_deep, nested)):
            raise UserError(f"{json_file}: {name}: lists lie in lists more than {MAX_DEPTH} deep, which is not COCO's")


def _check_categories(json_file: str, categories: list) -> None:
    if not categories:
        raise UserError(f'{json_file}: "categories" is empty; give each class an id and a name')
    seen: dict[tuple, str] = {}
    for category in categories:
        own = key(category.get("id")) if isinstance(category, dict) else None
        name = category.get("name") if isinstance(category, dict) else None
        if own is None or isinstance(name, bool) or not isinstance(name, (str, int)):
            raise UserError(f'{json_file}: category {shown(category)} needs an "id" (a whole number) and a "name"')
        if own in seen:
            raise UserError(f"{json_file}: categories {seen[own]!r} and {name!r} share the id {shown(category['id'])}")
        seen[own] = name


def usable_json(json_file: str, image_root: str, copy_to: str | os.PathLike, dirt: Dirt | None = None) -> CocoFile:
    """Where to read the annotations from, and what is there: `json_file` if it is clean, else a copy at `copy_to`.

    Warns once for each kind of flaw, unless `dirt` is given, which leaves the telling to the caller. Several processes
    may write the same copy.

    Raises:
        FileNotFoundError, UserError: as `read_coco`, and if no usable image is left or boxes are no pixels.
    """
    data = _read(json_file)
    content = _check(json_file, _parse(json_file, data))
    found = Dirt()
    try:
        clean, image_ids, category_ids = sanitize_coco(content, image_root, found)
    except UserError as error:
        raise UserError(f"{json_file}: {error}") from None
    if not clean["images"]:
        raise UserError(f"{json_file}: none of its images can be used: {'; '.join(found.lines())}")
    if not found.counts and clean == content and _is_read_by_all(data):
        return CocoFile(str(json_file), content, {}, {})
    if dirt is None:
        found.log(str(json_file))
    else:
        dirt.join(found)
    Path(copy_to).parent.mkdir(parents=True, exist_ok=True)
    write_whole(Path(copy_to), json.dumps(clean), rivals=True)
    return CocoFile(str(copy_to), clean, image_ids, category_ids)


def _is_read_by_all(data: bytes) -> bool:
    """Whether those who open a file as text, in the encoding of the machine, read the same in it."""
    if json.detect_encoding(data) != "utf-8":  # "utf-8-sig" is the one with a byte-order mark
        return False
    return data.isascii() or locale.getpreferredencoding(False).lower().replace("-", "") == "utf8"


def load_coco(json_file: str, image_root: str, dataset_name: str | None = None) -> list[dict]:
    """`load_coco_json` for a json with dirt in it: the same records and the same metadata, nothing raised."""
    with tempfile.TemporaryDirectory(prefix="defcn-coco-") as folder:
        path = usable_json(json_file, image_root, Path(folder) / "annotations.json").path
        return load_coco_json(path, image_root, dataset_name)
