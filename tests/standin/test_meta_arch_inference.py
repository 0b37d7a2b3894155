"""RetinaNet and FCOS at inference: what they decode, by hand, and where it is drawn and scaled."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from detectron2.modeling.meta_arch.dense_detector import DenseDetector, permute_to_N_HWA_K
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from tests.standin import says
from tests.standin.dense_models import MODELS, PIXELS, STRIDES, TinyBackbone, fcos, image, objects, retinanet


def crafted(kinds, size=64):
    """Predictions of one image with nothing in them, to be filled in: per kind, per level, (1, dim, H, W)."""
    values = {"logits": (-20.0, 3), "deltas": (0.0, 4), "centerness": (20.0, 1)}
    maps = [size // stride for stride in STRIDES]
    return [[torch.full((1, values[k][1], n, n), values[k][0]) for n in maps] for k in kinds]


def infer(model, predictions, size=(64, 64)):
    images = ImageList(torch.zeros(1, 3, 64, 64), [size])
    features = [torch.zeros(1, 8, 64 // stride, 64 // stride) for stride in STRIDES]
    return model.forward_inference(images, features, predictions)[0]


def test_retinanet_decodes_by_hand():
    model = retinanet(test_nms_thresh=0.5)
    logits, deltas = crafted(["logits", "deltas"])
    # Stride 16, row 1, column 2: a 32 pixel anchor around (32, 16).
    logits[1][0, 2, 1, 2] = math.log(9)
    deltas[1][0, :, 1, 2] = torch.tensor([0.25, 0, math.log(0.5), 0])
    # Nearly the same box on stride 32 (64 pixel anchor around (32, 0)): suppressed in class 2, kept in class 0.
    logits[2][0, [0, 2], 0, 1] = math.log(4)
    deltas[2][0, :, 0, 1] = torch.tensor([0.125, 0.25, math.log(0.25), math.log(0.5)])
    # Below the threshold of 0.05.
    logits[0][0, 1, 0, 0] = math.log(0.04 / 0.96)
    found = infer(model, [logits, deltas])
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8]))
    assert found.pred_classes.tolist() == [2, 0]
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[32.0, 0, 48, 32]] * 2))
    assert found.image_size == (64, 64)


def test_fcos_decodes_by_hand():
    model = fcos(test_nms_thresh=0.6, max_detections_per_image=2)
    logits, deltas, centerness = crafted(["logits", "deltas", "centerness"])
    # Stride 8, row 2, column 3: the point (28, 20). Sides in strides, of which a negative one counts as 0.
    logits[0][0, 1, 2, 3] = math.log(9)
    centerness[0][0, 0, 2, 3] = math.log(4)
    deltas[0][0, :, 2, 3] = torch.tensor([1.0, 2.0, 0.5, -3.0])
    # Stride 32, the point (48, 16).
    logits[2][0, 0, 0, 1] = 20
    deltas[2][0, :, 0, 1] = torch.tensor([1.0, 0.5, 0.25, 0.5])
    logits[1][0, 0, 0, 0] = math.log(0.3 / 0.7)  # score 0.55: third, so cut off
    deltas[1][0, :, 0, 0] = 0.5
    found = infer(model, [logits, deltas, centerness])
    torch.testing.assert_close(found.scores, torch.tensor([1.0, math.sqrt(0.72)]))
    assert found.pred_classes.tolist() == [0, 1]
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[16.0, 0, 56, 32], [20, 4, 32, 20]]))


def test_topk_is_taken_on_every_level_before_nms():
    model = retinanet(test_topk_candidates=2, test_nms_thresh=1.0)
    logits, deltas = crafted(["logits", "deltas"])
    for level, scores in enumerate([[0.3, 0.2, 0.1], [0.9, 0.8, 0.7], [0.6]]):
        for i, score in enumerate(scores):
            logits[level][0, i, 0, i % 2] = math.log(score / (1 - score))
    found = infer(model, [logits, deltas])
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.6, 0.3, 0.2]))


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("make, kinds", [(retinanet, 2), (fcos, 3)])
def test_non_finite_predictions_do_not_fail(make, kinds, value):
    model = make()
    predictions = crafted(["logits", "deltas", "centerness"][:kinds])
    found = infer(model, [[torch.full_like(x, value) for x in levels] for levels in predictions])
    assert not torch.isfinite(found.pred_boxes.tensor).any()


@pytest.mark.parametrize("make", MODELS)
def test_inference_reports_in_the_size_asked_for(make):
    model = make(test_score_thresh=0.0).eval()
    inputs = [{"image": image(64, 50)}, {"image": image(40, 64), "height": 80, "width": 192}]
    with torch.no_grad():
        small, large = (x["instances"] for x in model(inputs))
    assert small.image_size == (64, 50) and large.image_size == (80, 192)
    # Boxes that end up outside of the image are dropped after the cut at 100.
    assert 10 < len(small) <= 100 and 10 < len(large) <= 100
    assert (small.scores.diff() <= 0).all()
    assert large.pred_boxes.tensor[:, 2].max() <= 192 and large.pred_boxes.tensor[:, 2].max() > 64
    with torch.no_grad():
        model.test_score_thresh = 1.0
        assert [len(x["instances"]) for x in model(inputs)] == [0, 0]


def test_images_are_normalised_before_they_are_padded():
    model = retinanet()
    images = model.preprocess_image([{"image": torch.full((3, 40, 30), 50, dtype=torch.uint8)}])
    assert images.tensor.shape == (1, 3, 64, 32) and images.image_sizes == [(40, 30)]
    # (50 - mean) / std
    assert images.tensor[0, :, 20, 20].tolist() == [40, 15, 5]
    assert not images.tensor[:, :, 40:].any() and not images.tensor[:, :, :, 30:].any()


def test_permute_follows_the_order_of_anchors():
    maps = torch.arange(2 * 2 * 3 * 2 * 3).reshape(2, 6, 2, 3)
    flat = permute_to_N_HWA_K(maps, 3)
    assert flat.shape == (2, 12, 3)
    # Cell (1, 2), anchor 1: channels 3 to 5.
    assert flat[1, (1 * 3 + 2) * 2 + 1].tolist() == maps[1, 3:6, 1, 2].tolist()
    with pytest.raises(AssertionError, match=says("4 dimensions|A \\* K")):
        permute_to_N_HWA_K(maps[0], 3)


def test_dense_detector_takes_all_features_by_stride():
    backbone = TinyBackbone()
    backbone._out_features = ["p5", "p3", "p4"]
    model = DenseDetector(backbone, nn.Identity(), **PIXELS)
    assert model.head_in_features == ["p3", "p4", "p5"]
    assert model.device == torch.device("cpu")
    with pytest.raises(NotImplementedError):
        model([{"image": image(), "instances": objects()}])
    with pytest.raises(NotImplementedError):
        model.eval()([{"image": image()}])


@pytest.mark.standin_only("pictures are alike, not equal pixel by pixel, and Detectron2's need OpenCV")
def test_pictures_of_the_training():
    model = retinanet(vis_period=2, input_format="RGB", test_score_thresh=0.0)
    picture = image(64, 48)
    batch = [{"image": picture, "instances": objects([[4, 4, 20, 22]], [0], (64, 48))}]
    with EventStorage() as storage:
        for _ in range(3):
            storage.clear_images()
            model(batch)
            drawn = storage._vis_data
            assert len(drawn) == (1 if storage.iter % 2 == 0 else 0)
            storage.step()
    pixels = torch.as_tensor(np.array(drawn[0][1]))
    assert pixels.shape == (3, 64, 96) and pixels.dtype == torch.uint8
    # The left half has the image's own pixels apart from one frame.
    assert (pixels[:, :, :48] == picture).all(dim=0).float().mean() > 0.8
    assert (pixels[:, 4, 6:18] != picture[:, 4, 6:18]).any(dim=0).all()


def test_detector_postprocess(facts):
    golden, z = facts("golden_structures.json")["postprocess"], facts("golden_structures.npz")
    boxes = torch.from_numpy(z["post/boxes_in"])

    def results(**fields):
        return Instances(tuple(golden["input_image_size"]), **fields)

    given = results(pred_boxes=Boxes(boxes.clone()), scores=torch.linspace(0.9, 0.4, 6), pred_classes=torch.arange(6))
    out = detector_postprocess(given, *golden["output_hw"])
    assert list(out.image_size) == golden["out_image_size"] and len(out) == golden["kept"]
    np.testing.assert_allclose(out.pred_boxes.tensor, z["post/boxes_out_150x160"], rtol=1e-5)
    np.testing.assert_allclose(given.pred_boxes.tensor, golden["input_after"], rtol=1e-5)
    assert len(given) == golden["input_instances_len_unchanged"]
    proposals = results(proposal_boxes=Boxes(boxes.clone()))
    assert len(detector_postprocess(proposals, 150, 160)) == golden["uses_proposal_boxes_when_no_pred_boxes"]
    assert golden["without_boxes"]["raises"] == "AssertionError"
    with pytest.raises(AssertionError):
        detector_postprocess(results(scores=torch.zeros(2)), 150, 160)
    assert len(detector_postprocess(results(pred_boxes=Boxes(boxes[:0])), 150, 160)) == golden["empty"]


def test_postprocess_scales_keypoints_and_semantics():
    keypoints = torch.tensor([[[10.0, 10.0, 2.0]]])
    given = Instances((20, 40), pred_boxes=Boxes([[0.0, 0, 10, 10]]), pred_keypoints=keypoints)
    assert detector_postprocess(given, 60, 80).pred_keypoints.tolist() == [[[20, 30, 2]]]
    scores = torch.zeros(1, 8, 8)
    scores[:, :4, :6] = 1.0
    assert sem_seg_postprocess(scores, (4, 6), 8, 12).shape == (1, 8, 12)
    assert (sem_seg_postprocess(scores, (4, 6), 8, 12) == 1).all()
