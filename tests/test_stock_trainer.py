"""Detectron2's own trainer runs this project's configs with what it has, and is told what it passes over."""

import logging

import pytest
import torch
from torch import nn

from defcn_ext import config
from defcn_ext.config import changed_trainer_keys
from defcn_ext.data.augmentation import build_train_augmentation
from defcn_ext.engine import Trainer
from detectron2.data import DatasetMapper
from detectron2.engine import DefaultTrainer, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from tests.quick import data_root, quick  # noqa: F401  (fixtures)
from tests.test_configs import RUNNABLE, load
from tests.tiny import batch, tiny_cfg

ADAMW = ("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.EMA.ENABLED", True, "SOLVER.ACCUMULATE", 2)


@pytest.mark.parametrize("name", RUNNABLE)
def test_optimizer_schedule_and_mapper_of_every_config(name):
    cfg = load(name)
    optimizer = build_optimizer(cfg, nn.Linear(1, 1))
    build_lr_scheduler(cfg, optimizer)
    DatasetMapper(cfg, is_train=True)
    assert not cfg.SOLVER.AMP.ENABLED  # for which it wants a GPU


@pytest.mark.parametrize("name", ["Quick/poto_3dmf_aux.yaml", "BCCD/date_f.yaml"])
def test_a_step(quick, tmp_path, name, caplog):  # noqa: F811
    opts = ("DATASETS.TRAIN", ("quick_train",), "DATASETS.TEST", (), "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", 1)
    cfg = load(name, *opts, "SOLVER.IMS_PER_BATCH", 2, "MODEL.DEFCN.NUM_CLASSES", 4, "INPUT.MIN_SIZE_TRAIN", (96,))
    trainer = DefaultTrainer(cfg)
    logging.getLogger("detectron2").propagate = logging.getLogger("defcn_ext").propagate = True
    before = next(trainer.model.branches.parameters()).clone()
    trainer.train()
    assert not torch.equal(next(trainer.model.branches.parameters()), before)
    (told,) = (r.getMessage() for r in caplog.records if r.name == "defcn_ext.meta_arch")
    assert "SOLVER.OPTIMIZER" in told and "SOLVER.EMA.ENABLED" in told and "no effect" in told


def test_the_keys_that_are_changed():
    assert changed_trainer_keys(tiny_cfg()) == []
    assert changed_trainer_keys(tiny_cfg(*ADAMW, "SOLVER.BASE_LR", 0.5)) == [
        "SOLVER.ACCUMULATE",
        "SOLVER.OPTIMIZER",
        "SOLVER.EMA.ENABLED",
    ]


def test_a_plain_loop_is_told_once_and_the_trainer_of_this_project_never(caplog):
    cfg = tiny_cfg(*ADAMW)
    model = build_model(cfg)
    step = SimpleTrainer(model, iter([batch()] * 2), torch.optim.SGD(model.parameters(), lr=1e-5))
    with EventStorage() as storage:
        for step.iter in storage.iter, storage.iter + 1:
            step.run_step()
    assert [r.getMessage() for r in caplog.records if "does not read" in r.getMessage()] == [
        "This trainer does not read SOLVER.ACCUMULATE, SOLVER.OPTIMIZER, SOLVER.EMA.ENABLED: they have no effect; "
        "defcn_ext.engine.Trainer does (train_net.py)"
    ]
    assert Trainer.build_model(cfg).trainer_keys == []


def test_older_values_still_work_and_name_the_new_key(monkeypatch):
    """Those of configs from before these keys were this project's own."""
    cfg = tiny_cfg("INPUT.RANDOM_FLIP", "both", "SOLVER.LR_SCHEDULER_NAME", "OneCycleLR", "SOLVER.BASE_LR", 1.0)
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"])
    told = []
    monkeypatch.setattr(config, "log_first_n", lambda level, message, **options: told.append(message))
    flips = [a for a in build_train_augmentation(cfg) if type(a).__name__ == "RandomFlip"]
    optimizer = Trainer.build_optimizer(cfg, nn.Linear(1, 1))
    Trainer.build_lr_scheduler(cfg, optimizer)
    assert [(f.horizontal, f.vertical) for f in flips] == [(True, False), (False, True)]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.04)  # one cycle begins at START_FACTOR
    new = ("INPUT.FLIP_BOTH True", "SOLVER.CLIP_GRADIENTS.FULL_MODEL True", "SOLVER.ONE_CYCLE.ENABLED True")
    assert all(f"set {key} instead" in line for key, line in zip(new, told, strict=True))
