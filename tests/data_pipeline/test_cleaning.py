"""Every kind of dirt in dataset dicts, one by one, then anything at all."""

import copy
import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.data.cleaning import clean_dataset_dicts
from defcn_ext.data.dirt import Dirt
from defcn_ext.data.numbers import as_floats, as_index
from defcn_ext.data.sizes import REFUSED, SCALED
from detectron2.structures import BoxMode

XYWH, XYXY, ROTATED = BoxMode.XYWH_ABS, BoxMode.XYXY_ABS, BoxMode.XYWHA_ABS


def annotation(box=(5, 6, 20, 10), mode=XYWH, category=0, **more) -> dict:
    return {"bbox": list(box), "bbox_mode": mode, "category_id": category, "iscrowd": 0, **more}


def record(*annotations: dict, **more) -> dict:
    return {"file_name": "a.jpg", "height": 40, "width": 60, "image_id": 1, "annotations": list(annotations), **more}


def clean_one(*annotations: dict, **options) -> tuple[list[dict], dict]:
    """The annotations left, and the counts by kind."""
    dirt = Dirt()
    (left,) = clean_dataset_dicts([record(*annotations)], dirt=dirt, **options)
    return left["annotations"], dirt.counts


def test_good_record_stays_and_boxes_become_floats():
    dirty = [record(annotation((5, 6, 20, 10), extra="kept"), note="kept")]
    before = copy.deepcopy(dirty)
    dirt = Dirt()
    (left,) = clean_dataset_dicts(dirty, dirt=dirt)
    assert not dirt.counts
    assert dirty == before
    assert left["note"] == "kept"
    assert left["annotations"][0]["extra"] == "kept"
    assert left["annotations"][0]["bbox"] == [5.0, 6.0, 20.0, 10.0]
    assert all(isinstance(v, float) for v in left["annotations"][0]["bbox"])


@pytest.mark.parametrize(
    ("box", "mode", "kind"),
    [
        ((5, 6, 0, 0), XYWH, "boxes without area: skipped"),
        ((5, 6, 20, 0.001), XYWH, "boxes without area: skipped"),
        ((5, 6, -3, 10), XYWH, "boxes without area: skipped"),
        ((5, 6, 5, 16), XYXY, "boxes without area: skipped"),
        ((9, 9, 0, 4, 30), ROTATED, "boxes without area: skipped"),
        ((60, 6, 20, 10), XYWH, "boxes outside the image: skipped"),
        ((-30, -20, -5, -1), XYXY, "boxes outside the image: skipped"),
        ((5, 6, 20), XYWH, "boxes that are not four (rotated: five) finite numbers: skipped"),
        ((), XYWH, "boxes that are not four (rotated: five) finite numbers: skipped"),
        ((5, 6, math.nan, 10), XYWH, "boxes that are not four (rotated: five) finite numbers: skipped"),
        ((5, 6, math.inf, 10), XYWH, "boxes that are not four (rotated: five) finite numbers: skipped"),
        ((5, 6, None, 10), XYWH, "boxes that are not four (rotated: five) finite numbers: skipped"),
        ((5, 6, 1e300, 10), XYWH, "boxes that are not four (rotated: five) finite numbers: skipped"),
        ((5, 6, 10**400, 10), XYWH, "boxes that are not four (rotated: five) finite numbers: skipped"),
        ((5, 6, 20, 10), None, "annotations whose bbox_mode is none of XYXY_ABS, XYWH_ABS, XYWHA_ABS: skipped"),
    ],
)
def test_boxes_that_cannot_be_used_are_skipped_and_counted(box, mode, kind):
    left, counts = clean_one(annotation(box, mode), annotation())
    assert len(left) == 1
    assert counts == {kind: 1}


@pytest.mark.parametrize(
    ("box", "mode", "expected", "told"),
    [
        ((-5, -4, 20, 10), XYWH, [0, 0, 15, 6], True),
        ((-5, -4, 20, 10), XYXY, [0, 0, 20, 10], True),
        ((50, 35, 20, 10), XYWH, [50, 35, 10, 5], True),
        ((-1e9, -1e9, 2e9, 2e9), XYWH, [0, 0, 60, 40], True),
        ((59.5, 0, 1.2, 10), XYWH, [59.5, 0, 0.5, 10], False),
        ((30, 20, 10, 10, 45), ROTATED, [30, 20, 10, 10, 45], False),
        ((90, 20, 10, 10, 45), ROTATED, [90, 20, 10, 10, 45], False),
    ],
)
def test_boxes_partly_outside_are_clipped_in_their_own_mode(box, mode, expected, told):
    left, counts = clean_one(annotation(box, mode))
    assert left[0]["bbox"] == pytest.approx(expected)
    assert left[0]["bbox_mode"] == mode
    assert counts == ({"boxes partly outside the image: clipped": 1} if told else {})


