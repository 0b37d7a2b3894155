"""COCO's json format, to and from records."""

from __future__ import annotations

import contextlib
import copy
import datetime
import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from fvcore.common.timer import Timer
from iopath.common.file_io import file_lock
from pycocotools.coco import COCO

from detectron2.data.catalog import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager

__all__ = ["load_coco_json", "load_sem_seg", "convert_to_coco_dict", "convert_to_coco_json", "register_coco_instances"]

logger = logging.getLogger(__name__)

KEPT_KEYS = ("iscrowd", "bbox", "keypoints", "category_id")

# COCO's keypoints are indices of pixels, ours are positions: the middle of the pixel.
PIXEL_CENTER = 0.5


def load_coco_json(
    json_file: str,
    image_root: str,
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] | None = None,
) -> list[dict]:
    """Loads a json of COCO's instances or person keypoints.

    Args:
        json_file: the annotations.
        image_root: folder that the images' file names are relative to.
        dataset_name: its metadata gets `thing_classes` and `thing_dataset_id_to_contiguous_id`, and category ids
            become 0..K-1 in the order of the file's ids. Without a name the file's ids stay.
        extra_annotation_keys: keys to keep besides those of Detectron2's format.

    Returns:
        Records sorted by image id, boxes in XYWH_ABS.

    Raises:
        ValueError: an empty box.
        KeyError: a category that the file does not list.
        AssertionError: annotation ids that repeat, or an annotation to be ignored.
    """
    timer = Timer()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        coco = COCO(PathManager.get_local_path(json_file))
    if timer.seconds() > 1:
        logger.info("Loading %s takes %.2f seconds.", json_file, timer.seconds())
    id_map = None if dataset_name is None else _set_classes(coco, dataset_name)
    # COCO 2014's minival files are known to repeat ids.
    if "minival" not in json_file:
        ids = [anno["id"] for annos in coco.imgToAnns.values() for anno in annos]
        assert len(set(ids)) == len(ids), f"Annotation ids in {json_file} are not unique"

    keys = (*KEPT_KEYS, *(extra_annotation_keys or ()))
    records, dropped = [], 0
    for image_id in sorted(coco.imgs):
        image, annos = coco.imgs[image_id], coco.imgToAnns.get(image_id, [])
        objects = [_load_object(anno, image_id, keys, id_map) for anno in annos]
        dropped += objects.count(None)
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image_id,
                "annotations": [obj for obj in objects if obj is not None],
            }
        )
    logger.info("Loaded %d images in COCO format from %s", len(records), json_file)
    if dropped:
        logger.warning("Dropped %d instances of %s whose polygons all have fewer than 3 points", dropped, json_file)
    return records


def _set_classes(coco: COCO, dataset_name: str) -> dict[int, int]:
    """Sets the metadata's classes; returns the map from the file's category ids to 0..K-1."""
    category_ids = sorted(coco.cats)
    if category_ids != list(range(1, len(category_ids) + 1)) and "coco" not in dataset_name:
        logger.warning(
            "Category ids of %s are not 1..%d; they are mapped to 0..%d in their order",
            dataset_name,
            len(category_ids),
            len(category_ids) - 1,
        )
    id_map = {category_id: i for i, category_id in enumerate(category_ids)}
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[coco.cats[category_id]["name"] for category_id in category_ids],
        thing_dataset_id_to_contiguous_id=id_map,
    )
    return id_map


def _load_object(anno: dict, image_id: int, keys: Sequence[str], id_map: dict[int, int] | None) -> dict | None:
    """One annotation in Detectron2's format; None if nothing is left of its polygons."""
    assert anno["image_id"] == image_id, f"annotation {anno['id']} belongs to image {anno['image_id']}, not {image_id}"
    assert anno.get("ignore", 0) == 0, f"annotation {anno['id']}: 'ignore' is not supported in COCO json files"
    obj = {key: anno[key] for key in keys if key in anno}
    if "bbox" in obj and len(obj["bbox"]) == 0:
        raise ValueError(f"An annotation of image {image_id} has an empty 'bbox'; boxes are x, y, width, height")
    if anno.get("segmentation"):
        obj["segmentation"] = _load_segmentation(anno["segmentation"])
        if not obj["segmentation"]:
            return None
    if obj.get("keypoints"):
        obj["keypoints"] = [v if i % 3 == 2 else v + PIXEL_CENTER for i, v in enumerate(obj["keypoints"])]
    obj["bbox_mode"] = BoxMode.XYWH_ABS
    if id_map is not None:
        if obj["category_id"] not in id_map:
            raise KeyError(f"category_id {obj['category_id']} is not among the categories of the json file")
        obj["category_id"] = id_map[obj["category_id"]]
    return obj


