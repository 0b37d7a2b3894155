"""Files of COCO, PASCAL VOC and semantic segmentation, against values measured on Detectron2."""

import copy
import json
import re

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    get_detection_dataset_dicts,
)
from detectron2.data.datasets import (
    convert_to_coco_json,
    load_coco_json,
    load_sem_seg,
    load_voc_instances,
    register_coco_instances,
    register_pascal_voc,
)
from detectron2.data.datasets.coco import convert_to_coco_dict, main
from detectron2.structures import BoxMode
from tests.standin import raised, says


@pytest.fixture(autouse=True)
def _restored_catalogs():
    """Forgets what a test registers."""
    datasets, metadata = dict(DatasetCatalog), dict(MetadataCatalog)
    yield
    for catalog, before in ((DatasetCatalog, datasets), (MetadataCatalog, metadata)):
        for name in set(catalog) - set(before):
            catalog.remove(name)


@pytest.fixture(scope="module")
def golden(facts):
    return facts("golden_coco_eval.json")


def image_ids(*args, **kwargs):
    return [record["image_id"] for record in get_detection_dataset_dicts(*args, **kwargs)]


@pytest.fixture
def coco(facts, tmp_path):
    """Writes the synthetic set, after a change to it, and returns the path."""

    def write(change=lambda content: None):
        content = facts("coco_eval_gt.json")
        change(content)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


def comparable(records):
    """Records as the facts hold them in json: bytes are marked."""
    return json.loads(json.dumps(records, default=lambda value: f"bytes:{value.decode('ascii')}"))


def test_registered_coco_records(golden, facts, coco, caplog):
    path = coco()
    register_coco_instances("synth_val", {"extra_key": "x"}, path, "images_root")
    before = MetadataCatalog.get("synth_val").as_dict()
    assert before == {
        "name": "synth_val",
        "json_file": path,
        "image_root": "images_root",
        "evaluator_type": "coco",
        "extra_key": "x",
    }
    records = DatasetCatalog.get("synth_val")
    assert comparable(records) == facts("coco_eval_dataset_dicts.json")
    expected = golden["dataset_dicts"]
    assert [record["image_id"] for record in records] == expected["order_of_image_ids"]
    assert {tuple(sorted(record)) for record in records} == {tuple(expected["keys"])}
    annotations = [anno for record in records for anno in record["annotations"]]
    assert sorted({key for anno in annotations for key in anno}) == expected["annotation_keys"]
    assert {anno["bbox_mode"] for anno in annotations} == {expected["bbox_mode"]}
    counts = [a["segmentation"]["counts"] for a in annotations if isinstance(a.get("segmentation"), dict)]
    assert {type(c) for c in counts} == {bytes, str}
    meta = MetadataCatalog.get("synth_val").as_dict()
    meta["thing_dataset_id_to_contiguous_id"] = {
        str(k): v for k, v in meta["thing_dataset_id_to_contiguous_id"].items()
    }
    assert {**meta, "json_file": "<path of the json>"} == golden["metadata"]
    assert "Category ids" in caplog.text
    assert image_ids("synth_val") == golden["filter_empty"]["kept_image_ids"]
    dropped = {r["image_id"] for r in records} - set(image_ids("synth_val"))
    assert sorted(dropped) == golden["filter_empty"]["removed"]


def test_registering_again(golden, coco):
    path = coco()
    register_coco_instances("again", {"k": 1}, path, "images")
    assert golden["register_same_again"] == "no error"
    register_coco_instances("again", {"k": 1}, path, "images")
    other = raised(register_coco_instances, "again", {"k": 2}, path, "images")
    assert other == golden["register_same_name_other_metadata"]


def test_category_ids_stay_without_a_name(golden, coco):
    records = load_coco_json(coco(), "")
    ids = sorted({anno["category_id"] for record in records for anno in record["annotations"]})
    assert ids == golden["without_dataset_name"]["category_ids"]


