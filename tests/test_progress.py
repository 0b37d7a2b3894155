"""The share of the training that is over, which one-to-few's labels follow."""

import pytest
import torch

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tests.tiny import O2F, ONE, image_with, tiny_cfg

IMAGES = [image_with([[8, 8, 70, 80], [30, 20, 120, 90]], [0, 2])]


def build(max_iter, *opts):
    torch.manual_seed(0)
    return build_model(tiny_cfg(*O2F, "SOLVER.MAX_ITER", max_iter, *opts))


def losses_at(model, iteration):
    with EventStorage(iteration):
        return {k: v.item() for k, v in model(IMAGES).items()}


@pytest.mark.parametrize(
    "max_iter, iteration, share",
    [(90_000, 0, 0.0), (90_000, 45_000, 45_000 / 89_999), (90_000, 89_999, 1.0), (10, 12, 1.0), (1, 0, 0.0)],
)
def test_it_is_that_of_the_event_storage(max_iter, iteration, share):
    model = build(max_iter)
    assert model.progress == 0.0
    with EventStorage(iteration):
        assert model.progress == share
    assert model.progress == 0.0


def test_the_labels_follow_it_and_the_weights_do_not_remember():
    """Losses of an iteration are the same whatever was computed before: a resumed run goes on with the same labels."""
    model = build(24)
    order = [0, 1, 12, 23]
    first = {i: losses_at(model, i) for i in order}
    assert first[0] == first[1]  # both of the first of 12 steps
    assert len({first[i]["loss_cls"] for i in (0, 12, 23)}) == 3
    assert len({first[i]["loss_box"] for i in order}) == 1
    assert {i: losses_at(model, i) for i in reversed(order)} == first
    assert losses_at(build(24), 12) == first[12]


def test_another_length_of_the_training():
    assert losses_at(build(24), 12) == losses_at(build(48), 24) != losses_at(build(48), 12)


def test_it_plays_no_part_at_evaluation():
    model = build(24, "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0, ONE + "RULE", "O2F(schedule=linear)").eval()
    with torch.no_grad():
        plain = model(IMAGES)[0]["instances"]
        with EventStorage(20):
            stored = model(IMAGES)[0]["instances"]
    assert len(plain) > 0 and torch.equal(plain.scores, stored.scores)
    assert torch.equal(plain.pred_boxes.tensor, stored.pred_boxes.tensor)
