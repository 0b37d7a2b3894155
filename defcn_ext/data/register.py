"""Registration of one's own COCO-format data from the config, and the check that the model fits it."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from defcn_ext.data.classes import check_same
from defcn_ext.data.coco_json import usable_json
from defcn_ext.data.dirt import Dirt
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

KEY = "DATASETS.REGISTER"
FORM = '"NAME=JSON:IMAGE_DIR"'
LOOKED_AT = 200  # images looked for in the image folder before it is called the wrong one


class Entry(NamedTuple):
    name: str
    json_file: str
    image_root: str


def parse_entry(entry: Any) -> Entry:
    """Reads "NAME=JSON:IMAGE_DIR", or a mapping with name, json and images.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(entry, dict):
        if set(entry) != {"name", "json", "images"}:
            raise ValueError(f"{KEY}: {dict(entry)!r}: expected the keys name, json and images")
        parts = [entry["name"], entry["json"], entry["images"]]
    elif isinstance(entry, str):
        name, _, rest = entry.partition("=")
        # The end of the json's name is sought first, so that Windows drive letters may follow on either side.
        json_stem, found, images = rest.partition(".json:")
        json_file, images = (f"{json_stem}.json", images) if found else rest.rpartition(":")[::2]
        parts = [name, json_file, images]
    else:
        parts = []
    if not parts or not all(isinstance(p, str) and p.strip() for p in parts):
        raise ValueError(f"{KEY}: {entry!r}: expected {FORM}, or name, json and images in yaml")
    name, json_file, images = (p.strip() for p in parts)
    return Entry(name, os.path.expanduser(json_file), os.path.expanduser(images))


def register_from_config(cfg: CfgNode) -> list[str]:
    """Registers every entry of DATASETS.REGISTER; doing it again only repeats its warnings. Returns the names.

    A json that would stop the loader or COCOeval is repaired in a copy at OUTPUT_DIR/datasets/NAME.json, which
    training and evaluation then read.

    Raises:
        ValueError, FileNotFoundError: with the key, the file and what to do.
    """
    names = []
    for raw in cfg.DATASETS.REGISTER:
        entry = parse_entry(raw)
        _register(entry, Path(cfg.OUTPUT_DIR) / "datasets" / f"{entry.name}.json")
        names.append(entry.name)
    return names


def _register(entry: Entry, copy_to: Path) -> None:
    name, json_file, image_root = entry
    metadata = MetadataCatalog.get(name)
    source = f"{os.path.abspath(json_file)}:{os.path.abspath(image_root)}"
    if name in DatasetCatalog:
        if metadata.get("registered_from") == source:
            # A run registers before it has a log file, and once more when it has.
            metadata.get("repairs").log(json_file)
            return
        other = metadata.get("registered_from") or metadata.get("json_file") or "elsewhere"
        raise ValueError(f"{KEY}: the name {name!r} is taken ({other}); choose another one")
    if not os.path.isdir(image_root):
        raise FileNotFoundError(f"{KEY}: {name}: image folder {image_root} does not exist")
    try:
        repairs = Dirt()
        file = usable_json(json_file, image_root, copy_to, repairs)
        _check_images(file.content["images"], json_file, image_root)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{KEY}: {name}: {error}") from None
    classes = [c["name"] for c in sorted(file.content["categories"], key=lambda c: c["id"])]
    repairs.log(json_file)
    extra = {"thing_classes": classes, "registered_from": source, "repairs": repairs}
    extra["original_ids"] = {"image_id": file.image_ids, "category_id": file.category_ids}
    register_coco_instances(name, extra, file.path, image_root)


def _check_images(images: list[dict], json_file: str, image_root: str) -> None:
    if not any(os.path.isfile(os.path.join(image_root, image["file_name"])) for image in images[:LOOKED_AT]):
        first = images[0]["file_name"]
        hint = "; its backslashes count as part of the name here, write / for folders" if "\\" in first else ""
        raise FileNotFoundError(
            f"{image_root}: holds none of the images of {json_file}, such as {first!r}. "
            f"IMAGE_DIR is the folder that the json's file_name entries start from{hint}"
        )


def check_num_classes(cfg: CfgNode, dataset_names: list[str] | tuple[str, ...]) -> None:
    """Compares MODEL.DEFCN.NUM_CLASSES with the categories of the data sets (loading those that are not known yet).

    Raises:
        ValueError: they disagree. Where it is one data set that disagrees with another, both lists are told.
    """
    expected = cfg.MODEL.DEFCN.NUM_CLASSES
    fitting = ""
    others = []
    for name in dataset_names:
        if not MetadataCatalog.get(name).get("thing_classes"):
            DatasetCatalog.get(name)
        classes = MetadataCatalog.get(name).get("thing_classes") or []
        if classes and len(classes) != expected:
            others.append((name, [str(x) for x in classes]))
        elif classes:
            fitting = fitting or name
    if not others:
        return
    name, classes = others[0]
    if fitting:
        check_same(classes, [str(x) for x in MetadataCatalog.get(fitting).thing_classes], name, fitting)
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    raise ValueError(
        f"MODEL.DEFCN.NUM_CLASSES is {expected}, but {name} has {len(classes)} categories ({shown}): "
        f"set MODEL.DEFCN.NUM_CLASSES {len(classes)}"
    )
