"""The branch of anchors, against numbers worked out by hand (20-date, sections 1 and 3)."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from defcn_ext.assignment import build_rule
from defcn_ext.branches import AnchorBranch
from defcn_ext.branches.point import centerness_target, flatten_levels
from defcn_ext.layers import Scale
from defcn_ext.layers.towers import HeadFeatures
from defcn_ext.losses import normalizer
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points

CHANNELS, CLASSES = 4, 2
RETINANET = {"scales": [4 * 2 ** (i / 3) for i in range(3)], "ratios": [0.5, 1.0, 2.0], "ignore_padding": True}
ONE_SQUARE = {"scales": [4.0], "ratios": [1.0]}
POSITIVE, NEGATIVE = 0.0433217, 0.1299651  # focal loss of a score of 0.5


def make_branch(shapes=RETINANET, **options):
    options = {"rule": build_rule("RetinaNet"), "box_loss": "delta_l1", "normalizer": "images", **shapes, **options}
    return AnchorBranch(in_channels=CHANNELS, num_classes=CLASSES, prior_prob=0.01, **options)


def make_features(points, scales):
    levels = [torch.zeros(2, CHANNELS, h, w) for h, w in points.sizes]
    return HeadFeatures(cls=levels, box=levels, scales=scales)


def test_anchors_of_retinanet():
    """20-date, "What to test": ratio by ratio, each with three scales, around the cell's corner."""
    points = Points.from_sizes([(2, 2), (1, 1)], [8, 16])
    anchors = make_branch().places(points).anchors
    flat = [[-22.63, -11.31, 22.63, 11.31], [-28.51, -14.25, 28.51, 14.25], [-35.92, -17.96, 35.92, 17.96]]
    square = [[-a, -a, a, a] for a in (16, 20.16, 25.40)]
    tall = [[y1, x1, y2, x2] for x1, y1, x2, y2 in flat]
    torch.testing.assert_close(anchors[:9], torch.tensor(flat + square + tall), rtol=0, atol=0.006)
    torch.testing.assert_close(anchors[9:18], anchors[:9] + torch.tensor([8.0, 0, 8, 0]))
    torch.testing.assert_close(anchors[18:27], anchors[:9] + torch.tensor([0, 8.0, 0, 8]))
    torch.testing.assert_close(anchors[36:], 2 * anchors[:9])


def test_anchors_follow_the_size_of_the_input():
    branch = make_branch(ONE_SQUARE)
    sizes = [len(branch.places(Points.from_sizes([shape], [8]))) for shape in ((2, 3), (1, 1), (3, 2), (2, 3))]
    assert sizes == [6, 1, 6, 6]
    assert branch.places(Points.from_sizes([(2, 3)], [8])).xy[2].tolist() == [16, 0]


def test_channels_and_points_agree():
    """Value of an entry: image, channel, row, column. Channel a K + k is class k of anchor a."""
    n, c, i, j = torch.meshgrid(*(torch.arange(k) for k in (2, 6, 2, 4)), indexing="ij")
    flat = flatten_levels([1000 * n + 100 * c + 10 * i + j, torch.full((2, 6, 1, 1), 7777)], per_cell=3)
    assert flat.shape == (2, 27, 2)
    for image, row, column, anchor, k in [(0, 0, 0, 0, 1), (1, 1, 2, 2, 0), (1, 0, 3, 1, 1)]:
        point = (row * 4 + column) * 3 + anchor
        assert flat[image, point, k] == 1000 * image + 100 * (2 * anchor + k) + 10 * row + column
    assert (flat[:, 24:] == 7777).all()


def test_every_anchor_reads_its_own_channels():
    points = Points.from_sizes([(1, 2), (1, 1)], [8, 16])
    branch = make_branch()
    branch.bbox_pred.bias.data = torch.arange(36.0)
    branch.cls_score.bias.data = torch.arange(18.0)
    predictions = branch(points, make_features(points, [Scale(1.0), Scale(2.0)]))
    box, cls = torch.arange(36.0).view(9, 4), torch.arange(18.0).view(9, 2)
    torch.testing.assert_close(predictions.deltas[1], torch.cat([box, box, 2 * box]))
    torch.testing.assert_close(predictions.logits[1], torch.cat([cls, cls, cls]))


