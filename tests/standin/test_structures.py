import copy
import inspect
import json
import pickle

import numpy as np
import pytest
import torch

from detectron2.layers import batched_nms, nms
from detectron2.modeling import detector_postprocess
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
    polygons_to_bitmask,
)
from detectron2.structures.boxes import matched_pairwise_iou, pairwise_intersection
from tests.conftest import FACTS
from tests.standin import says

ARRAYS = np.load(FACTS / "golden_structures.npz")
GOLDEN = json.loads((FACTS / "golden_structures.json").read_text())
ERRORS = {
    error.__name__: error
    for error in (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError)
} | {"TypeError": TypeError, "ValueError": ValueError}


def array(name):
    return torch.from_numpy(ARRAYS[name])


def close(actual, name):
    expected = array(name)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if not expected.is_floating_point():
        assert torch.equal(actual, expected)
        return
    atol = 1e-4 * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=atol)


def outcome(call):
    """What the facts record of a call: its type, or the exception."""
    try:
        return {"ok": True, "type": type(call()).__name__}
    except Exception as error:
        return {"ok": False, "raises": type(error).__name__}


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


class TestInstances:
    GOLDEN = GOLDEN["instances"]

    def make(self):
        boxes = Boxes(array("boxes/b1")[:3])
        return Instances((100, 120), boxes=boxes, classes=torch.tensor([2, 0, 1]), names=["a", "b", "c"])

    def test_size_and_length(self):
        instances = self.make()
        assert len(instances) == self.GOLDEN["len"]
        assert list(instances.image_size) == self.GOLDEN["image_size"]
        assert outcome(lambda: len(Instances((3, 4)))) == self.GOLDEN["len_without_fields"]

    def test_setting_fields(self):
        instances = self.make()
        assert outcome(lambda: instances.set("x", [1, 2])) == self.GOLDEN["assign_wrong_length"]
        assert outcome(lambda: setattr(instances, "x", 3)) == self.GOLDEN["assign_no_len"]
        assert outcome(lambda: setattr(instances, "image_size", (3, 4))) == self.GOLDEN["image_size_assign"]
        assert outcome(lambda: instances.set("classes", [5, 6, 7])) == self.GOLDEN["set_overwrites"]
        assert instances.classes == [5, 6, 7]
        assert outcome(lambda: setattr(instances, "_private", 3)) == self.GOLDEN["private_attribute"]
        assert not instances.has("_private")
        kwargs = Instances((3, 4), scores=torch.ones(2))
        assert list(kwargs.get_fields()) == self.GOLDEN["kwargs_constructor"]
        assert outcome(lambda: kwargs.set("x", [1, 2, 3]))["ok"] != self.GOLDEN["first_field_fixes_length"]

    def test_image_size_as_a_field_does_not_change_the_image_size(self):
        instances = Instances((3, 4))
        instances.image_size = (7, 8)
        assert instances.has("image_size") == self.GOLDEN["image_size_assign_creates_field"]
        assert list(instances.image_size) == self.GOLDEN["image_size_after_assign"]

    def test_reading_fields(self):
        instances = self.make()
        assert outcome(lambda: instances.nothing) == self.GOLDEN["missing_field"]
        assert outcome(lambda: instances.get("nothing")) == self.GOLDEN["get_missing"]
        assert hasattr(instances, "nothing") == self.GOLDEN["hasattr_missing"]
        assert outcome(lambda: instances.remove("nothing")) == self.GOLDEN["remove_missing"]
        assert outcome(lambda: "classes" in instances) == self.GOLDEN["in_operator"]
        assert outcome(lambda: iter(instances)) == self.GOLDEN["iter"]
        assert outcome(lambda: next(iter(instances))) == self.GOLDEN["iter_next"]
        instances.get_fields()["more"] = [0, 0, 0]
        assert instances.has("more") == self.GOLDEN["get_fields_is_live"]
        instances.remove("more")
        assert not instances.has("more")

    @pytest.mark.parametrize(
        "name, index", [("index_int_0", 0), ("index_minus1", -1), ("index_minus2", -2), ("index_1", 1)]
    )
    def test_int_index(self, name, index):
        chosen = self.make()[index]
        golden = self.GOLDEN[name]
        assert len(chosen) == golden["len"]
        assert chosen.classes.tolist() == golden["classes"]
        assert chosen.names == golden.get("names", ["abc"[index]])
        assert chosen.image_size == (100, 120)

    def test_other_indices(self):
        instances = self.make()
        assert outcome(lambda: instances[3]) == self.GOLDEN["index_3"]
        assert outcome(lambda: instances[-4]) == self.GOLDEN["index_minus4"]
        assert outcome(lambda: instances[np.int64(1)]) == self.GOLDEN["index_numpy_int"]
        golden = self.GOLDEN["index_mask_type"]
        numbers = Instances(tuple(self.GOLDEN["indexed_image_size"]), i=torch.arange(4))
        mask = [True, False, True, False]
        assert numbers[torch.tensor(mask)].i.tolist() == golden["mask"]
        assert numbers[torch.tensor([3, 3, 0])].i.tolist() == golden["long"]
        assert numbers[1:3].i.tolist() == golden["slice"]
        assert numbers[[2, 0]].i.tolist() == golden["list_of_int"]
        assert outcome(lambda: numbers[np.array(mask)]) == golden["numpy_mask"]
        assert numbers[1:3].image_size == numbers.image_size
        assert outcome(lambda: instances[torch.tensor([True, False, True])]) == golden["index_list_field_with_mask"]
        names = Instances((9, 9), names=["a"])
        assert outcome(lambda: names["names"]) == golden["string"]

    def test_cat(self):
        golden = self.GOLDEN["cat"]
        one = Instances((9, 9), a=torch.arange(2), l=["x", "y"], b=Boxes(torch.ones(2, 4)))
        two = Instances((9, 9), a=torch.arange(3), l=["p", "q", "r"], b=Boxes(torch.ones(3, 4)))
        both = Instances.cat([one, two])
        assert len(both) == golden["len"]
        assert both.a.tolist() == golden["a"]
        assert both.l == golden["l"]
        assert list(both.b.tensor.shape) == golden["b"]
        assert (Instances.cat([one]) is one) == golden["single_returns_same_object"]
        assert outcome(lambda: Instances.cat([])) == golden["empty_list"]
        other = Instances((9, 8), a=torch.arange(1))
        assert outcome(lambda: Instances.cat([one, other])) == golden["size_mismatch"]
        small = Instances((9, 9), a=torch.arange(3))
        assert outcome(lambda: Instances.cat([one, small])) == golden["missing_field_in_second"]
        assert list(Instances.cat([small, one]).get_fields()) == golden["extra_field_in_second_is_dropped"]
        odd = Instances((9, 9), a=range(3))
        assert outcome(lambda: Instances.cat([odd, odd])) == golden["unsupported_type"]
        assert outcome(lambda: Instances.cat([one, [1]])) == golden["not_instances"]
        assert len(one.cat([one, two])) == golden["callable_on_an_instance"]

    def test_to_str_copy_pickle(self):
        instances = self.make()
        moved = instances.to("cpu")
        assert moved.names == self.GOLDEN["to_keeps_non_tensor"]
        assert torch.equal(moved.boxes.tensor, instances.boxes.tensor)
        assert str(instances).startswith(self.GOLDEN["str_head"])
        assert (repr(instances) == str(instances)) == self.GOLDEN["repr_equals_str"]
        assert "names: ['a', 'b', 'c']" in str(instances)
        assert "num_instances=0" in str(Instances((1, 2)))
        assert outcome(lambda: copy.deepcopy(instances)) == self.GOLDEN["deepcopy"]
        loaded = pickle.loads(pickle.dumps(instances))
        assert type(loaded).__name__ == self.GOLDEN["pickle"]["type"]
        assert loaded.classes.tolist() == [2, 0, 1]
        assert loaded.image_size == (100, 120)


