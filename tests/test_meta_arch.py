import math

import pytest
import torch

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tests.tiny import ALL, DW, batch, image_with, kept_labels, mostly_slow, tiny_cfg

ONE_TO_ONE = {"loss_cls", "loss_box"}
DATE = {*ONE_TO_ONE, "loss_l1", "loss_cls_one_to_many", "loss_box_one_to_many"}
DW_TERMS = ("loss_cls_pos", "loss_cls_neg", "loss_box")
EXPECTED_LOSSES = {
    "fcos": {"loss_cls", "loss_box"},
    "fcos_centerness": {"loss_cls", "loss_box", "loss_centerness"},
    "poto": {"loss_cls", "loss_box"},
    "poto_argmax": {"loss_cls", "loss_box"},
    "poto_3dmf": {"loss_cls", "loss_box"},
    "poto_3dmf_aux": {"loss_cls", "loss_box", "loss_cls_aux"},
    "dual": {"loss_cls", "loss_box", "loss_cls_one_to_many", "loss_box_one_to_many"},
    "onenet": {*ONE_TO_ONE, "loss_l1"},
    "date_f": {*DATE, "loss_centerness_one_to_many"},
    "date_f_3dmf": {*DATE, "loss_centerness_one_to_many"},
    "date_r": DATE,
    "date_r_own_towers": DATE,
    "anchor": ONE_TO_ONE,
    "center": ONE_TO_ONE,
    "foreground_loss": ONE_TO_ONE,
    "o2f": ONE_TO_ONE,
    "dw": {*DW_TERMS},
    "dw_refine": {*DW_TERMS},
    "dw_one_to_one": {*ONE_TO_ONE, *(f"{term}_one_to_many" for term in DW_TERMS)},
}


def build(name, *opts):
    torch.manual_seed(0)
    return build_model(tiny_cfg(*ALL[name], *opts))


FALL = 5e-5  # of losses of about 20, which are float32 and known to 2e-6


def squared_gradient(model):
    return sum(p.grad.square().sum().item() for p in model.parameters())


@torch.no_grad()
def total_at(model, move):
    """The sum of the losses after the weights have moved that far along the gradient, where they stay."""
    for parameter in model.parameters():
        parameter += move * parameter.grad
    return sum(loss.double() for loss in model(batch()).values()).item()


@pytest.mark.parametrize("name", ALL)
def test_every_detector_takes_a_step(name):
    """The losses fall by the step times the squared gradient, to which labels and weights are constants.

    The step is so short that they are straight along it: on the coarsest level, one cell here, GroupNorm divides by the
    spread of two numbers, and where that is near 0 the slope holds for a change of the weights of 1e-8 of the gradient.
    """
    model = build(name).double()
    with kept_labels(model):
        losses = model(batch())
        assert set(losses) == EXPECTED_LOSSES[name]
        sum(losses.values()).backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        up, down = total_at(model, step := FALL / squared_gradient(model)), total_at(model, -2 * step)
    assert up - down == pytest.approx(2 * FALL, rel=0.1)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_without_objects_is_all_background(name):
    model = build(name)
    losses = model([image_with([], [], seed=s) for s in (1, 2)])
    assert all(v.isfinite() for v in losses.values())
    for key, value in losses.items():
        assert value > 0 if key.startswith("loss_cls") and "pos" not in key else value == 0, key
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_first_loss_is_the_one_of_the_prior():
    """With all scores at 0.01 and no object, the focal loss is 0.75 p^2 (-log(1-p)) a score, over a normaliser of 1."""
    model = build("poto")
    with torch.no_grad():
        model.branches["one_to_one"].cls_score.weight.zero_()
    x = image_with([], [], size=(96, 128))
    num_scores = 3 * (12 * 16 + 6 * 8 + 3 * 4 + 2 * 2 + 1)
    expected = num_scores * 0.75 * 0.01**2 * -math.log(0.99)
    assert model([x])["loss_cls"].item() == pytest.approx(expected, rel=1e-4)


def test_the_auxiliary_loss_changes_nothing_else():
    with_aux, without = build("poto_3dmf_aux"), build("poto_3dmf")
    without.load_state_dict(with_aux.state_dict())
    a, b = with_aux(batch()), without(batch())
    assert torch.equal(a["loss_cls"], b["loss_cls"]) and torch.equal(a["loss_box"], b["loss_box"])


