import copy
import logging
import re

import numpy as np
import pytest
import torch
from fvcore.common.param_scheduler import ConstantParamScheduler, MultiStepParamScheduler
from torch import nn

from detectron2.config import get_cfg
from detectron2.layers import get_norm
from detectron2.solver import (
    LRMultiplier,
    WarmupCosineLR,
    WarmupMultiStepLR,
    WarmupParamScheduler,
    build_lr_scheduler,
    build_optimizer,
    get_default_optimizer_params,
)
from detectron2.solver.build import maybe_add_gradient_clipping, reduce_param_groups
from tests.standin import says

LR_CASES = [
    "multistep_linear",
    "multistep_constant",
    "multistep_rescale",
    "multistep_no_warmup",
    "multistep_steps_beyond_max",
    "multistep_step_equal_max",
    "multistep_warmup_past_first_step",
    "cosine",
    "cosine_end",
    "cosine_rescale",
    "cosine_constant",
    "fixed_gamma",
    "warmup_longer_than_training",
]


def solver_cfg(options):
    cfg = get_cfg()
    for key, value in options.items():
        cfg.SOLVER[key] = value
    return cfg


def two_group_optimizer(cfg):
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [p], "lr": cfg.SOLVER.BASE_LR * (i + 1)} for i, p in enumerate(parameters)]
    return torch.optim.SGD(groups, lr=cfg.SOLVER.BASE_LR)


def follow(scheduler, optimizer, steps):
    """The learning rates used at iterations 0 .. steps - 1; the scheduler ends where the last one left it."""
    rows = []
    for i in range(steps):
        if i:
            optimizer.step()
            scheduler.step()
        rows.append([group["lr"] for group in optimizer.param_groups])
    return np.array(rows)


def test_the_cases_below_are_all_cases(facts):
    assert sorted(facts("golden_solver.json")["lr_cases"]) == sorted(LR_CASES)


@pytest.mark.parametrize("name", LR_CASES)
def test_learning_rate_of_every_iteration(facts, name):
    case = facts("golden_solver.json")["lr_cases"][name]
    cfg = solver_cfg(case["SOLVER"])
    optimizer = two_group_optimizer(cfg)
    if "raises" in case:
        with pytest.raises({"ValueError": ValueError}[case["raises"]]):
            follow(build_lr_scheduler(cfg, optimizer), optimizer, cfg.SOLVER.MAX_ITER)
        return
    expected = facts("golden_solver.npz")[f"lr/{name}"]
    rows = follow(build_lr_scheduler(cfg, optimizer), optimizer, len(expected))
    np.testing.assert_allclose(rows, expected, rtol=1e-6, atol=1e-12)


def test_stock_retinanet_schedule(facts):
    golden = facts("golden_solver.npz")
    cfg = solver_cfg({"MAX_ITER": 90000, "BASE_LR": 0.01, "STEPS": (60000, 80000)})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for iteration in golden["lr/retinanet_1x_iters"]:
        scheduler.last_epoch = int(iteration)
        rates.append(scheduler.get_lr()[0])
    np.testing.assert_allclose(rates, golden["lr/retinanet_1x_lr"], rtol=1e-6)


def test_only_cosine_and_shortened_curves_can_pass_max_iter(facts):
    facts = facts("golden_solver.json")
    assert facts["stepping_past_max_iter"].keys() == {"multistep_linear", "multistep_constant", "cosine"}
    for name, outcome in facts["stepping_past_max_iter"].items():
        cfg = solver_cfg(facts["lr_cases"][name]["SOLVER"])
        optimizer = two_group_optimizer(cfg)
        scheduler = build_lr_scheduler(cfg, optimizer)
        follow(scheduler, optimizer, cfg.SOLVER.MAX_ITER)
        if outcome["ok"]:
            follow(scheduler, optimizer, 5)
        else:
            with pytest.raises(RuntimeError):
                follow(scheduler, optimizer, 5)


