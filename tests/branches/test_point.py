"""The branch of one box a point, against numbers worked out by hand.

Focal loss of one entry: score 0.5 costs 0.0433217 where the target is 1 and 0.1299651 where it is 0; score 0.25 costs
0.1949476 and 0.0134851.
"""

import math

import pytest
import torch

from defcn_ext.assignment import build_rule
from defcn_ext.branches import PointBranch
from defcn_ext.branches.point import centerness_target, flatten_levels
from defcn_ext.layers import MaxFiltering, Scale
from defcn_ext.layers.towers import HeadFeatures
from defcn_ext.losses import normalizer
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points

CHANNELS, CLASSES = 4, 2
TWO_POINTS = Points.from_sizes([(1, 2)], [40])  # at (20, 20) and (60, 20)

# what the two points predict, what they stand for, and the GIoU losses of these pairs
PREDICTED = torch.tensor([[10.0, 10, 10, 10], [10, 20, 30, 40]])
WANTED = torch.tensor([[10.0, 10, 20, 10], [15, 15, 25, 50]])
GIOU = (0.3333333, 0.3977933)
TARGETS = (0.7071068, 0.4242641)  # sqrt(10/20 * 10/10), sqrt(15/25 * 15/50)
CLS_OF_BOTH = 2 * 0.0433217 + 2 * 0.1299651


def make_branch(**options):
    return PointBranch(in_channels=CHANNELS, num_classes=CLASSES, prior_prob=0.01, rule=build_rule("POTO"), **options)


def make_objects(ltrb=WANTED, points=TWO_POINTS, image=0):
    boxes = points.boxes(ltrb) if len(ltrb) else torch.zeros(0, 4)
    return Objects(boxes, torch.arange(len(ltrb)) % CLASSES, torch.full((len(ltrb),), image))


def predict(**maps):
    return DensePredictions(torch.zeros(1, 2, CLASSES), TWO_POINTS.boxes(PREDICTED)[None], **maps)


def pair_up(count=2):
    return Pairs(torch.arange(count), torch.arange(count))


def losses(branch, predictions, pairs=None, objects=None):
    pairs = pair_up() if pairs is None else pairs
    terms = branch.losses(TWO_POINTS, predictions, make_objects() if objects is None else objects, pairs)
    return {name: value.item() for name, value in terms.items()}


@pytest.fixture
def other_worker(monkeypatch):
    """Pretends that there is a second worker, whose numbers, in the order they are asked for, are those given."""

    def pretend(*numbers):
        rest = list(numbers)
        monkeypatch.setattr(normalizer.comm, "get_world_size", lambda: 2)
        monkeypatch.setattr(normalizer.dist, "all_reduce", lambda value: value.add_(rest.pop(0)))
        return rest

    return pretend


def test_focal_and_giou_over_the_number_of_positives():
    found = losses(make_branch(), predict())
    assert found == pytest.approx({"cls": CLS_OF_BOTH / 2, "box": 2 * sum(GIOU) / 2}, rel=1e-5)


def test_weights():
    found = losses(make_branch(cls_weight=3.0, box_weight=0.5), predict())
    assert found == pytest.approx({"cls": 3 * CLS_OF_BOTH / 2, "box": 0.5 * sum(GIOU) / 2}, rel=1e-5)


def test_the_filter_enters_the_class_loss():
    found = losses(make_branch(), predict(objectness=torch.zeros(1, 2, 1)))
    assert found["cls"] == pytest.approx(0.1949476 + 0.0134851, rel=1e-5)


def test_an_image_without_objects_is_background_and_trains_no_box():
    predictions = predict()
    predictions.boxes.requires_grad_()
    terms = make_branch().losses(TWO_POINTS, predictions, make_objects(torch.zeros(0, 4)), pair_up(0))
    terms["box"].backward()
    assert terms["cls"].item() == pytest.approx(4 * 0.1299651, rel=1e-5)
    assert terms["box"].item() == 0 and not predictions.boxes.grad.any()


def test_with_centerness_the_boxes_are_weighted_by_its_target():
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1)  # 0.5 and 0.75
    found = losses(make_branch(centerness="reg"), predict(centerness=logits))
    assert found["cls"] == pytest.approx(CLS_OF_BOTH / 2, rel=1e-5)
    assert found["box"] == pytest.approx(2 * (0.2357023 + 0.1687694) / 1.1313708, rel=1e-5)
    # ln 2, and -0.4242641 ln 0.75 - 0.5757359 ln 0.25
    assert found["centerness"] == pytest.approx((0.6931472 + 0.9201935) / 2, rel=1e-5)


