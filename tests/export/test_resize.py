"""Resizing inside a file is Pillow's, but for the last grey level of one pixel in hundreds."""

from dataclasses import replace

import numpy as np
import pytest

from defcn_ext.deploy.images import resized, resized_size
from tests.deploy.test_detector import PLAIN

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'defcn_ext[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'defcn_ext[export]'")

from defcn_ext.export.operators import KNOWN, operators  # noqa: E402
from defcn_ext.export.resize import before_graph, with_resize  # noqa: E402

OPSETS = [onnx.helper.make_opsetid("", 17)]


def running(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def smooth(height, width):
    """Waves and edges, with a little noise."""
    rng = np.random.default_rng(height)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / 7 + c) * np.cos(x / 11) * 90 + 110 + 40 * (x > width / 2) for c in range(3)]
    return (np.stack(waves, -1) + rng.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("rule", [(64, 90), (300, 500), (0, 0)])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_the_images_are_pillows(rule, order):
    session = running(before_graph(replace(PLAIN, resize=rule, channel_order=order), OPSETS, 8))
    for size in ((37, 50), (200, 130), (64, 300)):
        picture = smooth(*size)
        images, scale, most = session.run(None, {"image": picture})
        new = resized_size(*size, *rule)
        assert images.shape == (1, 3, *new)
        expected = resized(picture, new)[..., :: 1 if order == "RGB" else -1].transpose(2, 0, 1)
        apart = np.abs(images[0] - expected)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.02
        assert scale.ravel() == pytest.approx([size[1] / new[1], size[0] / new[0]] * 2)
        assert most.ravel().tolist() == [size[1], size[0]] * 2


def core(kept):
    """Gives the corners of the images as boxes, and a tenth too much."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    core (float[n, 3, h, w] images) => (float[n, {kept}, 4] boxes, float[n, {kept}] scores, int32[n, {kept}] labels)
    <float[4] corner = {{0.0, 0.0, 1.1, 1.1}}, int64[4] xyxy = {{1, 0, 1, 0}}, int64[1] all = {{-1}},
     float[1, {kept}] one = {{{", ".join("1" * kept)}}}, int64[3] times = {{1, {kept}, 1}}, int64[3] line = {{1, 1, 4}}>
    {{
        size = Shape<start = 2, end = 4>(images)
        sides = Cast<to = 1>(size)
        far = Gather(sides, xyxy)
        box = Mul(far, corner)
        lying = Reshape(box, line)
        boxes = Tile(lying, times)
        scores = Identity(one)
        labels = Cast<to = 6>(one)
    }}"""
    return onnx.parser.parse_model(text)


def test_boxes_come_back_in_pixels_of_the_picture_and_inside_it():
    model = core(2)
    model.metadata_props.add(key="defcn_ext", value="kept")
    whole = with_resize(model, replace(PLAIN, top_k=2))
    onnx.checker.check_model(whole)
    assert [x.name for x in whole.graph.input] == ["image"] and whole.metadata_props[0].value == "kept"
    assert [x.name for x in whole.graph.output] == ["boxes", "scores", "labels"]
    boxes, scores, labels = running(whole).run(None, {"image": smooth(50, 200)})
    assert boxes[0].tolist() == [[0, 0, 200, 50]] * 2 and scores.tolist() == [[1, 1]] and labels.tolist() == [[1, 1]]


def test_its_operators_are_those_of_all_runtimes():
    assert operators(before_graph(PLAIN, OPSETS, 8)) <= KNOWN
