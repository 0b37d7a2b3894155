"""The detector of a model file: its input, the way back to the picture, and what it says of files that are none."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from defcn_ext.deploy import Detections, Detector, ModelFileError, ModelMetadata
from defcn_ext.deploy import detector as detector_module
from defcn_ext.deploy.images import as_input, resized_size
from defcn_ext.deploy.metadata import VERSION
from defcn_ext.deploy.results import coco_results, drawn, write_results
from defcn_ext.deploy.session import Session
from detectron2.data.transforms import ResizeShortestEdge

PLAIN = ModelMetadata(
    class_names=("dark", "light"),
    num_classes=2,
    input="images",
    channel_order="BGR",
    pixel_mean=(10.0, 20.0, 30.0),
    pixel_std=(1.0, 1.0, 1.0),
    size=None,
    batch=None,
    resize=(64, 100),
    boxes="x1, y1, x2, y2 in pixels of images, inside it",
    score="sigmoid(class)",
    score_thresh=0.05,
    top_k=3,
    per_level=3,
    one_class=False,
    nms=None,
    precision="fp32",
)


class Fake:
    """Finds one box over the left half of what it is given, of class 1 where the first channel is the highest."""

    def __init__(self, path, **options):
        self.metadata, self.seen = path, []

    def run(self, images):
        self.seen.append(images)
        images = images.transpose(2, 0, 1)[None] if self.metadata.input == "image" else images
        boxes, scores = np.zeros((len(images), 3, 4), np.float32), np.zeros((len(images), 3), np.float32)
        boxes[:, 0], scores[:, 0] = [0, 0, images.shape[3] / 2, images.shape[2]], 0.8
        labels = np.zeros((len(images), 3), np.int32)
        labels[:, 0] = images[:, 0].max((1, 2)) > images[:, 2].max((1, 2))
        return boxes, scores, labels


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(detector_module, "Session", Fake)
    return lambda **changes: Detector(replace(PLAIN, **changes))


def red(*size):
    picture = np.zeros((*size, 3), np.uint8)
    picture[..., 0] = 200
    return picture


def test_boxes_come_back_in_pixels_of_the_picture(fake):
    found = fake()(red(100, 120))
    assert found.boxes.tolist() == [[0, 0, pytest.approx(60, abs=0.5), 100]] and found.scores.tolist() == [
        pytest.approx(0.8)
    ]
    assert found.names == ["dark"] and found.size == (100, 120)  # red is the last of BGR
    assert fake(channel_order="RGB")(Image.fromarray(red(50, 50))).names == ["light"]


def test_pictures_of_different_sizes_are_one_batch_padded_with_the_mean(fake):
    detector = fake()
    small, large = detector([red(100, 100), red(64, 200)])
    (images,) = detector.session.seen
    assert images.shape == (2, 3, 64, 100)  # 32 x 100, the longer side's limit, beside 64 x 64
    assert images[1, :, 40, 0].tolist() == [10, 20, 30] and images[1, :, 31, 99].tolist() == [0, 0, 200]
    assert small.boxes.tolist() == [[0, 0, 78.125, 100]] and large.boxes.tolist() == [[0, 0, 100, 64]]


def test_a_file_of_a_fixed_size_and_batch_gets_what_it_wants(fake):
    detector = fake(size=(64, 128), batch=2)
    found = detector([red(100, 100), red(30, 30), red(128, 256)])
    assert [x.shape for x in detector.session.seen] == [(2, 3, 64, 128)] * 2 and len(found) == 3
    assert found[2].boxes.tolist() == [[0, 0, 128, 128]]


def test_a_file_that_resizes_gets_the_picture_itself(fake):
    detector = fake(input="image")
    assert detector(red(37, 50)).boxes.tolist() == [[0, 0, 25, 37]]
    assert detector.session.seen[0].shape == (37, 50, 3) and detector.session.seen[0].dtype == np.uint8


def test_the_resize_rule_is_detectron2s():
    rng = np.random.default_rng(0)
    for height, width, short, most in rng.integers([20, 20, 100, 200], [2000, 2000, 900, 1400], size=(500, 4)).tolist():
        expected = ResizeShortestEdge.get_output_shape(height, width, short, most)
        assert resized_size(height, width, short, most) == expected


def test_the_description_comes_back_and_a_damaged_one_is_told():
    assert ModelMetadata.from_json(PLAIN.to_json(), "x") == PLAIN
    later = json.dumps({**json.loads(PLAIN.to_json()), "version": VERSION + 1})
    for text, message in (
        (None, "has no description"),
        ("{", "is damaged"),
        ("{}", "is damaged"),
        (later, "newer than"),
    ):
        with pytest.raises(ModelFileError, match=f"^m.onnx: .*{message}"):
            ModelMetadata.from_json(text, "m.onnx")
    assert PLAIN.name_of(1) == "light" and PLAIN.name_of(7) == "7"


def test_what_is_no_model_or_no_picture_is_told_in_one_line(tmp_path, fake):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'defcn_ext[export]'")
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    for path, message in ((tmp_path / "m.onnx", "no model that ONNX Runtime can read"), ("none.onnx", "no such file")):
        with pytest.raises(ModelFileError, match=message):
            Session(path)
    for picture, message in ((tmp_path / "m.onnx", "cannot be read as a picture"), (np.zeros((2, 2)), "give .*RGB")):
        with pytest.raises(ModelFileError, match=message):
            fake()(picture)
    with pytest.raises(ModelFileError, match="a model of YUV"):
        as_input([red(4, 4)], replace(PLAIN, channel_order="YUV-BT.601"))


def test_what_is_missing_is_told(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelFileError, match=r"needs onnxruntime: pip install 'defcn_ext\[export\]'"):
        Session(tmp_path / "m.onnx")


def test_results_are_cocos_and_a_table(tmp_path):
    found = Detections(np.array([[1.0, 2, 4, 8]]), np.array([0.75]), np.array([1]), (10, 12), ("a", "b"))
    box = {"image_id": "x.png", "category_id": 2, "bbox": [1, 2, 3, 6], "score": 0.75}
    assert coco_results("x.png", found) == [box]
    assert coco_results("x.png", found, (18, 90))[0]["category_id"] == 90
    write_results(tmp_path, [("x.png", found), ("y.png", found.above(0.9))])
    assert json.loads((tmp_path / "detections.json").read_text()) == [box]
    lines = (tmp_path / "detections.csv").read_text().splitlines()
    assert lines == ["image,label,class,score,x1,y1,x2,y2", "x.png,1,b,0.750000,1.00,2.00,4.00,8.00"]
    assert np.asarray(drawn(red(10, 12), found))[5, 1].tolist() != [200, 0, 0]


def test_instances_of_detectron2():
    found = Detections(np.ones((1, 4), np.float32), np.array([0.5], np.float32), np.array([2], np.int32), (10, 12))
    instances = found.to_instances()
    assert instances.image_size == (10, 12) and instances.pred_classes.tolist() == [2] and found.names == ["2"]
    assert instances.pred_boxes.tensor.tolist() == [[1, 1, 1, 1]]