def test_the_storage_hears_of_positives_and_of_uncovered_objects():
    model = build("poto_3dmf_aux")
    with EventStorage(0) as storage:
        model(batch())
    latest = {k: v[0] for k, v in storage.latest().items()}
    assert latest["one_to_one/uncovered_objects"] == 1
    assert latest["one_to_one/positives_per_object"] == pytest.approx(12 / 13)
    assert latest["one_to_one/nonfinite_predictions"] == 0
    assert {"aux/positives_per_object", "aux/uncovered_objects"} <= set(latest)


def test_a_diverged_model_still_assigns_and_is_counted():
    model = build("poto_3dmf_aux")
    with torch.no_grad():
        model.branches["one_to_one"].cls_score.bias[0] = float("nan")
    with EventStorage(0) as storage:
        losses = model(batch())
    assert losses["loss_cls"].isnan()
    points = 3 * (12 * 16 + 6 * 8 + 3 * 4 + 2 * 2 + 1)
    assert storage.latest()["one_to_one/nonfinite_predictions"][0] == points


@pytest.mark.parametrize(
    "name, dtype",
    mostly_slow(
        [*[(name, torch.bfloat16) for name in ALL], ("poto_3dmf_aux", torch.float16)],
        fast=("fcos", "poto_3dmf_aux", "date_r", "o2f", "dw_refine"),
    ),
)
def test_autocast_gives_float32_losses_near_those_of_float32(name, dtype):
    model = build(name)
    exact = model(batch())
    with torch.autocast("cpu", dtype=dtype):
        losses = model(batch())
    sum(losses.values()).backward()
    for key, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[key].item(), rel=0.05), key
    assert all(p.grad.isfinite().all() for p in model.parameters())


def detector_that_sees(*objects, nms=False, **kwargs):
    """A model whose predictions are written by hand: (point, class, score logit, box)."""
    model = build("poto", "MODEL.DEFCN.NMS", nms).eval()

    def predict(points, features, name):
        from defcn_ext.structures import DensePredictions

        logits = torch.full((1, len(points), 3), -20.0)
        boxes = torch.zeros(1, len(points), 4)
        for point, cls, logit, box in objects:
            logits[0, point, cls] = logit
            boxes[0, point] = torch.tensor(box, dtype=torch.float32)
        return DensePredictions(logits, boxes)

    model.predict = predict
    return model


TWICE = [
    (0, 1, 2.0, [10, 10, 50, 50]),
    (1, 1, 1.0, [12, 10, 50, 50]),
    (2, 2, 0.5, [10, 10, 50, 50]),
    (3, 0, -4, [0, 0, 9, 9]),
]


@pytest.mark.parametrize("nms, classes", [(False, [1, 1, 2]), (True, [1, 2])])
def test_nms_only_where_it_is_asked_for(nms, classes):
    """Of two boxes of one class that overlap by 0.95 NMS removes the lower. A score of 0.018 is below the threshold."""
    model = detector_that_sees(*TWICE, nms=nms)
    (result,) = model([image_with([], [])])
    found = result["instances"]
    assert found.pred_classes.tolist() == classes
    torch.testing.assert_close(found.scores[0], torch.tensor(2.0).sigmoid())
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert result["without_nms"].pred_classes.tolist() == [1, 1, 2]
    assert result["with_nms"].pred_classes.tolist() == [1, 2]
    assert set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"}


def test_boxes_come_back_in_the_size_of_the_original_image():
    model = detector_that_sees((0, 0, 3.0, [10, 20, 200, 80]), (1, 0, 2.0, [130, 10, 140, 20]))
    x = {**image_with([], []), "height": 192, "width": 384}
    found = model([x])[0]["instances"]
    # scaled by 3 and 2, clipped to the image; the box right of it is dropped
    assert found.pred_boxes.tensor.tolist() == [[30, 40, 384, 160]]
    assert found.image_size == (192, 384)


def test_comparing_can_be_turned_off():
    model = build("poto", "MODEL.DEFCN.COMPARE_NMS", False).eval()
    assert set(model([image_with([], [])])[0]) == {"instances"}


def test_the_auxiliary_branch_cannot_be_tested():
    opts = (*ALL["poto_3dmf_aux"], "MODEL.DEFCN.TEST_BRANCH", "AUX")
    with pytest.raises(ValueError, match="not among the branches that predict"):
        build_model(tiny_cfg(*opts))