def test_extra_annotation_keys(golden, coco):
    records = load_coco_json(coco(), "", extra_annotation_keys=["area"])
    assert sorted(records[0]["annotations"][0]) == golden["extra_annotation_keys"]


def first_polygons(content):
    return next(anno for anno in content["annotations"] if isinstance(anno["segmentation"], list))


def repeat_id(content):
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


LOAD_CASES = {
    "as_is": lambda content: None,
    "unknown_category": lambda content: content["annotations"][0].update(category_id=99),
    "empty_bbox": lambda content: content["annotations"][0].update(bbox=[]),
    "no_bbox_key": lambda content: content["annotations"][0].pop("bbox"),
    "two_point_polygon_only": lambda content: first_polygons(content).update(segmentation=[[1, 1, 5, 5]]),
    "empty_segmentation_list": lambda content: first_polygons(content).update(segmentation=[]),
    "duplicate_annotation_ids": repeat_id,
    "ignore_1": lambda content: content["annotations"][0].update(ignore=1),
    "annotation_of_missing_image": lambda content: content["annotations"][0].update(image_id=12345),
    "no_iscrowd_key": lambda content: content["annotations"][0].pop("iscrowd"),
}


def test_all_load_cases_are_covered(golden):
    assert set(LOAD_CASES) == set(golden["load_cases"])


@pytest.mark.parametrize("case", LOAD_CASES)
def test_load_case(golden, coco, case):
    expected = golden["load_cases"][case]
    path = coco(LOAD_CASES[case])
    if "raises" in expected:
        assert raised(load_coco_json, path, "", "case") == expected["raises"]
        return
    records = load_coco_json(path, "", "case")
    annotations = [anno for record in records for anno in record["annotations"]]
    assert {"images": len(records), "annotations": len(annotations)} == expected


def test_coco_keypoints_move_to_pixel_centers_and_back(tmp_path):
    path = tmp_path / "keypoints.json"
    image = {"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}
    anno = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 0, "area": 25}
    anno["keypoints"] = [3, 4, 2, 0, 0, 0]
    content = {"images": [image], "annotations": [anno], "categories": [{"id": 1, "name": "person"}]}
    path.write_text(json.dumps(content))
    register_coco_instances("points", {}, str(path), "")
    (record,) = DatasetCatalog.get("points")
    assert record["annotations"][0]["keypoints"] == [3.5, 4.5, 2, 0.5, 0.5, 0]
    (dumped,) = convert_to_coco_dict("points")["annotations"]
    assert dumped["keypoints"] == [3, 4, 2, 0, 0, 0]
    assert dumped["num_keypoints"] == 1


