"""CrowdHuman (Shao et al., arXiv 1805.00123) as Detectron2 records, read from its own files."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from defcn_ext.data.crowdhuman_files import AnnotationLine, BadLine, Box, PersonBox, read_annotations
from defcn_ext.data.crowdhuman_sizes import Progress, image_path, image_sizes
from defcn_ext.data.dirt import Dirt
from defcn_ext.data.headers import Header
from defcn_ext.data.pixels import UnreadableImageError
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

logger = logging.getLogger(__name__)

SITE = "https://www.crowdhuman.org"
OFFICIAL_IMAGES = {"train": 15_000, "val": 4_370}
LOOKED_AT = 200  # images looked for before the image folder is called the wrong one


@dataclass(frozen=True)
class CrowdHuman:
    """One split: its usable lines, the lines that are not, and for each ID (height, width) or why it is unreadable."""

    lines: list[AnnotationLine]
    bad: list[BadLine]
    sizes: dict[str, Header]

    def flaws(self) -> Dirt:
        """What is wrong with it, counted."""
        dirt = Dirt()
        for bad in self.bad:
            dirt.add("lines that cannot be used: skipped", where(bad))
        for image in self.lines:
            size = self.sizes[image.id]
            if isinstance(size, str):
                dirt.add("images that cannot be read", f"{image.id}.jpg: {size}")
            for person in image.boxes:
                kind = box_flaw(person.fbox, None if isinstance(size, str) else size)
                if kind:
                    dirt.add(f"{kind}: the metrics count them, training skips them", f"{image.id}, {person.fbox}")
        return dirt


def where(bad: BadLine) -> str:
    """The line's number, where it is known, and what is wrong."""
    return f"line {bad.line}: {bad.reason}" if bad.line else bad.reason


def box_flaw(box: Box, size: tuple[int, int] | None) -> str:
    """What is wrong with a full body box of an image of (height, width): no area, or outside; "" if neither."""
    x, y, w, h = box
    if min(w, h) <= 0:
        return "boxes without area"
    outside = size is not None and (x >= size[1] or y >= size[0] or x + w <= 0 or y + h <= 0)
    return "boxes outside the image" if outside else ""


def check_files(odgt: str | os.PathLike, image_root: str | os.PathLike) -> None:
    """
    Raises:
        FileNotFoundError: the annotations or the image folder are missing; says what to put where.
    """
    odgt, image_root = Path(odgt), Path(image_root)
    missing = [str(odgt)] if not odgt.is_file() else []
    missing += [f"{image_root}{os.sep}"] if not image_root.is_dir() else []
    if not missing:
        return
    archives = sorted(path.name for path in odgt.parent.glob("CrowdHuman_*.zip"))
    source = f"Unpack {', '.join(archives)} there" if archives else f"Its files are at {SITE}"
    raise FileNotFoundError(
        f"{' and '.join(missing)}: missing. CrowdHuman is read from {odgt} and {image_root}{os.sep}ID.jpg. {source}; "
        "for another place set DETECTRON2_DATASETS to the folder that holds CrowdHuman"
    )


def read_crowdhuman(
    odgt: str | os.PathLike, image_root: str | os.PathLike, progress: Progress | None = None
) -> CrowdHuman:
    """Reads annotations and image sizes; lines that cannot be used are left out and named.

    A size that the annotations hold is taken; the official ones hold none, so it is read from the files: `image_sizes`.

    Raises:
        FileNotFoundError: a file or folder is missing.
        UnreadableImageError: none of the images are there.
        ValueError: no line of the annotations can be used.
    """
    check_files(odgt, image_root)
    bad: list[BadLine] = []
    lines = []
    for line in read_annotations(odgt, bad):
        flaw = _unusable(line)
        lines += [] if flaw else [line]
        bad += [BadLine(0, flaw)] if flaw else []  # its ID says which
    if not lines:
        reason = f"of {len(bad)} the first: {where(bad[0])}" if bad else "it is empty"
        raise ValueError(f"{odgt}: no line can be used; {reason}")
    if not any(os.path.isfile(image_path(image_root, line.id)) for line in lines[:LOOKED_AT]):
        raise UnreadableImageError(
            f"{image_root}: holds none of the first images of {odgt}, such as {lines[0].id}.jpg; the images of all "
            f"archives of {SITE} lie in this one folder"
        )
    given = {line.id: size for line in lines if (size := _given_size(line))}
    wanted = [line.id for line in lines if line.id not in given]
    return CrowdHuman(lines, bad, {**given, **image_sizes(odgt, image_root, wanted, progress=progress)})


def _unusable(line: AnnotationLine) -> str:
    """Why a line that could be read is no use; "" if it is."""
    if any(c in "/\\" or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in line.id) or not line.id.strip(". "):
        return f"ID {line.id!r:.80} is no name of a file"
    if any(abs(value) > 1e9 for person in line.boxes for value in person.fbox):
        return f"ID {line.id}: a box is larger than any image"
    return ""


def _given_size(line: AnnotationLine) -> tuple[int, int] | None:
    if line.height is None or line.width is None or line.height % 1 or line.width % 1:
        return None
    return int(line.height), int(line.width)


def load_crowdhuman(odgt: str, image_root: str, expected: int | None = None) -> list[dict]:
    """Detectron2's records in the order of the file: one class, full body boxes in XYWH_ABS, not clipped.

    Besides the usual keys a record has `ID`, and each annotation `vbox`, `hbox` (x, y, w, h or None) and
    `head_ignore`. Ignored boxes have `iscrowd` 1, so that training leaves them out: what is predicted there counts as
    background, as in all published models. `image_id` counts from 1, as in the json that prepare_crowdhuman.py writes.
    An image that cannot be read has no height and width: the loaders skip it or refuse it with its name.

    Args:
        expected: number of images, if known; another one gives a warning.

    Raises:
        FileNotFoundError, UnreadableImageError, ValueError: as `read_crowdhuman`.
    """
    content = read_crowdhuman(odgt, image_root)
    content.flaws().log(odgt)
    ignored = [person.ignored for line in content.lines for person in line.boxes]
    counts = len(content.lines), len(ignored) - sum(ignored), sum(ignored)
    logger.info("%s: %d images, %d people, %d boxes to ignore", odgt, *counts)
    if expected not in (None, counts[0]):
        logger.warning("%s: %d images are not the %d of the official file", odgt, counts[0], expected)
    return [_record(line, content.sizes[line.id], n, image_root) for n, line in enumerate(content.lines, start=1)]


def _record(line: AnnotationLine, size: Header, number: int, image_root: str) -> dict:
    record = {"file_name": image_path(image_root, line.id), "image_id": number, "ID": line.id}
    if not isinstance(size, str):
        record["height"], record["width"] = size
    return {**record, "annotations": [_annotation(person) for person in line.boxes]}


def _annotation(person: PersonBox) -> dict:
    return {
        "bbox": list(person.fbox),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": int(person.ignored),
        "vbox": person.vbox,
        "hbox": person.hbox,
        "head_ignore": int(person.head_ignored),
    }


def register_crowdhuman(name: str, odgt: str, image_root: str, expected: int | None = None) -> None:
    """Registers a set in CrowdHuman's format; files are read when it is first used, see `load_crowdhuman`."""
    DatasetCatalog.register(name, lambda: load_crowdhuman(odgt, image_root, expected))
    MetadataCatalog.get(name).set(
        thing_classes=["person"],
        thing_dataset_id_to_contiguous_id={1: 0},
        evaluator_type="crowdhuman",
        odgt_file=odgt,
        image_root=image_root,
    )