def test_a_box_that_is_not_finite_is_no_detection():
    nan = float("nan")
    model = detector_that_sees((0, 1, 2.0, [10, 10, nan, 50]), (5, 0, 1.0, [12, 10, 50, 50]), nms=True)
    assert model([image_with([], [])])[0]["instances"].pred_classes.tolist() == [0]


def test_training_goes_on_after_inference_mode():
    """The points of a size are kept between calls; made in inference mode they could not be trained with."""
    model = build("poto")
    with torch.inference_mode():
        model.eval()([image_with([], [])])
    sum(model.train()([image_with([[8, 8, 60, 60]], [0])]).values()).backward()
    assert model.branches["one_to_one"].bbox_pred.weight.grad.isfinite().all()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_out_of_range_names_file_and_key(label):
    with pytest.raises(ValueError, match=r"7\.jpg: classes .*NUM_CLASSES"):
        build("poto")([image_with([[8, 8, 60, 60]], [label], seed=7)])


def test_another_branch_can_be_tested():
    model = build("dual", "MODEL.DEFCN.TEST_BRANCH", "ONE_TO_MANY", "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0).eval()
    with torch.no_grad():
        model.branches["one_to_many"].cls_score.bias.fill_(3.0)
    found = model([image_with([], [])])[0]["instances"]
    assert found.scores.max() > 0.9


def test_padding_does_not_change_the_detections_of_an_image():
    model = build("poto_3dmf", "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0).eval()
    small, large = image_with([], [], size=(64, 96), seed=1), image_with([], [], size=(64, 96), seed=2)
    alone = model([small])[0]["instances"]
    together = model([small, large])[0]["instances"]
    torch.testing.assert_close(alone.scores, together.scores, rtol=1e-4, atol=1e-6)


def test_training_without_annotations_names_the_file():
    model = build("poto")
    x = image_with([], [])
    del x["instances"]
    with pytest.raises(ValueError, match=r"0\.jpg: no annotations"):
        model([x])


@pytest.mark.parametrize(
    "opts, message",
    [
        (("MODEL.DEFCN.BRANCHES", ["potto"]), r"MODEL.DEFCN.BRANCHES: unknown branch 'potto'; known: ONE_TO_ONE"),
        (("MODEL.DEFCN.BRANCHES", []), "list at least one branch"),
        (("MODEL.DEFCN.BRANCHES", ["AUX"]), "the first branch must predict boxes"),
        (("MODEL.DEFCN.ONE_TO_ONE.RULE", "POTTO"), r"MODEL.DEFCN.ONE_TO_ONE.RULE: unknown assignment rule 'POTTO'"),
        (
            ("MODEL.DEFCN.ONE_TO_ONE.BOX_FORM", "tanh"),
            r"MODEL.DEFCN.ONE_TO_ONE: BOX_FORM: unknown value 'tanh'; known: 'relu', 'exp', 'delta'",
        ),
        (("MODEL.DEFCN.IN_FEATURES", ["p2", "p3"]), r"IN_FEATURES: the backbone has no 'p2'; it has p3, p4"),
        (("MODEL.DEFCN.TEST_BRANCH", "AUX"), r"'AUX' is not among the branches that predict: \['one_to_one'\]"),
        (("MODEL.DEFCN.ONE_TO_ONE.RULE", "POTO(alpha=high)"), r"ONE_TO_ONE.RULE: POTO: option alpha must be a float"),
        (("MODEL.DEFCN.P6_FEATURE", "p4"), "P6_FEATURE: must be 'p5' or 'res5'"),
        (
            ("MODEL.DEFCN.ONE_TO_ONE.MAX_FILTERING.ENABLED", True, "MODEL.DEFCN.ONE_TO_ONE.MAX_FILTERING.TAU", 1),
            "MODEL.DEFCN.ONE_TO_ONE: MAX_FILTERING: tau must be even",
        ),
        (
            ("MODEL.DEFCN.ONE_TO_ONE.MAX_FILTERING.ENABLED", True, "MODEL.DEFCN.ONE_TO_ONE.MAX_FILTERING.NORM", "G"),
            "MODEL.DEFCN.ONE_TO_ONE: MAX_FILTERING: norm: no norm 'G' for 64 channels; take 'BN'",
        ),
        (("MODEL.DEFCN.NORM", "GroupNorm"), "MODEL.DEFCN.NORM: no norm 'GroupNorm' for 64 channels"),
        (("MODEL.FPN.OUT_CHANNELS", 40), "MODEL.DEFCN.NORM: no norm 'GN' for 40 channels; .* a multiple of 32"),
        (("MODEL.DEFCN.NUM_CONVS", -1), "MODEL.DEFCN.NUM_CONVS: must not be negative"),
        (("MODEL.DEFCN.NUM_CLASSES", 0), "MODEL.DEFCN.NUM_CLASSES: must be at least 1, got 0"),
        (("MODEL.DEFCN.PRIOR_PROB", 0.0), r"MODEL.DEFCN.PRIOR_PROB: must lie between 0 and 1, got 0.0"),
        (("MODEL.DEFCN.PRIOR_PROB", 1.0), r"MODEL.DEFCN.PRIOR_PROB: must lie between 0 and 1, got 1.0"),
        (("MODEL.DEFCN.IN_FEATURES", ["p4", "p3"]), r"IN_FEATURES: list levels, the finest first and none twice"),
        (("MODEL.DEFCN.IN_FEATURES", []), r"IN_FEATURES: list levels, .* got \[\]"),
        ((*DW, "MODEL.DEFCN.ONE_TO_MANY.NEG_GAMMA", -1.0), "ONE_TO_MANY: NEG_GAMMA: must not be negative, got -1.0"),
        (("MODEL.DEFCN.SCORE_THRESH_TEST", 5.0), "MODEL.DEFCN.SCORE_THRESH_TEST must not be above 1, got 5.0"),
        (("MODEL.DEFCN.NMS_THRESH_TEST", 60.0), r"MODEL.DEFCN.NMS_THRESH_TEST must lie in \[0, 1\], got 60.0"),
        (("MODEL.DEFCN.TOPK_CANDIDATES_TEST", 0), "MODEL.DEFCN.TOPK_CANDIDATES_TEST must be at least 1, got 0"),
        (("TEST.DETECTIONS_PER_IMAGE", 0), "TEST.DETECTIONS_PER_IMAGE must be at least 1, got 0"),
        (("MODEL.DEFCN.CANDIDATES_BY", "score"), "CANDIDATES_BY: unknown value 'score'; known: 'class', 'final'"),
    ],
)
def test_bad_configs_name_the_key(opts, message):
    with pytest.raises(ValueError, match=message):
        build_model(tiny_cfg(*opts))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(1, 96, 128), (4, 96, 128), (96, 128), (96, 128, 3)])
