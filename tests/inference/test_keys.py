"""The keys of the NMS study and of the peak filter, from the config to the detections."""

import dataclasses

import pytest
import torch

from defcn_ext.inference.peak_filter import PeakFilter
from detectron2.modeling import build_model
from detectron2.structures import pairwise_iou
from tests.tiny import ALL, batch, tiny_cfg

KEYS = "MODEL.DEFCN."


def detect(name, *options):
    """Detections of the tiny detector on three images, all scores allowed, boxes of about 8 cells a side."""
    torch.manual_seed(0)
    options = [x if i % 2 else KEYS + x for i, x in enumerate(options)]
    cfg = tiny_cfg(*ALL[name], KEYS + "SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 10000, *options)
    model = build_model(cfg).eval()
    with torch.no_grad():
        model.branches[model.test_branch].bbox_pred.bias.fill_(4.0)
        return model, model(batch())


def same(a, b):
    return (
        len(a) == len(b) and torch.equal(a.scores, b.scores) and torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    )


def test_the_keys_of_the_nms_study_reach_the_detector():
    counts = []
    for limits in (("NMS_PER_LEVEL", True, "NMS_RANGE", 1), ("NMS_RANGE", 3), ("NMS_PER_LEVEL", True), ()):
        model, results = detect("fcos", *limits)
        assert model.inference.nms_per_level == ("NMS_PER_LEVEL" in limits)
        counts.append([len(x["with_nms"]) for x in results])
        if "NMS_RANGE" in limits and "NMS_PER_LEVEL" in limits:
            assert model.inference.nms_range == 1
            assert all(same(x["with_nms"], x["without_nms"]) for x in results)
    nothing, near, level, unlimited = counts
    for n in range(3):
        assert unlimited[n] < near[n] < nothing[n] and unlimited[n] <= level[n] < nothing[n]


@pytest.mark.parametrize("name", ["fcos", "fcos_centerness", "poto_3dmf"])
def test_the_keys_of_the_peak_filter_reach_the_detector(name):
    _, plain = detect(name)
    _, identity = detect(name, "PEAK_FILTER.ENABLED", True, "PEAK_FILTER.TAU", 0, "PEAK_FILTER.KERNEL", 1)
    model, filtered = detect(name, "PEAK_FILTER.ENABLED", True)
    assert model.inference.peak_filter == PeakFilter(2, 3)
    for before, same_again, after in zip(plain, identity, filtered):
        assert same(before["without_nms"], same_again["without_nms"])
        assert 0 < len(after["without_nms"]) < len(before["without_nms"]) / 3
        assert after["without_nms"].scores.max() == before["without_nms"].scores.max()
        assert len(after["with_nms"]) <= len(after["without_nms"])


@pytest.mark.parametrize(
    "options, key",
    [
        (("NMS_RANGE", 2), "NMS_RANGE"),
        (("PEAK_FILTER.ENABLED", True, "PEAK_FILTER.TAU", 1), "PEAK_FILTER.TAU"),
        (("PEAK_FILTER.ENABLED", True, "PEAK_FILTER.KERNEL", 4), "PEAK_FILTER.KERNEL"),
    ],
)
def test_bad_values_are_refused_with_their_key(options, key):
    with pytest.raises(ValueError, match=KEYS + key):
        detect("poto", *options)


def test_peaks_of_an_autocast_model_are_found_in_float32():
    torch.manual_seed(0)
    model = build_model(tiny_cfg(*ALL["fcos_centerness"], KEYS + "PEAK_FILTER.ENABLED", True)).eval()
    seen = []

    def watch(scores, points):
        seen.append(scores)
        return PeakFilter()(scores, points)

    model.inference = dataclasses.replace(model.inference, peak_filter=watch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(batch()[:1])
    assert [x.dtype for x in seen] == [torch.float32] and seen[0].shape == (257, 3)


@pytest.mark.parametrize(
    "key, option",
    [
        ("TOPK_WITHIN_POINTS", "topk_within_points"),
        ("ONE_CLASS_PER_POINT", "one_class_per_point"),
        ("NMS_OVER_CLASSES", "nms_over_classes"),
        ("NMS_CLIPPED", "nms_clipped"),
    ],
)
def test_the_keys_of_the_releases_reach_the_inference(key, option):
    default = getattr(build_model(tiny_cfg(*ALL["fcos"])).inference, option)
    assert default is (key == "TOPK_WITHIN_POINTS")
    changed = build_model(tiny_cfg(*ALL["fcos"], KEYS + key, not default))
    assert getattr(changed.inference, option) is not default


def test_one_class_a_point_and_nms_over_classes_leave_no_box_twice():
    """Images of three classes, the first of 16 * 12 + 8 * 6 + 4 * 3 + 2 * 2 + 1 points, all scores allowed."""
    every = ("TOPK_WITHIN_POINTS", False, "NMS_CLIPPED", True)
    _, plain = detect("fcos", *every)
    _, one = detect("fcos", *every, "ONE_CLASS_PER_POINT", True)
    _, over = detect("fcos", *every, "NMS_OVER_CLASSES", True)
    assert len(plain[0]["without_nms"]) == 3 * 257 and len(one[0]["without_nms"]) == 257
    for n in range(3):
        for result, apart in ((plain, False), (over, True)):
            boxes = result[n]["with_nms"].pred_boxes
            overlap = pairwise_iou(boxes, boxes).triu(1).max()
            assert len(boxes) > 3 and (overlap < 0.61) == apart