def image_list_cases():
    a, b = array("imagelist/a"), array("imagelist/b")
    exact = torch.full((3, 64, 32), 6.0)
    return {
        "two_div0": lambda: ImageList.from_tensors([a, b]),
        "two_div1": lambda: ImageList.from_tensors([a, b], 1),
        "two_div32": lambda: ImageList.from_tensors([a, b], 32),
        "two_div32_pad7.5": lambda: ImageList.from_tensors([a, b], 32, 7.5),
        "single_div32": lambda: ImageList.from_tensors([a], 32),
        "single_div0": lambda: ImageList.from_tensors([a]),
        "single_exact": lambda: ImageList.from_tensors([exact], 32),
        "square64_div32": lambda: ImageList.from_tensors([a, b], 32, padding_constraints={"square_size": 64}),
        "square0_div32": lambda: ImageList.from_tensors([a, b], 32, padding_constraints={"square_size": 0}),
        "constraint_div16_overrides": lambda: ImageList.from_tensors(
            [a, b], 32, padding_constraints={"size_divisibility": 16}
        ),
        "square70_div32": lambda: ImageList.from_tensors([a, b], 32, padding_constraints={"square_size": 70}),
        "square_smaller_than_image": lambda: ImageList.from_tensors(
            [a, b], 32, padding_constraints={"square_size": 32}
        ),
        "single_square_smaller": lambda: ImageList.from_tensors([a], 32, padding_constraints={"square_size": 32}),
        "2d_tensors": lambda: ImageList.from_tensors([a[0], b[0]], 32),
        "channel_mismatch": lambda: ImageList.from_tensors([a, b[:2]]),
        "empty": lambda: ImageList.from_tensors([]),
        "tuple": lambda: ImageList.from_tensors((a, b), 32),
        "uint8": lambda: ImageList.from_tensors([a.to(torch.uint8), b.to(torch.uint8)], 32, 5),
        "not_tensor": lambda: ImageList.from_tensors([a.numpy()]),
    }


