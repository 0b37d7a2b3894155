"""Losses, box codes, anchors and the matcher, against what Detectron2 computed for the same inputs."""

import inspect

import numpy as np
import pytest
import torch
from fvcore.nn import giou_loss, sigmoid_focal_loss, sigmoid_focal_loss_jit, smooth_l1_loss

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec, ciou_loss, diou_loss
from detectron2.modeling.anchor_generator import (
    ANCHOR_GENERATOR_REGISTRY,
    BufferList,
    DefaultAnchorGenerator,
    build_anchor_generator,
)
from detectron2.modeling.box_regression import (
    Box2BoxTransform,
    Box2BoxTransformLinear,
    _dense_box_regression_loss,
)
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes
from tests.standin import says

IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


@pytest.fixture(scope="module")
def golden(facts):
    z = facts("golden_losses_boxes.npz")
    return {name: torch.from_numpy(np.asarray(z[name])) for name in z.files}


@pytest.fixture(scope="module")
def golden_json(facts):
    return facts("golden_losses_boxes.json")


def close(actual, expected):
    atol = 1e-4 * float(expected.abs().nan_to_num().max()) if expected.numel() else 0.0
    torch.testing.assert_close(actual.detach(), expected, rtol=1e-4, atol=atol, equal_nan=True, check_dtype=False)


def test_every_golden_array_has_a_test(golden):
    groups = {name.split("/")[0] for name in golden}
    assert groups == {"focal", "iou_losses", "smooth_l1", "b2b", "b2b_linear", "anchors", "matcher"}


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("default_none", {}),
        ("alpha0.25_gamma2_none", {"alpha": 0.25, "gamma": 2}),
        ("alpha0.25_gamma2_sum", {"alpha": 0.25, "gamma": 2, "reduction": "sum"}),
        ("alpha0.25_gamma2_mean", {"alpha": 0.25, "gamma": 2, "reduction": "mean"}),
        ("alpha-1_gamma0_none", {"alpha": -1, "gamma": 0}),
        ("alpha0.5_gamma1.5_none", {"alpha": 0.5, "gamma": 1.5}),
        ("soft_alpha0.25_gamma2_none", {"alpha": 0.25, "gamma": 2}),
    ],
)
@pytest.mark.parametrize("loss", [sigmoid_focal_loss, sigmoid_focal_loss_jit])
def test_focal_loss(golden, name, arguments, loss):
    targets = golden["focal/soft_targets" if name.startswith("soft") else "focal/targets"]
    close(loss(golden["focal/logits"], targets, **arguments), golden[f"focal/{name}"])


def test_focal_gradient_and_defaults(golden, golden_json):
    logits = golden["focal/logits"].clone().requires_grad_()
    sigmoid_focal_loss_jit(logits, golden["focal/targets"], alpha=0.25, gamma=2, reduction="sum").backward()
    close(logits.grad, golden["focal/grad_alpha0.25_gamma2_sum"])
    # The largest difference between the two.
    plain = sigmoid_focal_loss(logits, golden["focal/targets"], alpha=0.25, gamma=2)
    scripted = sigmoid_focal_loss_jit(logits, golden["focal/targets"], alpha=0.25, gamma=2)
    assert (plain - scripted).abs().max().item() == golden["focal/jit_equals_plain"].item()
    assert str(inspect.signature(sigmoid_focal_loss)) == golden_json["focal_defaults"]


@pytest.mark.parametrize("name", IOU_LOSSES)
def test_iou_losses(golden, golden_json, name):
    loss = IOU_LOSSES[name]
    b1, b2 = golden["iou_losses/b1"], golden["iou_losses/b2"]
    close(loss(b1, b2), golden[f"iou_losses/{name}_none"])
    # Row 4 has no area on either side, which CIoU turns into nan.
    rows = torch.tensor([0, 1, 2, 3, 5, 6])
    for reduction in ("sum", "mean"):
        close(loss(b1[rows], b2[rows], reduction=reduction), golden[f"iou_losses/{name}_{reduction}_without_row4"])
    rows = torch.tensor([1, 2, 3, 5, 6])
    moving = b1[rows].clone().requires_grad_()
    loss(moving, b2[rows], reduction="sum").backward()
    close(moving.grad, golden[f"iou_losses/{name}_grad_rows_1_2_3_5_6"])

    for reduction in ("mean", "sum"):
        assert loss(b1[:0], b2[:0], reduction=reduction).item() == golden_json[f"{name}_empty_{reduction}"]
    assert golden_json[f"{name}_bad_box"]["raises"] == "AssertionError"
    with pytest.raises(AssertionError):
        loss(torch.tensor([[5.0, 5.0, 1.0, 1.0]]), b2[:1])
    assert golden_json[f"{name}_single_vector"]["ok"]
    assert loss(b1[0], b2[0]).item() == pytest.approx(golden[f"iou_losses/{name}_none"][0].item(), abs=1e-6)


