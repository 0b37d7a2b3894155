"""RetinaNet and FCOS in training: labels and losses by hand."""

import math

import pytest
import torch
from torch import nn

from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from tests.standin import says
from tests.standin.dense_models import MODELS, STRIDES, fcos, image, objects, retinanet


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize(
    "targets",
    [
        [objects([[4, 4, 20, 22], [20, 20, 60, 60]], [0, 2]), objects([[30, 8, 62, 40]], [1])],
        [objects([[4, 4, 20, 22]], [0]), objects()],
        [objects(), objects()],
        [objects([[5, 5, 5.2, 5.2]], [0]), objects([[0.0, 0, 0.3, 0.3], [-9, -9, 99, 99]], [1, 1])],
    ],
    ids=["objects", "one empty image", "no objects", "tiny and huge objects"],
)
def test_training_step(make, targets):
    model = make()
    with EventStorage() as storage:
        losses = model([{"image": image(), "instances": x} for x in targets])
        positive = storage.latest()["num_pos_anchors"][0]
    assert set(losses) in ({"loss_cls", "loss_box_reg"}, {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"})
    assert all(torch.isfinite(loss) and loss >= 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.head.cls_score.weight.grad.abs().sum() > 0
    if not any(len(x) for x in targets):
        assert positive == 0
        assert all(loss == 0 for name, loss in losses.items() if "cls" not in name)


@pytest.mark.parametrize("make", MODELS)
def test_training_lowers_the_loss(make):
    model = make()
    batch = [{"image": image(), "instances": objects([[8, 8, 40, 40]], [1])}]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    history = []
    with EventStorage():
        for _ in range(20):
            loss = sum(model(batch).values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            # The normalizer falls from its initial value, so compare at the first one.
            history.append(loss.item() * model.loss_normalizer)
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("make", MODELS)
def test_low_precision_keeps_boxes_exact(make):
    model = make(test_score_thresh=0.0)
    batch = [{"image": image(), "instances": objects([[4, 4, 20, 22]], [0])}]
    with torch.autocast("cpu", dtype=torch.bfloat16), EventStorage():
        losses = model(batch)
        found = model.eval()(batch)[0]["instances"]
    assert all(torch.isfinite(loss) and loss.dtype == torch.float32 for loss in losses.values())
    assert found.pred_boxes.tensor.dtype == torch.float32 and len(found) > 10


def test_training_needs_instances():
    with pytest.raises(AssertionError, match=says("instances")):
        retinanet()([{"image": image()}])


def test_loss_normalizer_is_a_moving_average():
    model = retinanet()
    # 0.9 x 100 + 0.1 x 50, then 0.9 x 95 + 0.1 x 5.
    assert model._ema_update("loss_normalizer", 50, 100) == pytest.approx(95)
    assert model._ema_update("loss_normalizer", 5, 100) == pytest.approx(86)
    assert "loss_normalizer" not in model.state_dict()


def test_retinanet_labels_by_hand():
    model = retinanet()
    anchors = [Boxes([[0.0, 0, 10, 10], [0, 0, 10, 4.5]]), Boxes([[50.0, 50, 60, 60], [0, 0, 10, 20]])]
    gt = [objects([[0, 0, 10, 10], [0, 0, 10, 22]], [2, 1]), objects()]
    labels, boxes = model.label_anchors(anchors, gt)
    # IoUs with object 0: 1, 0.45 (ignored), 0, 0.5; with object 1: 0.45, 0.2, 0, 0.91.
    assert labels[0].tolist() == [2, -1, 3, 1] and labels[1].tolist() == [3, 3, 3, 3]
    assert boxes[0][[0, 3]].tolist() == [[0, 0, 10, 10], [0, 0, 10, 22]]
    assert boxes[1].shape == (4, 4) and not boxes[1].any()


def test_retinanet_losses_by_hand():
    model = retinanet(focal_loss_alpha=0.25, focal_loss_gamma=2.0)
    anchors = [Boxes([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])]
    labels, boxes = [torch.tensor([1, 3, -1])], [torch.tensor([[5.0, 0, 15, 10]] * 3)]
    with EventStorage() as storage:
        losses = model.losses(anchors, [torch.zeros(1, 3, 3)], labels, [torch.zeros(1, 3, 4)], boxes)
        assert storage.latest()["num_pos_anchors"][0] == 1
    # At logit 0: 0.5^2 log 2, times 0.25 for the positive and 0.75 for the five negatives; the third is ignored.
    normalizer = 0.9 * 100 + 0.1 * 1
    assert losses["loss_cls"].item() == pytest.approx(0.25 * math.log(2) * (0.25 + 5 * 0.75) / normalizer, rel=1e-5)
    assert losses["loss_box_reg"].item() == pytest.approx(0.5 / normalizer, rel=1e-5)


def points(*centers, stride):
    return Boxes([[x - stride / 2, y - stride / 2, x + stride / 2, y + stride / 2] for x, y in centers])


def test_fcos_labels_by_hand():
    model = fcos()
    anchors = [
        points((10, 10), (20, 20), (33, 20), (60, 20), stride=8),
        points((20, 20), (43, 20), stride=16),
        points((16, 16), stride=32),
    ]
    gt = objects([[0, 0, 40, 40], [18, 18, 24, 24], [18, 0, 218, 300]], [0, 1, 2])
    labels, boxes = model.label_anchors(anchors, [gt, objects()])
    # Stride 8: (10, 10) lies 10 < 12 from the centre of object 0, and 30 < 64 from its far sides; (20, 20) lies in
    # objects 0 and 1, and 1 is smaller; (33, 20) is 13 away from object 0's centre; (60, 20) is in 2, but far away.
    assert labels[0][:4].tolist() == [0, 1, 3, 3]
    # Stride 16 is for sides 64 to 128 away: object 0 is too small for it, and stride 32 is too far from object 2.
    assert labels[0][4:].tolist() == [3, 3, 3]
    assert boxes[0][:2].tolist() == [[0, 0, 40, 40], [18, 18, 24, 24]] and not boxes[0][2:].any()
    assert labels[1].tolist() == [3] * 7 and boxes[1].shape == (7, 4)


def test_fcos_size_ranges():
    model = fcos(center_sampling_radius=100.0)
    anchors = [points((150, 150), stride=stride) for stride in STRIDES]
    # Half sizes 63, 65, 127, 129, and 1000 for the last level, whose range has no end.
    expected = {63: [0, 3, 3], 65: [3, 0, 3], 127: [3, 0, 3], 129: [3, 3, 0], 1000: [3, 3, 0]}
    for half, labels in expected.items():
        box = [[150 - half, 150 - half, 150 + half, 150 + half]]
        assert model.label_anchors(anchors, [objects(box, [0])])[0][0].tolist() == labels, half


def test_fcos_losses_by_hand():
    model = fcos(focal_loss_alpha=0.25, focal_loss_gamma=2.0)
    anchors = [points((20, 20), (60, 60), stride=8)]
    labels, boxes = [torch.tensor([1, 3])], [torch.tensor([[10.0, 10, 50, 40], [0, 0, 0, 0]])]
    # Sides 10, 10, 30, 20 away: centerness sqrt(10/30 x 10/20).
    target = math.sqrt(1 / 6)
    centerness = model.compute_ctrness_targets(anchors, boxes)
    assert centerness.shape == (1, 2) and centerness[0, 0].item() == pytest.approx(target, rel=1e-5)
    # Predicted sides 10, 10, 10, 20: box 20 x 30 in 40 x 30, GIoU 0.5.
    deltas = torch.tensor([[[10.0, 10, 10, 20], [0, 0, 0, 0]]]) / 8
    logit = torch.full((1, 2, 1), 0.4)
    with EventStorage() as storage:
        losses = model.losses(anchors, [torch.zeros(1, 2, 3)], labels, [deltas], boxes, [logit])
        assert storage.latest()["num_pos_anchors"][0] == 1
    normalizer = 0.9 * 300 + 0.1 * 1
    p = 1 / (1 + math.exp(-0.4))
    ctr = -target * math.log(p) - (1 - target) * math.log(1 - p)
    cls = 0.25 * math.log(2) * (0.25 + 5 * 0.75)  # as for RetinaNet above
    assert losses["loss_fcos_cls"].item() == pytest.approx(cls / normalizer, rel=1e-5)
    assert losses["loss_fcos_loc"].item() == pytest.approx(0.5 / normalizer, rel=1e-5)
    assert losses["loss_fcos_ctr"].item() == pytest.approx(ctr / normalizer, rel=1e-5)
