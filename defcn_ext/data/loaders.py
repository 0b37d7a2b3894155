"""Train and test loaders over cleaned data."""

import logging
import os
from collections.abc import Iterator

from torch.utils.data import DataLoader

from defcn_ext.config import UserError
from defcn_ext.data.classes import class_order
from defcn_ext.data.cleaning import clean_dataset_dicts
from defcn_ext.data.coco_repair import check_pixels
from defcn_ext.data.dirt import Dirt
from defcn_ext.data.headers import Header, probe_headers_together, unreadable
from defcn_ext.data.hints import tell_more_objects, tell_no_object
from defcn_ext.data.mapper import RobustMapper
from defcn_ext.data.mixer import MixingMapper, build_mixer
from defcn_ext.data.pixels import UnreadableImageError
from defcn_ext.data.sizes import place
from detectron2.config import CfgNode
from detectron2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import filter_images_with_only_crowd_annotations

logger = logging.getLogger(__name__)

MAX_BLANK = 0.1  # share of images that an evaluation may do without


def train_dicts(cfg: CfgNode) -> list[dict]:
    """The records of DATASETS.TRAIN, cleaned; without empty images where DATALOADER.FILTER_EMPTY_ANNOTATIONS is on.

    Every process of a run must call it: they share the check of the files.

    Raises:
        UserError: nothing to train on is left, boxes are no pixels, or the data sets have classes of other names.
    """
    names = list(cfg.DATASETS.TRAIN)
    dirt = Dirt()
    records = [record for name in names for record in _cleaned(cfg, name, dirt)]
    source = f"DATASETS.TRAIN {', '.join(names)}"
    dirt.log(source)
    crowds = [a["iscrowd"] for record in records for a in record["annotations"]]
    if all(crowds):
        repairs = [MetadataCatalog.get(name).get("repairs") or Dirt() for name in names]
        found = [line for flaws in (*repairs, dirt) for line in flaws.lines()]
        found += [f"{len(crowds)} annotations are crowds, which are not trained on"] if crowds else []
        raise UserError(f"{source}: no image with an object is left: {'; '.join(found) or 'there are no annotations'}")
    tell_more_objects(cfg, source, records)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
    return records


def _cleaned(cfg: CfgNode, name: str, dirt: Dirt) -> list[dict]:
    """The records of one data set, with the model's classes."""
    # Emptiness is judged after cleaning: an image whose only box has no area is empty.
    dicts = get_detection_dataset_dicts([name], filter_empty=False)
    _check_pixels("DATASETS.TRAIN", name, dicts)
    classes = MetadataCatalog.get(name).get("thing_classes")
    count = len(classes) if classes else None
    records = clean_dataset_dicts(dicts, headers=_headers(cfg, dicts), num_classes=count, dirt=dirt)
    order = class_order(cfg, name)
    if order != sorted(order):
        for annotation in (a for record in records for a in record["annotations"]):
            annotation["category_id"] = order.index(annotation["category_id"])
    return records


def build_train_loader(cfg: CfgNode, mapper=None):
    """Detectron2's training loader over `train_dicts`, with RobustMapper unless another mapper is given.

    Pictures are mixed as INPUT.MIX says; see `MixingMapper` for what such a loader knows of the progress.
    """
    records = train_dicts(cfg)
    mapper = mapper or RobustMapper(cfg, True, num_records=num_files(records))
    mixer = build_mixer(cfg)
    mapper = MixingMapper(mapper, records, mixer, cfg) if mixer else mapper
    return build_detection_train_loader(cfg, mapper=mapper, dataset=records)


def num_files(records: list[dict]) -> int:
    """How many different images there are."""
    return len({record["file_name"] for record in records})


