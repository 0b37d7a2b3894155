"""Sizes in the annotations that are not those of the files: what explains them, and where the boxes then are.

Annotation tools that do not know EXIF show a picture as it is stored, and pictures are shrunk after they were
annotated; both put every box in a wrong place. What explains a size is decided for all images of a data set alike that
differ in the same way, because their boxes tell more together: in the wrong picture, many lie outside.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from defcn_ext.data.dirt import Dirt
from defcn_ext.data.frames import Frame
from defcn_ext.data.headers import TURNED, FileSize, Header
from defcn_ext.data.numbers import as_box, as_size
from detectron2.structures import BoxMode

NEAR = 0.02  # share of a side; sizes that differ by less are not worth a doubt
MARGIN = 0.1  # share of the boxes that must lie outside of one picture, more than of the other, to decide

STORED = "images annotated as they are stored, not as EXIF turns them: boxes turned"
SCALED = "images resized after annotation: boxes resized"
BOTH = "images annotated as they are stored, not as EXIF turns them, and resized later: boxes turned and resized"
WRONG = "images whose height or width is not that of the file, which the boxes fit: the file's is used"
SWAPPED = "images whose height and width are swapped: the file's are used"
NEARLY = "images whose height or width is not quite that of the file: the file's is used"
UNKNOWN = "images whose EXIF orientation leaves their size alone: boxes taken as drawn on what EXIF shows"
REFUSED = "images whose height and width are not those of the file, and not explained by a turn or a resize"
MIXED = "images of which EXIF's turn leaves no sign, among others annotated with it and without"


class Placement(NamedTuple):
    """Where the annotations of one image lie: in the image (both None), in a frame, or nobody knows where."""

    frame: Frame | None = None
    refused: str | None = None


def place(records: Sequence[dict], headers: Mapping[str, Header], dirt: Dirt) -> list[Placement]:
    """For each record of one data set, in which picture its annotations lie; what was found is counted in `dirt`.

    Args:
        records: in Detectron2's format; those without a usable size or header count as explained.
        headers: file name -> size and orientation, or why it is unreadable, from `probe_headers`.
    """
    kinds: dict[str, list[int]] = defaultdict(list)
    sizes = {}
    for index, record in enumerate(records):
        claimed, header = as_size(record.get("height"), record.get("width")), headers.get(record.get("file_name"))
        if claimed and header and not isinstance(header, str):
            sizes[index] = claimed, FileSize(header, getattr(header, "orientation", 1))
            kinds[_kind(*sizes[index])].append(index)
    told = {index: NEARLY for index in kinds[NEARLY]}
    found = [Placement()] * len(records)
    for kind in (STORED, BOTH, SCALED, SWAPPED, REFUSED):
        verdict = _verdict(kind, [(records[i], *sizes[i]) for i in kinds[kind]])
        for index in kinds[kind]:
            found[index], told[index] = _placement(verdict, *sizes[index]), verdict
    without_sign = [i for i in (*kinds[""], *kinds[SCALED]) if _leaves_no_sign(records[i], sizes[i][1])]
    tools = {"stored" for p in found if p.frame and p.frame.orientation != 1} | {"seen" for _ in kinds["seen"]}
    for index in without_sign if tools != {"seen"} else ():
        if not tools:
            dirt.add(UNKNOWN, _where(records[index], *sizes[index]))
            continue
        kind = MIXED if "seen" in tools else BOTH if told.get(index) == SCALED else STORED
        found[index], told[index] = _placement(kind, *sizes[index]), kind
    for index in sorted(told):
        dirt.add(told[index], _where(records[index], *sizes[index]))
    return found


def _kind(claimed: tuple[int, int], file: FileSize) -> str:
    """How a size differs from that of the file: one of the kinds above, "seen", or "" where it does not."""
    turned = file.orientation in TURNED
    stored = file[::-1] if turned else tuple(file)
    if claimed == file:
        return "seen" if turned and file[0] != file[1] else ""
    if turned and claimed == stored:
        return STORED
    if all(abs(a - b) <= max(1, NEAR * b) for a, b in zip(claimed, file)):
        return NEARLY
    if _proportional(claimed, file):
        return SCALED
    if turned and _proportional(claimed, stored):
        return BOTH
    return SWAPPED if claimed == file[::-1] else REFUSED


def _proportional(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether one is the other resized, its sides rounded to whole pixels."""
    small, large = sorted((tuple(a), tuple(b)))
    longer = int(large[1] > large[0])
    return abs(large[1 - longer] * small[longer] / large[longer] - small[1 - longer]) <= 1


def _leaves_no_sign(record: dict, file: FileSize) -> bool:
    """Whether boxes may be turned although the size is not: the other images then tell whether the tool knew EXIF."""
    same_size = file.orientation in (2, 3, 4) or (file.orientation in TURNED and file[0] == file[1])
    return same_size and bool(record.get("annotations"))


def _verdict(kind: str, images: list[tuple[dict, tuple[int, int], FileSize]]) -> str:
    """What to do with all images of a kind, as a kind: their boxes may tell that the sizes are simply wrong."""
    boxes = outside_claimed = outside_file = 0
    for record, claimed, file in images:
        corners = _corners(record)
        boxes += len(corners)
        outside_claimed += _outside(corners, claimed)
        outside_file += _outside(corners, file)
    if kind == SWAPPED:  # a slip of a script, unless the boxes say that the pixels were turned, who knows which way
        return REFUSED if outside_file - outside_claimed > MARGIN * boxes else SWAPPED
    if outside_claimed - outside_file > MARGIN * boxes or not boxes:
        return WRONG
    return kind


def _placement(verdict: str, claimed: tuple[int, int], file: FileSize) -> Placement:
    if verdict in (STORED, BOTH):
        return Placement(Frame(claimed, file.orientation, tuple(file)))
    if verdict == SCALED:
        return Placement(Frame(claimed, 1, tuple(file)))
    return Placement(refused=verdict) if verdict in (REFUSED, MIXED) else Placement()


def _where(record: dict, claimed: tuple[int, int], file: FileSize) -> str:
    turn = f", EXIF orientation {file.orientation}" if file.orientation != 1 else ""
    return f"{record['file_name']}: {claimed[0]} x {claimed[1]}, the file has {file[0]} x {file[1]}{turn}"


def _corners(record: dict[str, Any]) -> np.ndarray:
    """(G, 4) corners of the boxes that have some."""
    corners = []
    for annotation in record.get("annotations") or ():
        box = as_box(annotation.get("bbox")) if isinstance(annotation, dict) else None
        mode = annotation.get("bbox_mode") if box else None
        if mode == BoxMode.XYWH_ABS:
            box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        if mode in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
            corners.append(box)
    return np.array(corners, dtype=np.float64).reshape(-1, 4)


def _outside(corners: np.ndarray, size: tuple[int, int]) -> int:
    """How many boxes reach out of a picture, by more than a slip of the mouse."""
    height, width = size
    slip = 1 + NEAR * np.array([width, height])
    return int(((corners[:, :2] < -slip) | (corners[:, 2:] > np.array([width, height]) + slip)).any(1).sum())
