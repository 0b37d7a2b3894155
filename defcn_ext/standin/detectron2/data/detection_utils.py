"""Turning annotations of data sets into `Instances`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from fvcore.transforms.transform import CropTransform, HFlipTransform, Transform, TransformList

from detectron2.data import transforms as T
from detectron2.data.catalog import MetadataCatalog
from detectron2.data.images import convert_image_to_rgb, read_image
from detectron2.data.images import convert_PIL_to_numpy as convert_PIL_to_numpy
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
    polygons_to_bitmask,
)

__all__ = [
    "SizeMismatchError",
    "convert_image_to_rgb",
    "check_image_size",
    "transform_proposals",
    "transform_instance_annotations",
    "annotations_to_instances",
    "annotations_to_instances_rotated",
    "build_augmentation",
    "build_transform_gen",
    "create_keypoint_hflip_indices",
    "filter_empty_instances",
    "read_image",
]


class SizeMismatchError(ValueError):
    """An image has another size than its record says."""


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """Fills a record's missing width and height. Raises SizeMismatchError if they disagree with the image."""
    height, width = image.shape[:2]
    for side, actual in (("width", width), ("height", height)):
        expected = dataset_dict.setdefault(side, actual)
        if expected != actual:
            name = dataset_dict.get("file_name", "")
            raise SizeMismatchError(f"Image {name} is {width} x {height}, but its record says {side} {expected}")


def get_bbox(annotation: dict) -> np.ndarray:
    """The annotation's box as x1, y1, x2, y2 in pixels."""
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)


def transform_proposals(
    dataset_dict: dict, image_shape: tuple[int, int], transforms: Transform, *, proposal_topk: int, min_box_size=0
) -> None:
    """Replaces a record's precomputed proposals, if it has some, by transformed `Instances` under `proposals`.

    Args:
        dataset_dict: with `proposal_boxes`, `proposal_bbox_mode` and `proposal_objectness_logits`, best first.
        image_shape: height, width after the transforms.
        transforms: those of the image.
        proposal_topk: how many to keep.
        min_box_size: pixels; proposals with a side not above this are dropped.
    """
    if "proposal_boxes" not in dataset_dict:
        return
    boxes = BoxMode.convert(
        dataset_dict.pop("proposal_boxes"), dataset_dict.pop("proposal_bbox_mode"), BoxMode.XYXY_ABS
    )
    boxes = Boxes(transforms.apply_box(boxes))
    logits = torch.as_tensor(dataset_dict.pop("proposal_objectness_logits").astype("float32"))
    boxes.clip(image_shape)
    keep = boxes.nonempty(threshold=min_box_size).nonzero()[:proposal_topk, 0]
    proposals = Instances(image_shape)
    proposals.proposal_boxes = boxes[keep]
    proposals.objectness_logits = logits[keep]
    dataset_dict["proposals"] = proposals


