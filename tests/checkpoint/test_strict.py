"""Weights to detect with must be those of the model, whole; a detector of another kind draws no pictures."""

import logging
import math

import numpy as np
import pytest
import torch

from defcn_ext.checkpoint import load_weights
from defcn_ext.config import UserError
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from tests.tiny import DATE_F, tiny_cfg

INFERENCE = ("MODEL.DEFCN.INFERENCE_ONLY", True)
OTHER = {
    "classes": (("MODEL.DEFCN.NUM_CLASSES", 7), r"cls_score\.weight \(\d+, 64, 3, 3\), here \(7, 64, 3, 3\)"),
    "towers": (("MODEL.DEFCN.NUM_CONVS", 3), r"lack \(head\.cls_subnet"),
    "shallower": ((), r"that the model lacks \(head\.cls_subnet"),  # than what `written` holds
    "backbone": (("MODEL.RESNETS.DEPTH", 34), r"backbone\.bottom_up\.res"),
    "max filtering": (("MODEL.DEFCN.ONE_TO_ONE.MAX_FILTERING.ENABLED", True), r"branches\.one_to_one\.max3d"),
}


def saved(folder, *opts):
    torch.manual_seed(3)
    model = build_model(tiny_cfg(*opts))
    torch.save({"model": model.state_dict()}, folder / "w.pth")
    return model.state_dict(), str(folder / "w.pth")


def test_the_weights_of_the_same_model(tmp_path):
    state, path = saved(tmp_path)
    model = build_model(tiny_cfg()).eval()
    torch.save({"model": state, "iteration": 3}, path)
    assert load_weights(model, path)["iteration"] == 3
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items()) and not model.training


def written(other):
    return ("MODEL.DEFCN.NUM_CONVS", 2) if other == "shallower" else ()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("other", OTHER)
def test_the_weights_of_another_model(tmp_path, other, training):
    opts, message = OTHER[other]
    _, path = saved(tmp_path, *written(other))
    model = build_model(tiny_cfg(*opts)).train(training)
    with pytest.raises(UserError, match=message) as caught:
        load_weights(model, path)
    assert str(caught.value).startswith(f"{path}: weights of another model") and "\n" not in str(caught.value)
    assert model.training is training


@pytest.mark.parametrize("names", ["a backbone", "nothing of it"])
def test_a_part_is_not_enough(tmp_path, names):
    """ImageNet's weights, which training starts from, are no detector."""
    state, path = saved(tmp_path)
    prefix = "backbone.bottom_up."
    part = {k.removeprefix(prefix): v.numpy() for k, v in state.items() if k.startswith(prefix)}
    part = part if names == "a backbone" else {"encoder.weight": np.zeros(3, np.float32)}
    torch.save({"model": part, "matching_heuristics": True}, path)
    with pytest.raises(UserError, match="weights of another model"):
        load_weights(build_model(tiny_cfg()), path)


@pytest.mark.parametrize(("there", "here"), [((), INFERENCE), (INFERENCE, ())])
def test_branches_that_only_train_may_be_in_one_alone(tmp_path, there, here):
    state, path = saved(tmp_path, *DATE_F, *there)
    model = build_model(tiny_cfg(*DATE_F, *here)).eval()
    names = set(model.state_dict()) ^ set(state)
    assert names and all(name.startswith("branches.one_to_many.") for name in names)
    load_weights(model, path)
    assert all(torch.equal(value, state[k]) for k, value in model.state_dict().items() if k in state)


def test_the_branch_that_is_asked_to_detect_must_be_there(tmp_path):
    _, path = saved(tmp_path, *DATE_F, *INFERENCE)
    with pytest.raises(UserError, match="that they lack .branches.one_to_many"):
        load_weights(build_model(tiny_cfg(*DATE_F, "MODEL.DEFCN.TEST_BRANCH", "one_to_many")), path)


@pytest.mark.parametrize("other", OTHER)
def test_a_predictor_of_detectron2_refuses_weights_that_leave_a_part_to_chance(tmp_path, other):
    """A part too many is no part left to chance."""
    opts, _ = OTHER[other]
    _, path = saved(tmp_path, *written(other))
    cfg = tiny_cfg(*opts, "MODEL.WEIGHTS", path, "INPUT.MIN_SIZE_TEST", 64)
    if other == "shallower":
        assert DefaultPredictor(cfg)(np.zeros((64, 64, 3), np.uint8))
        return
    with pytest.raises(UserError, match="weights of another model") as caught:
        DefaultPredictor(cfg)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_neither_detect_nor_train(tmp_path, value):
    """They find nothing, which looks like a bad detector, or end the training at its first loss."""
    from defcn_ext.engine.checkpointer import Checkpointer

    state, _ = saved(tmp_path)
    name = "branches.one_to_one.cls_score.weight"
    path = str(tmp_path / "spoilt.pth")
    torch.save({"model": state | {name: torch.full_like(state[name], value)}}, path)
    for load in (
        lambda: load_weights(build_model(tiny_cfg()), path),
        lambda: Checkpointer(build_model(tiny_cfg())).load(path, checkpointables=[]),
        lambda: DefaultPredictor(tiny_cfg("MODEL.WEIGHTS", path)),
    ):
        with pytest.raises(UserError, match=rf"spoilt\.pth: {name} of these weights is not finite"):
            load()


def test_what_only_trains_need_not_be_finite_to_detect(tmp_path):
    state, _ = saved(tmp_path, *DATE_F)
    name = "branches.one_to_many.cls_score.weight"
    path = tmp_path / "spoilt.pth"
    torch.save({"model": state | {name: torch.full_like(state[name], math.nan)}}, path)
    model = build_model(tiny_cfg(*DATE_F))
    load_weights(model, path)
    detecting = "branches.one_to_one.cls_score.weight"
    assert torch.equal(model.state_dict()[detecting], state[detecting])


def test_training_still_starts_from_what_fits(tmp_path, caplog):
    """Fine-tuning: other classes, the rest of the weights."""
    from defcn_ext.engine.checkpointer import Checkpointer

    state, path = saved(tmp_path)
    model = build_model(tiny_cfg("MODEL.DEFCN.NUM_CLASSES", 7))
    with caplog.at_level(logging.WARNING):
        Checkpointer(model).load(path, checkpointables=[])
    name = "head.cls_subnet.0.weight"
    assert torch.equal(model.state_dict()[name], state[name])
