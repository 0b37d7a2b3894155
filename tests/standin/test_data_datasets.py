"""Catalogs, records, COCO and VOC files, against values measured on Detectron2."""

import copy
import json
import logging
import pickle
import re
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    Metadata,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    load_proposals_into_dataset,
    print_instances_class_histogram,
)
from detectron2.data.build import filter_images_with_few_keypoints
from detectron2.data.datasets import (
    convert_to_coco_json,
    load_coco_json,
    load_sem_seg,
    load_voc_instances,
    register_coco_instances,
    register_pascal_voc,
)
from detectron2.data.datasets.coco import convert_to_coco_dict, main
from detectron2.data.detection_utils import get_fed_loss_cls_weights
from detectron2.structures import BoxMode
from tests.standin import says


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


@pytest.fixture(scope="module")
def behaviours(facts):
    return facts("golden_behaviours.json")


def raised(function, *args, **kwargs) -> str | None:
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__
    return None


# Catalogs


def test_dataset_catalog(behaviours):
    facts, calls = behaviours["catalogs"], []
    DatasetCatalog.register("a", lambda: calls.append(1) or [1])
    assert raised(DatasetCatalog.register, "a", lambda: []) == facts["register_twice"]["raises"]
    assert raised(DatasetCatalog.register, "b", [1]) == facts["register_non_callable"]["raises"]
    assert raised(DatasetCatalog.get, "unknown") == facts["get_unknown"]["raises"]
    with pytest.raises(KeyError, match=says("coco_2017_val")):
        DatasetCatalog.get("unknown")
    DatasetCatalog.get("a")
    assert DatasetCatalog.get("a") == [1]
    assert (len(calls) == 2) is facts["get_calls_every_time"]
    assert ("a" in DatasetCatalog) is facts["in"]
    assert callable(DatasetCatalog["a"]) is facts["item_is_function"]
    assert "a" in DatasetCatalog.list()
    DatasetCatalog.remove("a")
    assert raised(DatasetCatalog.get, "a") == facts["remove_then_get"]["raises"]
    assert raised(DatasetCatalog.remove, "a") == facts["remove_unknown"]["raises"]


def test_metadata(behaviours):
    facts = behaviours["catalogs"]
    meta = MetadataCatalog.get("newset")
    assert meta.as_dict() == facts["metadata_get_creates"]
    assert (MetadataCatalog.get("newset") is meta) is facts["metadata_same_object"]
    assert raised(getattr, meta, "x") == facts["metadata_missing_attr_empty"]["raises"]
    assert hasattr(meta, "x") is facts["metadata_hasattr_missing"]
    meta.x = 1
    assert raised(getattr, meta, "y") == facts["metadata_missing_attr"]["raises"]
    assert raised(setattr, meta, "x", 1) is None and facts["metadata_reset_same"]["ok"]
    assert raised(setattr, meta, "x", 2) == facts["metadata_reset_other"]["raises"]
    assert type(meta.set(y=3)).__name__ == facts["metadata_set_chain"]
    assert [meta.get("x"), meta.get("z"), meta.get("z", 7)] == facts["metadata_get_default"]
    meta.as_dict()["x"] = 5
    assert meta.x == facts["metadata_as_dict_is_copy"]
    assert raised(MetadataCatalog.get, "") == facts["metadata_get_empty_name"]["raises"]
    assert Metadata().set(x=1).x == facts["detached_metadata"]
    assert pickle.loads(pickle.dumps(meta)).as_dict() == meta.as_dict()
    assert raised(MetadataCatalog.remove, "newset") is None and facts["metadata_remove"]["ok"]
    assert "newset" not in MetadataCatalog
    assert raised(MetadataCatalog.remove, "newset") == "KeyError"
    assert ("coco_2017_val" in MetadataCatalog.list()) is facts["metadata_list_has_coco"]


def test_old_names_of_metadata(behaviours, caplog):
    facts = behaviours["catalogs"]
    meta = MetadataCatalog.get("renamed")
    for i, (old, new) in enumerate(facts["metadata_renamed_map"].items()):
        meta.set(**{new: [i]})
        assert getattr(meta, old) == [i]
        assert new in caplog.text
    assert Metadata().set(thing_classes=["a"]).class_names == facts["metadata_renamed_class_names"]["value"]