@pytest.mark.parametrize("scales, factor", [((Scale(1.0), Scale(3.0)), 3), ((nn.Identity(), nn.Identity()), 1)])
def test_deltas_are_decoded_from_anchors(scales, factor):
    """DATE multiplies deltas by the level's factor, DeFCN's Anchor rule has none.

    The anchors are [-16, -16, 16, 16] and [-32, -32, 32, 32]; log 2 doubles a width, log 0.5 halves a height.
    """
    points = Points.from_sizes([(1, 1), (1, 1)], [8, 16])
    branch = make_branch(ONE_SQUARE)
    branch.bbox_pred.bias.data = torch.tensor([0.5, -0.25, math.log(2), math.log(0.5)])
    predictions = branch(points, make_features(points, scales))
    fine = [16 - 32, -8 - 8, 16 + 32, -8 + 8]
    x, y, w, h = 32 * factor, -16 * factor, 32 * 2**factor, 32 / 2**factor
    torch.testing.assert_close(predictions.boxes[1], torch.tensor([fine, [x - w, y - h, x + w, y + h]]).float())


def test_sizes_are_cut_off_while_decoding_and_not_in_the_loss():
    branch, points = make_branch(ONE_SQUARE), Points.from_sizes([(1, 1)], [8])
    raw = torch.tensor([[[0.0, 0, 100, 100]]])
    side = 32 * 1000 / 16
    torch.testing.assert_close(branch.decode(points, raw), torch.tensor([[[-1.0, -1, 1, 1]]]) * side / 2)
    objects = Objects(torch.tensor([[-16.0, -16, 16, 16]]), torch.tensor([0]), torch.tensor([0]))
    predictions = DensePredictions(torch.zeros(1, 1, 2), branch.decode(points, raw), deltas=raw)
    zero = torch.tensor([0])
    assert branch.box_loss_of(points, predictions, objects, Pairs(zero, zero)).tolist() == [200]


# Two cells of stride 32 with one anchor each, 128 pixels wide, around (0, 0) and (32, 0); two images of one size.
PAIR = Points.from_sizes([(1, 2)], [32])
# from the anchor [-64, -64, 64, 64]: dx = 32 / 128, dy = 64 / 128, log(64 / 128), log(256 / 128)
TARGET, TARGET_L1 = [0.0, -64, 64, 192], 0.25 + 0.5 + 2 * math.log(2)


def make_objects(count=1, sizes=((32, 64), (32, 64)), image=0):
    where = torch.full((count,), image)
    return Objects(torch.tensor([TARGET] * count).view(-1, 4), torch.zeros(count).long(), where, torch.tensor(sizes))


def predict(images=2):
    """Scores of 0.5, and boxes that are the anchors."""
    deltas = torch.zeros(images, 2, 4, requires_grad=True)
    logits = torch.zeros(images, 2, CLASSES, requires_grad=True)
    return DensePredictions(logits, make_branch(ONE_SQUARE).decode(PAIR, deltas), deltas=deltas)


def test_l1_of_deltas_over_the_images_positives(monkeypatch):
    """Two images with one positive and none count as 2, on every worker for itself; the weight is DATE's lambda."""
    monkeypatch.setattr(normalizer.comm, "get_world_size", lambda: 2)
    branch = make_branch(ONE_SQUARE, loss_weight=2.0, box_weight=1.0)
    terms = branch.losses(PAIR, predict(), make_objects(), Pairs(torch.tensor([0]), torch.tensor([0])))
    found = {name: value.item() for name, value in terms.items()}
    cls = POSITIVE + 7 * NEGATIVE
    assert found == pytest.approx({"cls": 2 * cls / 2, "box": 2 * TARGET_L1 / 2}, rel=1e-5)


@pytest.mark.parametrize("positives, count", [([], 2), ([0, 2], 2), ([0, 1], 3), ([0, 1, 2], 3)])
def test_the_normaliser_sums_over_images(positives, count):
    """Points 0 and 1 are of the first image, 2 and 3 of the second."""
    image = torch.tensor(positives, dtype=torch.long).div(2, rounding_mode="floor")
    objects = make_objects(len(positives))
    objects = Objects(objects.boxes, objects.classes, image, objects.image_sizes)
    pairs = Pairs(torch.tensor(positives, dtype=torch.long), torch.arange(len(positives)))
    assert make_branch(ONE_SQUARE).count(objects, pairs).item() == count
    terms = make_branch(ONE_SQUARE).losses(PAIR, predict(), objects, pairs)
    assert terms["cls"].item() == pytest.approx(
        (len(positives) * POSITIVE + (8 - len(positives)) * NEGATIVE) / count, rel=1e-5
    )


