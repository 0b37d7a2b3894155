"""Which picture annotations lie in, told from sizes, EXIF and boxes of a whole data set."""

import pytest

from defcn_ext.data.dirt import Dirt
from defcn_ext.data.frames import Frame
from defcn_ext.data.headers import FileSize
from defcn_ext.data.sizes import BOTH, MIXED, NEARLY, REFUSED, SCALED, STORED, SWAPPED, UNKNOWN, WRONG, Placement, place
from detectron2.structures import BoxMode

INSIDE = (5, 6, 20, 10)  # in a picture of 40 x 60 and of 60 x 40


def record(claimed: tuple, *boxes: tuple, name: str = "a") -> dict:
    annotations = [{"bbox": list(box), "bbox_mode": BoxMode.XYWH_ABS} for box in boxes]
    return {"file_name": name, "height": claimed[0], "width": claimed[1], "annotations": annotations}


def place_one(claimed: tuple, file: tuple, orientation: int, *boxes: tuple) -> tuple[Placement, dict]:
    dirt = Dirt()
    (found,) = place([record(claimed, *boxes)], {"a": FileSize(file, orientation)}, dirt)
    return found, dirt.counts


@pytest.mark.parametrize(
    "claimed, file, orientation, boxes, frame, kind",
    [
        ((40, 60), (40, 60), 1, [INSIDE], None, None),
        ((60, 40), (60, 40), 6, [INSIDE], None, None),
        ((40, 60), (60, 40), 6, [INSIDE], Frame((40, 60), 6, (60, 40)), STORED),
        ((40, 60), (60, 40), 8, [(35, 5, 20, 10)], Frame((40, 60), 8, (60, 40)), STORED),
        ((40, 60), (60, 40), 6, [(5, 45, 20, 12)], None, WRONG),
        ((80, 120), (40, 60), 1, [INSIDE, (70, 50, 45, 25)], Frame((80, 120), 1, (40, 60)), SCALED),
        ((30, 45), (40, 60), 1, [INSIDE], Frame((30, 45), 1, (40, 60)), SCALED),
        ((333, 500), (213, 320), 1, [INSIDE], Frame((333, 500), 1, (213, 320)), SCALED),
        ((20, 30), (40, 60), 1, [INSIDE, (40, 25, 15, 12)], None, WRONG),
        ((80, 120), (60, 40), 6, [INSIDE], Frame((80, 120), 6, (60, 40)), BOTH),
        ((60, 40), (40, 60), 1, [INSIDE], None, SWAPPED),
        ((60, 40), (40, 60), 1, [(35, 6, 20, 10)], None, SWAPPED),
        ((60, 40), (40, 60), 1, [(5, 40, 20, 10)], None, REFUSED),
        ((80, 60), (40, 60), 1, [INSIDE], None, REFUSED),
        ((80, 60), (40, 60), 1, [(5, 60, 20, 10)], None, REFUSED),
        ((20, 60), (40, 60), 1, [(5, 25, 20, 12)], None, WRONG),
        ((80, 60), (40, 60), 1, [], None, WRONG),
        ((41, 60), (40, 60), 1, [INSIDE], None, NEARLY),
        (("x", 60), (40, 60), 1, [INSIDE], None, None),
    ],
)
def test_one_image(claimed, file, orientation, boxes, frame, kind):
    found, counts = place_one(claimed, file, orientation, *boxes)
    assert found.frame == frame
    assert bool(found.refused) == (kind == REFUSED)
    assert counts == ({kind: 1} if kind else {})


@pytest.mark.parametrize("orientation", [2, 3, 4])
@pytest.mark.parametrize(
    "others, kind", [([], UNKNOWN), (["seen"], None), (["stored"], STORED), (["seen", "stored"], MIXED)]
)
def test_a_turn_that_leaves_no_sign_is_told_from_the_other_images(orientation, others, kind):
    claimed = {"seen": (60, 40), "stored": (40, 60)}
    records = [record((40, 60), INSIDE), *(record(claimed[name], INSIDE, name=name) for name in others)]
    headers = {"a": FileSize((40, 60), orientation), **{name: FileSize((60, 40), 6) for name in others}}
    dirt = Dirt()
    found = place(records, headers, dirt)[0]
    assert found.frame == (Frame((40, 60), orientation, (40, 60)) if kind == STORED else None)
    assert found.refused == (MIXED if kind == MIXED else None)
    assert dirt.counts.get(kind or UNKNOWN, 0) == (0 if kind is None else 2 if kind == STORED else 1)


def test_boxes_of_all_images_tell_together():
    """A box beyond the border here and there says nothing; most of them do."""
    sloppy = [record((40, 60), *[INSIDE] * 12, (50, 6, 15, 10), name=f"{n}") for n in range(3)]
    headers = {f"{n}": FileSize((80, 120)) for n in range(3)}
    assert all(p.frame for p in place(sloppy, headers, Dirt()))
    wrong = [record((40, 60), INSIDE, (70, 50, 30, 20), name=f"{n}") for n in range(3)]
    assert place(wrong, headers, Dirt()) == [Placement()] * 3


def test_what_was_found_names_the_first_file():
    dirt = Dirt()
    place([record((40, 60), INSIDE)], {"a": FileSize((60, 40), 6)}, dirt)
    assert dirt.lines() == [f"1 {STORED} (first: a: 40 x 60, the file has 60 x 40, EXIF orientation 6)"]
