import json

import pytest

from detectron2 import model_zoo
from detectron2.config import get_cfg
from tests.conftest import FACTS
from tests.standin import says
from tests.standin.test_config import flat, plain

NAME = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


def test_stock_retinanet_differs_from_the_defaults_as_recorded():
    expected = json.loads((FACTS / "config_types.json").read_text())["retinanet_R_50_FPN_1x_differs_in"]
    defaults = dict(flat(get_cfg()))
    found = {
        key: [type(value).__name__, plain(value)]
        for key, value in flat(model_zoo.get_config(NAME))
        if value != defaults[key]
    }
    assert found == expected


@pytest.mark.parametrize("call", [model_zoo.get_config_file, model_zoo.get_config, model_zoo.get_checkpoint_url])
def test_unknown_names(call):
    with pytest.raises(RuntimeError, match=says("not available")):
        call("Nowhere/nothing.yaml")


@pytest.mark.standin_only("it names no weights that it does not know")
def test_trained_weights_are_not_promised():
    with pytest.raises(RuntimeError, match=says("MODEL.WEIGHTS")):
        model_zoo.get_config(NAME, trained=True)


def test_get_builds_and_loads(monkeypatch):
    """Nothing is downloaded: the loader is replaced by one that notes what it is asked for."""
    loaded = []
    checkpointer = "detectron2.model_zoo.model_zoo.DetectionCheckpointer"
    monkeypatch.setattr(
        checkpointer, lambda model: type("Loader", (), {"load": lambda self, path: loaded.append(path)})()
    )
    model = model_zoo.get(NAME, device="cpu")
    assert loaded == ["detectron2://ImageNetPretrained/MSRA/R-50.pkl"]
    assert sum(parameter.numel() for parameter in model.parameters()) == 37_915_572
    assert model.device.type == "cpu"