def test_boxes_of_anchors_may_be_trained_by_giou():
    """The anchor [-64, -64, 64, 64] against [0, -64, 64, 192]: I = 64 * 128, U = 3 * 64 * 128, hull 128 * 256."""
    branch = make_branch(ONE_SQUARE, box_loss="giou", box_weight=1.0)
    terms = branch.losses(PAIR, predict(), make_objects(), Pairs(torch.tensor([0]), torch.tensor([0])))
    assert terms["box"].item() == pytest.approx((1 - (1 / 3 - 1 / 4)) / 2, rel=1e-5)


def test_the_ignore_band_has_no_loss_and_no_gradient():
    predictions = predict()
    pairs = Pairs(torch.tensor([0]), torch.tensor([0]), ignored=torch.tensor([3]))
    terms = make_branch(ONE_SQUARE).losses(PAIR, predictions, make_objects(), pairs)
    sum(terms.values()).backward()
    assert terms["cls"].item() == pytest.approx((POSITIVE + 5 * NEGATIVE) / 2, rel=1e-5)
    assert predictions.logits.grad.flatten(0, 1).all(-1).tolist() == [True, True, True, False]
    assert predictions.deltas.grad.flatten(0, 1).all(-1).tolist() == [True, False, False, False]


def test_cells_behind_an_images_own_padding_have_no_loss():
    """The first image, 20 x 30 (height x width), is padded to 32 x 32 by itself and to 32 x 64 by the second."""
    predictions, objects = predict(), make_objects(sizes=((20, 30), (32, 64)))
    branch = make_branch({**ONE_SQUARE, "ignore_padding": True})
    terms = branch.losses(PAIR, predictions, objects, Pairs(torch.tensor([0]), torch.tensor([0])))
    sum(terms.values()).backward()
    assert terms["cls"].item() == pytest.approx((POSITIVE + 5 * NEGATIVE) / 2, rel=1e-5)
    assert predictions.logits.grad.flatten(0, 1).all(-1).tolist() == [True, False, True, True]
    kept = make_branch(ONE_SQUARE).losses(PAIR, predict(), objects, Pairs(torch.tensor([0]), torch.tensor([0])))
    assert kept["cls"].item() == pytest.approx((POSITIVE + 7 * NEGATIVE) / 2, rel=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("sizes", [[(96, 128), (40, 50)], [(64, 64), (1, 128), (96, 65)], [(33, 96)]])
def test_which_cells_lie_in_the_padding(offset, sizes):
    """On a canvas of 96 x 128. A cell counts if its corner lies in the image, padded to a multiple of 32."""
    points = Points.from_sizes([(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)], [8, 16, 32, 64, 128])
    objects = make_objects(0, sizes=sizes)
    branch = make_branch({**ONE_SQUARE, "ignore_padding": True}, offset=offset)
    expected, index = [], 0
    for height, width in sizes:
        own_height, own_width = (math.ceil(x / 32) * 32 for x in (height, width))
        for (rows, columns), stride in zip(points.sizes, points.strides):
            for i in range(rows):
                for j in range(columns):
                    if i * stride >= own_height or j * stride >= own_width:
                        expected.append(index)
                    index += 1
    assert branch.ignored(points, objects, Pairs(*[torch.zeros(0).long()] * 2)).tolist() == expected


def test_band_and_padding_join_and_spare_the_positives():
    """Rules such as MinCost look at all points, so that a positive may lie in the padding: it keeps its loss."""
    objects = make_objects(sizes=((20, 30), (32, 64)))
    branch = make_branch({**ONE_SQUARE, "ignore_padding": True})
    zero = torch.tensor([0])
    assert branch.ignored(PAIR, objects, Pairs(zero, zero, ignored=torch.tensor([3]))).tolist() == [1, 3]
    pairs = Pairs(torch.tensor([1]), zero)
    assert branch.ignored(PAIR, objects, pairs).tolist() == []
    terms = branch.losses(PAIR, predict(), objects, pairs)
    assert terms["cls"].item() == pytest.approx((POSITIVE + 7 * NEGATIVE) / 2, rel=1e-5)
    assert make_branch(ONE_SQUARE).ignored(PAIR, objects, pairs) is None


def test_an_object_that_is_an_anchor_is_predicted_by_zero_deltas():
    """Points, anchors, channels and objects agree all the way from the rule to the loss, in the second image."""
    points = Points.from_sizes([(6, 8), (3, 4)], [16, 32])
    branch = make_branch()
    predictions = branch(points, make_features(points, [Scale(), Scale()]))
    predictions = DensePredictions(
        predictions.logits, predictions.boxes, deltas=torch.full_like(predictions.deltas, 9.0)
    )
    index = (2 * 8 + 3) * 9 + 4  # row 2, column 3, square of the middle scale
    predictions.deltas[1, index] = 0
    box = branch.places(points).anchors[index][None]
    sizes = torch.tensor([[96.0, 128]] * 2)
    objects = Objects(box, torch.tensor([1]), torch.tensor([1]), sizes)
    pairs = branch.assign(points, predictions, objects)
    point = len(branch.places(points)) + index
    assert point in pairs.point.tolist() and pairs.point.min() >= len(branch.places(points))
    losses = branch.box_loss_of(points, predictions, objects, pairs)
    assert losses[pairs.point == point].tolist() == [0] and (losses[pairs.point != point] > 1).all()


def test_the_centerness_of_an_anchor_is_that_of_its_middle():
    """Middles at (24, 16) and (16, 16) of an object [8, 8, 40, 40]: sqrt(16/16 8/24) and sqrt(8/24 8/24)."""
    points = Points.from_sizes([(4, 6)], [8])
    branch = make_branch(ONE_SQUARE, centerness="reg", box_loss="giou", normalizer="positives")
    predictions = branch(points, make_features(points, [Scale()]))
    assert predictions.centerness.shape == (2, 24, 1) and branch.centerness.out_channels == 1
    objects = Objects(
        torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]), torch.tensor([0]), torch.tensor([[32.0, 48]] * 2)
    )
    pairs = Pairs(torch.tensor([2 * 6 + 3, 2 * 6 + 2]), torch.tensor([0, 0]))
    target = torch.tensor([(8 / 24) ** 0.5, 8 / 24])
    terms = branch.losses(points, predictions, objects, pairs)
    torch.testing.assert_close(centerness_target(branch.places(points), objects, pairs), target)
    losses = branch.box_loss_of(points, predictions, objects, pairs)
    torch.testing.assert_close(terms["box"], 2 * (losses * target).sum() / target.sum().clamp(min=1))
    assert make_branch(RETINANET, centerness="cls").centerness.out_channels == 9


