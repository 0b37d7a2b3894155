"""Peaks in place of NMS: what they lower, what they leave, and what may stand on them."""

import pytest
import torch

from defcn_ext.branches import PeaksBranch
from defcn_ext.config import UserError
from defcn_ext.structures import DensePredictions, Points
from detectron2.modeling import build_model
from tests.tiny import DATE_RETINANET, DW, MANY, batch, mostly_slow, tiny_cfg

PEAKS = "MODEL.DEFCN.PEAKS."
ON = (
    *(PEAKS + "TYPE", "peaks", "MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY", "PEAKS"]),
    *("MODEL.DEFCN.TEST_BRANCH", "PEAKS", "MODEL.DEFCN.NMS", False, "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0),
)
BASES = {
    "fcos_centerness": (MANY + "CENTERNESS", "reg", MANY + "BOX_BIAS", 2.5),
    "retinanet": (*DATE_RETINANET, MANY + "LOSS_WEIGHT", 1.0),
    "dw": DW,
}
POINTS = Points.from_sizes([(1, 4)], [8])
# the first two are rivals, the third is of another class, the fourth lies apart
BOXES = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [20, 0, 30, 10]]])
SCORES = torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.4], [0.1, 0.05]]])


def seen(scores=SCORES, **options):
    maps = {name: options.pop(name) for name in ("objectness", "centerness") if name in options}
    base = DensePredictions(scores.logit(), BOXES, **maps)
    return PeaksBranch(**{"iou": 0.5, "factor": 0.25, "kernel": 5, **options})(POINTS, None, base)


def test_a_point_with_a_better_rival_is_lowered_in_all_classes_and_the_others_stay_to_the_bit():
    found = seen().score_logits()
    kept = torch.tensor([True, False, True, True])
    assert torch.equal(found[:, kept], SCORES.logit()[:, kept])
    torch.testing.assert_close(found[:, ~kept].sigmoid(), 0.25 * SCORES[:, ~kept])
    assert torch.equal(seen().boxes, BOXES)


def test_over_classes_and_without_mercy():
    found = seen(over_classes=True, factor=0.0).score_logits().sigmoid()
    assert found.amax(-1).tolist() == [[pytest.approx(0.9), 0.0, 0.0, pytest.approx(0.1)]]


@pytest.mark.parametrize("name", ["objectness", "centerness"])
def test_rivals_are_compared_by_the_score_with_objectness_and_centerness(name):
    """The first of the two rivals has the higher class score, and the second the higher product."""
    found = seen(factor=0.0, **{name: torch.tensor([[[-3.0], [3.0], [0.0], [0.0]]])})
    assert (found.score_logits().amax(-1) < -1000).tolist() == [[True, False, False, False]]


def test_equal_rivals_both_stay():
    equal = torch.tensor([[[0.9, 0.1], [0.9, 0.1], [0.3, 0.4], [0.1, 0.05]]])
    assert torch.equal(seen(equal).score_logits(), equal.logit())


@pytest.mark.parametrize(
    "options, message",
    [({"iou": 1.0}, "IOU"), ({"factor": 1.1}, "FACTOR"), ({"tau": 1}, "TAU"), ({"kernel": 2}, "KERNEL")],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PeaksBranch(**options)


@pytest.mark.parametrize("base", mostly_slow(BASES, fast=["fcos_centerness"]))
def test_every_base_trains_as_it_is_and_detects_fewer(base):
    model = build_model(tiny_cfg(*BASES[base], *ON))
    assert not list(model.branches["peaks"].parameters())
    assert not [name for name in model(batch()) if name.endswith("peaks")]
    model.eval()
    with torch.no_grad():
        points, features = model.extract(model.preprocess_image(batch()).tensor)
        before, after = (model.predict(points, features, name) for name in ("one_to_many", "peaks"))
        lowered = (after.score_logits() < before.score_logits()).all(-1)
        found = model(batch())
    assert 0 < lowered.float().mean() < 1
    assert torch.equal(after.boxes, before.boxes)
    assert all(torch.isfinite(x["instances"].scores).all() for x in found)


def test_a_selector_may_stand_on_them():
    selector = ("MODEL.DEFCN.SELECTOR.TYPE", "selector", "MODEL.DEFCN.SELECTOR.BASE", "PEAKS")
    branches = ("MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY", "PEAKS", "SELECTOR"], "MODEL.DEFCN.TEST_BRANCH", "SELECTOR")
    model = build_model(tiny_cfg(*BASES["dw"], *ON, *selector, *branches))
    model(batch())["loss_cls_selector"].backward()
    assert model.branches["selector"].map[-1].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.branches["one_to_many"].parameters())


def test_they_need_a_branch_that_predicts():
    with pytest.raises((ValueError, UserError), match="BASE: no branch 'peaks' before it"):
        build_model(tiny_cfg(*ON, "MODEL.DEFCN.BRANCHES", ["PEAKS"]))


def test_a_training_does_not_ask_them_unless_somebody_reads_them(monkeypatch):
    model = build_model(tiny_cfg(*BASES["dw"], *ON))
    monkeypatch.setattr(PeaksBranch, "forward", lambda *_: pytest.fail("asked"))
    assert model(batch())