def test_builtin_data_sets(behaviours):
    facts = behaviours["catalogs"]
    left_out = ("ade20k", "cityscapes", "lvis")
    expected = [name for name in facts["builtin_names"] if not name.startswith(left_out) and "panoptic" not in name]
    assert set(expected) <= set(DatasetCatalog.list())  # other packages may have registered theirs too
    meta = MetadataCatalog.get("coco_2017_val")
    assert meta.thing_classes == facts["coco_thing_classes"]
    assert {str(k): v for k, v in meta.thing_dataset_id_to_contiguous_id.items()} == facts["coco_id_map"]
    assert meta.thing_colors[:3] == facts["coco_thing_colors_first3"]
    assert len({tuple(color) for color in meta.thing_colors}) == 80
    assert all(0 <= channel <= 255 for color in meta.thing_colors for channel in color)
    expected = facts["coco_2017_val_metadata"]
    assert set(meta.as_dict()) == set(expected)
    for key in ("name", "evaluator_type"):
        assert getattr(meta, key) == expected[key]
    for key in ("json_file", "image_root"):  # the root may come from the environment
        assert getattr(meta, key).endswith(expected[key].removeprefix("datasets/"))
    assert MetadataCatalog.get("coco_2017_test-dev").json_file.endswith("annotations/image_info_test-dev2017.json")
    assert len(MetadataCatalog.get("keypoints_coco_2017_val").keypoint_names) == 17
    assert MetadataCatalog.get("voc_2012_val").thing_classes[14] == "person"
    assert MetadataCatalog.get("voc_2007_test").evaluator_type == "pascal_voc"


# Records


