"""DATASETS.REGISTER: data of one's own without code, and errors that say what to do."""

import json

import pytest

from defcn_ext.data import add_data_config, check_num_classes, register_from_config
from defcn_ext.data.builtin import PREDEFINED, register_all
from defcn_ext.data.register import parse_entry
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

pytestmark = pytest.mark.usefixtures("unregistered")


@pytest.fixture
def cfg(tmp_path):
    config = get_cfg()
    add_data_config(config)
    config.OUTPUT_DIR = str(tmp_path / "output")
    config.MODEL.DEFCN = CfgNode({"NUM_CLASSES": 2})
    return config


@pytest.fixture
def good(make_json, make_image, coco_image, coco_annotation, tmp_path):
    """A json with one image and its folder."""
    make_image("a.jpg")
    return make_json([coco_image(1, "a.jpg")], [coco_annotation(1, category=7)]), str(tmp_path / "images")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("a=b.json:c", ("a", "b.json", "c")),
        (" a = b.json : c/d ", ("a", "b.json", "c/d")),
        ("a=b.txt:c", ("a", "b.txt", "c")),
        (r"a=C:\b.json:D:\c", ("a", r"C:\b.json", r"D:\c")),
        ({"name": "a", "json": "b", "images": "c"}, ("a", "b", "c")),
    ],
)
def test_forms_of_an_entry(entry, expected):
    assert parse_entry(entry) == expected


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "a",
        "a=b.json",
        "a=b.json:",
        "=b.json:c",
        "a=:c",
        3,
        None,
        {"name": "a"},
        {"name": 1, "json": 2, "images": 3},
    ],
)
def test_malformed_entries_name_key_and_form(entry):
    with pytest.raises(ValueError, match=r"DATASETS\.REGISTER: .*(NAME=JSON:IMAGE_DIR|name, json and images)"):
        parse_entry(entry)


def test_registered_like_stock_coco_data(cfg, good):
    json_file, images = good
    cfg.merge_from_list(["DATASETS.REGISTER", f"['mine={json_file}:{images}']"])
    assert register_from_config(cfg) == ["mine"]
    metadata = MetadataCatalog.get("mine")
    assert metadata.thing_classes == ["cat", "dog"]
    (record,) = DatasetCatalog.get("mine")
    assert record["annotations"][0]["category_id"] == 1
    assert metadata.thing_dataset_id_to_contiguous_id == {2: 0, 7: 1}
    assert (metadata.json_file, metadata.image_root, metadata.evaluator_type) == (json_file, images, "coco")
    assert register_from_config(cfg) == ["mine"]


def test_mapping_in_yaml(cfg, good, tmp_path):
    entry = {"name": "mine_yaml", "json": good[0], "images": good[1]}
    (tmp_path / "c.yaml").write_text(f"VERSION: 2\nDATASETS:\n  REGISTER:\n    - {json.dumps(entry)}\n")
    cfg.merge_from_file(str(tmp_path / "c.yaml"))
    assert register_from_config(cfg) == ["mine_yaml"]
    reread = get_cfg()
    add_data_config(reread)
    reread.MODEL.DEFCN = CfgNode({"NUM_CLASSES": 2})
    (tmp_path / "dump.yaml").write_text(cfg.dump())
    reread.merge_from_file(str(tmp_path / "dump.yaml"))
    assert reread.DATASETS.REGISTER[0] == entry


def test_dirty_json_is_read_from_a_repaired_copy(cfg, good, make_json, coco_image, coco_annotation):
    dirty = make_json([coco_image(1, "a.jpg")], [coco_annotation(1), coco_annotation(1, box=())], name="dirty.json")
    cfg.DATASETS.REGISTER = (f"dirty={dirty}:{good[1]}",)
    register_from_config(cfg)
    copy = MetadataCatalog.get("dirty").json_file
    assert copy == f"{cfg.OUTPUT_DIR}/datasets/dirty.json"
    assert [len(r["annotations"]) for r in DatasetCatalog.get("dirty")] == [1]


def test_name_that_means_something_else_is_refused(cfg, good, make_json, coco_image):
    other = make_json([coco_image(1, "a.jpg")], [], name="other.json")
    cfg.DATASETS.REGISTER = (f"mine={good[0]}:{good[1]}", f"mine={other}:{good[1]}")
    with pytest.raises(ValueError, match=r"DATASETS\.REGISTER: the name 'mine' is taken .*data\.json.*choose another"):
        register_from_config(cfg)
    cfg.DATASETS.REGISTER = (f"coco_2017_val={other}:{good[1]}",)
    with pytest.raises(ValueError, match="the name 'coco_2017_val' is taken"):
        register_from_config(cfg)


def test_errors_name_key_file_and_fix(cfg, good, make_json, coco_image, tmp_path):
    (tmp_path / "broken.json").write_text("{")
    lost = make_json([coco_image(1, "sub/z.jpg")], [], name="lost.json")
    for entry, error, message in [
        (f"x={tmp_path}/none.json:{good[1]}", FileNotFoundError, r"DATASETS\.REGISTER: x: .*none\.json: no such file"),
        (f"x={good[0]}:{tmp_path}/none", FileNotFoundError, "x: image folder .*none does not exist"),
        (f"x={tmp_path}/broken.json:{good[1]}", ValueError, r"x: .*broken\.json: not valid json"),
        (f"x={lost}:{good[1]}", FileNotFoundError, r"holds none of the images of .*lost\.json, such as 'sub/z\.jpg'"),
    ]:
        cfg.DATASETS.REGISTER = (entry,)
        with pytest.raises(error, match=message):
            register_from_config(cfg)
        assert "x" not in DatasetCatalog


def test_number_of_classes_is_checked(cfg, good):
    cfg.DATASETS.REGISTER = (f"mine={good[0]}:{good[1]}",)
    register_from_config(cfg)
    check_num_classes(cfg, ("mine",))
    cfg.MODEL.DEFCN.NUM_CLASSES = 80
    with pytest.raises(
        ValueError, match=r"80, but mine has 2 categories \(cat, dog\): set MODEL\.DEFCN\.NUM_CLASSES 2"
    ):
        check_num_classes(cfg, ("mine",))
    check_num_classes(cfg, ("coco_2017_val",))


def test_number_of_classes_of_stock_data_is_found_by_loading(cfg, good):
    from detectron2.data.datasets import register_coco_instances

    register_coco_instances("stock_way", {}, *good)
    cfg.MODEL.DEFCN.NUM_CLASSES = 3
    with pytest.raises(ValueError, match="stock_way has 2 categories"):
        check_num_classes(cfg, ["stock_way"])


def test_predefined_names_lie_under_the_root(monkeypatch):
    for name in PREDEFINED:
        assert name in DatasetCatalog
    before = MetadataCatalog.get("quick_train").json_file
    register_all("/elsewhere")
    assert MetadataCatalog.get("quick_train").json_file == before
    DatasetCatalog.remove("bccd_val"), MetadataCatalog.remove("bccd_val")
    register_all("/elsewhere")
    assert MetadataCatalog.get("bccd_val").json_file == "/elsewhere/bccd/val.json"
    assert MetadataCatalog.get("bccd_val").image_root == "/elsewhere/bccd/images"
    DatasetCatalog.remove("bccd_val"), MetadataCatalog.remove("bccd_val")
    register_all(before.rsplit("/quick/", 1)[0])