def test_numpy_boxes_and_text_numbers_are_read():
    left, counts = clean_one(annotation(np.array([1, 2, 3, 4])), annotation(("1", "2", "3", "4")))
    assert [a["bbox"] for a in left] == [[1, 2, 3, 4]] * 2
    assert not counts
    assert as_floats("1234", 4) is None


@pytest.mark.parametrize("category", [-1, 3, None, "cat", 0.5, math.nan, True])
def test_unknown_classes_are_skipped(category):
    left, counts = clean_one(annotation(category=category), annotation(category=2), num_classes=3)
    assert [a["category_id"] for a in left] == [2]
    assert counts == {"annotations of unknown classes: skipped": 1}


def test_any_class_from_zero_passes_without_num_classes():
    left, _ = clean_one(annotation(category=500), annotation(category=np.int64(3)), annotation(category=2.0))
    assert [a["category_id"] for a in left] == [500, 3, 2]
    assert all(type(a["category_id"]) is int for a in left)
    assert as_index(-1) is None


@pytest.mark.parametrize(
    ("crowd", "flag"), [(0, 0), (1, 1), (True, 1), (None, 0), ("1", 1), ("0", 0), ("x", 0), ([1], 0), (2, 1)]
)
def test_iscrowd_becomes_zero_or_one(crowd, flag):
    left, _ = clean_one(annotation(iscrowd=crowd))
    assert left[0]["iscrowd"] == flag


def test_missing_iscrowd_and_broken_annotations():
    bare = annotation()
    del bare["iscrowd"]
    left, counts = clean_one(bare, None, [1, 2])
    assert left[0]["iscrowd"] == 0
    assert counts == {"annotations that are no mappings: skipped": 2}


def test_images_without_annotations_stay_unless_told_otherwise():
    dicts = [
        record(),
        {"file_name": "b.jpg"},
        record(annotations=None),
        record(annotation((0, 0, 0, 0))),
        record(annotation()),
    ]
    kept = clean_dataset_dicts(dicts, dirt=Dirt())
    assert [len(r["annotations"]) for r in kept] == [0, 0, 0, 0, 1]
    assert len(clean_dataset_dicts(dicts, drop_empty=True, dirt=Dirt())) == 1


def test_unreadable_files_and_records_without_names_are_skipped():
    dirt = Dirt()
    dicts = [record(), record(file_name="b.jpg"), record(file_name="c.jpg"), record(file_name=None), {"image_id": 9}]
    headers = {"a.jpg": (40, 60), "b.jpg": "FileNotFoundError: gone"}
    assert [r["file_name"] for r in clean_dataset_dicts(dicts, headers=headers, dirt=dirt)] == ["a.jpg"]
    assert dirt.counts == {"unreadable image files: skipped": 2, "records without a file name: skipped": 2}
    assert dirt.first["unreadable image files: skipped"] == "b.jpg: FileNotFoundError: gone"


@pytest.mark.parametrize(
    ("claimed", "kind"),
    [
        ((40, 60), None),
        ((60, 40), "images whose height and width are swapped: the file's are used"),
        ((80, 30), "images whose height or width is not that of the file, which the boxes fit: the file's is used"),
        ((40, 61), "images whose height or width is not quite that of the file: the file's is used"),
        (("40", "60"), None),
        (("40", None), "images whose height and width are no numbers: the file's are used"),
    ],
)
def test_size_of_the_file_wins_and_boxes_stay(claimed, kind):
    dirt = Dirt()
    dirty = record(annotation((5, 6, 50, 30)), height=claimed[0], width=claimed[1])
    (left,) = clean_dataset_dicts([dirty], headers={"a.jpg": (40, 60)}, dirt=dirt)
    assert (left["height"], left["width"]) == (40, 60)
    assert left["annotations"][0]["bbox"] == [5, 6, 50, 30]
    assert dirt.counts == ({kind: 1} if kind else {})


