"""Boxes, their modes and NMS, against values measured on Detectron2."""

import copy
import inspect
import json

import numpy as np
import pytest
import torch

from detectron2.layers import batched_nms, nms
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    ImageList,
    Instances,
    Keypoints,
    PolygonMasks,
    ROIMasks,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from detectron2.structures.boxes import matched_pairwise_iou, pairwise_intersection
from tests.standin.structure_facts import ARRAYS, ERRORS, GOLDEN, array, close, outcome


def boxes1():
    return Boxes(array("boxes/b1").clone())


def boxes2():
    return Boxes(array("boxes/b2").clone())


BOX_RESULTS = {
    "area_b1": lambda: boxes1().area(),
    "nonempty": lambda: boxes1().nonempty(),
    "nonempty_thr5": lambda: boxes1().nonempty(threshold=5),
    "nonempty_thr30": lambda: boxes1().nonempty(threshold=30),
    "inside_box_100x120": lambda: boxes1().inside_box((100, 120)),
    "inside_box_100x120_thr20": lambda: boxes1().inside_box((100, 120), boundary_threshold=20),
    "inside_edge_out": lambda: Boxes(array("boxes/inside_edge_in")).inside_box((100, 120)),
    "centers": lambda: boxes1().get_centers(),
    "pairwise_iou": lambda: pairwise_iou(boxes1(), boxes2()),
    "pairwise_ioa": lambda: pairwise_ioa(boxes1(), boxes2()),
    "pairwise_intersection": lambda: pairwise_intersection(boxes1(), boxes2()),
    "matched_pairwise_iou_first5": lambda: matched_pairwise_iou(boxes1()[:5], boxes2()),
    "pairwise_point_box_distance": lambda: pairwise_point_box_distance(array("boxes/points"), boxes2()),
}


INPUTS = {"b1", "b2", "inside_edge_in", "points"}


def test_every_box_result_is_tested():
    golden = {name.removeprefix("boxes/") for name in ARRAYS if name.startswith("boxes/")}
    assert golden - INPUTS == set(BOX_RESULTS) | {"clip_100x120", "scale_2_0.5"}


@pytest.mark.parametrize("name", BOX_RESULTS)
def test_boxes_equal_the_facts(name):
    close(BOX_RESULTS[name](), f"boxes/{name}")