def test_anchors_of_whole_pixels_are_torchvisions():
    """Sides cut to whole pixels on each level, corners rounded, and cells that fill an image of 160 x 224."""
    sides = [[x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))] for x in (32, 64, 128, 256, 512)]
    assert sides[1] == [64, 80, 101]
    branch = make_branch({"sizes": sides, "ratios": [0.5, 1.0, 2.0], "whole_pixels": True})
    sizes = [(20, 28), (10, 14), (5, 7), (3, 4), (2, 2)]
    ours = branch.places(Points.from_sizes(sizes, [8, 16, 32, 64, 128], offset=0.0, fill=True)).anchors
    maps = [torch.zeros(1, 1, *size) for size in sizes]
    images = ImageList(torch.zeros(1, 3, 160, 224), [(160, 224)])
    (theirs,) = AnchorGenerator(tuple(map(tuple, sides)), ((0.5, 1.0, 2.0),) * 5)(images, maps)
    assert branch.per_cell == 9 and torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sizes": [[32.0], []]}, "ANCHORS.SIZES: give as many positive sides for each level"),
        ({"scales": []}, r"ANCHORS: give positive SCALES and RATIOS, got \[\]"),
        ({"ratios": [1.0, -2.0]}, r"ANCHORS: .*\[1.0, -2.0\]"),
        ({"refinement": nn.Identity()}, "REFINE: made for points, not for anchors"),
        ({"box_loss": "l2"}, "BOX_LOSS: unknown value 'l2'; known: 'giou', 'iou', 'delta_l1'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make_branch({**RETINANET, **options})
