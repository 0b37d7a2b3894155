"""A traced detector says what the eager one says, of other pictures of other sizes."""

import io
import warnings

import pytest
import torch
from torch import nn

from detectron2.export import TracingAdapter
from detectron2.modeling import build_model
from tests.tiny import ALL, STANDING, mostly_slow, tiny_cfg

KEYS = "MODEL.DEFCN."
FAMILIES = ("fcos", "poto", "poto_3dmf", "date_f", "date_r", "o2f", "dw", "dw_refine")


class OnOneImage(nn.Module):
    """(3, H, W) to boxes, scores and classes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        found = self.model([{"image": image}])[0]["instances"]
        return found.pred_boxes.tensor, found.scores, found.pred_classes


def detector(name, *options, contrast=0.3):
    """The tiny detector with class scores that differ from picture to picture, some above the threshold."""
    torch.manual_seed(0)
    options = [x if i % 2 else KEYS + x for i, x in enumerate(options)]
    model = build_model(tiny_cfg(*{**ALL, **STANDING}[name], KEYS + "SCORE_THRESH_TEST", 0.06, *options)).eval()
    branch = model.branches[model.test_branch]
    branch = model.branches[branch.base] if branch.base else branch
    nn.init.normal_(branch.cls_score.weight, std=contrast)
    nn.init.normal_(branch.bbox_pred.weight, std=0.1)
    branch.bbox_pred.bias.data.fill_(0.1 if branch.box_form == "delta" else 2.0)
    return OnOneImage(model)


def pictures():
    rng = torch.Generator().manual_seed(1)
    sizes = [(96, 128), (96, 128), (64, 160), (130, 70), (33, 40)]
    contrast = [20, 120, 255, 60, 200]
    return [torch.randint(c, (3, *size), generator=rng).to(torch.uint8) for size, c in zip(sizes, contrast)]


def traced(model, picture, check=False):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of sizes that Detectron2's structures compare
        graph = torch.jit.trace(model, picture, check_trace=check)
    file = io.BytesIO()
    torch.jit.save(graph, file)
    file.seek(0)
    return torch.jit.load(file)


def assert_equal_to_eager(model, graph):
    counts = set()
    for picture in pictures():
        with torch.no_grad():
            expected, answer = model(picture), graph(picture)
        counts.add(len(expected[0]))
        for ours, theirs in zip(answer, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    return counts


@pytest.mark.parametrize(
    "name, nms",
    mostly_slow(
        [*((name, False) for name in FAMILIES), ("fcos_centerness", True), ("dw", True)],
        fast=("poto_3dmf", "date_r", "o2f", "dw_refine", "fcos_centerness"),
    ),
)
def test_a_trace_of_one_picture_answers_for_all(name, nms):
    model = detector(name, "NMS", nms, "TOPK_CANDIDATES_TEST", 40)
    first, second, *_ = pictures()
    with torch.no_grad():
        model(second)  # what an earlier call leaves behind must not enter the graph
    counts = assert_equal_to_eager(model, traced(model, first))
    assert len(counts) > 2 and max(counts) > 20


def test_two_traces_are_the_same_graph():
    """With anchors, which another cache keeps, clipped boxes, and one class a point."""
    options = ("NMS", True, "NMS_CLIPPED", True, "ONE_CLASS_PER_POINT", True, "TOPK_WITHIN_POINTS", False)
    model = detector("date_r", "TEST_BRANCH", "ONE_TO_MANY", *options, contrast=0.1)
    assert_equal_to_eager(model, traced(model, pictures()[0], check=True))


def test_through_detectron2s_adapter():
    """Its second call, in the check of the tracer, must answer in the form of the first."""
    model, (first, *others) = detector("poto").model, pictures()
    adapter = TracingAdapter(model, [{"image": first}])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        graph = torch.jit.trace(adapter, adapter.flattened_inputs)
        for picture in others:
            (expected,), (answer,) = model([{"image": picture}]), adapter.outputs_schema(graph(picture))
            assert answer.keys() == expected.keys() == {"instances", "with_nms", "without_nms"}
            for kind, found in expected.items():
                assert torch.equal(answer[kind].pred_classes, found.pred_classes)
                torch.testing.assert_close(answer[kind].pred_boxes.tensor, found.pred_boxes.tensor, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["poto_3dmf", "date_r"])
def test_dense_predictions_can_be_exported_for_all_sizes(name):
    """Of sides above 128, so that no level is one cell. What follows cannot: `Boxes` asks whether it is empty."""

    class Dense(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, image):
            points, features = self.model.extract(image[None])
            predictions = self.model.predict(points, features, self.model.test_branch)
            return predictions.score_logits(), predictions.boxes

    model = Dense(detector(name, "TEST_BRANCH", {"date_r": "ONE_TO_MANY"}.get(name, "")).model)
    first, *others = [torch.rand(3, h, w) for h, w in ((160, 192), (256, 160), (192, 320))]
    multiples = {i: 32 * torch.export.Dim(side, min=5, max=60) for i, side in ((1, "rows"), (2, "columns"))}
    with torch.no_grad():
        model(others[0])
        graph = torch.export.export(model, (first,), dynamic_shapes={"image": multiples}, strict=False).module()
        for picture in (first, *others):
            for ours, theirs in zip(graph(picture), model(picture), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_nms_of_the_studies_cannot_be_traced_and_says_so():
    with pytest.raises(ValueError, match="NMS_PER_LEVEL and NMS_RANGE are for studies"):
        traced(detector("fcos", "NMS", True, "NMS_RANGE", 3), pictures()[0])
