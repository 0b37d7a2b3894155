"""A checkpoint says which config and classes it is of, in plain data, and loads where nobody knows of that."""

import pytest
import torch

from defcn_ext.checkpoint import classes_of, describe, read_checkpoint
from defcn_ext.config import UserError
from defcn_ext.engine.checkpointer import Checkpointer
from defcn_ext.engine.stored_config import config_of
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from tests.tiny import tiny_cfg


@pytest.fixture
def dataset():
    DatasetCatalog.register("birds_for_test", lambda: [])
    MetadataCatalog.get("birds_for_test").thing_classes = ["wren", "kite"]
    yield "birds_for_test"
    DatasetCatalog.remove("birds_for_test")
    MetadataCatalog.remove("birds_for_test")


@pytest.fixture
def saved(tmp_path, dataset):
    cfg = tiny_cfg("DATASETS.TRAIN", (dataset,), "MODEL.DEFCN.NUM_CLASSES", 2, "OUTPUT_DIR", "elsewhere")
    Checkpointer(build_model(cfg), str(tmp_path), cfg=cfg).save("model_final", iteration=7)
    return cfg, tmp_path / "model_final.pth"


def test_the_file_alone_builds_the_model_that_it_was_saved_from(saved):
    cfg, path = saved
    found = config_of(path)
    assert found.is_frozen() and found.MODEL.WEIGHTS == str(path)
    assert found.MODEL.DEFCN == cfg.MODEL.DEFCN and found.SOLVER == cfg.SOLVER and found.INPUT == cfg.INPUT
    assert found.OUTPUT_DIR != "elsewhere", "where somebody else trained is no place to write to"
    assert classes_of(path) == ["wren", "kite"]
    model = build_model(found)
    DetectionCheckpointer(model).load(str(path))
    state = read_checkpoint(path).state
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_options_win_over_the_config_of_the_file(saved):
    assert config_of(saved[1], ["TEST.DETECTIONS_PER_IMAGE", "7"]).TEST.DETECTIONS_PER_IMAGE == 7
    read = read_checkpoint(saved[1])
    assert config_of(read) == config_of(saved[1]) and classes_of(read) == ["wren", "kite"]


def test_stock_detectron2_reads_past_it(saved):
    """What it does not know it hands back; torch's weights-only reading takes the file."""
    content = torch.load(saved[1], weights_only=True)
    assert sorted(content) == ["config", "iteration", "model", "thing_classes"] and isinstance(content["config"], str)
    rest = DetectionCheckpointer(build_model(saved[0])).load(str(saved[1]))
    assert rest["iteration"] == 7 and rest["thing_classes"] == ["wren", "kite"]


def test_files_of_others_carry_nothing(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "a.pth")
    assert config_of(tmp_path / "a.pth") is None and classes_of(tmp_path / "a.pth") is None
    assert "thing_classes" not in describe(tiny_cfg("DATASETS.TRAIN", ("nowhere",), "DATASETS.TEST", ()))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"config": "MODEL:\n  DEFCN:\n    TOWERS_OF_BABEL: 3\n"}, "a.pth, its config: .*TOWERS_OF_BABEL"),
        ({"config": "MODEL:\n  DEFCN:\n    NUM_CLASSES: many\n"}, "a.pth, its config: .*NUM_CLASSES|.*many"),
        ({"config": "MODEL: 3\n"}, "a.pth, its config: "),
        ({"config": "- a\n- list\n"}, "a.pth: entry 'config' is no config"),
        ({"config": "a: [unclosed"}, "a.pth: entry 'config' is no config"),
        ({"config": {"MODEL": {}}}, "a.pth: entry 'config' is no config"),
        ({"config": "a: !!python/object/apply:os.getcwd []"}, "a.pth: entry 'config' is no config"),
        ({"thing_classes": "wren"}, "a.pth: entry 'thing_classes' is no list of names"),
        ({"thing_classes": [1, 2]}, "a.pth: entry 'thing_classes' is no list of names"),
    ],
)
def test_what_is_wrong_with_it_is_told_with_the_file(tmp_path, entry, message):
    path = tmp_path / "a.pth"
    torch.save({"model": {"a": torch.zeros(1)}, **entry}, path)
    with pytest.raises(UserError, match=message) as caught:
        (config_of if "config" in entry else classes_of)(path)
    assert "\n" not in str(caught.value)