def test_giou_signature(golden_json):
    assert str(inspect.signature(giou_loss)) == golden_json["giou_defaults"]


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0])
def test_smooth_l1(golden, beta):
    x = golden["smooth_l1/x"]
    close(smooth_l1_loss(x, torch.zeros_like(x), beta=beta, reduction="none"), golden[f"smooth_l1/beta{beta}"])


@pytest.mark.parametrize("name, weights", [("1111", (1, 1, 1, 1)), ("10_10_5_5", (10, 10, 5, 5))])
def test_box2box(golden, name, weights):
    transform = Box2BoxTransform(weights)
    src, deltas = golden["b2b/src"], golden["b2b/deltas_raw"]
    close(transform.get_deltas(src, golden["b2b/tgt"]), golden[f"b2b/deltas_{name}"])
    close(transform.apply_deltas(golden[f"b2b/deltas_{name}"], src), golden["b2b/tgt"])
    close(transform.apply_deltas(deltas, src), golden[f"b2b/applied_raw_{name}"])


def test_box2box_two_classes_and_errors(golden, golden_json):
    src, deltas = golden["b2b/src"], golden["b2b/deltas_raw"]
    unit = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    close(unit.apply_deltas(unit.get_deltas(src, golden["b2b/tgt"]), src), golden["b2b/applied_1111"])
    close(unit.apply_deltas(torch.cat([deltas, deltas / 2], dim=1), src), golden["b2b/applied_two_classes"])
    assert unit.scale_clamp == pytest.approx(golden_json["b2b"]["scale_clamp_default"], rel=1e-12)
    assert golden_json["b2b"]["invalid_src"]["raises"] == "AssertionError"
    with pytest.raises(AssertionError):
        unit.get_deltas(torch.tensor([[3.0, 3.0, 3.0, 5.0]]), src[:1])


def test_box2box_traced_for_another_number_of_boxes():
    transform = Box2BoxTransform((5, 5, 10, 10))
    traced = torch.jit.trace(transform.apply_deltas, (torch.randn(10, 20), torch.randn(10, 4)))
    deltas, boxes = torch.randn(5, 20), torch.randn(5, 4)
    torch.testing.assert_close(traced(deltas, boxes), transform.apply_deltas(deltas, boxes))


@pytest.mark.parametrize("normalize", [True, False])
def test_box2box_linear(golden, normalize):
    transform = Box2BoxTransformLinear(normalize_by_size=normalize)
    deltas = transform.get_deltas(golden["b2b/src"], golden["b2b/tgt"])
    close(deltas, golden[f"b2b_linear/deltas_norm{normalize}"])
    # The distances that were applied are not in the file; these give its boxes. Below 0 they count as 0.
    distances = [[0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [-1.0, 0.2, 0.2, 0.2], [0.0, -1.0, 1.0, 1.0]]
    applied = transform.apply_deltas(torch.tensor(distances), golden["b2b/src"])
    close(applied, golden[f"b2b_linear/applied_norm{normalize}"])
    # Only the last target does not come back, as it leaves its point out.
    close(transform.apply_deltas(deltas, golden["b2b/src"])[:3], golden["b2b/tgt"][:3])


def test_retinanet_anchors(golden, golden_json):
    facts = golden_json["anchors"]
    generator = DefaultAnchorGenerator(
        sizes=[[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64)],
        aspect_ratios=[[0.5, 1.0, 2.0]],
        strides=[8, 16],
        offset=0.0,
    )
    levels = generator([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)])
    assert all(isinstance(level, Boxes) for level in levels)
    close(levels[0].tensor, golden["anchors/retinanet_level0_2x3_stride8"])
    close(levels[1].tensor, golden["anchors/retinanet_level1_1x2_stride16"])
    close(next(iter(generator.cell_anchors)), golden["anchors/cell_level0"])
    assert generator.num_anchors == facts["num_anchors"]
    assert generator.num_cell_anchors == facts["num_cell_anchors"]
    assert generator.box_dim == facts["box_dim"]
    assert list(generator.state_dict()) == facts["state_dict_keys"]
    assert [name for name, _ in generator.named_buffers()] == facts["buffer_names"]