def test_fixed_gamma_fails_on_the_step_after_the_last_iteration(facts):
    cfg = solver_cfg(facts("golden_solver.json")["lr_cases"]["fixed_gamma"]["SOLVER"])
    optimizer = two_group_optimizer(cfg)
    scheduler = build_lr_scheduler(cfg, optimizer)
    follow(scheduler, optimizer, 60)
    with pytest.raises(IndexError):
        scheduler.step()


def test_scheduler_object(facts):
    golden = facts("golden_solver.json")["lr"]
    cfg = solver_cfg(facts("golden_solver.json")["lr_cases"]["multistep_linear"]["SOLVER"])
    optimizer = two_group_optimizer(cfg)
    scheduler = build_lr_scheduler(cfg, optimizer)
    follow(scheduler, optimizer, 6)
    assert type(scheduler).__name__ == golden["scheduler_class"]
    assert scheduler.state_dict() == golden["state_dict_after_5_steps"]
    assert all(hasattr(scheduler, name) for name in golden["attributes"])
    assert set(golden["initial_lr_key_in_groups"]) <= set(optimizer.param_groups[0])


def test_resume_needs_the_optimizers_state_too(facts):
    golden = facts("golden_solver.json")["lr"]["resume"]
    rows = facts("golden_solver.npz")["lr/multistep_linear"]
    cfg = solver_cfg(facts("golden_solver.json")["lr_cases"]["multistep_linear"]["SOLVER"])
    optimizer = two_group_optimizer(cfg)
    scheduler = build_lr_scheduler(cfg, optimizer)
    follow(scheduler, optimizer, 21)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))

    resumed = two_group_optimizer(cfg)
    scheduler = build_lr_scheduler(cfg, resumed)
    scheduler.load_state_dict(saved[1])
    rates = lambda: [group["lr"] for group in resumed.param_groups]  # noqa: E731
    np.testing.assert_allclose(rates(), golden["lr_right_after_scheduler_load"])
    resumed.load_state_dict(saved[0])
    np.testing.assert_allclose(rates(), golden["lr_after_optimizer_load_too"])
    np.testing.assert_allclose(rates(), golden["uninterrupted_row_20"])
    resumed.step()
    scheduler.step()
    np.testing.assert_allclose(rates(), golden["lr_after_one_more_step"])
    np.testing.assert_allclose(rates(), golden["uninterrupted_row_21"])
    np.testing.assert_allclose(rates(), rows[21])


def test_unknown_names_are_value_errors(facts):
    golden = facts("golden_solver.json")["lr"]
    assert golden["unknown_name"] == golden["unknown_warmup"] == "ValueError"
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=says("NoSuchLR")):
        build_lr_scheduler(solver_cfg({"LR_SCHEDULER_NAME": "NoSuchLR"}), optimizer)
    with pytest.raises(ValueError, match=says("exponential")):
        build_lr_scheduler(solver_cfg({"WARMUP_METHOD": "exponential"}), optimizer)
    with pytest.raises(ValueError, match=says("exponential")):
        WarmupCosineLR(optimizer, 10, warmup_method="exponential")
    with pytest.raises(ValueError, match=says("function")):
        LRMultiplier(optimizer, lambda where: 1.0, 10)
    with pytest.raises(ValueError, match=says(r"\[5, 3\]")):
        WarmupMultiStepLR(optimizer, [5, 3])


def test_a_step_beyond_training_is_warned_about(facts, caplog):
    cfg = solver_cfg(facts("golden_solver.json")["lr_cases"]["multistep_steps_beyond_max"]["SOLVER"])
    with caplog.at_level(logging.WARNING):
        build_lr_scheduler(cfg, two_group_optimizer(cfg))
    assert caplog.records and re.search(says("90"), caplog.text)