def test_the_weights_of_date():
    """20-date, "What to test": L1 0.5 and GIoU 0.703030 of one pair in an image 400 wide and 200 high."""
    predictions = DensePredictions(torch.zeros(1, 2, CLASSES), torch.tensor([[[10.0, 10, 110, 110], [0, 0, 0, 0]]]))
    size, zero = torch.tensor([[200.0, 400]]), torch.tensor([0])
    objects = Objects(torch.tensor([[20.0, 20, 100, 120]]), zero, zero, size)
    branch = make_branch(cls_weight=2.0, l1_weight=5.0, box_weight=2.0)
    found = losses(branch, predictions, pair_up(1), objects)
    cls = 2 * (0.0433217 + 3 * 0.1299651)
    assert found == pytest.approx({"cls": cls, "l1": 0.5, "box": 0.703030}, rel=1e-5)
    half = losses(make_branch(cls_weight=2.0, l1_weight=5.0, loss_weight=0.5), predictions, pair_up(1), objects)
    assert half == pytest.approx({name: value / 2 for name, value in found.items()}, rel=1e-6)


def test_l1_is_a_share_of_the_images_own_size():
    """The same pair in two images of one batch, of which one is twice as wide and four times as high."""
    box, wanted = torch.tensor([10.0, 10, 50, 30]), torch.tensor([[14.0, 10, 50, 30]])  # cx off by 2, w by 4
    predictions = DensePredictions(torch.zeros(2, 2, CLASSES), box.expand(2, 2, 4))
    sizes = torch.tensor([[25.0, 100], [100, 200]])
    for image, share in ((0, 6 / 100), (1, 6 / 200)):
        objects = Objects(wanted, torch.tensor([0]), torch.tensor([image]), sizes)
        pairs = Pairs(torch.tensor([2 * image]), torch.tensor([0]))
        found = losses(make_branch(l1_weight=5.0), predictions, pairs, objects)
        assert found["l1"] == pytest.approx(5 * share, rel=1e-5)


def test_minus_log_iou_weighted_by_centerness():
    """DATE's FCOS branch. IoU 20 * 20 / (20 * 30) of the first pair, 0.6260163 of the second."""
    branch = make_branch(box_loss="iou", box_weight=1.0, centerness="cls")
    found = losses(branch, predict(centerness=torch.zeros(1, 2, 1)))
    weighted = 0.7071068 * -math.log(2 / 3) + 0.4242641 * -math.log(0.6260163)
    assert found["box"] == pytest.approx(weighted / 1.1313708, rel=1e-5)
    assert found["centerness"] == pytest.approx(2 * math.log(2) / 2, rel=1e-5)


def test_normalising_by_image_without_asking_other_workers(monkeypatch):
    monkeypatch.setattr(normalizer.comm, "get_world_size", lambda: 2)
    points = make_objects()
    objects = Objects(points.boxes, points.classes, points.image, torch.full((3, 2), 80.0))
    found = losses(make_branch(normalizer="images"), predict(), objects=objects)
    assert found["cls"] == pytest.approx(CLS_OF_BOTH / 4, rel=1e-5)  # 2 positives, and two images without
    assert found["box"] == pytest.approx(2 * sum(GIOU) / 4, rel=1e-5)


def test_an_ignored_point_is_neither_positive_nor_background():
    pairs = Pairs(torch.tensor([0]), torch.tensor([0]), ignored=torch.tensor([1]))
    found = losses(make_branch(), predict(), pairs)
    assert found["cls"] == pytest.approx(0.0433217 + 0.1299651, rel=1e-5)


def test_exponents_that_would_overflow_give_finite_boxes():
    boxes = make_branch(box_form="exp").decode(TWO_POINTS, torch.full((1, 2, 4), 500.0))
    assert boxes.isfinite().all() and (boxes.abs().amin() > 9e4)


def test_normalisers_are_means_over_workers(other_worker):
    rest = other_worker(6, 6, 2.8686292)
    assert losses(make_branch(), predict())["box"] == pytest.approx(2 * sum(GIOU) / 4, rel=1e-5)
    found = losses(make_branch(centerness="reg"), predict(centerness=torch.zeros(1, 2, 1)))
    assert found["cls"] == pytest.approx(CLS_OF_BOTH / 4, rel=1e-5)
    assert found["centerness"] == pytest.approx(2 * math.log(2) / 4, rel=1e-5)
    assert found["box"] == pytest.approx(2 * (0.2357023 + 0.1687694) / 2, rel=1e-5)  # (1.1313708 + 2.8686292) / 2
    assert not rest


def test_normalisers_are_never_below_one(other_worker):
    one = make_objects(torch.tensor([[10.0, 20, 30, 20]]))
    found = losses(make_branch(centerness="reg"), predict(centerness=torch.zeros(1, 2, 1)), pair_up(1), one)
    # I = 20 * 20, U = 40 * 40, and the object holds the prediction
    assert found["box"] == pytest.approx(2 * 0.5773503 * (1 - 400 / 1600), rel=1e-5)
    other_worker(1)
    none = losses(make_branch(), predict(), pair_up(0), make_objects(torch.zeros(0, 4)))
    assert none["cls"] == pytest.approx(4 * 0.1299651, rel=1e-5)  # the mean is 0.5