def test_square_anchors_in_the_middle_of_cells(golden, golden_json):
    generator = DefaultAnchorGenerator(sizes=[[8], [16]], aspect_ratios=[1.0], strides=[8, 16])
    levels = generator([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)])
    close(levels[0].tensor, golden["anchors/square_offset0.5_level0"])
    close(levels[1].tensor, golden["anchors/square_offset0.5_level1"])
    assert golden_json["anchors"]["offset_1"]["raises"] == "AssertionError"
    with pytest.raises(AssertionError):
        DefaultAnchorGenerator(sizes=[8], aspect_ratios=[1.0], strides=[8], offset=1.0)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_scripted_anchors_are_the_eager_ones():
    generator = DefaultAnchorGenerator(sizes=[[8, 16], [32]], aspect_ratios=[0.5, 2.0], strides=[8, 16])
    features = [torch.rand(1, 2, 3, 4), torch.rand(1, 2, 2, 2)]
    for scripted, eager in zip(torch.jit.script(generator)(features), generator(features)):
        assert len(eager) > 0 and torch.equal(scripted.tensor, eager.tensor)


def test_anchors_from_config(golden_json):
    cfg = get_cfg()
    defaults = cfg.MODEL.ANCHOR_GENERATOR
    assert {key: defaults[key] for key in defaults} == golden_json["anchors"]["config"]["ANCHOR_GENERATOR"]
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=s) for s in (8, 16, 32)])
    assert type(generator) is ANCHOR_GENERATOR_REGISTRY.get("DefaultAnchorGenerator")
    assert (generator.num_anchors, generator.strides, generator.offset) == ([15, 15, 15], [8, 16, 32], 0.0)
    with pytest.raises(AssertionError, match=says("2 lists for 3 levels")):
        DefaultAnchorGenerator(sizes=[[8], [16]], aspect_ratios=[1.0], strides=[8, 16, 32])


def test_buffer_list_moves_but_is_not_saved():
    buffers = BufferList([torch.zeros(2), torch.ones(3)]).double()
    assert [b.dtype for b in buffers] == [torch.float64] * 2 and len(buffers) == 2
    assert buffers.state_dict() == {}


@pytest.mark.parametrize("low_quality", [True, False])
def test_matcher(golden, golden_json, low_quality):
    matcher = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=low_quality)
    matches, labels = matcher(golden["matcher/quality"])
    assert matches.tolist() == golden[f"matcher/matches_lowq{low_quality}"].tolist()
    assert labels.tolist() == golden[f"matcher/labels_lowq{low_quality}"].tolist()
    assert str(labels.dtype) == golden_json["matcher"]["labels_dtype"]
    matches, labels = matcher(torch.zeros(0, 4))
    assert matches.tolist() == golden_json["matcher"]["no_gt_matches"]
    assert labels.tolist() == golden_json["matcher"]["no_gt_labels"]
    assert matches.dtype == torch.int64 and labels.dtype == torch.int8


