"""The branches of one-to-few and of dual weighting: worked examples, starts, and what a config may not ask."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from defcn_ext.branches import build_branches
from defcn_ext.branches import dual as module
from defcn_ext.branches.point import centerness_target
from defcn_ext.layers.towers import HeadFeatures
from defcn_ext.structures import Pairs, Points
from detectron2.modeling import build_model
from tests.tiny import BOTH, DW, MANY, O2F, ONE, image_with, tiny_cfg
from tests.weighted_examples import O2F_POINTS, dw_example, o2f_conflict, o2f_example, with_listed

PAPER_DW = (MANY + "RULE", "DW(form=paper)", MANY + "DETACH_NEGATIVE", True)


def build(*opts):
    (branch,) = build_branches(tiny_cfg(*opts), 64).values()
    return branch


def losses_of(branch, example, progress=0.0):
    predictions, objects = example.predictions(), example.objects()
    pairs = branch.assign(example.points, predictions, objects, progress)
    return predictions, branch.losses(example.points, predictions, objects, pairs)


# o2f (40-o2f sections 12 and 13)


@pytest.mark.parametrize("progress, cls", [(0.0, 0.284497), (1.0, 0.230188)])
def test_o2f_as_released(progress, cls):
    _, losses = losses_of(build(*O2F), o2f_example(), progress)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx({"cls": cls, "box": 0.488187}, abs=1e-5)


@pytest.mark.parametrize("progress, cls", [(0.0, 4.152946), (1.0, 3.202538)])
def test_o2f_as_in_the_paper(progress, cls):
    """Ambiguous points weigh 1, and boxes are not weighted; the paper names no divisor, here it is the 7 positives."""
    opts = (ONE + "RULE", "O2F(ambiguous=1.0)", ONE + "BOX_WEIGHTS", "", ONE + "BOX_WEIGHT", 1.0)
    _, losses = losses_of(build(*O2F, *opts), o2f_example(), progress)
    assert losses["cls"].item() == pytest.approx(cls / 7, abs=1e-5)
    assert losses["box"].item() == pytest.approx(1.9 / 7, abs=1e-5)


def test_o2f_one_to_two():
    """Points of p = 0.6 and 0.25 as full positives, the other seven as background."""
    opts = (ONE + "RULE", "O2F(k=2, t_max=1.0, t_min=1.0, ambiguous=1.0)")
    _, losses = losses_of(build(*O2F, *opts), o2f_example())
    p = torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1, 0.35, 0.05])
    expected = -torch.tensor([0.6, 0.25]).log().sum() - 0.75 * (p**2 * (1 - p).log()).sum()
    assert losses["cls"].item() == pytest.approx(expected.item() / 2, abs=1e-5)


def test_o2f_gradient_is_that_of_the_labels():
    """d/dz of w BCE(p, t) is w (p - t), here of the class logit a with p = sigma(a) sigma(b): w (p - t) / (1 - p)
    times 1 - sigma(a); it vanishes at p = t."""
    example = o2f_example()
    example.scores[7, 1] = 0.48 / (1 - 0.0)  # (20, 12): p = 0.48, and t = 0.48 / 0.5 * 0.6
    example.scores[6, 1] = 0.6  # the best ambiguous one: p = t = T
    example.scores[12, 1] = 0.7
    predictions, losses = losses_of(build(*O2F), example)
    losses["cls"].backward()
    grad = predictions.logits.grad[0, :, 1]
    assert grad[6].item() == pytest.approx(0, abs=1e-7)
    p, t = 0.48, 0.48
    assert grad[7].item() == pytest.approx(0.4 * (p - t), abs=1e-7)
    a = predictions.logits.detach()[0, 12, 1].sigmoid()
    assert grad[12].item() == pytest.approx(-(1 - a).item() / 7, rel=1e-5)
    assert (grad[[16, 18]] > 0).all() and predictions.boxes.grad is None


@pytest.mark.parametrize("classes", [(0, 0), (0, 1)])
def test_o2f_conflict(classes):
    """Point 12 is of object B; with other classes it is also an ordinary negative of class A."""
    branch, example = build(*O2F), o2f_conflict(classes)
    _, losses = losses_of(branch, example)
    p, t = torch.tensor([0.2, 0.6, 0.3]), 0.6
    expected = -p[0].log() - p[1].log() - 0.4 * (t * p[2].log() + (1 - t) * (1 - p[2]).log())
    if classes == (0, 1):
        expected = expected - 0.75 * (p**2 * (1 - p).log()).sum()
    assert losses["cls"].item() == pytest.approx(expected.item() / 3, abs=1e-5)


def test_box_weights_are_divided_by_their_sum_however_small():
    """40-o2f section 6.2: at least 1e-6. One positive near a corner of its object has a centerness of 1 / 15.

    The point (4, 4) is 2 pixels from the left and the top of its object, and 30 from the other sides; a floor of 1
    would leave a fifteenth of its box loss, 2 * 0.5.
    """
    example = o2f_example()
    example.points = Points.from_sizes([(1, 1)], [8])
    example.scores, example.boxes = torch.full((1, 2), 0.5), torch.tensor([[2.0, 2, 18, 34]])
    example.gt_boxes = torch.tensor([[2.0, 2.0, 34.0, 34.0]])
    opts = (ONE + "RULE", "O2F(radius=3.0)")
    zero = torch.tensor([0])
    weight = centerness_target(example.points, example.objects(), Pairs(zero, zero))
    assert weight.tolist() == pytest.approx([1 / 15])
    for weights, box in [("centerness", 2 * 0.5), ("", 2 * 0.5), ("label", 2 * 0.5)]:
        _, losses = losses_of(build(*O2F, *opts, ONE + "BOX_WEIGHTS", weights), example)
        assert losses["box"].item() == pytest.approx(box, abs=1e-5)


def test_label_weights_and_the_normalizer_of_labels():
    """TOOD: everything divided by the sum of the labels, never below 1."""
    opts = (ONE + "BOX_WEIGHTS", "label", ONE + "NORMALIZER", "labels")
    example = o2f_example()
    _, losses = losses_of(build(*O2F, *opts), example)
    t = torch.tensor([0.60, 0.48, 0.36, 0.24, 1, 0.12, 0.30])
    miss = torch.tensor([0.4, 0.3, 0.5, 0.2, 0.25, 0.1, 0.15])
    assert losses["cls"].item() == pytest.approx(1.991478 / 3.1, abs=1e-5)
    assert losses["box"].item() == pytest.approx(2 * (t * miss).sum().item() / 3.1, abs=1e-5)


# labels by the quality of the box (90-closing-the-gap section 3)

P = torch.tensor([0.5, 0.4, 0.3, 0.2, 0.6, 0.1, 0.35, 0.25, 0.05])  # of `o2f_example`, in the order of O2F_POINTS
IOU = torch.tensor([0.6, 0.7, 0.5, 0.8, 0.75, 0.9, 0.4, 0.85, 0.3])
STEPS = "candidates=center, quality=poto(alpha=0.8)"


def test_mal_of_a_matched_pair():
    """The point of p = 0.6 and IoU 0.75 alone is chosen; the other eight are background, at their p^1.5."""
    opts = (
        *(ONE + "RULE", f"Combine({STEPS}, selection=matching, weighting=mal(gamma=1.5))", ONE + "BOX_WEIGHTS", ""),
        *(ONE + "BACKGROUND_WEIGHT", 0.75, ONE + "BACKGROUND_GAMMA", 1.5, ONE + "DETACH_IMPORTANCE", True),
    )
    predictions, losses = losses_of(build(*O2F, *opts), o2f_example())
    t, others = 0.75**1.5, P[P != 0.6]
    expected = -t * math.log(0.6) - (1 - t) * math.log(0.4) - 0.75 * (others**1.5 * (1 - others).log()).sum()
    assert losses["cls"].item() == pytest.approx(expected.item(), abs=1e-5)
    assert losses["box"].item() == pytest.approx(2 * 0.25, abs=1e-5)
    losses["cls"].backward()
    # of the others p^1.5 is a constant; d(-log(1 - p)) = p dz, and dz = (1 - sigma(a)) / (1 - p) da
    a, p = predictions.logits.detach()[0, O2F_POINTS[0], 1].sigmoid(), 0.5
    slope = 0.75 * p**2.5 * (1 - a) / (1 - p)
    assert predictions.logits.grad[0, O2F_POINTS[0], 1].item() == pytest.approx(slope.item(), rel=1e-5)


@pytest.mark.parametrize("normalizer, count", [("positives", 3), ("objects", 1), ("labels", None)])
def test_ia_bce_of_three_pairs(normalizer, count):
    """The three of the highest quality; box losses are weighted by the rank and divided as the class loss is."""
    opts = (
        *(ONE + "RULE", f"Combine({STEPS}, selection=top_k(k=3), weighting=ia_bce(alpha=0.25, tau=(1.5, 0.3)))"),
        *(ONE + "BOX_WEIGHTS", "rule", ONE + "NORMALIZER", normalizer, ONE + "BACKGROUND_WEIGHT", 1.0),
    )
    quality = P**0.2 * IOU**0.8
    chosen = quality.argsort(descending=True)[:3]
    p, u = P[chosen], IOU[chosen]
    t = p**0.25 * u**0.75
    others = P[~torch.isin(torch.arange(9), chosen)]
    for progress, tau in [(0.0, 1.5), (1.0, 0.3)]:
        w = (-t.argsort(descending=True).argsort() / tau).exp()
        label = t * w
        cls = -(label * p.log() + (1 - label) * (1 - p).log()).sum() - (others**2 * (1 - others).log()).sum()
        _, losses = losses_of(build(*O2F, *opts), o2f_example(), progress)
        divisor = count or max(1, label.sum().item())
        assert losses["cls"].item() == pytest.approx(cls.item() / divisor, abs=1e-5)
        assert losses["box"].item() == pytest.approx(2 * (w * (1 - u)).sum().item() / divisor, abs=1e-5)


def test_aligned_labels_with_a_plain_bce_and_with_quality_focal_loss():
    rule = "Combine(candidates=center, quality=tal(alpha=0.5, beta=6), selection=top_k(k=2), weighting=aligned)"
    opts = (
        ONE + "RULE",
        rule,
        ONE + "BOX_WEIGHTS",
        "label",
        ONE + "NORMALIZER",
        "labels",
        ONE + "BACKGROUND_WEIGHT",
        1.0,
    )
    metric = P**0.5 * IOU**6
    chosen = metric.argsort(descending=True)[:2]
    t = metric[chosen] / metric.max() * IOU[chosen].max()
    bce = -(t * P[chosen].log() + (1 - t) * (1 - P[chosen]).log())
    others = P[~torch.isin(torch.arange(9), chosen)]
    plain = (bce.sum() - (1 - others).log().sum()) / t.sum()
    focal = ((P[chosen] - t).square() * bce).sum() - (others**2 * (1 - others).log()).sum()
    for own, cls in [((0.0, 0.0), plain), ((2.0, 2.0), focal / t.sum())]:
        exponents = (ONE + "BACKGROUND_GAMMA", own[0], ONE + "PAIR_GAMMA", own[1])
        _, losses = losses_of(build(*O2F, *opts, *exponents), o2f_example())
        assert losses["cls"].item() == pytest.approx(cls.item(), abs=1e-5)
        assert losses["box"].item() == pytest.approx(
            2 * (t * (1 - IOU[chosen])).sum().item() / t.sum().item(), abs=1e-5
        )


# dual weighting (50-dw section 11)


def dw_losses(example, *opts, count=4):
    branch = build(*DW, *opts)
    branch.rule = with_listed(branch.rule, count)
    return losses_of(branch, example)


def test_dw_as_released():
    predictions, losses = dw_losses(dw_example())
    expected = {"cls_pos": 0.300891, "cls_neg": 0.252745, "box": 0.306998}
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(expected, abs=1e-5)
    losses["cls_neg"].backward()
    # d s / d a = s (1 - sigma(a)); the sum is divided by 1.696429
    s, a = dw_example().scores[:, 0], predictions.logits.detach()[0, :, 0].sigmoid()
    slope = torch.tensor([0.362205, 0, 1.999549, 0.139257, 0.342576]) * s * (1 - a) / 1.696429
    torch.testing.assert_close(predictions.logits.grad[0, :, 0], slope, atol=1e-6, rtol=1e-4)


def test_dw_as_in_the_paper():
    """The bag's losses, 1.232520 and 5 * 0.149899; the release's divisors stay, here the sum of 1 - P."""
    opts = (*PAPER_DW, MANY + "CLS_WEIGHT", 1.0, MANY + "BOX_WEIGHT", 5.0)
    example = dw_example()
    _, losses = dw_losses(example, *opts)
    spared = 2 - 0.402299 - 0.141762
    s = torch.cat([example.scores[:, 1], example.scores[4:, 0]])
    outside = -(s**2 * (1 - s).log()).sum().item()
    bag = losses["cls_pos"].item() + losses["cls_neg"].item() * spared - outside
    assert bag == pytest.approx(1.232520, abs=2e-5)
    assert losses["box"].item() == pytest.approx(5 * 0.149899, abs=2e-5)


def test_dw_of_one_candidate():
    """P = 1 everywhere, so the divisor is 1 instead of 0."""
    _, losses = dw_losses(dw_example(1), count=1)
    assert losses["cls_neg"].item() == pytest.approx(0.174340, abs=1e-5)


def test_the_divisor_is_clamped_after_the_mean_over_workers(monkeypatch):
    """Half a spared point on this worker and four on another: a mean of 2.25, not of 2.5."""
    monkeypatch.setattr(module, "worker_mean", lambda value, **_: ((value.detach() + 4) / 2).clamp(min=1))
    branch, example = build(*DW), dw_example()
    zero = torch.tensor([0])
    pairs = Pairs(zero, zero, torch.tensor([1.0]), torch.tensor([0.5]), covered=torch.tensor([True]))
    losses = branch.losses(example.points, example.predictions(), example.objects(), pairs)
    s = torch.tensor([0.4, 0.6, 0.2, 0.3] + [0.1] * 5)
    negative = -(s**2 * (1 - s).log()).sum() - 0.5 * 0.25 * torch.tensor(0.5).log()
    assert losses["cls_neg"].item() == pytest.approx(negative.item() / 2.25, rel=1e-5)
    assert losses["cls_pos"].item() == pytest.approx(0.25 * 0.693147 / 2.5, rel=1e-5)


def test_the_order_of_dws_objects_does_not_matter():
    """Two overlapping objects of one class: the smaller P counts wherever they share points."""
    branch = build(*DW)
    points = Points.from_sizes([(10, 10)], [8])
    rng = torch.Generator().manual_seed(0)
    example = o2f_example()
    example.points, example.scores = points, torch.rand(100, 2, generator=rng) * 0.4
    example.gt_boxes = torch.tensor([[10.0, 10, 60, 60], [16, 14, 70, 66]])
    example.boxes = example.gt_boxes[torch.arange(100) % 2] + 6 * torch.rand(100, 4, generator=rng)
    example.gt_classes = torch.tensor([1, 1])
    _, losses = losses_of(branch, example)
    example.gt_boxes = example.gt_boxes.flip(0)
    _, flipped = losses_of(branch, example)
    for key, value in losses.items():
        assert value.item() == pytest.approx(flipped[key].item(), rel=1e-5), key


@pytest.mark.parametrize("opts", [O2F, DW, (*DW, *PAPER_DW)], ids=["o2f", "dw", "dw_paper"])
def test_dead_boxes_are_finite(opts):
    """ltrb of 0 everywhere: o2f has no positive at all, DW's boxes still have a gradient."""
    example = o2f_example()
    example.boxes = example.points.boxes(torch.zeros(25, 4))
    predictions, losses = losses_of(build(*opts), example)
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())
    assert predictions.logits.grad.isfinite().all()
    assert predictions.boxes.grad is None or predictions.boxes.grad.isfinite().all()
    if opts is O2F:
        assert losses["box"] == 0


