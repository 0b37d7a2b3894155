"""The catalogs of data sets and of what is known about them."""

import pickle

import pytest

from detectron2.data import (
    DatasetCatalog,
    Metadata,
    MetadataCatalog,
)
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
def behaviours(facts):
    return facts("golden_behaviours.json")


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
