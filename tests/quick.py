"""The fixture of a small Quick data set, for tests of tools and studies."""

import sys
from pathlib import Path

import pytest

import defcn_ext.data  # noqa: F401  (registers the data sets)
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """A root of data sets with eight training and six validation images of Quick, 96 pixels."""
    root = tmp_path_factory.mktemp("datasets")
    sys.path.insert(0, str(REPOSITORY / "datasets"))
    try:
        import prepare_quick
    finally:
        sys.path.pop(0)
    prepare_quick.prepare(root / "quick", train=8, val=6, seed=0, size=96)
    return root


@pytest.fixture
def quick(data_root, monkeypatch):
    """`quick_train` and `quick_val` read from `data_root` inside a test."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data_root))
    names = ("quick_train", "quick_val")
    before = {name: MetadataCatalog.get(name).as_dict() for name in names}
    for name in names:
        _register(name, data_root / "quick" / f"{name[6:]}.json", data_root / "quick" / "images")
    yield data_root
    for name in names:
        _register(name, before[name]["json_file"], before[name]["image_root"])


def _register(name, json_file, images):
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    register_coco_instances(name, {}, str(json_file), str(images))
