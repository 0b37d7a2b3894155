"""The front door: from a checkpoint to what it sees."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from defcn_ext.config import UserError
from defcn_ext.data import UnreadableImageError
from defcn_ext.engine.checkpointer import Checkpointer
from defcn_ext.engine.preflight import load_config
from defcn_ext.predictor import Predictor
from detectron2.checkpoint import DetectionCheckpointer
from tests.tiny import tiny_cfg


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with `model_final.pth` and `config.yaml`, as a training leaves them."""
    folder = tmp_path_factory.mktemp("run")
    cfg = tiny_cfg("MODEL.DEFCN.SCORE_THRESH_TEST", 0.0, "MODEL.DEFCN.NMS_THRESH_TEST", 0.1, "INPUT.MIN_SIZE_TEST", 64)
    torch.manual_seed(0)
    model = Predictor(cfg, _build(cfg)).model
    DetectionCheckpointer(model, str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def _build(cfg):
    from defcn_ext.engine import Trainer

    model = Trainer.build_model(cfg)
    first = next(iter(model.branches.values()))
    torch.nn.init.normal_(first.cls_score.weight, std=0.3)
    torch.nn.init.constant_(first.bbox_pred.bias, 1.0)
    return model


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(pixels).save(path)
    return path


def same(a, b):
    return torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor) and torch.equal(a.scores, b.scores)


def test_a_checkpoint_finds_its_config_beside_it(run, picture):
    predictor = Predictor.load(run / "model_final.pth", opts=["MODEL.DEVICE", "cpu"])
    seen = predictor(picture)
    assert predictor.label == "model_final"
    assert len(seen.without_nms) > len(seen.with_nms) > 0
    assert same(seen.instances, seen.without_nms)
    assert seen.instances.image_size == (48, 80)
    ((label, maps),) = seen.maps
    assert label == "model_final" and maps[0].level == "P3 (stride 8)"
    assert float(max(level.scores.max() for level in maps)) == pytest.approx(float(seen.instances.scores.max()))


def test_a_checkpoint_of_the_trainer_is_enough(run, picture, tmp_path):
    cfg = load_config(str(run / "config.yaml"), ["OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"])
    model = Predictor.load(run / "model_final.pth").model
    Checkpointer(model, str(tmp_path), cfg=cfg).save("alone", thing_classes=["a", "b", "c"])
    alone = Predictor.load(tmp_path / "alone.pth")
    assert alone.class_names == ["a", "b", "c"]
    assert same(alone(picture).instances, Predictor.load(run / "model_final.pth")(picture).instances)


def test_a_path_an_image_and_an_array_are_the_same_picture(run, picture):
    predictor = Predictor.load(run / "config.yaml", run / "model_final.pth", ["MODEL.DEVICE", "cpu"])
    of_path = predictor(str(picture)).instances
    image = Image.open(picture)
    for other in predictor([image, np.asarray(image), picture]):
        assert same(other.instances, of_path)


def test_an_image_is_turned_as_its_camera_says(run, picture, tmp_path):
    predictor = Predictor.load(run / "model_final.pth", opts=["MODEL.DEVICE", "cpu"])
    image = Image.open(picture)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    assert predictor(turned).instances.image_size == (80, 48)
    assert same(predictor(turned).instances, predictor(tmp_path / "turned.png").instances)


@pytest.mark.parametrize("picture", [np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_other_arrays_are_refused(run, picture):
    predictor = Predictor.load(run / "model_final.pth", opts=["MODEL.DEVICE", "cpu"])
    with pytest.raises(UserError, match=re.escape(str(picture.shape)) + ".*RGB"):
        predictor(picture)


def test_what_is_missing_is_named(run, tmp_path):
    with pytest.raises(UserError, match="nowhere.pth: no such file"):
        Predictor.load(tmp_path / "nowhere.pth")
    alone = tmp_path / "alone.pth"
    alone.write_bytes((run / "model_final.pth").read_bytes())
    with pytest.raises(UserError, match=r"alone\.pth: holds no config.*alone\.yaml or .*config\.yaml"):
        Predictor.load(alone)
    with pytest.raises(UserError, match="give its checkpoint"):
        Predictor.load(run / "config.yaml")
    with pytest.raises(UnreadableImageError, match="nothing.png"):
        Predictor.load(run / "model_final.pth", opts=["MODEL.DEVICE", "cpu"])(tmp_path / "nothing.png")


def test_a_deep_picture_is_scaled_and_one_without_white_refused(run, picture, tmp_path):
    predictor = Predictor.load(run / "model_final.pth", opts=["MODEL.DEVICE", "cpu"])
    gray = np.asarray(Image.open(picture).convert("L"))
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    for way in (deep, tmp_path / "deep.png"):
        assert same(predictor(way).instances, predictor(gray).instances)
    with pytest.raises(ValueError, match="integers of 32 bits have no agreed white"):
        predictor(Image.fromarray(gray.astype(np.int32)))


def test_a_file_without_pixels_is_refused(run, picture, tmp_path):
    predictor = Predictor.load(run / "model_final.pth", opts=["MODEL.DEVICE", "cpu"])
    Image.open(picture).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-1200])
    with pytest.raises(UnreadableImageError, match="cut.jpg: cannot be decoded"):
        predictor(tmp_path / "cut.jpg")
