import unittest

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils.testing import (
    assert_instances_allclose,
    get_sample_coco_image,
    min_torch_version,
    random_boxes,
    reload_script_model,
    skipIfOnCPUCI,
)
from tests.standin import says


def instances(**changes):
    result = Instances(changes.pop("size", (4, 5)))
    fields = {"pred_boxes": Boxes([[0, 0, 1.0, 100]]), "scores": torch.tensor([0.5]), "pred_classes": torch.tensor([3])}
    for name, value in {**fields, **changes}.items():
        result.set(name, value)
    return result


def test_random_boxes():
    boxes = random_boxes(50, max_coord=20)
    assert boxes.shape == (50, 4)
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all() and (boxes >= 0).all() and (boxes <= 21).all()
    assert boxes.unique(dim=0).shape[0] == 50


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"size": (5, 4)}, "image_size"),
        ({"scores": torch.tensor([0.6])}, "scores"),
        pytest.param(
            {"scores": torch.tensor([0.5]).double()},
            "scores",
            marks=pytest.mark.standin_only("another number type is a difference, not an error of torch's"),
        ),
        ({"pred_classes": torch.tensor([2])}, "pred_classes"),
        ({"pred_boxes": Boxes([[0, 0, 1.1, 100]])}, "pred_boxes"),
        ({"more": torch.zeros(1)}, "fields"),
    ],
)
def test_differences_are_named(changes, message):
    with pytest.raises(AssertionError, match=says(f"here.*{message}")):
        assert_instances_allclose(instances(), instances(**changes), msg="here")


def test_small_differences_pass():
    near = instances(pred_boxes=Boxes([[0.0009, 0, 1.0, 100]]))
    assert_instances_allclose(instances(), near, rtol=1e-5)
    with pytest.raises(AssertionError):
        assert_instances_allclose(instances(), near, rtol=1e-6)
    assert_instances_allclose(instances(), instances(size=torch.tensor([4, 5])), size_as_tensor=True)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_script_model_survives_a_file():
    scripted = torch.jit.trace(torch.nn.Linear(2, 1), torch.zeros(1, 2))
    again = reload_script_model(scripted)
    x = torch.rand(3, 2)
    torch.testing.assert_close(again(x), scripted(x))


def test_torch_version():
    assert min_torch_version("1.8") and not min_torch_version("99.0")


@pytest.mark.standin_only("Detectron2 downloads a picture instead of skipping")
def test_sample_image(tmp_path, monkeypatch):
    path = str(tmp_path / "a.png")
    records = {"coco_2017_val_100": [{"file_name": path}]}
    monkeypatch.setattr(DatasetCatalog, "get", records.__getitem__)
    with pytest.raises(unittest.SkipTest, match=says("COCO")):
        get_sample_coco_image()
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(path)
    image = get_sample_coco_image()
    assert image.dtype == torch.uint8 and image.shape == (3, 2, 4)
    assert image[:, 1, 0].tolist() == [14, 13, 12]
    assert np.array_equal(get_sample_coco_image(tensor=False), pixels[:, :, ::-1])


@pytest.mark.standin_only("the environment is read at each use")
@pytest.mark.parametrize("ci, gpu, runs", [("", False, True), ("1", True, True), ("1", False, False)])
def test_slow_tests_are_skipped_only_in_a_continuous_integration_without_gpu(monkeypatch, ci, gpu, runs):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    test = skipIfOnCPUCI(lambda: "ran")
    if runs:
        assert test() == "ran"
    else:
        with pytest.raises(unittest.SkipTest):
            test()