def test_ignored_points_are_no_background():
    """A rule of thresholds, whose points between them count for nothing."""
    text = "Combine(candidates=inside, quality=square_anchor(scale=2), selection=thresholds, weighting=soft_labels)"
    branch, example = build(*O2F, ONE + "RULE", text), o2f_example()
    predictions, objects = example.predictions(), example.objects()
    pairs = branch.assign(example.points, predictions, objects)
    pairs = replace(pairs, ignored=torch.tensor([x for x in (6, 7, 8) if x not in pairs.point.tolist()]))
    assert len(pairs.ignored) > 1
    loss = branch.losses(example.points, predictions, objects, pairs)["cls"]
    loss.backward()
    assert (predictions.logits.grad[0, pairs.ignored] == 0).all() and O2F_POINTS[0] in (6, 7, 8)


# The start


@pytest.mark.parametrize(
    "opts, count, refined",
    [
        ((*O2F, ONE + "QUALITY.CONVS", 0), 4_920_666, 0),
        ((*O2F, ONE + "QUALITY.CONVS", 1), 5_066_586, 0),
        ((*O2F, ONE + "QUALITY.CONVS", 2), 5_103_642, 0),
        (O2F, 5_140_698, 0),
        (DW, 4_920_666, 0),
        ((*DW, MANY + "REFINE.ENABLED", True), 4_939_106, 18_440),
    ],
)
def test_numbers_of_parameters(opts, count, refined):
    """Towers and predictor for 80 classes (40-o2f section 2; 50-dw section 13, without the stored prior)."""
    model = build_model(
        tiny_cfg(*opts, "MODEL.DEFCN.NUM_CLASSES", 80, "MODEL.DEFCN.NUM_CONVS", 4, "MODEL.FPN.OUT_CHANNELS", 256)
    )
    (branch,) = model.branches.values()
    assert sum(p.numel() for part in (model.head, branch) for p in part.parameters()) == count
    assert sum(p.numel() for n, p in branch.named_parameters() if "refinement" in n) == refined


