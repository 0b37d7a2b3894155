"""`RobustMapper`: Detectron2's DatasetMapper for data with broken files and wrong sizes in it."""

import copy
import logging
from typing import Any

import numpy as np
import torch

from defcn_ext.data.augmentation import build_train_augmentation
from defcn_ext.data.headers import UNREADABLE, probe_header
from defcn_ext.data.pixels import UnknownRangeError, UnreadableImageError, check_format, read_image
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

logger = logging.getLogger(__name__)

MAX_ASPECT = 100  # longer side to shorter; a resize would leave nothing of the shorter side of much thinner images
GIVE_UP_AFTER = 100  # unreadable images in a row, when something else than single files must be wrong


class RobustMapper(DatasetMapper):
    """Maps dataset dicts as DatasetMapper does (boxes, masks, keypoints), and meets broken files as a user would wish.

    Training: returns None for an unreadable image, upon which the loader takes another one; the 1st, 10th, 100th
    ... are told. Evaluation: an image whose pixels are broken behind an intact header counts as a blank one, told
    likewise and marked by the key `blank`, because results of hours must not be lost to it; any other raises
    UnreadableImageError with the file's name, and so do both where nothing else comes any more. Images of more than
    8 bits a channel are scaled (`defcn_ext.data.pixels`). Where the record's size is not that of the image, the
    image's is used, instead of Detectron2's SizeMismatchError. Images thinner than MAX_ASPECT get a black border on
    the right or below.
    """

    @configurable
    def __init__(self, is_train: bool, *, cache: bool = False, num_records: int = GIVE_UP_AFTER, **kwargs: Any):
        """
        Args:
            is_train: whether annotations are wanted.
            cache: keep decoded images in memory.
            num_records: how many different files there are to train on; once so many have failed, with no other
                between them, none is left.
            kwargs: as for DatasetMapper.

        Raises:
            UserError: INPUT.FORMAT is no format.
        """
        super().__init__(is_train, **kwargs)
        check_format(self.image_format)
        self._num_records = num_records
        self._cache: dict[str, np.ndarray] | None = {} if cache else None
        self._failures = 0
        self._failed_in_a_row: list[str] = []

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        stock = cfg.clone()
        stock.defrost()
        stock.INPUT.RANDOM_FLIP = "none"  # older configs have "both", which Detectron2 refuses
        arguments = super().from_config(stock, is_train)
        if is_train:
            arguments.update(augmentations=build_train_augmentation(cfg), cache=cfg.INPUT.CACHE)
        return arguments

    def __call__(self, dataset_dict: dict) -> dict | None:
        """One record with `image` (uint8, C x H x W) and, in training, `instances`; None: see the class."""
        record = copy.deepcopy(dataset_dict)
        image = self._read(record["file_name"])
        if image is None:
            return None
        if self._failed_in_a_row:  # this one too, and a blank image stands for it
            record["blank"] = True
        record["height"], record["width"] = image.shape[:2]
        inputs = T.AugInput(image)
        transforms = self.augmentations(inputs)
        # The copy is needed after flips, whose strides are negative.
        record["image"] = torch.from_numpy(np.array(inputs.image.transpose(2, 0, 1), order="C"))
        annotations = record.pop("annotations", None)
        if self.is_train and annotations is not None:
            record["instances"] = self._instances(annotations, transforms, inputs.image.shape[:2])
        return record

    def _read(self, path: str) -> np.ndarray | None:
        if self._cache is not None and path in self._cache:
            self._failed_in_a_row.clear()
            return self._cache[path]
        try:
            image = _widened(read_image(path, self.image_format))
        except UNREADABLE as error:
            return self._replacement(path, error)
        self._failed_in_a_row.clear()
        if self._cache is not None:
            self._cache[path] = image = np.ascontiguousarray(image)
        return image

    def _replacement(self, path: str, error: BaseException) -> np.ndarray | None:
        """What stands for an unreadable image: nothing in training, a blank one in evaluation."""
        reason = f"{type(error).__name__}: {error}"
        size = None if self.is_train else probe_header(path)
        if isinstance(size, str) or (size is not None and isinstance(error, UnknownRangeError)):
            raise UnreadableImageError(f"{path}: cannot be read ({reason}): replace it, or take it out of the json")
        self._failures += 1
        self._failed_in_a_row.append(path)
        failed = len(self._failed_in_a_row)
        if failed >= GIVE_UP_AFTER:
            raise UnreadableImageError(f"{failed} images in a row cannot be read, the last: {path} ({reason})")
        if self.is_train and len(set(self._failed_in_a_row)) >= self._num_records:
            raise UnreadableImageError(f"none of {self._num_records} images can be read, the last: {path} ({reason})")
        if self._failures in (1, 10, 100, 1000, 10000):
            done = "unreadable image(s) skipped" if size is None else "image(s) that cannot be decoded taken as blank"
            logger.warning("%d %s in this process, now %s (%s)", self._failures, done, path, reason)
        return None if size is None else np.zeros((*size, 1 if self.image_format == "L" else 3), dtype=np.uint8)

    def _instances(self, annotations: list[dict], transforms: T.TransformList, size: tuple[int, int]):
        wanted = {"segmentation": self.use_instance_mask, "keypoints": self.use_keypoint}
        kept = [{k: v for k, v in a.items() if wanted.get(k, True)} for a in annotations if not a.get("iscrowd", 0)]
        for key in (k for k, used in wanted.items() if used and any(k in a for a in kept)):
            kept = [a for a in kept if key in a]  # Detectron2 wants a mask for every box, or for none
        flips = self.keypoint_hflip_indices
        moved = [utils.transform_instance_annotations(a, transforms, size, keypoint_hflip_indices=flips) for a in kept]
        instances = utils.annotations_to_instances(moved, size, mask_format=self.instance_mask_format)
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)


def _widened(image: np.ndarray) -> np.ndarray:
    least = -(-max(image.shape[:2]) // MAX_ASPECT)
    missing = [(0, max(least - side, 0)) for side in image.shape[:2]]
    return np.pad(image, [*missing, *[(0, 0)] * (image.ndim - 2)]) if min(image.shape[:2]) < least else image
