"""Real data made fit for training: `clean_dataset_dicts`, a pure function over Detectron2's dataset dicts."""

from collections.abc import Iterable, Mapping
from typing import Any

from defcn_ext.data.dirt import Dirt
from defcn_ext.data.headers import Header
from defcn_ext.data.numbers import as_box, as_flag, as_index, as_size, shown
from defcn_ext.data.sizes import Placement, place
from detectron2.structures import BoxMode

MIN_SIDE = 0.01  # pixels; thinner boxes are slips of the mouse, and no prediction can match them
CLIP_TOLERANCE = 1.0  # pixels; annotation tools round outwards, which is not worth a warning


def clean_dataset_dicts(
    dicts: Iterable[dict],
    *,
    headers: Mapping[str, Header] | None = None,
    num_classes: int | None = None,
    drop_empty: bool = False,
    dirt: Dirt | None = None,
    source: str = "data set",
) -> list[dict]:
    """Skips or repairs what would stop training. The input is not modified.

    Skipped: records without file name, with an unreadable file, or with a size that nothing explains; annotations whose
    box is not four finite numbers, has no area, or lies outside the image, or whose class is no class. Repaired: sizes
    that disagree with the file (the file wins; boxes are turned and resized where `place` says so), boxes partly
    outside (clipped), integer boxes (become floats, which Detectron2 does not truncate), missing `annotations` (an
    image without objects is an ordinary image).

    Args:
        dicts: records in Detectron2's format; boxes XYXY_ABS, XYWH_ABS or XYWHA_ABS, in pixels of the file.
        headers: file name -> (height, width) or reason, from `probe_headers`; None leaves files unchecked.
        num_classes: classes are 0 .. num_classes - 1; None accepts any class from 0.
        drop_empty: skips images that have no annotation, or none left.
        dirt: counts what was found, and leaves the telling to the caller; None warns once for each kind.
        source: names the data set in the warnings.
    """
    found = Dirt() if dirt is None else dirt
    records = []
    dicts = list(dicts)
    places = [Placement()] * len(dicts) if headers is None else place(dicts, headers, found)
    for original, placement in zip(dicts, places):
        record = _clean_record(original, headers, placement, num_classes, found)
        if record is not None and (record["annotations"] or not drop_empty):
            records.append(record)
    if dirt is None:
        found.log(source)
    return records


def _clean_record(
    original: dict, headers: Mapping[str, Header] | None, placement: Placement, num_classes: int | None, dirt: Dirt
) -> dict | None:
    name = original.get("file_name")
    if not isinstance(name, str) or not name:
        dirt.add("records without a file name: skipped", f"image_id {shown(original.get('image_id'))}")
        return None
    record = dict(original)
    if placement.refused or (headers is not None and not _apply_header(record, headers.get(name, "not checked"), dirt)):
        return None
    if placement.frame:
        record["annotations"] = [placement.frame.annotation(a) for a in record.get("annotations") or ()]
    size = as_size(record.get("height"), record.get("width"))
    if size:
        record["height"], record["width"] = size
    elif "height" in record or "width" in record:
        dirt.add("images whose height and width are no numbers: taken from the file when it is read", name)
        record.pop("height", None)
        record.pop("width", None)
    annotations = (_clean_annotation(a, size, num_classes, name, dirt) for a in record.get("annotations") or ())
    record["annotations"] = [a for a in annotations if a is not None]
    return record


def _apply_header(record: dict, header: Header, dirt: Dirt) -> bool:
    """Puts the size of the file into the record; False if the file is unreadable."""
    name = record["file_name"]
    if isinstance(header, str):
        dirt.add("unreadable image files: skipped", f"{name}: {header}")
        return False
    claimed = record.get("height"), record.get("width")
    if claimed != (None, None) and as_size(*claimed) is None:
        dirt.add("images whose height and width are no numbers: the file's are used", name)
    record["height"], record["width"] = header
    return True


def _clean_annotation(original: Any, size: tuple[int, int] | None, num_classes: int | None, name: str, dirt: Dirt):
    if not isinstance(original, dict):
        dirt.add("annotations that are no mappings: skipped", name)
        return None
    category = as_index(original.get("category_id"))
    if category is None or (num_classes is not None and category >= num_classes):
        dirt.add("annotations of unknown classes: skipped", f"{name}, category_id {shown(original.get('category_id'))}")
        return None
    box = _clean_box(original.get("bbox"), original.get("bbox_mode"), size, name, dirt)
    if box is None:
        return None
    return {**original, "bbox": box, "category_id": category, "iscrowd": as_flag(original.get("iscrowd")) or 0}


def _clean_box(box: Any, mode: Any, size: tuple[int, int] | None, name: str, dirt: Dirt) -> list[float] | None:
    """The box in its own mode, finite, with area and inside the image; None if there is no such box."""
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS):
        dirt.add("annotations whose bbox_mode is none of XYXY_ABS, XYWH_ABS, XYWHA_ABS: skipped", name)
        return None
    rotated = mode == BoxMode.XYWHA_ABS
    values = as_box(box, 5 if rotated else 4)
    if values is None:
        dirt.add("boxes that are not four (rotated: five) finite numbers: skipped", f"{name}, {shown(box)}")
        return None
    if rotated:
        x1, y1, x2, y2 = 0.0, 0.0, values[2], values[3]
    elif mode == BoxMode.XYWH_ABS:
        x1, y1, x2, y2 = values[0], values[1], values[0] + values[2], values[1] + values[3]
    else:
        x1, y1, x2, y2 = values
    if min(x2 - x1, y2 - y1) < MIN_SIDE:
        dirt.add("boxes without area: skipped", f"{name}, {values}")
        return None
    if rotated or size is None:
        return values
    clipped = _clip((x1, y1, x2, y2), size)
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < MIN_SIDE:
        dirt.add("boxes outside the image: skipped", f"{name}, {values}")
        return None
    if any(abs(a - b) > CLIP_TOLERANCE for a, b in zip(clipped, (x1, y1, x2, y2))):
        dirt.add("boxes partly outside the image: clipped", f"{name}, {values}")
    x1, y1, x2, y2 = clipped
    return [x1, y1, x2 - x1, y2 - y1] if mode == BoxMode.XYWH_ABS else [x1, y1, x2, y2]


def _clip(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    height, width = (float(s) for s in size)
    x1, y1, x2, y2 = box
    return min(max(x1, 0.0), width), min(max(y1, 0.0), height), min(max(x2, 0.0), width), min(max(y2, 0.0), height)
