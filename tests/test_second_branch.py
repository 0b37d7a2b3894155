"""A branch that only trains: it is neither run nor needed at inference (DATE)."""

import pytest
import torch

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from tests.tiny import batch, tiny_cfg

BOTH = ("MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "ONE_TO_MANY"], "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0)
FCOS = (
    *("MODEL.DEFCN.ONE_TO_MANY.RULE", "FCOS(prior=inside)", "MODEL.DEFCN.ONE_TO_MANY.BOX_FORM", "exp"),
    *("MODEL.DEFCN.ONE_TO_MANY.BOX_LOSS", "iou", "MODEL.DEFCN.ONE_TO_MANY.CENTERNESS", "cls"),
)
RETINANET = (
    *("MODEL.DEFCN.ONE_TO_MANY.RULE", "RetinaNet(positive=0.5, negative=0.4)"),
    *("MODEL.DEFCN.ONE_TO_MANY.BOX_FORM", "delta", "MODEL.DEFCN.ONE_TO_MANY.BOX_LOSS", "delta_l1"),
    *("MODEL.DEFCN.ONE_TO_MANY.ANCHORS.SCALES", [4.0, 5.039684, 6.349604]),
    *("MODEL.DEFCN.ONE_TO_MANY.ANCHORS.RATIOS", [0.5, 1.0, 2.0], "MODEL.DEFCN.ONE_TO_MANY.ANCHORS.OFFSET", 0.0),
)
CASES = {"fcos": FCOS, "retinanet": RETINANET, "own_towers": (*RETINANET, "MODEL.DEFCN.SHARE_TOWERS", False)}
OF_SECOND = "branches.one_to_many."


@pytest.fixture(params=CASES)
def opts(request):
    return (*BOTH, *CASES[request.param])


def build(opts, inference_only=False, seed=0):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(*opts, "MODEL.DEFCN.INFERENCE_ONLY", inference_only))


def trained(opts):
    """The training model after one step, so that nothing stands where it began."""
    model = build(opts)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    sum(model(batch()).values()).backward()
    optimizer.step()
    return model


def assert_same_detections(one, other):
    for a, b in zip(one, other, strict=True):
        a, b = a["instances"], b["instances"]
        assert len(a) > 0 and a.image_size == b.image_size
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores) and torch.equal(a.pred_classes, b.pred_classes)


def test_it_runs_once_a_training_step_and_never_in_eval_mode(opts):
    model, calls = build(opts), []
    for name, branch in model.branches.items():
        branch.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(batch())
    assert calls == ["one_to_one", "one_to_many"]
    calls.clear()
    with torch.no_grad():
        model.eval()(batch())
    assert calls == ["one_to_one"]


def test_without_it_the_detections_are_bit_identical(opts):
    model, small = trained(opts), build(opts, inference_only=True, seed=1)
    keys = small.load_state_dict(model.state_dict(), strict=False)
    assert keys.missing_keys == []
    assert {k for k in model.state_dict() if k.startswith(OF_SECOND)} == set(keys.unexpected_keys) != set()
    with torch.no_grad():
        assert_same_detections(model.eval()(batch()), small.eval()(batch()))


def test_without_it_the_model_refuses_to_train(opts):
    small = build(opts, inference_only=True)
    with pytest.raises(
        ValueError, match=r"MODEL\.DEFCN\.INFERENCE_ONLY is set, so this model has no branches to train"
    ):
        small.train()(batch())


class Listening(DetectionCheckpointer):
    """Keeps what fits only one side."""

    def _load_model(self, checkpoint):
        self.keys = super()._load_model(checkpoint)
        return self.keys


def test_the_checkpointer_loads_a_training_checkpoint(opts, tmp_path):
    model, small = trained(opts), build(opts, inference_only=True, seed=1)
    DetectionCheckpointer(model, str(tmp_path)).save("model_final")
    checkpointer = Listening(small)
    checkpointer.load(str(tmp_path / "model_final.pth"))
    assert list(checkpointer.keys.missing_keys) == [] and checkpointer.keys.incorrect_shapes == []
    expected = {k for k in model.state_dict() if k.startswith(OF_SECOND)}
    assert set(checkpointer.keys.unexpected_keys) == expected
    with torch.no_grad():
        assert_same_detections(model.eval()(batch()), small.eval()(batch()))