def _load_segmentation(segmentation: list | dict) -> list | dict:
    """Polygons without the degenerate ones, or a compressed RLE."""
    if not isinstance(segmentation, dict):
        return [polygon for polygon in segmentation if len(polygon) % 2 == 0 and len(polygon) >= 6]
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """A registered data set in COCO's json format.

    Category ids are mapped back by the metadata's `thing_dataset_id_to_contiguous_id`, if there is one. Images without
    an id are numbered, annotations count from 1.
    """
    records, metadata = DatasetCatalog.get(dataset_name), MetadataCatalog.get(dataset_name)
    id_map = metadata.get("thing_dataset_id_to_contiguous_id")
    original_id = None if id_map is None else {new: old for old, new in id_map.items()}

    def category_id(contiguous_id: int) -> int:
        return contiguous_id if original_id is None else original_id[contiguous_id]

    logger.info("Converting data set %s to COCO format", dataset_name)
    images, annotations = [], []
    for index, record in enumerate(records):
        image_id = record.get("image_id", index)
        images.append(
            {
                "id": image_id,
                "width": int(record["width"]),
                "height": int(record["height"]),
                "file_name": str(record["file_name"]),
            }
        )
        for obj in record.get("annotations", []):
            entry = {"id": len(annotations) + 1, "image_id": image_id, **_dump_object(obj)}
            annotations.append({**entry, "category_id": int(category_id(obj["category_id"]))})
    logger.info("Conversion finished, #images: %d, #annotations: %d", len(images), len(annotations))
    return {
        "info": {"date_created": str(datetime.datetime.now()), "description": "Written from a Detectron2 data set."},
        "images": images,
        "categories": [{"id": category_id(i), "name": name} for i, name in enumerate(metadata.thing_classes)],
        "licenses": None,
        "annotations": annotations,
    }


def _dump_object(obj: dict) -> dict[str, Any]:
    """Box (XYWH, or XYWHA if rotated), area, iscrowd, and segmentation and keypoints where they are."""
    bbox = obj["bbox"].tolist() if isinstance(obj["bbox"], np.ndarray) else obj["bbox"]
    if len(bbox) not in (4, 5):
        raise ValueError(f"bbox has {len(bbox)} numbers, expected 4, or 5 for a rotated one")
    mode = BoxMode.XYWH_ABS if len(bbox) == 4 else BoxMode.XYWHA_ABS
    bbox = [float(value) for value in BoxMode.convert(bbox, obj["bbox_mode"], mode)]
    area = bbox[2] * bbox[3]
    optional: dict[str, Any] = {}
    if "segmentation" in obj:
        optional["segmentation"], area = _dump_segmentation(obj["segmentation"])
    if "keypoints" in obj:
        keypoints = [v if i % 3 == 2 else v - PIXEL_CENTER for i, v in enumerate(obj["keypoints"])]
        optional["keypoints"] = keypoints
        optional["num_keypoints"] = sum(visibility > 0 for visibility in keypoints[2::3])
    return {
        "bbox": [round(value, 3) for value in bbox],
        "area": float(area),
        "iscrowd": int(obj.get("iscrowd", 0)),
        **optional,
    }


