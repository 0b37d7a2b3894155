"""The configs of targets that follow the quality of boxes, and of two branches that agree (90-closing-the-gap)."""

import pytest
import torch

from defcn_ext.losses import paired_iou
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tests.test_configs import THIN, load
from tests.tiny import batch, image_with

THIN_MSRA = (*THIN, "MODEL.PIXEL_STD", [57.375, 57.12, 58.395])


def model_of(name, *opts):
    torch.manual_seed(0)
    return build_model(load(f"Base-{name}.yaml", *THIN_MSRA, *opts))


def losses_at(model, iteration):
    with EventStorage(iteration):
        return model(batch())


SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", ["Consistent", pytest.param("Top-7-then-one", marks=SLOW)])
def test_the_backbone_learns_from_one_to_many_alone(name):
    model = model_of(name)
    losses = losses_at(model, 0)
    assert set(losses) == {"loss_cls", "loss_box", "loss_cls_one_to_many", "loss_box_one_to_many"}
    (losses["loss_cls"] + losses["loss_box"]).backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched and all(name.startswith("branches.one_to_one.") for name in touched)
    own = {name for name, _ in model.branches["one_to_one"].named_parameters()}
    assert {"cls_score.weight", "bbox_pred.weight", "towers.cls_subnet.0.weight", "towers.bbox_subnet.0.weight"} <= own


@pytest.mark.parametrize("name", [pytest.param("Consistent", marks=SLOW), "Top-7-then-one"])
def test_both_branches_rank_by_one_metric(name):
    """Of equal predictions, and objects that do not meet, the best point of the one branch is the other's only one."""
    model = model_of(name)
    one, many = model.branches["one_to_one"], model.branches["one_to_many"]
    images = [image_with([[8, 8, 70, 60], [72, 30, 120, 90]], [0, 2], (96, 128))]
    with torch.no_grad():
        points, features = model.extract(model.preprocess_image(images).tensor)
        predictions, objects = model.predict(points, features, "one_to_many"), model.ground_truth(images)
        single, several = (x.assign(points, predictions, objects) for x in (one, many))
    assert several.object.bincount().tolist() == [10, 10] and single.object.tolist() == [0, 1]
    best = [several.point[several.object == g][several.quality[several.object == g].argmax()].item() for g in (0, 1)]
    assert single.point.tolist() == best


@pytest.mark.slow
def test_the_weight_of_the_losses_moves_over_the_training():
    """Linearly: one-to-many from 0.8 to 0.1, one-to-one 1 minus it."""
    model = model_of("Top-7-then-one", "SOLVER.MAX_ITER", 101).requires_grad_(False)
    first, middle, last = (losses_at(model, i) for i in (0, 50, 100))
    for term, start, end in [("loss_box", 0.2, 0.9), ("loss_cls_one_to_many", 0.8, 0.1)]:
        assert last[term].item() == pytest.approx(first[term].item() * end / start, rel=1e-4)
        assert middle[term].item() == pytest.approx((first[term].item() + last[term].item()) / 2, rel=1e-4)


@pytest.mark.slow
def test_two_points_an_object_of_which_the_second_fades():
    """Align-DETR's branch: two pairs an object, and the reach of the rank from 1.5 to 0.3."""
    model = model_of("DATE-F-IA-BCE", "MODEL.DEFCN.ONE_TO_ONE.BOX_BIAS", 4.0)
    branch, images = model.branches["one_to_one"], batch()
    with torch.no_grad():
        points, features = model.extract(model.preprocess_image(images).tensor)
        predictions, objects = model.predict(points, features, "one_to_one"), model.ground_truth(images)
        early, late = (branch.assign(points, predictions, objects, p) for p in (0.0, 1.0))
    assert early.object.bincount().max() == 2 and torch.equal(early.point, late.point)
    assert early.box.min().item() == pytest.approx(0.513417, abs=1e-5)
    assert late.box.min().item() == pytest.approx(0.035674, abs=1e-5)


@pytest.mark.slow
def test_ddq_repeats_its_objects_and_learns_their_quality():
    """Eight points an object beside one; of both, the best by s u^6 has the object's highest IoU as label."""
    model, images = model_of("DDQ", "MODEL.DEFCN.NUM_CONVS", 2), [image_with([[8, 8, 70, 80]], [1], (96, 128))]
    with torch.no_grad():
        points, features = model.extract(model.preprocess_image(images).tensor)
        objects = model.ground_truth(images)
        for name, count in [("one_to_one", 1), ("one_to_many", 8)]:
            predictions = model.predict(points, features, name)
            pairs = model.branches[name].assign(points, predictions, objects)
            score = (predictions.logits.sigmoid() * predictions.objectness.sigmoid()).sqrt()[0, pairs.point, 1]
            iou = paired_iou(predictions.boxes[0, pairs.point], objects.boxes[pairs.object])
            metric = score * iou**6
            assert len(pairs) == count
            torch.testing.assert_close(pairs.positive, metric / metric.max() * iou.max(), atol=1e-6, rtol=1e-4)