OTHER_IMAGE_LIST_FACTS = {
    "getitem_returns_unpadded_view",
    "image_sizes_type",
    "single_image_shares_memory_when_no_padding_needed",
    "to",
    "device",
}


def test_every_image_list_fact_is_tested():
    assert set(image_list_cases()) | OTHER_IMAGE_LIST_FACTS == set(GOLDEN["imagelist"])


@pytest.mark.parametrize("name", image_list_cases())
def test_image_list(name):
    golden = GOLDEN["imagelist"][name]
    make = image_list_cases()[name]
    if "raises" in golden:
        with pytest.raises(ERRORS[golden["raises"]]):
            make()
        return
    images = make()
    assert list(images.tensor.shape) == golden["tensor_shape"]
    assert [list(size) for size in images.image_sizes] == golden["image_sizes"]
    assert str(images.tensor.dtype) == golden["dtype"]
    assert len(images) == golden["len"]
    assert list(images[0].shape) == golden["item0_shape"]
    # Without padding the corner shows the picture, and that of `single_div0` was another one.
    if name != "single_div0":
        assert images.tensor[0].flatten()[-1].item() == golden["pad_corner_value"]


def test_image_list_keeps_the_pixels():
    a, b = array("imagelist/a"), array("imagelist/b")
    golden = GOLDEN["imagelist"]
    images = ImageList.from_tensors([a, b], 32)
    close(images.tensor, "imagelist/two_div32")
    assert torch.equal(images[0], a) and torch.equal(images[1], b)
    images[0].fill_(3.0)
    assert (images.tensor[0, 0, 0, 0] == 3) == golden["getitem_returns_unpadded_view"]
    assert type(images.image_sizes[0]).__name__ == golden["image_sizes_type"]
    single = ImageList.from_tensors([a])
    shares = single.tensor.data_ptr() == a.data_ptr()
    assert shares == golden["single_image_shares_memory_when_no_padding_needed"]
    assert type(images.to(torch.float64)).__name__ == golden["to"]
    assert images.to(torch.float64).tensor.dtype == torch.float64
    assert str(images.device) == golden["device"]