@pytest.mark.parametrize("refine", [False, True])
def test_dw_starts_with_boxes_of_8_strides_and_scores_of_a_hundredth(refine):
    branch = build(*DW, MANY + "REFINE.ENABLED", refine)
    assert branch.cls_score.bias.tolist() == pytest.approx([-3.891820] * 3) and (branch.bbox_pred.bias == 4).all()
    points = Points.from_sizes([(24, 24), (12, 12)], [8, 16])
    maps = [torch.randn(2, 64, h, w).relu() for h, w in points.sizes]
    predictions = branch(points, HeadFeatures(cls=maps, box=maps, scales=[torch.nn.Identity()] * 2))
    ltrb = torch.cat([points.xy - predictions.boxes[..., :2], predictions.boxes[..., 2:] - points.xy], -1)
    inner = ((points.xy > 80) & (points.xy < 112)).all(1)  # refined sides beyond the map read zeros
    shown = ltrb[:, inner] if refine else ltrb
    # refined sides were moved on from boundary points 4 cells away, by 4 more
    strides = (shown / points.stride[inner if refine else slice(None), None]).mean().item()
    assert strides == pytest.approx(8.0 if refine else 4.0, abs=0.7)
    scores = predictions.score_logits().sigmoid()
    assert scores.mean().item() == pytest.approx(0.01, rel=0.3) and scores.std() < 0.005