def test_warmup_by_hand():
    # 0.1 of the first value 2 at the start; after half the training, the value at half the training, which is 1.
    curve = WarmupParamScheduler(MultiStepParamScheduler([2.0, 1.0], milestones=[5], num_updates=10), 0.1, 0.5)
    assert [curve(where) for where in (0.0, 0.25, 0.75)] == pytest.approx([0.2, 0.6, 1.0])
    plateau = WarmupParamScheduler(ConstantParamScheduler(2.0), 0.1, 0.5, "constant")
    assert [plateau(where) for where in (0.0, 0.25, 0.75)] == pytest.approx([0.2, 0.2, 2.0])


def test_schedulers_that_count_in_iterations():
    make = lambda: torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)  # noqa: E731
    optimizer = make()
    steps = WarmupMultiStepLR(optimizer, [4, 6], gamma=0.1, warmup_factor=0.5, warmup_iters=2)
    np.testing.assert_allclose(follow(steps, optimizer, 8)[:, 0], [1, 1.5, 2, 2, 0.2, 0.2, 0.02, 0.02])
    assert steps.state_dict()["last_epoch"] == 7 and "_curve" not in steps.state_dict()
    optimizer = make()
    cosine = WarmupCosineLR(optimizer, 4, warmup_factor=0.5, warmup_iters=1, warmup_method="constant")
    # 2 * 0.5 * (1 + cos(pi i / 4)), halved at iteration 0.
    np.testing.assert_allclose(follow(cosine, optimizer, 4)[:, 0], [1, 1.70710678, 1, 0.29289322])


