import math

import pytest
import torch
from torch import nn

from defcn_ext.engine.config import add_engine_config
from defcn_ext.engine.solver import build_lr_scheduler, build_optimizer, clip_before_step
from detectron2 import solver as stock
from detectron2.config import get_cfg


class Net(nn.Module):
    def __init__(self, fpn: bool = True):
        super().__init__()
        pretrained = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.backbone = nn.ModuleDict({"bottom_up": pretrained, "fpn": nn.Conv2d(4, 4, 1)}) if fpn else pretrained
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.backbone["fpn"](self.backbone["bottom_up"](x)))


def cfg_with(*opts):
    cfg = get_cfg()
    add_engine_config(cfg)
    cfg.merge_from_list(list(opts))
    return cfg


def train(build, cfg, steps: int = 5) -> list[torch.Tensor]:
    torch.manual_seed(1)
    model = Net()
    optimizer = build(cfg, model)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.randn(2, 3, 4, 4)) * 3).square().mean().backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.0, "SOLVER.NESTEROV", True),
        ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.01),
        ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
    ],
)
def test_sgd_is_detectron2s_bit_for_bit(opts):
    cfg = cfg_with("SOLVER.BASE_LR", 0.01, *opts)
    for ours, theirs in zip(train(build_optimizer, cfg), train(stock.build_optimizer, cfg), strict=True):
        assert torch.isfinite(ours).all() and torch.equal(ours, theirs)


def test_groups_are_detectron2s():
    cfg = cfg_with("SOLVER.WEIGHT_DECAY_NORM", 1e-4)
    model = Net()
    ours, theirs = build_optimizer(cfg, model), stock.build_optimizer(cfg, model)
    assert ours.state_dict() == theirs.state_dict()


@pytest.mark.parametrize("fpn", [True, False])
def test_backbone_multiplier_spares_the_fpn(fpn):
    cfg = cfg_with("SOLVER.BASE_LR", 0.2, "SOLVER.BACKBONE_MULTIPLIER", 0.1)
    model = Net(fpn)
    rates = {id(p): group["lr"] for group in build_optimizer(cfg, model).param_groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in model.named_parameters()}
    for name, rate in found.items():
        pretrained = name.startswith("backbone.bottom_up.") if fpn else name.startswith("backbone.")
        assert rate == pytest.approx(0.02 if pretrained else 0.2), name
    assert len(found) == (8 if fpn else 6)


def test_adamw_first_step_is_lr_and_decay():
    cfg = cfg_with("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.5)
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = build_optimizer(cfg, model)
    model.weight.grad = torch.tensor([[-7.0]])
    optimizer.step()
    # decoupled decay 2 (1 - 0.1 * 0.5), then one lr against the sign of the gradient
    assert model.weight.item() == pytest.approx(1.9 + 0.1, abs=1e-6)


@pytest.mark.parametrize(
    "clip_type, expected",
    [
        ("full_model", [[0.6, 0.0], [0.8]]),  # one norm of 5 over both
        ("norm", [[1.0, 0.0], [1.0]]),  # norms of 3 and 4
        ("value", [[1.0, 0.0], [1.0]]),
    ],
)
def test_clipping_by_hand(clip_type, expected):
    params = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.SGD([{"params": [params[0]]}, {"params": [params[1]], "lr": 2.0}], lr=1.0)
    clip_before_step(optimizer, clip_type, 1.0)
    params[0].grad, params[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    optimizer.step()
    assert params[0].tolist() == pytest.approx([-x for x in expected[0]], abs=1e-5)
    assert params[1].tolist() == pytest.approx([-2 * x for x in expected[1]], abs=1e-5)


def test_what_learns_apart_is_clipped_apart():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizer = torch.optim.SGD(params, lr=1.0)
    clip_before_step(optimizer, "full_model", 1.0, apart=[[params[2]]])
    for param, grad in zip(params, (3.0, 4.0, 100.0)):
        param.grad = torch.tensor([grad])
    optimizer.step()
    assert [p.item() for p in params] == pytest.approx([-0.6, -0.8, -1.0], abs=1e-5)


def test_small_gradients_are_not_scaled_up():
    param = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([param], lr=1.0)
    clip_before_step(optimizer, "full_model", 10.0)
    param.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert param.tolist() == [-3.0, -4.0]


@pytest.mark.parametrize(
    "opts, key",
    [
        (("SOLVER.OPTIMIZER", "LION"), "SOLVER.OPTIMIZER"),
        (("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"), "CLIP_TYPE.*full_model"),
    ],
)
def test_unknown_names_are_told(opts, key):
    with pytest.raises(ValueError, match=key):
        build_optimizer(cfg_with(*opts), Net())


def rates(cfg) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    found = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_one_cycle_by_hand():
    cfg = cfg_with("SOLVER.ONE_CYCLE.ENABLED", True, "SOLVER.BASE_LR", 2.0, "SOLVER.MAX_ITER", 20)
    cfg.SOLVER.ONE_CYCLE.PEAK = 0.4
    lr = rates(cfg)
    assert lr[0] == pytest.approx(2 * 0.04)
    assert lr[4] == pytest.approx(2 * (1 + 0.04) / 2)  # half way up
    assert lr[8] == pytest.approx(2.0)
    assert lr[14] == pytest.approx(2 * (1 + 4e-6) / 2)  # half way down
    assert lr[19] == pytest.approx(2 * (4e-6 + (1 - 4e-6) * (1 + math.cos(math.pi * 11 / 12)) / 2))


def test_one_cycle_peak_outside_the_run():
    cfg = cfg_with("SOLVER.ONE_CYCLE.ENABLED", True)
    cfg.SOLVER.ONE_CYCLE.PEAK = 1.0
    with pytest.raises(ValueError, match="ONE_CYCLE.PEAK"):
        rates(cfg)


def test_other_schedules_are_detectron2s():
    lr = rates(cfg_with("SOLVER.MAX_ITER", 10, "SOLVER.STEPS", (6,), "SOLVER.WARMUP_ITERS", 0, "SOLVER.BASE_LR", 1.0))
    assert lr == pytest.approx([1.0] * 6 + [0.1] * 4)