def test_matcher_by_hand():
    quality = torch.tensor([[0.15, 0.45, 0.2, 0.6, 0.5, 0.4], [0.3, 0.44, 0.05, 0.1, 0.0, 0.0]])
    matches, labels = Matcher([0.4, 0.5], [0, -1, 1])(quality)
    # 0.5 and 0.4 lie on the thresholds and belong to the interval above.
    assert matches.tolist() == [1, 0, 0, 0, 0, 0]
    assert labels.tolist() == [0, -1, 0, 1, 1, -1]
    # The best of the second object is prediction 1, which becomes positive, and stays matched to the first.
    matches, labels = Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)(quality)
    assert matches.tolist() == [1, 0, 0, 0, 0, 0]
    assert labels.tolist() == [0, 1, 0, 1, 1, -1]
    tied = Matcher([0.5], [0, 1], allow_low_quality_matches=True)(torch.tensor([[0.2, 0.3, 0.3]]))[1]
    assert tied.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "fact, arguments",
    [
        ("label_count_must_be_thresholds_plus_1", ([0.5], [0, -1, 1])),
        ("descending_thresholds", ([0.5, 0.4], [0, -1, 1])),
        ("label_2", ([0.5], [0, 2])),
        ("zero_threshold", ([0.0], [0, 1])),
    ],
)
def test_matcher_refuses(golden_json, fact, arguments):
    assert golden_json["matcher"][fact]["raises"] == "AssertionError"
    with pytest.raises(AssertionError):
        Matcher(*arguments)


def test_matcher_can_be_scripted():
    quality = torch.tensor([[0.15, 0.45, 0.2, 0.6], [0.3, 0.65, 0.05, 0.1], [0.05, 0.4, 0.25, 0.4]])

    def make(thresholds: list[float], labels: list[int]):
        return Matcher(thresholds, labels, allow_low_quality_matches=True)

    matches, labels = torch.jit.script(make)([0.3, 0.7], [0, -1, 1])(quality)
    assert matches.tolist() == [1, 1, 2, 0] and labels.tolist() == [-1, 1, 0, 1]


class TestDenseBoxRegressionLoss:
    anchors = [Boxes([[0.0, 0, 10, 10], [10, 0, 20, 10]]), Boxes([[0.0, 0, 20, 20]])]
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    # Image 0: anchor 1, shifted right by 0.2 of its width. Image 1: anchor 2, of twice the width.
    targets = [torch.tensor([[0.0, 0, 0, 0], [12, 0, 22, 10], [0, 0, 0, 0]]), torch.tensor([[-10.0, 0, 30, 20]] * 3)]
    mask = torch.tensor([[False, True, False], [False, False, True]])
    zeros = [torch.zeros(2, 2, 4), torch.zeros(2, 1, 4)]

    def loss(self, **kwargs):
        return _dense_box_regression_loss(self.anchors, self.transform, self.zeros, self.targets, self.mask, **kwargs)

    def test_smooth_l1_by_hand(self):
        assert self.loss().item() == pytest.approx(0.2 + np.log(2), rel=1e-5)
        # beta 1: 0.5 x^2 below 1.
        assert self.loss(smooth_l1_beta=1.0).item() == pytest.approx(0.5 * (0.04 + np.log(2) ** 2), rel=1e-5)

    def test_iou_losses_by_hand(self):
        # IoUs 80 / 120 and 400 / 800, nothing in the enclosing box beyond the union.
        assert self.loss(box_reg_loss_type="giou").item() == pytest.approx(1 / 3 + 1 / 2, rel=1e-5)
        # DIoU adds the squared distance of centres over the enclosing diagonal: 4 / (144 + 100), and 0.
        expected = 1 / 3 + 1 / 2 + 4 / 244
        assert self.loss(box_reg_loss_type="diou").item() == pytest.approx(expected, rel=1e-5)
        # CIoU adds v^2 / (1 - IoU + v), with v = (2 / pi (atan(w/h) - atan(w'/h')))^2, to the second.
        v = 4 / np.pi**2 * (np.arctan(2) - np.arctan(1)) ** 2
        expected += v**2 / (0.5 + v)
        assert self.loss(box_reg_loss_type="ciou").item() == pytest.approx(expected, rel=1e-4)

    def test_nothing_positive_is_zero_with_a_gradient(self):
        deltas = [torch.zeros(2, 2, 4, requires_grad=True), torch.zeros(2, 1, 4)]
        for kind in ("smooth_l1", "giou"):
            loss = _dense_box_regression_loss(
                self.anchors, self.transform, deltas, self.targets, torch.zeros_like(self.mask), kind
            )
            loss.backward()
            assert loss.item() == 0 and deltas[0].grad.abs().sum() == 0

    def test_unknown_type(self):
        with pytest.raises(ValueError, match=says("l2")):
            self.loss(box_reg_loss_type="l2")