def test_o2f_starts_with_scores_of_a_two_hundredth():
    branch = build(*O2F)
    points = Points.from_sizes([(8, 8)], [8])
    maps = [torch.randn(2, 64, 8, 8).relu()]
    predictions = branch(points, HeadFeatures(cls=maps, box=maps, scales=[torch.nn.Identity()]))
    assert predictions.score_logits().sigmoid().mean().item() == pytest.approx(0.005, rel=0.15)


# Combinations that train


@pytest.mark.parametrize(
    "opts, names",
    [
        ((*O2F, ONE + "MAX_FILTERING.ENABLED", True), {"loss_cls", "loss_box"}),
        (
            (*DW, *BOTH),
            {"loss_cls", "loss_box", *(f"loss_{x}_one_to_many" for x in ("cls_pos", "cls_neg", "box"))},
        ),
        ((*DW, MANY + "REFINE.ENABLED", True), {"loss_cls_pos", "loss_cls_neg", "loss_box"}),
        ((*O2F, ONE + "RULE", "TOOD", ONE + "BOX_WEIGHTS", "label"), {"loss_cls", "loss_box"}),
        ((*O2F, ONE + "RULE", "VFL"), {"loss_cls", "loss_box"}),
        ((ONE + "RULE", "HybridEpoch"), {"loss_cls", "loss_box"}),
    ],
    ids=["o2f_3dmf", "dw_and_one_to_one", "dw_refine", "tood", "vfl", "hybrid"],
)
def test_detectors_learn(opts, names):
    """A batch with and one image without objects: five steps lower the loss, and all parameters take part."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg(*opts))
    images = [image_with([[8, 8, 70, 80], [30, 20, 120, 90]], [0, 2], (64, 96)), image_with([], [], (64, 96), seed=2)]
    optimizer, totals = torch.optim.SGD(model.parameters(), lr=3e-3), []
    for _ in range(6):
        losses = model(images)
        assert set(losses) == names and all(v.isfinite() for v in losses.values())
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert totals[-1] < totals[0]


# What a config may not ask


@pytest.mark.parametrize(
    "opts, node, message",
    [
        ((*O2F, ONE + "RULE", "POTO"), "ONE_TO_ONE", "TYPE: .*the RULE gives none; set TYPE to 'point'"),
        ((*O2F, ONE + "TYPE", "point"), "ONE_TO_ONE", "TYPE: .*hard.*weights its pairs; set TYPE to 'weighted'"),
        ((*DW, MANY + "TYPE", "point"), "ONE_TO_MANY", "TYPE: .*hard.*weights its pairs; set TYPE to 'dual'"),
        ((*O2F, ONE + "TYPE", "dual"), "ONE_TO_ONE", "TYPE: 'dual' takes .* probability.*soft labels; .*'weighted'"),
        ((*DW, MANY + "TYPE", "weighted"), "ONE_TO_MANY", "TYPE: .*lacks the importance.*set TYPE to 'dual'"),
        ((*DW, MANY + "RULE", "FCOS"), "ONE_TO_MANY", "TYPE: .*the RULE gives none; set TYPE to 'point'"),
        ((*O2F, ONE + "TYPE", "soft"), "ONE_TO_ONE.TYPE", "unknown type 'soft'; known: .*'point', .*'weighted'"),
        ((*O2F, ONE + "BOX_FORM", "delta"), "ONE_TO_ONE", "TYPE 'weighted' .*set BOX_FORM to relu or exp"),
        ((*DW, MANY + "BOX_FORM", "delta"), "ONE_TO_MANY", "TYPE 'dual' .*set BOX_FORM to relu or exp"),
        ((*O2F, ONE + "BOX_WEIGHTS", "rule"), "ONE_TO_ONE", "BOX_WEIGHTS: 'rule' wants a RULE that gives some"),
        ((*O2F, ONE + "BACKGROUND_GAMMA", -1.0), "ONE_TO_ONE", "BACKGROUND_GAMMA: must not be negative, got -1"),
        ((*O2F, ONE + "PAIR_GAMMA", 0.5), "ONE_TO_ONE", "PAIR_GAMMA: must be 0 or at least 1, got 0.5"),
        ((*O2F, ONE + "BOX_WEIGHTS", "iou"), "ONE_TO_ONE", "BOX_WEIGHTS: unknown value 'iou'; .*'centerness', 'label'"),
        ((*O2F, ONE + "NORMALIZER", "sum"), "ONE_TO_ONE", "NORMALIZER: unknown .*'positives', 'images', 'labels'"),
        ((*DW, MANY + "NORMALIZER", "images"), "ONE_TO_MANY", "NORMALIZER: unknown value 'images'; known: 'positives'"),
        ((ONE + "NORMALIZER", "labels"), "ONE_TO_ONE", "NORMALIZER: unknown value 'labels'"),
        ((*O2F, ONE + "CENTERNESS", "reg"), "ONE_TO_ONE", "CENTERNESS: .*QUALITY.ENABLED to True"),
        ((*DW, MANY + "CENTERNESS", "reg"), "ONE_TO_MANY", "CENTERNESS: .*QUALITY.ENABLED to True"),
        ((*O2F, ONE + "L1_WEIGHT", 5.0), "ONE_TO_ONE", "L1_WEIGHT: .*set it to 0"),
        ((*O2F, ONE + "QUALITY.CONVS", -1), "ONE_TO_ONE", "QUALITY.CONVS: must not be negative, got -1"),
        (
            (*DW, MANY + "REFINE.ENABLED", True, MANY + "REFINE.PADDING", "mirror"),
            "ONE_TO_MANY",
            "REFINE.PADDING: unknown value 'mirror'; known: 'zeros', 'border'",
        ),
        ((ONE + "RULE", "HybridEpoch(late=RetinaNet)"), "ONE_TO_ONE", "has no anchors; set its BOX_FORM to delta"),
        (
            ("MODEL.DEFCN.AUX.RULE", "O2F", "MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "AUX"]),
            "AUX",
            "hard.*weights its pairs",
        ),
    ],
)
def test_errors_name_the_key_and_the_fix(opts, node, message):
    with pytest.raises(ValueError, match=f"^MODEL.DEFCN.{node}: .*{message}"):
        build_branches(tiny_cfg(*opts), 64)


def test_the_prior_of_each_class_lies_in_the_weights_and_in_the_losses():
    """Left as it starts it is the rule's own; moved, it moves the positive loss and nothing that ignores the prior."""
    opts = (*DW, "MODEL.DEFCN.ONE_TO_MANY.CLASS_PRIOR", True)
    plain, kept = (build_model(tiny_cfg(*x)) for x in (DW, opts))
    added = kept.state_dict().keys() - plain.state_dict().keys()
    assert added == {"branches.one_to_many.center_prior.mean", "branches.one_to_many.center_prior.sigma"}
    kept.load_state_dict(plain.state_dict(), strict=False)
    batch = [image_with([[10.0, 12, 60, 70], [40, 20, 120, 90]], [0, 1])]

    def losses(model):
        torch.manual_seed(0)
        return {name: value.item() for name, value in model.train()(batch).items()}

    assert losses(kept) == pytest.approx(losses(plain), rel=1e-6)
    before = losses(kept)
    kept.branches["one_to_many"].center_prior.mean.fill_(2.0)
    after = losses(copy.deepcopy(kept))
    assert after["loss_cls_pos"] != pytest.approx(before["loss_cls_pos"], rel=1e-3)
    assert after["loss_cls_neg"] == pytest.approx(before["loss_cls_neg"], rel=1e-6)
    with pytest.raises(ValueError, match="CLASS_PRIOR: the RULE has no center prior"):
        build_model(tiny_cfg(*opts, "MODEL.DEFCN.ONE_TO_MANY.RULE", "DW(bag=threshold, size=1.5)"))