def transform_instance_annotations(
    annotation: dict,
    transforms: Transform | Sequence[Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: Sequence[int] | None = None,
) -> dict:
    """Transforms box, segmentation and keypoints of one object, in place.

    Args:
        annotation: as in a data set's record.
        transforms: those of the image.
        image_size: height, width after the transforms.
        keypoint_hflip_indices: see `create_keypoint_hflip_indices`.

    Returns:
        The same dict: the box clipped to the image in XYXY_ABS, polygons as arrays, RLE as an (H, W) bitmap.
    """
    if isinstance(transforms, (tuple, list)):
        transforms = TransformList(transforms)
    height, width = image_size
    box = transforms.apply_box(np.array([get_bbox(annotation)]))[0]
    annotation["bbox"] = np.minimum(box.clip(min=0), [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(annotation["segmentation"], transforms, image_size)
    if "keypoints" in annotation:
        annotation["keypoints"] = transform_keypoint_annotations(
            annotation["keypoints"], transforms, image_size, keypoint_hflip_indices
        )
    return annotation


def _transform_segmentation(segmentation: list | dict, transforms: Transform, image_size: tuple[int, int]):
    if isinstance(segmentation, list):
        polygons = transforms.apply_polygons([np.asarray(p).reshape(-1, 2) for p in segmentation])
        return [p.reshape(-1) for p in polygons]
    if isinstance(segmentation, dict):
        mask = transforms.apply_segmentation(mask_util.decode(segmentation))
        assert mask.shape[:2] == tuple(image_size), f"mask is {mask.shape}, the image {image_size}"
        return mask
    raise ValueError(f"segmentation must be a list of polygons or a COCO RLE dict, got {type(segmentation)}")


def transform_keypoint_annotations(
    keypoints: Sequence[float],
    transforms: Transform,
    image_size: tuple[int, int],
    keypoint_hflip_indices: Sequence[int] | None = None,
) -> np.ndarray:
    """Transforms (x, y, visibility) triples; (k, 3) floats.

    Those that leave the image become invisible. All-zero are the invisible ones. After an odd number of
    horizontal flips left and right swap places.

    Raises:
        ValueError: a flip without indices, or with another number of them.
    """
    keypoints = np.asarray(keypoints, dtype="float64").reshape(-1, 3)
    xy = transforms.apply_coords(keypoints[:, :2].copy())
    inside = ((xy >= 0) & (xy <= np.array(image_size[::-1]))).all(axis=1)
    keypoints = np.column_stack([xy, np.where(inside, keypoints[:, 2], 0)])
    members = getattr(transforms, "transforms", [transforms])
    if sum(isinstance(t, HFlipTransform) for t in members) % 2 == 1:
        if keypoint_hflip_indices is None:
            raise ValueError("Cannot flip keypoints without keypoint_hflip_indices")
        if len(keypoint_hflip_indices) != len(keypoints):
            raise ValueError(f"{len(keypoints)} keypoints, but {len(keypoint_hflip_indices)} flip indices")
        keypoints = keypoints[np.asarray(keypoint_hflip_indices)]
    keypoints[keypoints[:, 2] == 0] = 0
    return keypoints


def annotations_to_instances(annos: list[dict], image_size: tuple[int, int], mask_format: str = "polygon") -> Instances:
    """Objects of one image as `Instances` with gt_boxes, gt_classes and, if there, gt_masks, gt_keypoints.

    Args:
        annos: transformed annotations. The first one decides whether there are masks and keypoints.
        image_size: height, width.
        mask_format: "polygon" or "bitmask".

    Raises:
        ValueError: masks that the format cannot hold.
    """
    target = Instances(image_size)
    boxes = np.stack([get_bbox(anno) for anno in annos]) if annos else np.zeros((0, 4))
    target.gt_boxes = Boxes(boxes)
    target.gt_classes = torch.tensor([int(anno["category_id"]) for anno in annos], dtype=torch.int64)
    if annos and "segmentation" in annos[0]:
        target.gt_masks = _masks([anno["segmentation"] for anno in annos], image_size, mask_format)
    if annos and "keypoints" in annos[0]:
        target.gt_keypoints = Keypoints([anno["keypoints"] for anno in annos])
    return target


def annotations_to_instances_rotated(annos: list[dict], image_size: tuple[int, int]) -> Instances:
    """As `annotations_to_instances`, of boxes in XYWHA_ABS: clipped gt_boxes (RotatedBoxes) and gt_classes only."""
    target = Instances(image_size)
    target.gt_boxes = RotatedBoxes(np.array([anno["bbox"] for anno in annos], dtype=np.float32))
    target.gt_boxes.clip(image_size)
    target.gt_classes = torch.tensor([int(anno["category_id"]) for anno in annos], dtype=torch.int64)
    return target


def _masks(segmentations: list, image_size: tuple[int, int], mask_format: str) -> PolygonMasks | BitMasks:
    if mask_format == "polygon":
        try:
            return PolygonMasks(segmentations)
        except ValueError as error:
            raise ValueError("Not all segmentations are polygons; use the mask format 'bitmask'") from error
    assert mask_format == "bitmask", f"mask_format must be 'polygon' or 'bitmask', got {mask_format!r}"
    masks = [_bitmap(segmentation, image_size) for segmentation in segmentations]
    return BitMasks(torch.stack([torch.from_numpy(np.ascontiguousarray(mask)) for mask in masks]))


def _bitmap(segmentation: list | dict | np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation)
    if isinstance(segmentation, np.ndarray):
        assert segmentation.ndim == 2, f"a bitmap has two axes, got shape {segmentation.shape}"
        return segmentation
    raise ValueError(f"segmentation must be polygons, a COCO RLE dict or a bitmap, got {type(segmentation)}")


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Drops objects with a box side not above `box_threshold` pixels, or with an empty mask.

    Returns:
        The rest; with `return_mask` also which ones, (n,) bool.

    Raises:
        AssertionError: neither is to be checked.
    """
    assert by_box or by_mask, "filter_empty_instances: neither by_box nor by_mask"
    keep = torch.ones(len(instances.gt_boxes if instances.has("gt_boxes") else instances), dtype=torch.bool)
    if by_box:
        keep = keep & instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep = keep & instances.gt_masks.nonempty()
    return (instances[keep], keep) if return_mask else instances[keep]


def check_metadata_consistency(key: str, dataset_names: str | Sequence[str]) -> None:
    """Raises ValueError if data sets differ in `key`, AttributeError if one lacks it."""
    if isinstance(dataset_names, str):
        dataset_names = [dataset_names]
    values = [getattr(MetadataCatalog.get(name), key) for name in dataset_names]
    for name, value in zip(dataset_names, values):
        if value != values[0]:
            raise ValueError(
                f"Data sets that are used together must agree in '{key}': "
                f"{dataset_names[0]} has {values[0]}, {name} has {value}"
            )


def create_keypoint_hflip_indices(dataset_names: str | list[str]) -> list[int]:
    """For each keypoint the index of the one that takes its place when the image is mirrored."""
    if isinstance(dataset_names, str):
        dataset_names = [dataset_names]
    for key in ("keypoint_names", "keypoint_flip_map"):
        check_metadata_consistency(key, dataset_names)
    meta = MetadataCatalog.get(dataset_names[0])
    mirrored = {a: b for left, right in meta.keypoint_flip_map for a, b in ((left, right), (right, left))}
    return [meta.keypoint_names.index(mirrored.get(name, name)) for name in meta.keypoint_names]


def get_fed_loss_cls_weights(dataset_names: str | list[str], freq_weight_power: float = 1.0) -> torch.Tensor:
    """(K,) in how many images each class is, by the metadata's `class_image_count`, to the given power."""
    if isinstance(dataset_names, str):
        dataset_names = [dataset_names]
    check_metadata_consistency("class_image_count", dataset_names)
    counts = sorted(MetadataCatalog.get(dataset_names[0]).class_image_count, key=lambda entry: entry["id"])
    return torch.tensor([entry["image_count"] for entry in counts], dtype=torch.float32) ** freq_weight_power


def gen_crop_transform_with_instance(
    crop_size: tuple[int, int], image_size: tuple[int, int], instance: dict
) -> CropTransform:
    """A random crop that contains the center of an object.

    Args:
        crop_size, image_size: height, width in pixels.
        instance: an annotation of that image.

    Raises:
        AssertionError: the crop is larger than the image, or the center lies outside it.
    """
    crop, image = np.asarray(crop_size, dtype=np.int32), np.asarray(image_size, dtype=np.int32)
    x1, y1, x2, y2 = get_bbox(instance)
    center = np.array([(y1 + y2) / 2, (x1 + x2) / 2])
    assert (image >= center).all(), f"the object's center {center} lies outside the image {image_size}"
    assert (image >= crop).all(), f"cannot crop {crop_size} from {image_size}"
    low = np.maximum(np.floor(center).astype(np.int32) - crop, 0)
    high = np.maximum(np.minimum(np.ceil(center).astype(np.int32), image - crop), low)
    y0, x0 = (int(np.random.randint(a, b + 1)) for a, b in zip(low, high))
    return CropTransform(x0, y0, int(crop[1]), int(crop[0]))


def build_augmentation(cfg, is_train: bool) -> list[T.Augmentation]:
    """The config's resize and, in training, its flip."""
    if is_train:
        sizes, longest, style = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    else:
        sizes, longest, style = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice"
    augmentations: list[T.Augmentation] = [T.ResizeShortestEdge(sizes, longest, style)]
    if is_train and cfg.INPUT.RANDOM_FLIP != "none":
        direction = cfg.INPUT.RANDOM_FLIP
        augmentations.append(T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical"))
    return augmentations


# The name in older Detectron2 versions.
build_transform_gen = build_augmentation