class TestBoxes:
    def test_clip_replaces_the_tensor(self):
        boxes = boxes1()
        old = boxes.tensor
        assert boxes.clip((100, 120)) is None
        close(boxes.tensor, "boxes/clip_100x120")
        assert torch.equal(old, array("boxes/b1"))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_clip_refuses_non_finite(self, bad):
        boxes = Boxes([[0.0, 0.0, bad, 1.0]])
        assert outcome(lambda: boxes.clip((2, 2))) == GOLDEN["boxes.clip"]["nan_or_inf"]

    def test_scale_writes_into_the_tensor(self):
        boxes = boxes1()
        old = boxes.tensor
        assert boxes.scale(2, 0.5) is None
        close(old, "boxes/scale_2_0.5")
        assert boxes.tensor is old

    def test_indexing(self):
        golden = GOLDEN["boxes.indexing"]
        boxes = boxes1()
        mask = boxes.nonempty(-1)
        assert list(boxes[0].tensor.shape) == golden["int"]
        assert boxes[-1].tensor.tolist() == golden["negative_int"]
        assert len(boxes[2:5]) == golden["slice_2_5"]
        assert len(boxes[boxes.nonempty()]) == golden["bool_mask"]
        assert len(boxes[mask]) == int(mask.sum())
        assert boxes[torch.tensor([4, 0])].tensor.tolist() == golden["long_index"]
        assert outcome(lambda: boxes[[4, 0]]) == golden["list_index"]
        assert outcome(lambda: boxes[np.int64(1)]) == golden["numpy_int"]
        assert outcome(lambda: boxes[torch.tensor(1)]) == golden["zero_dim_tensor"]
        assert outcome(lambda: boxes[8]) == golden["out_of_range"]
        assert outcome(lambda: boxes[0, 1]) == golden["tuple_2d"]
        assert [list(box.shape) for box in boxes] == [golden["first_iter_shape"]] * golden["len"]
        assert len(boxes) == golden["len"]
        boxes[2:5].tensor[0, 0] = -77
        assert (boxes.tensor[2, 0] == -77) == golden["slice_shares_storage"]

    @pytest.mark.parametrize(
        "name, given",
        [
            ("from_list", [[1, 2, 3, 4]]),
            ("from_numpy_float64", np.ones((2, 4))),
            ("from_int_tensor", torch.ones(2, 4, dtype=torch.int64)),
            ("from_half_tensor", torch.ones(2, 4, dtype=torch.half)),
            ("from_double_tensor", torch.ones(2, 4, dtype=torch.double)),
        ],
    )
    def test_everything_becomes_float32(self, name, given):
        boxes = Boxes(given)
        assert str(boxes.tensor.dtype) == GOLDEN["boxes.constructor"][name]
        np.testing.assert_array_equal(boxes.tensor.numpy(), np.asarray(given, dtype=np.float32))

    def test_constructor(self):
        golden = GOLDEN["boxes.constructor"]
        assert list(Boxes([]).tensor.shape) == golden["empty_list"]
        assert list(Boxes(torch.empty(0)).tensor.shape) == golden["empty_tensor_0"]
        assert outcome(lambda: Boxes(torch.empty(0, 7))) == golden["empty_0x7"]
        assert outcome(lambda: Boxes(torch.empty(3, 5))) == golden["shape_3x5"]
        assert outcome(lambda: Boxes(torch.empty(4))) == golden["1d_of_4"]
        tensor = torch.ones(2, 4)
        Boxes(tensor).tensor[0, 0] = 5
        assert (tensor[0, 0] == 5) == golden["shares_storage_with_float32_tensor"]

    def test_cat(self):
        golden = GOLDEN["boxes.cat"]
        parts = [boxes1(), boxes2()]
        joined = Boxes.cat(parts)
        assert len(joined) == golden["len"]
        assert torch.equal(joined[8:].tensor, boxes2().tensor)
        assert list(Boxes.cat([]).tensor.shape) == golden["empty_list_shape"]
        assert outcome(lambda: Boxes.cat(b for b in parts)) == golden["generator"]
        assert outcome(lambda: Boxes.cat(tuple(parts))) == golden["tuple"]
        assert outcome(lambda: Boxes.cat([boxes1(), torch.ones(1, 4)])) == golden["mixed_with_tensor"]

    def test_to_takes_a_device_only(self):
        assert outcome(lambda: boxes1().to(torch.float64)) == GOLDEN["boxes.to_dtype"]
        assert outcome(lambda: boxes1().to(dtype=torch.float64)) == GOLDEN["boxes.to_dtype"]
        dtype = GOLDEN["boxes.to_keyword"]["float64_positional_result_dtype"]
        assert str(boxes1().to("cpu").tensor.dtype) == dtype
        assert boxes1().to(device="cpu").device == torch.device("cpu")

    def test_the_rest_of_the_facts(self):
        assert repr(boxes1()).startswith(GOLDEN["boxes.repr_prefix"])
        assert [n for n in dir(boxes1()) if not n.startswith("_")] == GOLDEN["boxes.public_attributes"]
        tensor = torch.rand(3, 4, requires_grad=True)
        Boxes(tensor).area().sum().backward()
        assert (tensor.grad.abs().sum() > 0) == GOLDEN["boxes.has_grad_flow"]
        clone = boxes1().clone()
        clone.tensor += 1
        assert torch.equal(clone.tensor - 1, boxes1().tensor)

    def test_gradient_of_empty_boxes_reaches_their_source(self):
        source = torch.rand(5, 4, requires_grad=True)
        Boxes(source[:0]).tensor.sum().backward()
        assert torch.equal(source.grad, torch.zeros(5, 4))


XYXY, XYWH, XYXY_REL, _, XYWHA = BoxMode


def convert_facts():
    """Every recorded case, as input, from, to."""
    return {
        "list_int": ([1, 2, 3, 4], XYWH, XYXY),
        "list_float": ([1.5, 2.0, 3.0, 4.0], XYWH, XYXY),
        "tuple": ((1.0, 2.0, 3.0, 4.0), XYWH, XYXY),
        "ndarray_float64": (np.array([[1.0, 2.0, 3.0, 4.0]]), XYWH, XYXY),
        "ndarray_int": (np.array([[1, 2, 3, 4]]), XYWH, XYXY),
        "ndarray_1d": (np.array([1.0, 2.0, 3.0, 4.0]), XYWH, XYXY),
        "tensor_int": (torch.tensor([[1, 2, 3, 4]]), XYWH, XYXY),
        "tensor_1d": (torch.tensor([1.0, 2.0, 3.0, 4.0]), XYWH, XYXY),
        "same_mode": ([1, 2, 3, 4], XYWH, XYWH),
        "list_len3": ([1, 2, 3], XYWH, XYXY),
        "relative": ([0.1, 0.1, 0.2, 0.2], XYXY_REL, XYXY),
        "xyxy_to_xywha": ([1.0, 2.0, 4.0, 6.0], XYXY, XYWHA),
        "xywha_to_xywh": ([1.0, 2.0, 3.0, 4.0, 0.0], XYWHA, XYWH),
        "xywha_with_4": ([1.0, 2.0, 3.0, 4.0], XYWHA, XYXY),
        "int_mode_numbers": ([1.0, 2.0, 3.0, 4.0], 1, 0),
        "precision_list_float": ([0.1, 0.2, 0.3, 0.4], XYWH, XYXY),
    }


def test_every_conversion_fact_is_tested():
    assert set(convert_facts()) == set(GOLDEN["boxmode.types"])