def test_boxes_follow_an_explained_size_and_an_unexplained_one_is_skipped():
    dirt = Dirt()
    resized = record(annotation((10, 12, 60, 40)), height=80, width=120)
    cropped = record(annotation((5, 6, 20, 10)), height=80, width=60, file_name="b.jpg")
    headers = {"a.jpg": (40, 60), "b.jpg": (40, 60)}
    (left,) = clean_dataset_dicts([resized, cropped], headers=headers, dirt=dirt)
    assert (left["height"], left["width"], left["annotations"][0]["bbox"]) == (40, 60, [5, 6, 30, 20])
    assert resized["annotations"][0]["bbox"] == [10, 12, 60, 40]
    assert dirt.counts == {SCALED: 1, REFUSED: 1}


def test_sizes_that_are_no_numbers_are_left_to_the_mapper():
    dirt = Dirt()
    (left,) = clean_dataset_dicts([record(annotation((5, 6, 500, 300)), height="x")], dirt=dirt)
    assert "height" not in left and "width" not in left
    assert left["annotations"][0]["bbox"] == [5, 6, 500, 300]
    assert sum(dirt.counts.values()) == 1


def test_one_warning_a_kind_naming_the_first(caplog):
    dicts = [
        record(annotation((1, 1, 0, 0)), annotation((2, 2, 0, 0))),
        record(annotation((3, 3, 0, 0)), annotation((90, 3, 5, 5)), file_name="b.jpg"),
    ]
    with caplog.at_level(logging.WARNING, logger="defcn_ext"):
        clean_dataset_dicts(dicts, source="my_train")
    assert [r.getMessage() for r in caplog.records] == [
        "my_train: 3 boxes without area: skipped (first: a.jpg, [1.0, 1.0, 0.0, 0.0])",
        "my_train: 1 boxes outside the image: skipped (first: b.jpg, [90.0, 3.0, 5.0, 5.0])",
    ]


numbers = st.one_of(
    st.floats(), st.integers(), st.none(), st.text(max_size=3), st.booleans(), st.floats(-100, 200), st.integers(-9, 99)
)
anything = st.recursive(numbers, lambda s: st.lists(s, max_size=5), max_leaves=6)
any_annotation = st.fixed_dictionaries(
    {},
    optional={
        "bbox": st.one_of(
            st.lists(numbers, min_size=4, max_size=5), st.lists(st.floats(-99, 99), min_size=4), anything
        ),
        "bbox_mode": st.sampled_from([XYWH, XYXY, ROTATED, BoxMode.XYWH_REL, 0, 1, 7, None, "XYWH"]),
        "category_id": numbers,
        "iscrowd": anything,
    },
)
any_record = st.fixed_dictionaries(
    {},
    optional={
        "file_name": st.one_of(st.sampled_from(["a", "b", "c"]), numbers),
        "height": st.one_of(st.integers(1, 200), anything),
        "width": st.one_of(st.integers(1, 200), anything),
        "annotations": st.one_of(st.none(), st.lists(st.one_of(any_annotation, anything), max_size=4)),
    },
)
any_headers = st.none() | st.just({"a": (50, 70), "b": "OSError: x"})


@settings(max_examples=400, deadline=None)
@given(st.lists(any_record, max_size=4), any_headers, st.none() | st.integers(1, 5), st.booleans())
def test_never_raises_and_leaves_valid_boxes_only(dicts, headers, num_classes, drop_empty):
    dirt = Dirt()
    for left in clean_dataset_dicts(dicts, headers=headers, num_classes=num_classes, drop_empty=drop_empty, dirt=dirt):
        assert left["annotations"] or not drop_empty
        for a in left["annotations"]:
            assert a["iscrowd"] in (0, 1)
            assert 0 <= a["category_id"] < (num_classes or math.inf)
            assert all(type(v) is float and math.isfinite(v) for v in a["bbox"])
            if a["bbox_mode"] == ROTATED:
                assert min(a["bbox"][2:4]) > 0
                continue
            x1, y1, x2, y2 = BoxMode.convert(a["bbox"], a["bbox_mode"], XYXY)
            assert x1 < x2 and y1 < y2
            if "height" in left:
                assert 0 <= x1 and 0 <= y1
                assert x2 <= left["width"] * (1 + 1e-6) and y2 <= left["height"] * (1 + 1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(any_record, max_size=4), any_headers)
def test_cleaning_twice_changes_nothing(dicts, headers):
    once = clean_dataset_dicts(dicts, headers=headers, dirt=Dirt())
    again = Dirt()
    twice = clean_dataset_dicts(once, headers=headers, dirt=again)
    assert [[a["category_id"] for a in r["annotations"]] for r in twice] == [
        [a["category_id"] for a in r["annotations"]] for r in once
    ]
    assert not again.counts
