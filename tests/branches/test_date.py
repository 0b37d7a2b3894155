"""Two branches on one pair of towers: what each of them moves, and what is left without the other (20-date)."""

import pytest
import torch

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tests.tiny import ALL, MANY, ONE, batch, tiny_cfg

BRANCHES = "MODEL.DEFCN.BRANCHES"
NAMES = ["date_f", "date_r", "date_r_own_towers"]


def build(name, *opts):
    torch.manual_seed(0)
    return build_model(tiny_cfg(*ALL[name], "MODEL.RESNETS.NORM", "FrozenBN", *opts))


def with_weights_of(model, name, *opts):
    """Another model, all of whose weights are those of `model`."""
    other = build(name, *opts)
    given = model.state_dict()
    other.load_state_dict({key: given[key] for key in other.state_dict()})
    return other


def gradients(model, ending=""):
    """By name, of the losses of one branch, or of all; None where the losses do not depend on the parameter."""
    losses = model(batch())
    total = sum(v for k, v in losses.items() if not ending or k.endswith("_one_to_many") == (ending == "one_to_many"))
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(total, list(parameters.values()), allow_unused=True)))


def moved(grads, prefix):
    """Whether all parameters of that name get a gradient, or none; raises where only some do."""
    hits = [g is not None and bool(g.any()) for name, g in grads.items() if name.startswith(prefix)]
    assert hits and len(set(hits)) == 1, (prefix, hits)
    return hits[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("silent, kept", [(MANY, "ONE_TO_ONE"), (ONE, "ONE_TO_MANY")])
def test_a_branch_of_weight_0_leaves_the_gradients_of_the_other_alone(name, silent, kept):
    """Bit for bit. Alone, the one-to-many branch is plain FCOS or RetinaNet; towers of its own become the model's."""
    both = build(name, silent + "LOSS_WEIGHT", 0.0)
    found = gradients(both)
    if name == "date_r_own_towers" and kept == "ONE_TO_MANY":
        alone = build(name, BRANCHES, [kept])
        given = both.state_dict()
        own = {k.replace("branches.one_to_many.towers.", "head."): k for k in given if ".towers." in k}
        alone.load_state_dict({key: given[own.get(key, key)] for key in alone.state_dict()})
    else:
        own, alone = {}, with_weights_of(both, name, BRANCHES, [kept])
    expected = gradients(alone)
    for key, grad in expected.items():
        assert torch.equal(found[own.get(key, key)], grad), key
    unused = [k for k in found if k not in expected and k not in own.values()]
    assert unused and not any(found[k].any() for k in unused if found[k] is not None)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_the_branches_alone(name):
    both = build(name)
    losses = both(batch())
    one = with_weights_of(both, name, BRANCHES, ["ONE_TO_ONE"])(batch())
    assert {k: v.item() for k, v in losses.items() if "many" not in k} == {k: v.item() for k, v in one.items()}


@pytest.mark.parametrize(
    "name, own, shared", [("date_f", False, True), ("date_r", False, True), ("date_r_own_towers", True, False)]
)
def test_who_moves_the_towers(name, own, shared):
    """The factors and the pyramid are everybody's; towers of its own hear of nobody but their branch."""
    model = build(name)
    one, many = gradients(model, "one_to_one"), gradients(model, "one_to_many")
    for tower in ("head.cls_subnet", "head.bbox_subnet"):
        assert moved(one, tower) and moved(many, tower) == shared
        own_tower = tower.replace("head", "branches.one_to_many.towers")
        assert any(k.startswith(own_tower) for k in many) == own
        if own:
            assert moved(many, own_tower) and not moved(one, own_tower)
    for grads, mine, other in ((one, "one_to_one", "one_to_many"), (many, "one_to_many", "one_to_one")):
        assert moved(grads, f"branches.{mine}.bbox_pred") and moved(grads, f"branches.{mine}.cls_score")
        assert not moved(grads, f"branches.{other}.")
        # an object has its positives on few levels, and no other level's factor is moved
        assert any(grads[f"head.scales.{level}.scale"].any() for level in range(5))
        assert grads["backbone.fpn_output3.weight"].any()


@pytest.mark.parametrize("name", NAMES)
def test_there_are_five_factors(name):
    model = build(name)
    scalars = [k for k, p in model.named_parameters() if p.numel() == 1 and k.endswith("scale")]
    assert scalars == [f"head.scales.{level}.scale" for level in range(5)]


def test_the_filter_hears_of_its_own_branch_only():
    model = build("date_f_3dmf")
    one, many = gradients(model, "one_to_one"), gradients(model, "one_to_many")
    for layer in ("max3d", "filter"):
        assert moved(one, f"branches.one_to_one.{layer}") and not moved(many, f"branches.one_to_one.{layer}")


def test_own_towers_predict_otherwise_than_the_shared_ones():
    """The second branch reads its towers: with the weights of the model's, it predicts what it would without them."""
    own = build("date_r_own_towers").eval()
    shared = with_weights_of(own, "date_r").eval()

    def predict(model):
        images = model.preprocess_image(batch())
        points, features = model.extract(images.tensor)
        return model.predict(points, features, "one_to_many").deltas

    with torch.no_grad():
        assert not torch.allclose(predict(own), predict(shared))
        own.branches["one_to_many"].towers.load_state_dict(own.head.state_dict(), strict=False)
        assert torch.equal(predict(own), predict(shared))


def detections(model):
    with torch.no_grad():
        return [x["instances"] for x in model.eval()(batch())]


@pytest.mark.parametrize("name", ["date_f", "date_r"])
@pytest.mark.parametrize("branch, nms", [("ONE_TO_MANY", True), ("ONE_TO_ONE", False)])
def test_each_branch_detects_what_it_would_alone(name, branch, nms):
    """Also as a deployed model, which does not have the other branch and reads a checkpoint without it."""
    opts = ("MODEL.DEFCN.NMS", nms, "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0, "MODEL.DEFCN.TEST_BRANCH", branch)
    both = build(name, *opts)
    for predictor in both.branches.values():
        torch.nn.init.normal_(predictor.cls_score.weight, std=0.3)  # scores that differ
        torch.nn.init.ones_(predictor.bbox_pred.bias)  # boxes that are not empty, whatever the start
    alone = with_weights_of(both, name, *opts, BRANCHES, [branch])
    deployed = with_weights_of(both, name, *opts, "MODEL.DEFCN.INFERENCE_ONLY", True)
    assert list(deployed.branches) == [branch.lower()]
    for found, *others in zip(detections(both), detections(alone), detections(deployed)):
        assert len(found) > 20 and len(found.scores.unique()) > 10
        for other in others:
            assert torch.equal(found.pred_boxes.tensor, other.pred_boxes.tensor)
            assert torch.equal(found.scores, other.scores) and torch.equal(found.pred_classes, other.pred_classes)


def test_a_deployed_model_refuses_to_train():
    with pytest.raises(ValueError, match="MODEL.DEFCN.INFERENCE_ONLY is set"):
        build("date_f", "MODEL.DEFCN.INFERENCE_ONLY", True)(batch())


@pytest.mark.parametrize("name", ["date_f", "date_r"])
@pytest.mark.parametrize("branch", ["", "ONE_TO_MANY"])
def test_training_is_drawn(name, branch):
    model = build(name, "VIS_PERIOD", 1, "MODEL.DEFCN.TEST_BRANCH", branch, "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0)
    with EventStorage(0) as storage:
        losses = model(batch())
    assert len(storage._vis_data) == 1 and all(v.requires_grad for v in losses.values())
    latest = {k: v[0] for k, v in storage.latest().items()}
    assert latest["one_to_many/nonfinite_predictions"] == 0 < latest["one_to_many/positives_per_object"]