def test_centerness_targets():
    """An object seen from inside, its like in the next image, and one that lies beyond the point in x and in y."""
    boxes = torch.tensor([[10.0, 0, 50, 40], [10, 0, 50, 40], [100, 100, 120, 120]])
    objects = Objects(boxes, torch.zeros(3, dtype=torch.long), torch.tensor([0, 1, 1]))
    pairs = Pairs(torch.tensor([0, 2, 3]), torch.arange(3))
    assert centerness_target(TWO_POINTS, objects, pairs).tolist() == pytest.approx([0.5773503, 0.5773503, 0], abs=1e-7)


def test_each_pair_has_the_target_of_the_losses_above():
    assert centerness_target(TWO_POINTS, make_objects(), pair_up()).tolist() == pytest.approx(TARGETS, rel=1e-6)


@pytest.mark.parametrize("how, value", [("sqrt", 0.6796177), ("product", 0.4618802)])
def test_final_scores(how, value):
    branch = make_branch(centerness="reg", centerness_score=how)
    logit = torch.tensor([0.5773503]).logit()
    assert branch.final_scores(torch.tensor([0.8]), logit).item() == pytest.approx(value, rel=1e-6)


def make_features(points, box=0.0, cls=0.0, scales=None):
    def level(value):
        return [torch.full((1, CHANNELS, h, w), value) for h, w in points.sizes]

    return HeadFeatures(cls=level(cls), box=level(box), scales=scales or [Scale() for _ in points.sizes])


@pytest.mark.parametrize(
    "form, coarse, fine",
    [
        ("relu", (3 * 0.5 * 16, 0, 3 * 1.5 * 16, 0), (2 * 0.5 * 8, 0, 2 * 1.5 * 8, 0)),
        ("exp", [math.exp(3 * t) for t in (0.5, -1, 1.5, 0)], [math.exp(2 * t) for t in (0.5, -1, 1.5, 0)]),
    ],
)
def test_box_forms(form, coarse, fine):
    """Each level has its own factor; only "relu" knows strides."""
    points = Points.from_sizes([(1, 2), (1, 1)], [8, 16])
    branch = make_branch(box_form=form)
    branch.bbox_pred.bias.data = torch.tensor([0.5, -1, 1.5, 0])
    boxes = branch(points, make_features(points, scales=[Scale(2.0), Scale(3.0)])).boxes
    distances = torch.cat([points.xy - boxes[0, :, :2], boxes[0, :, 2:] - points.xy], dim=1)
    torch.testing.assert_close(distances, torch.tensor([fine, fine, coarse]))


@pytest.mark.parametrize("tower, value", [("cls", 5.0), ("reg", 7.0)])
def test_the_tower_that_predicts_the_centerness(tower, value):
    branch = make_branch(centerness=tower)
    torch.nn.init.zeros_(branch.centerness.weight)
    branch.centerness.weight.data[0, 0, 1, 1] = 1.0
    predictions = branch(TWO_POINTS, make_features(TWO_POINTS, cls=5.0, box=7.0))
    assert predictions.centerness.tolist() == [[[value], [value]]]
    assert make_branch()(TWO_POINTS, make_features(TWO_POINTS)).centerness is None


def test_scores_at_the_start_are_the_prior_and_half_of_it_with_a_filter():
    features = make_features(TWO_POINTS)
    plain = make_branch()(TWO_POINTS, features)
    filtered = make_branch(max_filtering=MaxFiltering(CHANNELS, 2, 3, ""))(TWO_POINTS, features)
    assert plain.objectness is None and filtered.objectness.shape == (1, 2, 1)
    torch.testing.assert_close(plain.score_logits().sigmoid(), torch.full((1, 2, CLASSES), 0.01))
    torch.testing.assert_close(filtered.score_logits().sigmoid(), torch.full((1, 2, CLASSES), 0.005))


def test_levels_are_laid_out_row_by_row():
    """The value of an entry spells its image, channel, row and column."""
    n, c, i, j = torch.meshgrid(*(torch.arange(k) for k in (2, 3, 2, 4)), indexing="ij")
    fine = 1000 * n + 100 * c + 10 * i + j
    flat = flatten_levels([fine, fine[..., :1, :1] + 5000])
    assert flat.shape == (2, 9, 3)
    assert flat[1, :, 2].tolist() == [1200, 1201, 1202, 1203, 1210, 1211, 1212, 1213, 6200]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"box_form": "linear"}, "BOX_FORM: unknown value 'linear'; known: 'relu', 'exp'"),
        ({"box_loss": "l1"}, "BOX_LOSS: unknown value 'l1'; known: 'giou', 'iou'"),
        ({"normalizer": "objects"}, "NORMALIZER: unknown value 'objects'; known: 'positives', 'images'"),
        ({"centerness": "box"}, "CENTERNESS: unknown value 'box'; known: '', 'cls', 'reg'"),
        ({"centerness_score": "mean"}, "CENTERNESS_SCORE: unknown value 'mean'; known: 'sqrt', 'product'"),
    ],
)
def test_unknown_options_name_what_is_known(options, message):
    with pytest.raises(ValueError, match=message):
        make_branch(**options)