@pytest.mark.filterwarnings("ignore")
def test_padding_of_one_image_can_be_traced_for_other_sizes():
    traced = torch.jit.trace(lambda x: ImageList.from_tensors([x], 32).tensor, torch.rand(3, 40, 50), check_trace=False)
    assert traced(torch.rand(3, 70, 20)).shape == (1, 3, 96, 32)


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


class TestPostprocess:
    GOLDEN = GOLDEN["postprocess"]

    def detections(self, field="pred_boxes"):
        fields = {
            field: Boxes(array("post/boxes_in").clone()),
            "scores": torch.arange(6) / 10,
            "pred_classes": torch.arange(6),
        }
        return Instances(tuple(self.GOLDEN["input_image_size"]), **fields)

    def test_boxes(self):
        detections = self.detections()
        result = detector_postprocess(detections, *self.GOLDEN["output_hw"])
        close(result.pred_boxes.tensor, "post/boxes_out_150x160")
        close(result.scores, "post/scores_out")
        close(result.pred_classes, "post/classes_out")
        assert list(result.image_size) == self.GOLDEN["out_image_size"]
        assert len(result) == self.GOLDEN["kept"]
        assert len(detections) == self.GOLDEN["input_instances_len_unchanged"]
        np.testing.assert_allclose(detections.pred_boxes.tensor, self.GOLDEN["input_after"], rtol=1e-6)

    def test_other_inputs(self):
        proposals = detector_postprocess(self.detections("proposal_boxes"), *self.GOLDEN["output_hw"])
        assert len(proposals) == self.GOLDEN["uses_proposal_boxes_when_no_pred_boxes"]
        bare = Instances((60, 80), scores=torch.ones(2))
        assert outcome(lambda: detector_postprocess(bare, 10, 10)) == self.GOLDEN["without_boxes"]
        assert len(detector_postprocess(self.detections()[:0], 10, 10)) == self.GOLDEN["empty"]

    def test_masks_are_pasted(self):
        boxes = torch.tensor([[10.0, 5.0, 40.0, 30.0], [20.0, 30.0, 20.0, 50.0]])
        detections = Instances((60, 80), pred_boxes=Boxes(boxes), pred_masks=array("post/mask_probs_in"))
        result = detector_postprocess(detections, 120, 160)
        assert str(result.pred_masks.dtype) == self.GOLDEN["mask_dtype"]
        assert list(result.pred_masks.shape) == self.GOLDEN["mask_shape"]
        close(result.pred_boxes.tensor, "post/mask_boxes_out")
        close(result.pred_masks, "post/mask_out")