def test_images_of_other_channels_are_named(training, shape):
    """Of one channel they would be broadcast without a word."""
    image = {**image_with([[8, 8, 60, 60]], [0], seed=7), "image": torch.zeros(shape)}
    message = r"7\.jpg: the model takes images of 3 channels \(MODEL\.PIXEL_MEAN\).*got the shape \(" + str(shape[0])
    with pytest.raises(ValueError, match=message):
        build("poto").train(training)([image])


def test_a_relu_stands_before_p7_only_where_it_is_asked_for():
    features = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    tops = [build_model(tiny_cfg("MODEL.DEFCN.P7_RELU", relu)).backbone.top_block for relu in (True, False)]
    tops[1].load_state_dict(tops[0].state_dict())
    (p6, with_relu), (same, without) = (top(features) for top in tops)
    assert torch.equal(p6, same) and torch.equal(with_relu, tops[0].p7(p6.relu())) and (p6 < 0).any()
    assert torch.equal(without, tops[0].p7(p6)) and not torch.equal(with_relu, without)


def test_points_lie_where_the_config_says():
    model = build_model(tiny_cfg("MODEL.DEFCN.POINTS.OFFSET", 0.0, "MODEL.DEFCN.POINTS.FILL", True)).eval()
    with torch.no_grad():
        points, _ = model.extract(torch.zeros(1, 3, 160, 96))
    assert points.sizes[3:] == ((3, 2), (2, 1)) and points.cells[3:] == ((53, 48), (80, 96))
    assert points.xy[0].tolist() == [0, 0] and points.xy[points.starts[3] + 3].tolist() == [48, 53]