def _dump_segmentation(segmentation: list | dict) -> tuple[list | dict, float]:
    """The segmentation as json can hold it, and its area in pixels."""
    if isinstance(segmentation, list):
        return [np.asarray(p).tolist() for p in segmentation], PolygonMasks([segmentation]).area()[0].item()
    if not isinstance(segmentation, dict):
        raise TypeError(f"segmentation must be a list of polygons or a COCO RLE dict, got {type(segmentation)}")
    area = mask_util.area(segmentation).item()
    segmentation = copy.copy(segmentation)
    if isinstance(segmentation["counts"], bytes):
        segmentation["counts"] = segmentation["counts"].decode("ascii")
    return segmentation, area


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Writes `convert_to_coco_dict` to a file, once even if several processes ask for it.

    Args:
        dataset_name: registered.
        output_file: its folder is made if needed.
        allow_cached: whether a file that exists already is kept as it is.
    """
    PathManager.mkdirs(os.path.dirname(output_file) or ".")
    with file_lock(output_file):
        if PathManager.exists(output_file) and allow_cached:
            logger.warning("Using the existing '%s'; remove it if the data set has changed", output_file)
            return
        logger.info("Writing data set '%s' to '%s'", dataset_name, output_file)
        # Through a second file, so that a crash leaves no half-written one.
        temporary = f"{output_file}.tmp"
        with PathManager.open(temporary, "w") as f:
            json.dump(convert_to_coco_dict(dataset_name), f)
        shutil.move(temporary, output_file)


def load_sem_seg(gt_root: str, image_root: str, gt_ext: str = "png", image_ext: str = "jpg") -> list[dict[str, str]]:
    """Records of pictures and of their semantic segmentations, which lie in two folders under equal names.

    Args:
        gt_root: folder of the segmentations, pictures of one class number a pixel. Folders inside are gone through.
        image_root: folder of the images, laid out alike.
        gt_ext, image_ext: ends of the names; other files are passed over.

    Returns:
        for each image, sorted by name, its `file_name` and `sem_seg_file_name`. Where one of a pair is missing, the
        other is left out with a warning.

    Raises:
        AssertionError: there is not one pair.
    """
    images, truth = _files_by_name(image_root, image_ext), _files_by_name(gt_root, gt_ext)
    both = sorted(images.keys() & truth.keys())
    assert both, f"no image of {image_root} (*.{image_ext}) has a segmentation in {gt_root} (*.{gt_ext})"
    if len(images) != len(both) or len(truth) != len(both):
        text = "%s has %d images and %s %d segmentations; the %d that are in both are used"
        logger.warning(text, image_root, len(images), gt_root, len(truth), len(both))
    return [{"file_name": images[name], "sem_seg_file_name": truth[name]} for name in both]


def _files_by_name(root: str, extension: str) -> dict[str, str]:
    """Paths of the files that end so, by their path in the folder without that end."""
    ending = f".{extension}"
    paths = [os.path.join(folder, file) for folder, _, files in os.walk(root) for file in files]
    return {os.path.relpath(path, root).removesuffix(ending): path for path in paths if path.endswith(ending)}


def register_coco_instances(name: str, metadata: dict[str, Any], json_file: str, image_root: str) -> None:
    """Registers a data set in COCO's json format; the file is read when the data set is asked for.

    Args:
        name: of the data set.
        metadata: anything more to be known about it.
        json_file: COCO's instances or person keypoints.
        image_root: folder of the images.

    Raises:
        AssertionError: the name has other metadata already.
    """
    assert isinstance(name, str), f"name must be a string, got {name!r}"
    assert isinstance(json_file, (str, os.PathLike)), f"json_file must be a path, got {json_file!r}"
    assert isinstance(image_root, (str, os.PathLike)), f"image_root must be a path, got {image_root!r}"
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)
    # The metadata has just proved equal, so registering again changes nothing.
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))


def main() -> None:
    """Draws a json's annotations: `python -m detectron2.data.datasets.coco JSON IMAGE_ROOT DATASET_NAME`."""
    # Drawing needs matplotlib, loading data does not.
    from detectron2.data.detection_utils import read_image
    from detectron2.utils.visualizer import Visualizer

    json_file, image_root, dataset_name = sys.argv[1:]
    folder = "coco-data-vis"
    os.makedirs(folder, exist_ok=True)
    records = load_coco_json(json_file, image_root, dataset_name)
    for record in records:
        image = read_image(record["file_name"], "RGB")
        drawn = Visualizer(image, metadata=MetadataCatalog.get(dataset_name)).draw_dataset_dict(record)
        drawn.save(os.path.join(folder, os.path.basename(record["file_name"])))
    print(f"{len(records)} images drawn to {folder}")


if __name__ == "__main__":
    main()