class TestMasks:
    GOLDEN = GOLDEN["masks"]
    HEIGHT, WIDTH = 60, 64

    def polygons(self):
        return PolygonMasks([[np.array(p) for p in of_object] for of_object in self.GOLDEN["polygons"]])

    def bitmasks(self):
        return BitMasks.from_polygon_masks(self.polygons(), self.HEIGHT, self.WIDTH)

    def test_polygons(self):
        masks = self.polygons()
        assert len(masks) == self.GOLDEN["len"]
        close(masks.get_bounding_boxes().tensor, "masks/polygon_bboxes")
        close(masks.area(), "masks/polygon_area")
        close(masks.nonempty(), "masks/polygon_nonempty")
        assert str(masks.polygons[0][0].dtype) == self.GOLDEN["storage_dtype"]
        assert len(masks[1]) == self.GOLDEN["index_int_len"]
        assert outcome(lambda: masks.to("cpu")) == self.GOLDEN["polygon_to_device"]
        assert outcome(lambda: PolygonMasks([[np.zeros(7)]])) == self.GOLDEN["odd_polygon"]
        assert outcome(lambda: PolygonMasks([[np.zeros(4)]])) == self.GOLDEN["too_short_polygon"]
        assert outcome(lambda: PolygonMasks([np.zeros(6)])) == self.GOLDEN["flat_list"]

    def test_polygon_indices_and_cat(self):
        masks = self.polygons()
        by_mask = masks[torch.tensor([True, False, True])]
        by_index = masks[torch.tensor([0, 2])]
        for chosen in (by_mask, by_index, masks[[0, 2]], masks[::2]):
            assert [of_object[0].tolist() for of_object in chosen] == [masks.polygons[i][0].tolist() for i in (0, 2)]
        assert len(PolygonMasks.cat([masks, by_mask])) == 5
        assert PolygonMasks([[]]).nonempty().tolist() == [False]
        assert len(PolygonMasks([]).get_bounding_boxes()) == 0

    @pytest.mark.standin_only("a mask of numpy as an index")
    def test_polygons_are_indexed_by_a_mask_of_numpy(self):
        masks = self.polygons()
        chosen = masks[np.array([True, False, True])]
        assert [of_object[0].tolist() for of_object in chosen] == [masks.polygons[i][0].tolist() for i in (0, 2)]

    def test_bitmasks(self):
        masks = self.bitmasks()
        assert str(masks.tensor.dtype) == self.GOLDEN["bitmask_dtype"]
        for i, mask in enumerate(masks):
            close(mask, f"masks/bitmask_{i}")
            polygons = self.polygons().polygons[i]
            drawn = torch.from_numpy(polygons_to_bitmask(polygons, self.HEIGHT, self.WIDTH))
            close(drawn, f"masks/bitmask_{i}")
        close(masks.get_bounding_boxes().tensor, "masks/bitmask_bboxes")
        close(masks.nonempty(), "masks/bitmask_nonempty")
        assert len(masks[1]) == self.GOLDEN["index_int_len"]

    def test_crop_and_resize(self):
        # The facts do not name the boxes; these are found from the results, which fit few others.
        boxes = torch.tensor([[8.0, 8.0, 52.0, 42.0], [4.0, 4.0, 30.0, 30.0], [0.0, 0.0, 10.0, 10.0]])
        close(self.bitmasks().crop_and_resize(boxes, 7), "masks/crop_and_resize_7")
        close(self.polygons().crop_and_resize(boxes, 7), "masks/polygon_crop_and_resize_7")

    def test_bitmask_indices_and_cat(self):
        masks = self.bitmasks()
        chosen = masks[torch.tensor([False, True, True])]
        assert torch.equal(chosen.tensor, masks.tensor[1:])
        assert BitMasks.cat([masks, chosen]).tensor.shape == (5, self.HEIGHT, self.WIDTH)
        assert BitMasks.from_polygon_masks([], 3, 4).tensor.shape == (0, 3, 4)
        assert BitMasks(np.ones((1, 2, 2), dtype=np.uint8)).to("cpu").tensor.dtype == torch.bool
        with pytest.raises(AssertionError, match=says("G, H, W")):
            BitMasks(torch.zeros(3, 3))

    def test_roi_masks(self):
        masks = ROIMasks(torch.tensor([[[1.0]], [[0.2]]]))
        boxes = Boxes([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 4.0, 3.0]])
        pasted = masks.to_bitmasks(boxes, 3, 4)
        assert pasted.tensor[0].int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
        assert not pasted.tensor[1].any()
        assert len(masks[:1]) == 1
        with pytest.raises(ValueError, match=says("R, M, M")):
            ROIMasks(torch.ones(2, 2))


class TestKeypoints:
    def test_index_cat_and_types(self):
        keypoints = Keypoints([[[1.0, 2.0, 2.0], [3.0, 4.0, 0.0]], [[5.0, 6.0, 1.0], [7.0, 8.0, 2.0]]])
        assert keypoints.tensor.dtype == torch.float32
        assert keypoints[1].tensor.tolist() == [[[5.0, 6.0, 1.0], [7.0, 8.0, 2.0]]]
        assert len(keypoints[torch.tensor([False, True])]) == 1
        assert len(Keypoints.cat([keypoints, keypoints[0]]).to("cpu")) == 3
        with pytest.raises(AssertionError, match=says("G, P, 3")):
            Keypoints(np.zeros((2, 17, 2)))


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