def build_test_loader(cfg: CfgNode, dataset_name: str, mapper=None):
    """Detectron2's test loader for one data set, with RobustMapper unless another mapper is given.

    Raises:
        UnreadableImageError: an image cannot be opened, told before the evaluation; or, in its middle, too many that
            can be opened cannot be decoded.
        UserError: it is not known where the boxes of an image lie; see `place`.
    """
    dirt = Dirt()
    dicts = _checked(cfg, dataset_name, dirt)
    dirt.log(f"DATASETS.TEST {dataset_name}")
    mapper = mapper or RobustMapper(cfg, False)
    loader = build_detection_test_loader(dicts, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
    return BlankCounter(loader, dataset_name)


class BlankCounter:
    """A test loader that tells how many of its images are blank ones for want of pixels, and refuses too many."""

    def __init__(self, loader: DataLoader, name: str):
        """
        Args:
            loader: gives lists of dicts, in which RobustMapper has marked `blank` images.
            name: of the data set.
        """
        self.loader, self.name = loader, name

    def __getattr__(self, attribute: str):
        if attribute == "loader":  # while it is unpickled
            raise AttributeError(attribute)
        return getattr(self.loader, attribute)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        """
        Raises:
            UnreadableImageError: more than one, and more than MAX_BLANK of this process's images, are blank.
        """
        total, blank = len(self), []  # of this process; a batch is one image
        for batch in self.loader:
            blank += [record["file_name"] for record in batch if record.get("blank")]
            if len(blank) > max(1, MAX_BLANK * total):
                raise UnreadableImageError(
                    f"DATASETS.TEST {self.name}: {len(blank)} images of {total} cannot be decoded already, the first "
                    f"{blank[0]}: replace them, or take them out of the json"
                )
            yield batch
        if blank:
            message = "DATASETS.TEST %s: %d of %d images cannot be decoded and count as blank ones, the first %s"
            logger.warning(message, self.name, len(blank), total, blank[0])


def check_test_images(cfg: CfgNode) -> None:
    """Opens the images of DATASETS.TEST, so that a training does not run for hours towards a broken one.

    Every process of a run must call it, as `train_dicts`.

    Raises:
        UnreadableImageError, UserError: as `build_test_loader`.
    """
    for name in cfg.DATASETS.TEST:
        _checked(cfg, name, Dirt())


def dicts_to_look_at(cfg: CfgNode, dataset_name: str) -> list[dict]:
    """The records of a data set for pictures and counts: with the model's classes, and boxes in pixels of the files.

    Files that cannot be read, and sizes that nothing explains, are left to those who look.

    Raises:
        UserError: its classes are not the model's.
    """
    order = class_order(cfg, dataset_name)
    dicts = get_detection_dataset_dicts([dataset_name], filter_empty=False)
    records = []
    for record, placement in zip(dicts, place(dicts, _headers(cfg, dicts) or {}, Dirt())):
        annotations = record.get("annotations") or []
        if placement.frame:
            annotations = [placement.frame.annotation(a) for a in annotations]
        if order != sorted(order):
            annotations = [{**a, "category_id": order.index(a["category_id"])} for a in annotations]
        records.append({**record, "annotations": annotations})
    return records


def _checked(cfg: CfgNode, dataset_name: str, dirt: Dirt) -> list[dict]:
    """The records of a test set; those whose boxes lie in another picture than the file have its `frame`."""
    dicts = get_detection_dataset_dicts([dataset_name], filter_empty=False)
    _check_pixels("DATASETS.TEST", dataset_name, dicts)
    tell_more_objects(cfg, f"DATASETS.TEST {dataset_name}", dicts)
    tell_no_object(f"DATASETS.TEST {dataset_name}", dicts)
    headers = _headers(cfg, dicts) or {}
    broken = unreadable(headers)
    if broken:
        path, reason = next(iter(broken.items()))
        hint = "; backslashes are part of the name here, write / for folders" if "\\" in path and os.sep == "/" else ""
        raise UnreadableImageError(
            f"DATASETS.TEST {dataset_name}: {len(broken)} of {len(dicts)} images cannot be read, first {path} "
            f"({reason}{hint}): replace them, or take them out of the json"
        )
    places = place(dicts, headers, dirt)
    refused = next((p.refused for p in places if p.refused), None)
    if refused:
        raise UserError(
            f"DATASETS.TEST {dataset_name}: {dirt.counts[refused]} {refused} (first: {dirt.first[refused]}): put the "
            "files right, or the json; without height and width in the json boxes count as pixels of the file"
        )
    return [{**d, "frame": p.frame} if p.frame else d for d, p in zip(dicts, places)]


def _check_pixels(key: str, name: str, dicts: list[dict]) -> None:
    entries = ((a.get("bbox"), d) for d in dicts for a in d.get("annotations") or () if isinstance(a, dict))
    try:
        check_pixels((box, (d.get("height"), d.get("width"))) for box, d in entries)
    except UserError as error:
        raise UserError(f"{key} {name}: {error}") from None


def _headers(cfg: CfgNode, dicts: list[dict]) -> dict[str, Header] | None:
    mode = cfg.DATASETS.CHECK_FILES
    if mode not in ("header", "none"):
        raise ValueError(f"DATASETS.CHECK_FILES: unknown value {mode!r}; known: header, none")
    return probe_headers_together(d["file_name"] for d in dicts) if mode == "header" else None