@pytest.fixture
def plain():
    """The data set that the golden conversion was made from."""
    box = [5.0, 5.0, 10.0, 4.0]
    polygon = [[5.0, 5.0, 15.0, 5.0, 15.0, 9.0, 5.0, 9.0]]
    first = {"bbox": [1.0, 2.0, 11.0, 22.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    second = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1, "segmentation": polygon}
    records = [
        {"file_name": "a.jpg", "image_id": 3, "height": 40, "width": 50, "annotations": [first, second]},
        {"file_name": "b.jpg", "image_id": 1, "height": 30, "width": 20, "annotations": []},
    ]
    DatasetCatalog.register("plain", lambda: copy.deepcopy(records))
    MetadataCatalog.get("plain").thing_classes = ["a", "b"]
    return records


def test_conversion_to_coco(golden, plain):
    converted, expected = convert_to_coco_dict("plain"), dict(golden["convert_to_coco_dict"])
    assert sorted(converted.pop("info")) == expected.pop("info")["keys"]
    assert converted == expected


def test_conversion_maps_categories_back(plain):
    MetadataCatalog.get("plain").thing_dataset_id_to_contiguous_id = {7: 0, 20: 1}
    converted = convert_to_coco_dict("plain")
    assert converted["categories"] == [{"id": 7, "name": "a"}, {"id": 20, "name": "b"}]
    assert [anno["category_id"] for anno in converted["annotations"]] == [20, 7]


def test_conversion_of_masks_and_rotated_boxes(tmp_path):
    mask = np.zeros((10, 12), dtype=np.uint8, order="F")
    mask[2:5, 3:9] = 1
    masked = {"bbox": np.array([3, 2, 9, 5]), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    masked["segmentation"] = mask_util.encode(mask)
    rotated = {"bbox": [5.0, 5.0, 4.0, 3.0, 30.0], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0}
    record = {"file_name": "x", "image_id": 0, "height": 10, "width": 12, "annotations": [masked, rotated]}
    DatasetCatalog.register("masks", lambda: [record])
    MetadataCatalog.get("masks").thing_classes = ["thing"]
    converted = convert_to_coco_dict("masks")
    assert [anno["area"] for anno in converted["annotations"]] == [18, 12]
    assert converted["annotations"][1]["bbox"] == rotated["bbox"]
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(converted))
    (loaded,) = load_coco_json(str(path), "")
    np.testing.assert_array_equal(mask_util.decode(loaded["annotations"][0]["segmentation"]), mask)


def test_conversion_to_a_file_is_cached(golden, plain, tmp_path):
    path = tmp_path / "out" / "plain_coco_format.json"
    convert_to_coco_json("plain", str(path))
    assert sorted(p.name for p in path.parent.iterdir()) == golden["plain_with_output_dir_files"]
    assert len(json.loads(path.read_text())["images"]) == 2
    path.write_text("{}")
    convert_to_coco_json("plain", str(path))
    assert path.read_text() == "{}"
    convert_to_coco_json("plain", str(path), allow_cached=False)
    assert len(json.loads(path.read_text())["annotations"]) == 2


@pytest.mark.standin_only("drawn without OpenCV")
def test_drawing_a_json(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 10], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["coco", "a.json", str(tmp_path), "drawn"])
    main()
    assert np.asarray(Image.open(tmp_path / "coco-data-vis" / "a.png")).any(), "nothing drawn on the black image"
    assert re.search(says("1 images"), capsys.readouterr().out)


def test_voc(tmp_path):
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("000007\n")
    (tmp_path / "Annotations/000007.xml").write_text(
        "<annotation><size><width>50</width><height>40</height><depth>3</depth></size>"
        "<object><name>cat</name><difficult>1</difficult>"
        "<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>50</xmax><ymax>20</ymax></bndbox></object></annotation>"
    )
    expected = {
        "file_name": str(tmp_path / "JPEGImages" / "000007.jpg"),
        "image_id": "000007",
        "height": 40,
        "width": 50,
        "annotations": [{"category_id": 1, "bbox": [0.0, 2.0, 50.0, 20.0], "bbox_mode": BoxMode.XYXY_ABS}],
    }
    assert load_voc_instances(str(tmp_path), "val", ["dog", "cat"]) == [expected]
    register_pascal_voc("voc_tiny", str(tmp_path), "val", 2012)
    assert DatasetCatalog.get("voc_tiny")[0]["annotations"][0]["category_id"] == 7
    assert MetadataCatalog.get("voc_tiny").year == 2012


def test_pictures_and_segmentations_are_paired_by_name(tmp_path, caplog):
    for path in ("img/b.jpg", "img/x/a.jpg", "img/lonely.jpg", "gt/b.png", "gt/x/a.png", "gt/notes.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    records = load_sem_seg(str(tmp_path / "gt"), str(tmp_path / "img"))
    assert records == [
        {"file_name": str(tmp_path / "img" / name) + ".jpg", "sem_seg_file_name": str(tmp_path / "gt" / name) + ".png"}
        for name in ("b", "x/a")
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(AssertionError):
        load_sem_seg(str(tmp_path / "gt"), str(tmp_path / "img"), gt_ext="tif")
