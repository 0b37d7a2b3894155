"""Dirty COCO json: repaired so that both the stock loader and COCOeval read it."""

import contextlib
import io
import json
import logging

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from defcn_ext.config import UserError
from defcn_ext.data.coco_json import load_coco, read_coco, usable_json
from defcn_ext.data.coco_repair import sanitize_coco
from defcn_ext.data.dirt import Dirt
from defcn_ext.data.masks import box_of_mask
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

TEXT = "numbers written as text, or whole ones as 1.0: read as numbers"
FLAG = "iscrowd written as text or as another number: read as 0 or 1"
SPELLING = "references to ids in another spelling, as text or 1.0: matched"
SQUARE = [0, 0, 9, 0, 9, 9, 0, 9]
RUNS = {"size": [4, 6], "counts": [0, 24]}
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}]


def sanitize(images, annotations, root="") -> tuple[dict, dict]:
    dirt = Dirt()
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    before = json.dumps(content)
    clean = sanitize_coco(content, str(root), dirt).content
    assert json.dumps(content) == before
    return clean, dirt.counts


def evaluate(json_file: str, detections: list[dict]) -> np.ndarray:
    """The twelve numbers of COCOeval for boxes."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json_file)
        run = COCOeval(truth, truth.loadRes(detections), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    return run.stats


def test_clean_json_is_used_as_it_is(make_json, coco_image, coco_annotation, tmp_path):
    path = make_json([coco_image(1, "a.jpg")], [coco_annotation(1), coco_annotation(2, box=(1, 1, 0, 0))])
    used, content, *_ = usable_json(path, str(tmp_path), tmp_path / "copy.json")
    assert used == path
    assert len(content["annotations"]) == 2
    assert not (tmp_path / "copy.json").exists()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"image_id": 9}, "annotations of unknown images: skipped"),
        ({"image_id": [1]}, "annotations of unknown images: skipped"),
        ({"category_id": 3}, "annotations of unknown categories: skipped"),
        ({"category_id": None}, "annotations of unknown categories: skipped"),
        ({"bbox": []}, "annotations whose bbox is not four finite numbers: skipped"),
        ({"bbox": [1, 2, 3]}, "annotations whose bbox is not four finite numbers: skipped"),
        ({"bbox": [1, 2, float("nan"), 4]}, "annotations whose bbox is not four finite numbers: skipped"),
        ({"bbox": None}, "annotations whose bbox is not four finite numbers: skipped"),
        ({"bbox": [1, 2, 10**400, 4]}, "annotations whose bbox is not four finite numbers: skipped"),
        ({"bbox": [1, 2, 1e300, 4]}, "annotations whose bbox is not four finite numbers: skipped"),
        ({"bbox": [1, 2, "wide", 4]}, "annotations whose bbox is not four finite numbers: skipped"),
        ({"image_id": 2**80}, "annotations of unknown images: skipped"),
        ({"image_id": True}, "annotations of unknown images: skipped"),
        ({"category_id": 10**400}, "annotations of unknown categories: skipped"),
    ],
)
def test_annotations_skipped(coco_image, coco_annotation, change, kind):
    clean, counts = sanitize([coco_image(1, "a.jpg")], [coco_annotation(1), {**coco_annotation(2), **change}])
    assert [a["id"] for a in clean["annotations"]] == [1]
    assert counts == {kind: 1}


@pytest.mark.parametrize(
    ("change", "repaired", "kind"),
    [
        ({"bbox": ["5", "6", "20", "10"]}, {"bbox": [5, 6, 20, 10]}, TEXT),
        ({"bbox": ["5.5", 6, "2e1", 10]}, {"bbox": [5.5, 6, 20, 10]}, TEXT),
        ({"area": "12.5"}, {"area": 12.5}, TEXT),
        ({"area": "big"}, {"area": 200}, "annotations without a usable area: taken as width x height"),
        ({"area": 10**400}, {"area": 200}, "annotations without a usable area: taken as width x height"),
        ({"segmentation": [["0", "0", "9", "0", "9", 9]]}, {"segmentation": [[0, 0, 9, 0, 9, 9]]}, TEXT),
        ({"segmentation": {"size": ["4", 6], "counts": ["0", 24]}}, {"segmentation": RUNS}, TEXT),
        ({"segmentation": {"size": [4.0, 6], "counts": [0, 24]}}, {"segmentation": RUNS}, TEXT),
        ({"keypoints": ["1", "2.5", "2"]}, {"keypoints": [1, 2.5, 2]}, TEXT),
        ({"iscrowd": "1"}, {"iscrowd": 1}, FLAG),
        ({"iscrowd": "0"}, {"iscrowd": 0}, FLAG),
        ({"iscrowd": "true"}, {"iscrowd": 1}, FLAG),
        ({"iscrowd": 10**400}, {"iscrowd": 1}, FLAG),
        ({"ignore": "1"}, {"iscrowd": 1, "ignore": 0}, 'annotations with "ignore": treated as crowd'),
        ({"ignore": "0"}, {"ignore": 0}, 'annotations whose "ignore" is no number: taken as 0'),
        ({"ignore": None}, {"ignore": 0}, 'annotations whose "ignore" is no number: taken as 0'),
        ({"num_keypoints": "1"}, {"num_keypoints": 0}, "annotations whose num_keypoints is no whole number: counted"),
        ({"id": "2"}, {"id": 2}, "annotation ids that are text or 1.0: read as whole numbers"),
        ({"id": 2.0}, {"id": 2}, "annotation ids that are text or 1.0: read as whole numbers"),
        ({"id": 2**63}, {"id": 2}, "annotations whose id is missing, 0, or taken: given a new one"),
        ({"image_id": "1"}, {"image_id": 1}, SPELLING),
        ({"image_id": 1.0}, {"image_id": 1}, SPELLING),
        ({"category_id": "2"}, {"category_id": 2}, SPELLING),
        ({"ignore": 1}, {"iscrowd": 1, "ignore": 0}, 'annotations with "ignore": treated as crowd'),
        ({"iscrowd": None}, {"iscrowd": 0}, "annotations without a usable iscrowd: taken as 0"),
        ({"area": None}, {"area": 200}, "annotations without a usable area: taken as width x height"),
        ({"id": 0}, {"id": 2}, "annotations whose id is missing, 0, or taken: given a new one"),
        ({"id": None}, {"id": 2}, "annotations whose id is missing, 0, or taken: given a new one"),
        ({"id": "x"}, {"id": 2}, "annotations whose id is missing, 0, or taken: given a new one"),
        ({"id": 1}, {"id": 2}, "annotations whose id is missing, 0, or taken: given a new one"),
    ],
)
def test_annotations_repaired(coco_image, coco_annotation, change, repaired, kind):
    first = coco_annotation(1, box=(0, 0, 9, 9))
    clean, counts = sanitize([coco_image(1, "a.jpg")], [first, {**coco_annotation(2), **change}])
    assert clean["annotations"] == [first, {**coco_annotation(2), **change, **repaired}]
    assert counts == {kind: 1}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("segmentation", bad) for bad in ([[]], [[SQUARE]], "text", SQUARE, [["x"] * 6], [[1, 2, 3, 4]])),
        *(("segmentation", bad) for bad in ({"size": [40, 60]}, {"size": [4, 6], "counts": [1, "x"]}, {"counts": "a"})),
        *(("keypoints", bad) for bad in ("x", ["x", 1, 2], [1, 2])),
    ],
)
def test_a_box_outlives_its_mask(coco_image, coco_annotation, make_json, tmp_path, unregistered, key, value):
    good = coco_annotation(1, box=(0, 0, 9, 9), segmentation=[SQUARE], keypoints=[1, 2, 2])
    clean, counts = sanitize([coco_image(1, "a.jpg")], [good, {**coco_annotation(2), key: value}])
    assert clean["annotations"] == [good, coco_annotation(2)]
    assert counts == {f"annotations whose {key} cannot be read: taken without": 1}
    path = make_json([coco_image(1, "a.jpg")], [{**coco_annotation(2), key: value}])
    (record,) = load_coco(path, str(tmp_path), "dirty_masks")
    assert len(record["annotations"]) == 1


@pytest.mark.parametrize(
    "mask", [[SQUARE, [1, 2]], {"size": [40, 60], "counts": [0, 2400]}, {"size": [4, 6], "counts": "a"}, []]
)
def test_masks_that_the_loader_takes_stay(coco_image, coco_annotation, mask):
    annotation = coco_annotation(1, segmentation=mask, keypoints=[])
    clean, counts = sanitize([coco_image(1, "a.jpg")], [annotation])
    assert clean["annotations"] == [annotation] and not counts


def test_image_ids_that_cannot_be_sorted(coco_image, coco_annotation, make_json, tmp_path, unregistered):
    images = [coco_image("b", "b.jpg"), coco_image(7, "c.jpg"), coco_image("7", "a.jpg")]
    annotations = [coco_annotation(1, "7"), coco_annotation(2, 7), coco_annotation(3, "b")]
    clean, counts = sanitize(images, annotations)
    assert [image["id"] for image in clean["images"]] == [8, 7, 9]
    assert [annotation["image_id"] for annotation in clean["annotations"]] == [9, 7, 8]
    assert counts == {"image ids that are not whole numbers: replaced, and put back in results": 2}
    assert len(load_coco(make_json(images, annotations), str(tmp_path), "mixed_ids")) == 3
    clean, counts = sanitize(images[::2], annotations[::2])
    assert clean["images"] == images[::2] and not counts


@pytest.mark.parametrize("first, second", [("1", "2"), (1.0, 2.0), (2**70, 2**71), (1.5, 2.5), (-3, 4)])
def test_ids_of_every_kind_are_found_by_their_annotations(coco_image, coco_annotation, first, second):
    images = [coco_image(first, "a.jpg"), coco_image(second, "b.jpg")]
    content = {"images": images, "categories": [{"id": first, "name": "cat"}, {"id": second, "name": "dog"}]}
    content["annotations"] = [coco_annotation(1, first, second), coco_annotation(2, second, first)]
    clean, image_ids, category_ids = sanitize_coco(content, "", Dirt())
    codes = [image["id"] for image in clean["images"]]
    assert [a["image_id"] for a in clean["annotations"]] == codes
    assert [image_ids.get(code, code) for code in codes] == [first, second]
    classes = [category["id"] for category in clean["categories"]]
    assert [a["category_id"] for a in clean["annotations"]] == classes[::-1]
    assert all(type(number) is int and abs(number) < 2**63 for number in classes)
    assert [category_ids.get(code, code) for code in classes] == [first, second]


def test_a_reference_that_fits_two_ids_is_none(coco_image, coco_annotation):
    images = [coco_image("07", "a.jpg"), coco_image("7", "b.jpg")]
    clean, counts = sanitize(images, [coco_annotation(1, 7), coco_annotation(2, "07")])
    assert [a["image_id"] for a in clean["annotations"]] == ["07"]
    assert counts == {"annotations of unknown images: skipped": 1}


@pytest.mark.parametrize(
    "mask, box",
    [
        ([SQUARE, [1, 2]], [0, 0, 9, 9]),
        ([[10, 4, 20, 5, 12, 30], [2, 6, 4, 6, 4, 8]], [2, 4, 18, 26]),
        ({"size": [40, 60], "counts": [0, 2400]}, [0, 0, 60, 40]),
        ({"size": [4, 6], "counts": [5, 2, 17]}, [1, 1, 1, 2]),
    ],
)
@pytest.mark.parametrize("given", [{}, {"bbox": None}, {"bbox": []}, {"bbox": [1, 2, float("nan"), 4]}])
def test_an_object_without_box_gets_that_of_its_mask(coco_image, coco_annotation, mask, box, given):
    bare = {k: v for k, v in coco_annotation(1, segmentation=mask).items() if k != "bbox"}
    clean, counts = sanitize([coco_image(1, "a.jpg")], [{**bare, **given}])
    assert clean["annotations"] == [{**bare, "bbox": box}]
    assert counts == {"annotations without a usable bbox: it is taken from their segmentation": 1}


@pytest.mark.parametrize(
    "mask", [{"size": [4, 6], "counts": "a"}, {"size": [4, 6], "counts": [24]}, [[1, 1, 1, 1, 1, 1]]]
)
def test_an_empty_mask_gives_no_box(coco_image, coco_annotation, mask):
    clean, counts = sanitize([coco_image(1, "a.jpg")], [coco_annotation(1, box=(), segmentation=mask)])
    assert not clean["annotations"] and len(counts) == 1


@pytest.mark.parametrize(
    "degrees, box", [(90, [10, 1, 10, 20]), (-90.0, [10, 1, 10, 20]), ("180", [5, 6, 20, 10]), (0, None), (360, None)]
)
@pytest.mark.parametrize("mask", [[], [[5, 6, 25, 6, 25, 16, 5, 16]]])
def test_turned_boxes_of_cvat_become_the_upright_ones_around_them(coco_image, coco_annotation, degrees, box, mask):
    turned = coco_annotation(1, segmentation=mask, attributes={"rotation": degrees})
    clean, counts = sanitize([coco_image(1, "a.jpg")], [turned])
    (found,) = clean["annotations"]
    assert found["bbox"] == pytest.approx(box or [5, 6, 20, 10])
    assert sum(counts.values()) == (box is not None)
    if mask:
        assert box_of_mask(found["segmentation"]) == pytest.approx(found["bbox"])


def test_the_upright_box_at_45_degrees_and_a_mask_that_knows_better(coco_image, coco_annotation):
    side = 30 / 2**0.5  # of the square around 20 x 10 at 45 degrees
    shape = [[5, 6, 25, 11, 5, 16]]
    turned = coco_annotation(1, attributes={"rotation": 45}), coco_annotation(2, attributes={"rotation": 45})
    clean, _ = sanitize([coco_image(1, "a.jpg")], [turned[0], {**turned[1], "segmentation": shape}])
    assert clean["annotations"][0]["bbox"] == pytest.approx([15 - side / 2, 11 - side / 2, side, side])
    assert clean["annotations"][1]["bbox"] == [5, 6, 20, 10]


def test_boxes_that_are_shares_of_the_image_are_refused(make_json, coco_image, coco_annotation, tmp_path):
    shares = [coco_annotation(n, box=(0.1 * n, 0.2, 0.3, 0.05)) for n in range(1, 8)]
    path = make_json([coco_image(1, "a.jpg")], shares)
    with pytest.raises(UserError, match=r"data\.json: 7 of 7 boxes lie between 0 and 1: they are shares of the image"):
        usable_json(path, str(tmp_path), tmp_path / "copy.json")
    pixels = [coco_annotation(n, box=(n, 2, 3, 5)) for n in range(8, 10)]
    clean, _ = sanitize([coco_image(1, "a.jpg")], shares + pixels)  # a few slips of the mouse are no format
    assert len(clean["annotations"]) == 9


def test_categories_that_share_a_name_are_told_apart(coco_image, coco_annotation):
    content = {
        "images": [coco_image(1, "a.jpg")],
        "annotations": [],
        "categories": [*CATEGORIES, {"id": 9, "name": "cat"}],
    }
    dirt = Dirt()
    clean = sanitize_coco(content, "", dirt).content
    assert [c["name"] for c in clean["categories"]] == ["dog", "cat (id 2)", "cat (id 9)"]
    assert dirt.counts == {"categories that share their name: told apart by their id": 2}


def test_whole_numbers_written_as_1_0_reach_those_who_want_integers(make_json, coco_image, coco_annotation, tmp_path):
    mask = {"size": [40.0, 60.0], "counts": [0.0, 2400.0]}
    path = make_json([coco_image(1.0, "a.jpg", 40.0, 60.0)], [coco_annotation(1.0, 1.0, 2.0, segmentation=mask)])
    (record,) = load_coco(path, str(tmp_path))
    assert [type(record[key]) for key in ("height", "width", "image_id")] == [int] * 3
    assert record["annotations"][0]["segmentation"]["size"] == [40, 60]


def test_backslashes_in_file_names(make_image, coco_image, tmp_path):
    make_image("a.jpg")
    images = [coco_image(1, "images\\a.jpg"), coco_image(2, "images\\gone.jpg")]
    clean, counts = sanitize(images, [], tmp_path)
    assert [i["file_name"] for i in clean["images"]] == ["images/a.jpg", "images\\gone.jpg"]
    assert counts == {"file names with backslashes: read with slashes": 1}


def test_new_ids_avoid_those_that_come_later(coco_image, coco_annotation):
    annotations = [coco_annotation(n, box=(i, 0, 5, 5)) for i, n in enumerate((0, 1, 1, 3, 2))]
    clean, _ = sanitize([coco_image(1, "a.jpg")], annotations)
    assert [a["id"] for a in clean["annotations"]] == [4, 1, 5, 3, 2]


def test_exact_repetition_is_dropped(coco_image, coco_annotation):
    clean, counts = sanitize([coco_image(1, "a.jpg")], [coco_annotation(1), coco_annotation(1)])
    assert len(clean["annotations"]) == 1
    assert counts == {"annotations that are there twice: the second skipped": 1}


def test_images_without_size_name_or_own_id(make_image, tmp_path, coco_image):
    make_image("a.png", (33, 44))
    images = [
        {"id": 1, "file_name": "a.png"},
        {"id": 2, "file_name": "gone.png", "height": 0, "width": 5},
        {"id": 3},
        {"id": 5, "file_name": "\ud800"},
        "nonsense",
        {"id": 6, "file_name": "a.png", "height": "33", "width": "44.0"},
        {"id": 7, "file_name": "a.png", "height": 2**70, "width": 10**400},
        coco_image(1, "b.png"),
        coco_image(4, "c.png"),
    ]
    clean, counts = sanitize(images, [], tmp_path / "images")
    assert clean["images"] == [{"id": n, "file_name": "a.png", "height": 33, "width": 44} for n in (1, 6, 7)] + [
        coco_image(4, "c.png")
    ]
    assert counts == {
        TEXT: 1,
        "images without height and width: taken from the file": 2,
        "images without height and width, with an unreadable file: skipped": 1,
        "images without id or file_name: skipped": 3,
        "images whose id is taken: skipped": 1,
    }


def test_load_coco_gives_stock_records_and_metadata(make_json, coco_image, coco_annotation, tmp_path, unregistered):
    images = [coco_image(3, "b.jpg"), coco_image(1, "a.jpg")]
    good = [coco_annotation(1, 1, 7), coco_annotation(2, 3, 2, box=(1, 2, 3, 4))]
    dirty = [*good, coco_annotation(2, 9), coco_annotation(5, box=()), coco_annotation(6, category=4)]
    clean_path, dirty_path = make_json(images, good, name="c.json"), make_json(images, dirty, name="d.json")
    for name in ("stock", "ours"):
        MetadataCatalog.get(f"load_{name}")
    stock = load_coco_json(clean_path, str(tmp_path), "load_stock")
    ours = load_coco(dirty_path, str(tmp_path), "load_ours")
    assert ours == stock
    assert [r["image_id"] for r in ours] == [1, 3]
    assert ours[0]["annotations"][0]["category_id"] == 1
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        assert getattr(MetadataCatalog.get("load_ours"), key) == getattr(MetadataCatalog.get("load_stock"), key)
    assert MetadataCatalog.get("load_ours").thing_classes == ["cat", "dog"]
    for name in ("stock", "ours"):
        MetadataCatalog.remove(f"load_{name}")


def test_cocoeval_reads_the_repaired_copy(make_json, coco_image, coco_annotation, tmp_path, caplog):
    annotations = [coco_annotation(0), coco_annotation(0, box=(30, 20, 20, 10)), coco_annotation(3, box=[])]
    for annotation in annotations:
        del annotation["area"], annotation["iscrowd"]
    path = make_json([coco_image(1, "a.jpg")], annotations)
    detections = [
        {"image_id": 1, "category_id": 2, "bbox": b, "score": s}
        for b, s in (([5, 6, 20, 10], 0.9), ([30, 20, 20, 10], 0.8))
    ]
    with pytest.raises(Exception):  # noqa: B017 - whatever pycocotools makes of it
        evaluate(path, detections)
    with caplog.at_level(logging.WARNING, logger="defcn_ext"):
        used, *_ = usable_json(path, str(tmp_path), tmp_path / "new" / "copy.json")
    assert used == str(tmp_path / "new" / "copy.json")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["copy.json"]
    assert len(caplog.records) == 4
    assert evaluate(used, detections)[0] == pytest.approx(1.0)


def test_cocoeval_counts_a_box_without_area_as_missed(make_json, coco_image, coco_annotation):
    path = make_json([coco_image(1, "a.jpg")], [coco_annotation(1), coco_annotation(2, box=(30, 20, 0, 0))])
    stats = evaluate(path, [{"image_id": 1, "category_id": 2, "bbox": [5, 6, 20, 10], "score": 0.9}])
    assert stats[8] == pytest.approx(0.5)  # recall: one of two
    assert stats[0] == pytest.approx(51 / 101)  # precision 1 at the recalls 0, 0.01 ... 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"bad\.json: not valid json"),
        ("\xff", r"bad\.json: not valid json"),
        ("[1]", r"bad\.json: holds a list; expected an object with images"),
        ('{"images": [1], "annotations": []}', r'bad\.json: key "categories" is missing'),
        ('{"annotations": [], "categories": []}', r'bad\.json: key "images" is missing'),
        ('{"images": [1], "annotations": {}, "categories": []}', r'bad\.json: key "annotations" is missing or no list'),
        ('{"images": [], "annotations": [], "categories": [1]}', r'bad\.json: "images" is empty'),
        ('{"images": [1], "annotations": [], "categories": []}', r'bad\.json: "categories" is empty'),
        ('{"images": [1], "categories": [{"id": 1}]}', r"""category .* needs an "id" .* and a "name\""""),
        ('{"images": [1], "categories": [{"name": "a"}]}', r"""category .* needs an "id" .* and a "name\""""),
        ('{"images": [1], "categories": [{"id": 1, "name": "a"}, {"id": 1.0, "name": "b"}]}', "share the id 1"),
        ("[" * 10**5, r"bad\.json: (not valid json|lists lie in lists more than 50 deep)"),
        ('{"images": [1], "info": ' + "[" * 99 + "]" * 99 + "}", r"bad\.json: .*missing"),
        ('{"images": [1], "categories": [{"a": ' + "[" * 60 + "]" * 60 + "}]}", r"categories: lists lie .* 50 deep"),
        ('{"images": [' + "[" * 60 + "]" * 60 + '], "categories": []}', r"images: lists lie in lists .* 50 deep"),
        (
            '{"images": [1], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "categories 'a' and 'b' share the id 1",
        ),
    ],
)
def test_what_nothing_can_repair_names_the_file(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        read_coco(str(path))


def test_missing_json_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file"):
        read_coco(str(tmp_path / "none.json"))


def test_missing_annotations_are_fine(tmp_path, coco_image):
    path = tmp_path / "test_set.json"
    content = {"images": [coco_image(1, "a.jpg")], "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    assert usable_json(str(path), "", tmp_path / "copy.json") == (str(path), content, {}, {})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_what_windows_tools_write_is_copied_for_those_who_cannot_read_it(tmp_path, coco_image, encoding):
    path = tmp_path / "windows.json"
    content = {"images": [coco_image(1, "größe.jpg")], "categories": CATEGORIES, "annotations": []}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    used = usable_json(str(path), "", tmp_path / "copy.json")
    assert used == (str(tmp_path / "copy.json"), content, {}, {})
    assert json.loads((tmp_path / "copy.json").read_text(encoding="ascii")) == content
    assert load_coco(str(path), str(tmp_path))[0]["file_name"].endswith("größe.jpg")


def test_a_file_in_utf8_is_copied_where_the_machine_reads_another_encoding(tmp_path, coco_image, monkeypatch):
    path = tmp_path / "utf8.json"
    content = {"images": [coco_image(1, "größe.jpg")], "categories": CATEGORIES}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    for encoding, read in (("UTF-8", path), ("cp1252", tmp_path / "copy.json")):
        monkeypatch.setattr("locale.getpreferredencoding", lambda _, encoding=encoding: encoding)
        assert usable_json(str(path), "", tmp_path / "copy.json").path == str(read)


def test_json_whose_images_are_all_unusable(make_json, tmp_path):
    path = make_json([{"id": 1}, {"id": 2, "file_name": "gone.jpg"}], [])
    with pytest.raises(ValueError, match=r"none of its images can be used: 1 images without id .*; 1 images without"):
        usable_json(path, str(tmp_path), tmp_path / "copy.json")