class ManyLayers(nn.Module):
    """The model that the parameter groups of the golden file were read off."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.mha_bias = nn.Parameter(torch.ones(2))
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.gn = nn.GroupNorm(2, 4)
        self.ln = nn.LayerNorm(4)
        self.d2ln = get_norm("LN", 4)
        self.lin = nn.Linear(4, 2)
        self.frozen = nn.Conv2d(4, 4, 1)
        self.frozen.requires_grad_(False)
        self.nobias = nn.Conv2d(4, 4, 1, bias=False)
        self.shared = self.lin


def named_groups(groups, model):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [{**group, "params": [names[p] for p in group["params"]]} for group in groups]


def test_the_model_of_the_golden_file(facts):
    rows = [[n, list(p.shape), p.requires_grad] for n, p in ManyLayers().named_parameters()]
    assert rows == [row[:3] for row in facts("golden_solver.json")["optimizer"]["model_parameters"]]


@pytest.mark.parametrize(
    "name, options",
    [
        ("defaults", {}),
        ("norm_wd_1e-4", {"WEIGHT_DECAY_NORM": 1e-4}),
        ("bias_lr_2_bias_wd_0", {"BIAS_LR_FACTOR": 2.0, "WEIGHT_DECAY_BIAS": 0.0}),
        ("bias_wd_equal_wd", {"WEIGHT_DECAY_BIAS": 1e-4}),
        ("nesterov", {"NESTEROV": True}),
    ],
)
def test_optimizer_groups(facts, name, options):
    model = ManyLayers()
    cfg = solver_cfg({"BASE_LR": 0.01, **options})
    optimizer = build_optimizer(cfg, model)
    golden = facts("golden_solver.json")["optimizer"][name]
    assert type(optimizer).__name__ == golden["class"]
    groups = named_groups(optimizer.param_groups, model)
    # torch's own further options may differ between its versions.
    assert [{key: group[key] for key in expected} for group, expected in zip(groups, golden["groups"])] == golden[
        "groups"
    ]
    assert len(groups) == len(golden["groups"])


def test_optimizer_defaults_in_the_config(facts):
    golden = facts("golden_solver.json")["optimizer"]["defaults_in_config"]
    assert {key: get_cfg().SOLVER[key] for key in golden} == golden


def test_parameter_groups_with_factors_and_overrides(facts):
    golden = facts("golden_solver.json")["optimizer"]
    model = ManyLayers()
    seen = []

    def factor(name):
        seen.append(name)
        return 0.5 if name.startswith("lin") else 1.0

    groups = get_default_optimizer_params(
        model,
        base_lr=1.0,
        weight_decay=0.1,
        weight_decay_norm=0.0,
        lr_factor_func=factor,
        overrides={"scale": {"lr": 5.0, "weight_decay": 0.0}},
    )
    assert named_groups(groups, model) == golden["overrides_and_lr_func"]
    assert seen == golden["names_passed_to_lr_func"]
    assert named_groups(get_default_optimizer_params(model), model) == golden["no_arguments"]


def test_parameter_group_errors(facts):
    golden = facts("golden_solver.json")["optimizer"]["get_default_optimizer_params_errors"]
    calls = {
        "bias_factor_without_base_lr": {"bias_lr_factor": 2.0},
        "lr_func_without_base_lr": {"lr_factor_func": lambda name: 1.0},
        "conflicting_bias_override": {"weight_decay_bias": 0.0, "overrides": {"bias": {"weight_decay": 1.0}}},
    }
    assert {name: outcome["raises"] for name, outcome in golden.items()} == dict.fromkeys(calls, "ValueError")
    for arguments in calls.values():
        with pytest.raises(ValueError):
            get_default_optimizer_params(ManyLayers(), **arguments)


def test_reduce_param_groups_merges_and_lets_later_groups_win():
    groups = [
        {"params": ["a", "b"], "lr": 1.0, "weight_decay": 3.0},
        {"params": ["c"], "lr": 1.0, "weight_decay": 3.0},
        {"params": ["b"], "lr": 2.0},
    ]
    assert reduce_param_groups(groups) == [
        {"params": ["a", "c"], "lr": 1.0, "weight_decay": 3.0},
        {"params": ["b"], "lr": 2.0, "weight_decay": 3.0},
    ]


CLIPPING = {
    "disabled": {"ENABLED": False},
    "value_1.0": {"ENABLED": True, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0},
    "norm_1.0_L2": {"ENABLED": True, "CLIP_TYPE": "norm", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
    "norm_1.0_inf": {"ENABLED": True, "CLIP_TYPE": "norm", "CLIP_VALUE": 1.0, "NORM_TYPE": float("inf")},
}


class TwoVectors(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(2))
        self.q = nn.Parameter(torch.zeros(2))


def clip_cfg(options):
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY = 1.0, 0.0, 0.0
    for key, value in options.items():
        cfg.SOLVER.CLIP_GRADIENTS[key] = value
    return cfg


@pytest.mark.parametrize("name", CLIPPING)
@pytest.mark.parametrize("wrap_instance", [False, True])
def test_gradient_clipping(facts, name, wrap_instance):
    golden = facts("golden_solver.json")["clipping"]
    model, cfg = TwoVectors(), clip_cfg(CLIPPING[name])
    if wrap_instance:
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD(model.parameters(), lr=1.0))
    else:
        optimizer = build_optimizer(cfg, model)
    model.p.grad = torch.tensor(golden["gradients"]["p"])
    model.q.grad = torch.tensor(golden["gradients"]["q"])
    optimizer.step()
    assert type(optimizer).__name__ == golden[name]["class"]
    assert isinstance(optimizer, torch.optim.SGD)
    np.testing.assert_allclose(model.p.detach(), golden[name]["p"], rtol=1e-6)
    np.testing.assert_allclose(model.q.detach(), golden[name]["q"], rtol=1e-6)
    np.testing.assert_allclose(model.p.grad, golden[name]["grad_p_after"], rtol=1e-6)


def test_gradient_clipping_of_other_optimizers_and_types(facts):
    golden = facts("golden_solver.json")["clipping"]
    wrapped = maybe_add_gradient_clipping(clip_cfg({"ENABLED": True}), torch.optim.AdamW)
    assert wrapped.__name__ == golden["wraps_class_too"]
    assert golden["unknown_type"]["raises"] == "ValueError"
    with pytest.raises(ValueError, match=says("total")):
        maybe_add_gradient_clipping(clip_cfg({"ENABLED": True, "CLIP_TYPE": "total"}), torch.optim.SGD)