@pytest.mark.parametrize("name", convert_facts())
def test_box_mode_types(name):
    box, source, target = convert_facts()[name]
    golden = GOLDEN["boxmode.types"][name]
    if "raises" in golden:
        with pytest.raises(ERRORS[golden["raises"]]):
            BoxMode.convert(box, source, target)
        return
    before = copy.deepcopy(box)
    result = BoxMode.convert(box, source, target)
    described = type(result).__name__ + (f":{result.dtype}" if hasattr(result, "dtype") else "")
    assert described == golden["out"]
    values = result if isinstance(result, (list, tuple)) else result.tolist()
    assert list(values) == golden["value"]
    assert [type(v) for v in values] == [type(v) for v in golden["value"]]
    assert (result is box) == golden["same_object"]
    assert np.array_equal(np.asarray(box), np.asarray(before)) == GOLDEN["boxmode.input_not_modified"]


@pytest.mark.parametrize(
    "source, name, target",
    [("boxmode/xywh", "xywh_to_xyxy", XYXY), ("boxmode/xywh", "xywh_to_xywha", XYWHA)]
    + [("boxes/b1", "xyxy_to_xywh", XYWH), ("boxmode/xywha", "xywha_to_xyxy", XYXY)],
)
def test_box_mode_values(source, name, target):
    mode = BoxMode[name.split("_")[0].upper() + "_ABS"]
    close(BoxMode.convert(array(source), mode, target), f"boxmode/{name}")
    expected = ARRAYS[f"boxmode/{name}"]
    as_array = BoxMode.convert(ARRAYS[source].astype(np.float64), mode, target)
    assert as_array.dtype == np.float64
    np.testing.assert_allclose(as_array, expected, rtol=1e-6, atol=1e-6)
    assert BoxMode.convert(ARRAYS[source][0].tolist(), mode, target) == pytest.approx(expected[0].tolist())


def test_box_mode_is_a_plain_number_in_json():
    assert {mode.name: mode.value for mode in BoxMode} == GOLDEN["boxmode.values"]
    assert json.loads(json.dumps(XYXY_REL)) == 2


def small_boxes_inside(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    boxes = Boxes(x).clone()
    boxes.scale(2.0, 3.0)
    boxes.clip((10, 12))
    boxes = boxes[boxes.nonempty() & boxes.inside_box((10, 12), 1)].to(torch.device("cpu"))
    return torch.cat([boxes.area(), boxes.get_centers().flatten(), pairwise_iou(boxes, boxes).flatten()]), len(boxes)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_boxes_work_in_torchscript():
    tensor = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 5, 6], [-5, 1, 40, 50]])
    values, count = torch.jit.script(small_boxes_inside)(tensor)
    expected, _ = small_boxes_inside(tensor)
    assert count == 3 and torch.equal(values, expected)


class TestNms:
    @pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6])
    def test_values(self, threshold):
        boxes, scores = array("nms/boxes"), array("nms/scores")
        close(nms(boxes, scores, threshold), f"nms/plain_keep_{threshold}")
        close(batched_nms(boxes, scores, array("nms/classes"), threshold), f"nms/batched_keep_{threshold}")

    def test_facts(self):
        golden = GOLDEN["nms"]
        boxes, scores, classes = array("nms/boxes"), array("nms/scores"), array("nms/classes")
        empty = batched_nms(boxes[:0], scores[:0], classes[:0], 0.5)
        assert len(empty) == golden["empty_result_len"]
        kept = batched_nms(boxes, scores, classes, 0.5)
        assert str(kept.dtype) == golden["dtype"]
        assert (scores[kept].diff() <= 0).all()
        assert outcome(lambda: batched_nms(boxes.half(), scores, classes, 0.5)) == golden["half_boxes_ok"]
        five = torch.cat([boxes, scores[:, None]], dim=1)
        assert outcome(lambda: batched_nms(five, scores, classes, 0.5)) == golden["five_columns"]
        pair = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 5.0, 10.0]])
        kept = batched_nms(pair, torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64), 0.5)
        assert len(kept) == golden["iou_equal_to_threshold_is_kept"]


@pytest.mark.parametrize("cls", [Boxes, BoxMode, ImageList, Instances, BitMasks, PolygonMasks, ROIMasks, Keypoints])
def test_signatures_have_the_names_of_the_facts(cls, facts):
    """Keywords that users pass must keep their names and order."""
    methods = facts("api.json")["detectron2.structures"]["names"][cls.__name__]["methods"]
    left_out = {"to_heatmap", "from_roi_masks"}
    for name, fact in methods.items():
        if name in left_out:
            continue
        ours = [p for p in inspect.signature(getattr(cls, name)).parameters if p not in ("self", "cls")]
        names = [part.split(":")[0].split("=")[0].strip(" *") for part in _arguments(fact["signature"])]
        assert ours == [n for n in names if n != "self"], f"{cls.__name__}.{name}"


def _arguments(signature):
    """The arguments of "(a: Tuple[int, int], b=1) -> x", split at the outer commas."""
    depth, start, parts = 0, 1, []
    for i, char in enumerate(signature):
        depth += (char in "([") - (char in ")]")
        if (char == "," and depth == 1) or depth == 0:
            parts.append(signature[start:i])
            start = i + 1
        if depth == 0:
            return [part for part in parts if part.strip()]
    raise ValueError(signature)