def objects(*categories_and_crowds):
    return [
        {"category_id": category, "iscrowd": crowd, "bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS}
        for category, crowd in categories_and_crowds
    ]


@pytest.fixture
def five_images():
    """Images 1, 4, 5 have an object, 2 has none, 3 a crowd only."""
    annotations = {1: [(0, 0)], 2: [], 3: [(1, 1)], 4: [(0, 0), (1, 1)], 5: [(0, 0)]}
    records = [{"image_id": i, "annotations": objects(*content)} for i, content in annotations.items()]
    DatasetCatalog.register("five", lambda: copy.deepcopy(records))
    MetadataCatalog.get("five").thing_classes = ["a", "b"]
    DatasetCatalog.register("nine", lambda: [{"image_id": 9, "annotations": objects((1, 0))}])
    MetadataCatalog.get("nine").thing_classes = ["a", "b"]
    DatasetCatalog.register("other", lambda: [{"image_id": 9, "annotations": objects((0, 0))}])
    MetadataCatalog.get("other").thing_classes = ["x"]


def image_ids(*args, **kwargs):
    return [record["image_id"] for record in get_detection_dataset_dicts(*args, **kwargs)]


def test_records_are_filtered_and_joined(behaviours, five_images, caplog):
    facts = behaviours["get_detection_dataset_dicts"]
    caplog.set_level(logging.INFO)
    assert image_ids("five") == facts["filter_true"]["value"]
    removed = [r for r in caplog.records if r.getMessage().startswith("Removed")]
    assert [[r.name, r.levelname, r.getMessage()] for r in removed] == facts["filter_log"]
    assert image_ids(["five"], filter_empty=False) == facts["filter_false"]["value"]
    assert image_ids(("five", "nine")) == facts["two_names"]["value"]
    unchecked = image_ids(["five", "other"], check_consistency=False)
    assert unchecked == facts["inconsistent_unchecked"]["value"]
    different = raised(get_detection_dataset_dicts, ["five", "other"])
    assert different == facts["inconsistent_classes"]["raises"]


def test_records_that_are_refused(behaviours, five_images):
    facts = behaviours["get_detection_dataset_dicts"]
    cases = {
        "empty_dataset": [],
        "nothing_left_after_filter": [{"image_id": 1, "annotations": []}],
        "category_out_of_range": [{"image_id": 1, "annotations": objects((2, 0))}],
    }
    for key, records in cases.items():
        DatasetCatalog.register(key, lambda records=records: records)
        MetadataCatalog.get(key).thing_classes = ["a", "b"]
        assert raised(get_detection_dataset_dicts, key) == facts[key]["raises"], key
    assert raised(get_detection_dataset_dicts, "nowhere") == facts["unregistered"]["raises"]
    assert raised(get_detection_dataset_dicts, []) == facts["empty_name_list"]["raises"]


def test_records_without_annotations_or_classes_pass(behaviours):
    facts = behaviours["get_detection_dataset_dicts"]
    DatasetCatalog.register("images", lambda: [{"image_id": 1}])
    assert image_ids("images") == facts["no_annotations_key_is_not_filtered"]["value"]
    DatasetCatalog.register("classless", lambda: [{"image_id": 1, "annotations": objects((7, 0))}])
    assert image_ids("classless") == facts["no_thing_classes_skips_check"]["value"]


def test_histogram(behaviours, monkeypatch):
    facts, logged = behaviours["get_detection_dataset_dicts"], []
    # Equal messages are logged once per process, and another test may have had it.
    home = sys.modules[print_instances_class_histogram.__module__]
    monkeypatch.setattr(home, "log_first_n", lambda level, text, **_: logged.append(text))
    records = [{"annotations": objects((0, 0), (1, 1))}, {"annotations": objects((0, 0), (0, 0))}]
    print_instances_class_histogram(records, ["a", "b"])
    assert (len(logged) == 1) is facts["histogram_logged"]
    assert re.sub(r"\x1b\[\d+m", "", logged[0]).startswith(facts["histogram_text"])
    print_instances_class_histogram(records, ["a" * 13, "b" * 14, *"cdefg"])
    header, _, first_row, second_row, _, total = logged[1].splitlines()[1:]
    assert header.count("category") == 3  # six columns at most
    assert "a" * 13 in first_row and "b" * 11 + ".." in first_row
    assert "| d " in re.sub(" +", " ", second_row)
    assert re.findall(r"\d+", total.split("total")[1])[0] == "3"


def test_torch_data_sets_are_joined():
    for name, numbers in (("first", [1, 2]), ("second", [3])):
        part = torch.utils.data.TensorDataset(torch.tensor(numbers))
        DatasetCatalog.register(name, lambda part=part: part)
    joined = get_detection_dataset_dicts(["first", "second"])
    assert [int(item[0]) for item in joined] == [1, 2, 3]
    assert type(get_detection_dataset_dicts("second")) is torch.utils.data.TensorDataset


def test_few_keypoints_are_filtered():
    records = [{"annotations": [{"keypoints": [1, 1, v1, 2, 2, v2]}, {}]} for v1, v2 in ((0, 0), (2, 0), (1, 2))]
    assert filter_images_with_few_keypoints(records, 1) == records[1:]
    assert filter_images_with_few_keypoints(records, 2) == records[2:]


def test_proposals_of_files(tmp_path):
    path = tmp_path / "proposals.pkl"
    boxes = np.array([[0.0, 0, 1, 1], [0, 0, 2, 2]])
    path.write_bytes(pickle.dumps({"indexes": [5], "boxes": [boxes], "scores": [np.array([0.1, 0.9])]}))
    (record,) = load_proposals_into_dataset([{"image_id": 5}], str(path))
    assert record["proposal_boxes"].tolist() == boxes[::-1].tolist()
    assert record["proposal_objectness_logits"].tolist() == [0.9, 0.1]
    assert record["proposal_bbox_mode"] == BoxMode.XYXY_ABS


def test_class_weights_of_image_counts():
    counts = [{"id": 2, "image_count": 9}, {"id": 1, "image_count": 4}]
    MetadataCatalog.get("counted").class_image_count = counts
    assert get_fed_loss_cls_weights("counted", 0.5).tolist() == [2, 3]


# Loaders from a config


def train_config(**dataloader):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("five", "nine")
    cfg.DATASETS.TEST = ("five",)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    for key, value in dataloader.items():
        cfg.DATALOADER[key] = value
    return cfg


def sampler_of(loader):
    return loader.dataset.sampler


def test_loaders_from_config(behaviours, five_images):
    seeds, cfg = behaviours["seeds"], train_config()
    loader = build_detection_train_loader(cfg, mapper=lambda record: record)
    assert sampler_of(loader)._seed == seeds["cfg_loader_sampler_seed"]
    batch = next(iter(loader))
    assert len(batch) == 2 and {record["image_id"] for record in batch} <= {1, 4, 5, 9}
    cfg.SEED = 42
    seeded = build_detection_train_loader(cfg, mapper=lambda record: record)
    assert sampler_of(seeded)._seed == seeds["cfg_loader_sampler_seed_42"]
    test = build_detection_test_loader(cfg, "five", mapper=lambda record: record["image_id"])
    assert list(test) == [[1], [2], [3], [4], [5]]
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len(build_detection_train_loader(cfg, mapper=lambda record: record).dataset.dataset) == 6


def test_samplers_from_config(behaviours, five_images):
    seeds = behaviours["seeds"]

    def build(cfg):
        return build_detection_train_loader(cfg, mapper=lambda record: record)

    assert raised(build, train_config(SAMPLER_TRAIN="Other")) == seeds["unknown_sampler"]["raises"]
    subset = train_config(SAMPLER_TRAIN="RandomSubsetTrainingSampler")
    assert raised(build, subset) == seeds["RandomSubset_without_config_key"]["raises"]
    subset.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    order = iter(sampler_of(build(subset)))
    assert len({next(order) for _ in range(20)}) == 2
    assert (raised(build, train_config(SAMPLER_TRAIN="RepeatFactorTrainingSampler")) is None) is (
        seeds["RepeatFactor_ok"]
    )


def share_of_image_nine(cfg) -> float:
    order = iter(sampler_of(build_detection_train_loader(cfg, mapper=lambda record: record)))
    drawn = [next(order) for _ in range(3000)]
    return drawn.count(3) / len(drawn)  # behind images 1, 4, 5


def test_weighted_samplers(five_images):
    cfg = train_config(SAMPLER_TRAIN="WeightedTrainingSampler")
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [("nine", 2.5)]
    assert share_of_image_nine(cfg) == pytest.approx(2.5 / (3 + 2.5), abs=0.02)
    # Within "five", category 1 is in one image of three: factor sqrt(0.75 * 3) = 1.5 for image 4.
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedCategoryTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.75
    assert share_of_image_nine(cfg) == pytest.approx(2.5 / (2 + 1.5 + 2.5), abs=0.02)
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [("unknown", 2.0)]
    assert raised(share_of_image_nine, cfg) == "AssertionError"


# COCO


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


# PASCAL VOC


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


# Semantic segmentation


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
