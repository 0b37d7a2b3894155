"""MODEL.DEFCN.TRAIN_ONLY: all but some branches stand still."""

import pytest
import torch
from fvcore.nn.precise_bn import get_bn_modules

from defcn_ext.engine.ema import WeightAverage
from defcn_ext.engine.solver import build_optimizer
from detectron2.modeling import build_model
from tests.tiny import BOTH, image_with, tiny_cfg

SELECTOR = (
    *("MODEL.DEFCN.SELECTOR.TYPE", "selector", "MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY", "SELECTOR"]),
    *("MODEL.DEFCN.TEST_BRANCH", "SELECTOR", "MODEL.DEFCN.TRAIN_ONLY", ["SELECTOR"], "MODEL.RESNETS.NORM", "BN"),
    *("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.WEIGHT_DECAY", 0.05),
)
IMAGES = [image_with([[4, 4, 40, 50], [20, 10, 60, 30]], [0, 2], size=(64, 64), seed=n) for n in range(2)]


def build(*opts):
    cfg = tiny_cfg(*opts)
    torch.manual_seed(0)
    return cfg, build_model(cfg)


def test_all_else_stands_still_its_running_statistics_and_average_too():
    """Trap 4 of 90-closing-the-gap."""
    cfg, model = build(*SELECTOR)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert any("running_mean" in name for name in before) and get_bn_modules(model.train()) == []
    optimizer, average = build_optimizer(cfg, model), WeightAverage(model, decay=0.5)
    average.before_train()
    for _ in range(2):
        losses = model(IMAGES)
        assert list(losses) == ["loss_cls_selector"]
        optimizer.zero_grad()
        losses["loss_cls_selector"].backward()
        optimizer.step()
        average.update()
    for state in (model.state_dict(), average.average):
        moved = {name for name, value in state.items() if not torch.equal(value, before[name])}
        assert moved == {name for name in before if name.startswith("branches.selector.")}


def test_what_stands_still_keeps_no_graph_and_no_gradient():
    _, model = build(*SELECTOR)
    _, features = model.extract(torch.rand(1, 3, 64, 64))
    assert not any(x.requires_grad for x in (*features.cls, *features.box, *features.pyramid))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("branches.selector.") for name in trained)


def test_modes():
    _, model = build(*SELECTOR)
    for part, mode in ((model, True), (model.backbone, False), (model.head, False)):
        assert part.training == mode
    assert not model.branches["one_to_many"].training and model.branches["selector"].training
    assert not any(part.training for part in model.eval().modules())
    assert model.train().branches["selector"].training and not model.backbone.training


def test_any_branch_may_be_the_one():
    _, model = build(*BOTH, "MODEL.DEFCN.TRAIN_ONLY", ["ONE_TO_MANY"])
    assert set(model(IMAGES)) == {"loss_cls_one_to_many", "loss_box_one_to_many"}


def test_a_name_of_no_branch_is_an_error():
    with pytest.raises(ValueError, match="MODEL.DEFCN.TRAIN_ONLY: 'one_to_few' is none of the branches: one_to_one"):
        build("MODEL.DEFCN.TRAIN_ONLY", ["ONE_TO_FEW"])
