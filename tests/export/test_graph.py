"""The graph that ends in boxes says what the detector's own inference says."""

import pytest
import torch

from defcn_ext.config import UserError
from defcn_ext.export import BoxGraph, End
from tests.inference.test_tracing import detector, pictures
from tests.tiny import mostly_slow

NMS = ("fcos", "fcos_centerness", "dw", "dw_refine")
FAMILIES = (
    *("poto", "poto_3dmf", "poto_3dmf_aux", "date_f", "date_r", "o2f", "onenet", "anchor", "dw_one_to_one"),
    *("dw_peaks", "dw_selector", *NMS),
)


def assert_equal(model, graph, images):
    """Of a batch of images of one size."""
    with torch.no_grad():
        boxes, scores, labels = graph(images.float())
        expected = [x["instances"] for x in model([{"image": x} for x in images])]
    assert labels.dtype == torch.int32 and scores.shape == (len(images), graph.end.top_k)
    counts = [len(x) for x in expected]
    for n, found in enumerate(expected):
        torch.testing.assert_close(scores[n, : len(found)], found.scores, rtol=0, atol=1e-6)
        torch.testing.assert_close(boxes[n, : len(found)], found.pred_boxes.tensor, rtol=0, atol=1e-3)
        assert torch.equal(labels[n, : len(found)].long(), found.pred_classes)
        for rest in (boxes, scores, labels):
            assert not rest[n, len(found) :].any()
    return counts


@pytest.mark.parametrize("name", mostly_slow(FAMILIES, fast=("poto_3dmf", "date_r", "dw_refine")))
def test_it_equals_the_inference_of_every_detector(name):
    model = detector(name, "NMS", name in NMS).model
    graph = BoxGraph(model, End.of(model, nms=name in NMS))
    counts = [n for picture in pictures()[1:4] for n in assert_equal(model, graph, torch.stack([picture] * 2))]
    assert max(counts) > 30


@pytest.mark.parametrize(
    "options",
    [
        ("ONE_CLASS_PER_POINT", True),
        ("TOPK_WITHIN_POINTS", False),
        ("TOPK_CANDIDATES_TEST", 7),
        ("SCORE_THRESH_TEST", 0.3),
        ("NMS", True, "NMS_CLIPPED", True, "NMS_OVER_CLASSES", True),
    ],
    ids=lambda options: options[0] + ("S" if len(options) > 2 else ""),
)
def test_it_reads_the_keys_of_inference(options):
    model = detector("poto_3dmf", *options).model
    graph = BoxGraph(model, End.of(model, nms=model.nms))
    for picture in pictures()[:3]:
        assert_equal(model, graph, picture[None])


@pytest.mark.parametrize("by", ["class", "final", "order"])
def test_it_orders_candidates_as_the_detector_does(by):
    model = detector("fcos_centerness", "NMS", False, "CANDIDATES_BY", by, "TOPK_CANDIDATES_TEST", 30).model
    graph = BoxGraph(model, End.of(model))
    assert graph.end.by_score == (by != "class")
    for picture in pictures()[1:4]:
        assert_equal(model, graph, picture[None])


def test_boxes_and_scores_that_are_no_numbers_are_no_detections():
    model = detector("poto").model
    graph, picture = BoxGraph(model, End.of(model)), pictures()[0]
    predict, broken = model.predict, torch.zeros(1, dtype=torch.bool)

    def spoilt(points, features, name):
        predictions = predict(points, features, name)
        predictions.boxes[:, 3::7] = torch.inf
        predictions.logits[:, 5::7] = torch.nan
        broken[:] = True
        return predictions

    model.predict = spoilt
    assert assert_equal(model, graph, picture[None])[0] > 30 and broken


def test_the_cut_may_be_shorter_than_the_detectors_own():
    model = detector("date_r").model
    graph = BoxGraph(model, End.of(model, top_k=10))
    with torch.no_grad():
        boxes, scores, _ = graph(pictures()[0][None].float())
        (found,) = model([{"image": pictures()[0]}])
    assert scores.shape == (1, 10) and len(found["instances"]) > 10
    torch.testing.assert_close(boxes[0], found["instances"].pred_boxes.tensor[:10], rtol=0, atol=1e-3)


def test_what_no_constant_can_hold_is_refused():
    model = detector("poto").model
    with pytest.raises(UserError, match="--top-k must lie between 1 and 3840, got 4000"):
        End.of(model, top_k=4000)
    with pytest.raises(UserError, match="PEAK_FILTER is for studies"):
        End.of(detector("poto", "PEAK_FILTER.ENABLED", True).model)
    with pytest.raises(UserError, match="NMS_PER_LEVEL and NMS_RANGE"):
        End.of(detector("fcos", "NMS", True, "NMS_PER_LEVEL", True).model, nms=True)


def test_no_detection_needs_more_of_a_level_than_the_cut():
    """Without NMS and centerness the best k of a level are enough, whatever the detector keeps of it."""
    assert End.of(detector("poto").model).per_level == 100
    assert End.of(detector("poto").model, top_k=5).per_level == 5
    assert End.of(detector("fcos_centerness").model).per_level == 1000
    assert End.of(detector("fcos").model, nms=True).per_level == 1000
