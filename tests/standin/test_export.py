import pytest
import torch
from torch import nn

from detectron2.export import TracingAdapter, dump_torchscript_IR
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from tests.standin import says
from tests.tiny import image_with, tiny_cfg

pytestmark = pytest.mark.filterwarnings("ignore")


class Detector(nn.Module):
    """Takes and returns what a detector does: one box, of half the image's size."""

    def forward(self, inputs):
        results = []
        for x in inputs:
            size = torch.stack([torch.as_tensor(n) for n in x["image"].shape[-2:]])
            box = torch.cat([torch.zeros(2), size.flip(0) / 2])[None] * x["scale"]
            found = Instances(size, pred_boxes=Boxes(box), scores=x["image"].mean()[None])
            results.append({"instances": found, "more": (x["image"].sum(), [x["scale"]])})
        return results


def inputs(height=8, width=10, count=1):
    return [{"image": torch.rand(3, height, width), "scale": torch.tensor(1.0 + n)} for n in range(count)]


def test_inputs_and_outputs_are_taken_apart_and_put_together():
    given = inputs(count=2)
    adapter = TracingAdapter(Detector(), given)
    assert [x.shape for x in adapter.flattened_inputs] == [(3, 8, 10), ()] * 2
    flat = adapter(*adapter.flattened_inputs)
    assert all(isinstance(x, torch.Tensor) for x in flat) and len(flat) == 2 * 5
    first, second = adapter.outputs_schema(flat)
    assert second["instances"].pred_boxes.tensor.tolist() == [[0, 0, 10, 8]]
    assert first["instances"].image_size.tolist() == [8, 10]
    assert torch.equal(second["more"][0], given[1]["image"].sum()) and type(first["more"]) is tuple
    assert first["more"][1] == [1.0]


def test_a_recorded_model_answers_for_other_images():
    adapter = TracingAdapter(Detector(), inputs())
    traced = torch.jit.trace(adapter, adapter.flattened_inputs)
    (record,) = inputs(12, 20)
    (found,) = adapter.outputs_schema(traced(record["image"], record["scale"]))
    assert found["instances"].pred_boxes.tensor.tolist() == [[0, 0, 10, 6]]
    assert found["instances"].scores.item() == pytest.approx(record["image"].mean().item())


def test_dicts_and_fields_come_sorted_by_name():
    given = {"b": torch.tensor(2), "a": torch.tensor(1)}
    adapter = TracingAdapter(nn.Identity(), given)
    assert [x.item() for x in adapter.flattened_inputs] == [1, 2]
    assert adapter.inputs_schema(adapter.flattened_inputs) == ({"a": 1, "b": 2},)
    with pytest.raises(KeyError):
        TracingAdapter(nn.Identity(), {1: torch.ones(1)})
    found = Instances((4, 5), scores=torch.ones(2), pred_classes=torch.zeros(2))
    classes, scores, size = TracingAdapter(nn.Identity(), found).flattened_inputs
    assert (classes.tolist(), scores.tolist(), size.tolist()) == ([0, 0], [1, 1], [4, 5])


def test_several_arguments_and_another_way_to_call():
    adapter = TracingAdapter(nn.Bilinear(2, 3, 4), (torch.rand(1, 2), torch.rand(1, 3)))
    (out,) = adapter(torch.rand(5, 2), torch.rand(5, 3))
    assert out.shape == (5, 4)
    doubled = TracingAdapter(nn.Linear(2, 2), torch.rand(1, 2), inference_func=lambda model, x: {"twice": 2 * model(x)})
    (out,) = doubled(torch.ones(1, 2))
    torch.testing.assert_close(out, 2 * doubled.model(torch.ones(1, 2)))
    assert torch.equal(doubled.outputs_schema((out,))["twice"], out) and not out.requires_grad


def test_other_things_than_tensors():
    given = [{**inputs()[0], "file_name": "a.jpg"}]
    with pytest.raises(ValueError, match=says("'a.jpg'")):
        TracingAdapter(Detector(), given)
    adapter = TracingAdapter(Detector(), given, allow_non_tensor=True)
    assert len(adapter(*adapter.flattened_inputs)) == 5
    with pytest.raises(ValueError):  # whose file would that be?
        adapter(*TracingAdapter(Detector(), inputs()).flattened_inputs)
    with pytest.raises(ValueError, match=says("got 7")):
        TracingAdapter(nn.Identity(), torch.rand(1), lambda model, x: (x, 7))(torch.rand(1))
    (only,) = TracingAdapter(nn.Identity(), torch.rand(1), lambda model, x: (x, 7), allow_non_tensor=True)(
        torch.ones(1)
    )
    assert only == 1


def test_outputs_keep_their_structure():
    adapter = TracingAdapter(nn.Identity(), torch.rand(1), lambda model, x: [x] * int(x.item()))
    adapter(torch.tensor([2.0]))
    with pytest.raises(AssertionError):
        adapter(torch.tensor([3.0]))


def test_this_projects_detector_is_recorded_for_images_of_any_size():
    torch.manual_seed(0)
    model = build_model(tiny_cfg("MODEL.DEFCN.COMPARE_NMS", False, "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0)).eval()

    def detect(model, given):
        return [{"instances": x["instances"]} for x in model(given)]

    adapter = TracingAdapter(model, [{"image": image_with([], [], seed=1)["image"]}], detect)
    traced = torch.jit.trace(adapter, adapter.flattened_inputs)
    picture = image_with([], [], size=(70, 150), seed=2)["image"]
    (found,) = adapter.outputs_schema(traced(picture))
    (expected,) = model([{"image": picture}])
    found, expected = found["instances"], expected["instances"]
    assert len(expected) > 20
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert found.image_size.tolist() == list(expected.image_size)


def test_what_is_in_a_recorded_model_can_be_read(tmp_path):
    dump_torchscript_IR(torch.jit.trace(nn.Linear(2, 1), torch.rand(1, 2)), str(tmp_path / "dump"))
    texts = {path.name: path.read_text() for path in (tmp_path / "dump").iterdir()}
    assert "def forward" in texts["model_ts_code.txt"] and "aten::linear" in texts["model_ts_IR.txt"]
