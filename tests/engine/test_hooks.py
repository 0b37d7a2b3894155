"""What hooks do to a run that resumes, and to one that fails."""

import pytest
import torch
from torch import nn

from defcn_ext.engine.hooks import EvalHook, PreciseBN
from detectron2.engine import hooks
from detectron2.modeling import META_ARCH_REGISTRY
from tests.engine.test_trainer import assert_same, load, stop_after
from tests.engine.tiny import NAME, TinyNet, TinyTrainer, run, tiny_cfg


class NormedNet(TinyNet):
    """With running statistics of the colours of images."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, batch):
        colours = self.norm(torch.stack([item["image"].float().mean((1, 2)) for item in batch]))
        out = super().forward(batch)
        return {**out, "loss_colour": (colours - 1).square().mean()} if self.training else out


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "NormedNet", NormedNet)


PRECISE = (
    *("MODEL.META_ARCHITECTURE", "NormedNet", "TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2),
    *("TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 3),
)


@pytest.mark.parametrize("seed", [3, -1])
def test_a_resumed_run_with_precise_statistics_is_the_unbroken_one(tiny_entry, tmp_path, monkeypatch, seed):
    monkeypatch.setattr("os.urandom", lambda n: bytes([9] * n))
    run(tiny_cfg(tiny_entry, tmp_path / "whole", "SEED", seed, *PRECISE))
    broken = tiny_cfg(tiny_entry, tmp_path / "broken", "SEED", seed, *PRECISE)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 4)
        run(broken)
    monkeypatch.setattr("os.urandom", lambda n: bytes([4] * n))
    resumed = TinyTrainer(broken)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3
    resumed.train()
    assert_same(load(tmp_path / "broken"), load(tmp_path / "whole"))


def test_each_update_sees_the_batches_that_are_its_own(tiny_entry, tmp_path, monkeypatch):
    """As in an unbroken run of Detectron2's hook: the next NUM_ITER batches each time."""
    starts = []
    original = PreciseBN.update_stats

    def update(self):
        original(self)
        starts.append((self.trainer.iter, self._data_loader.start))

    monkeypatch.setattr(PreciseBN, "update_stats", update)
    run(tiny_cfg(tiny_entry, tmp_path, *PRECISE, "SOLVER.MAX_ITER", 7))
    assert starts == [(1, 0), (3, 2), (5, 4), (6, 6)]


def test_what_a_model_counts_in_training_is_not_advanced(tiny_entry, tmp_path):
    precise = run(tiny_cfg(tiny_entry, tmp_path / "precise", *PRECISE)).model
    plain = run(tiny_cfg(tiny_entry, tmp_path / "plain", *PRECISE, "TEST.PRECISE_BN.ENABLED", False)).model
    assert len(precise.seen) == len(plain.seen) + 3 * 2 * 4  # it did look at batches
    for name, value in precise.state_dict().items():
        measured = name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
        assert torch.equal(value, plain.state_dict()[name]) != measured, name


class Broken(RuntimeError):
    pass


def fail(*_):
    raise Broken


@pytest.mark.parametrize("where", ["step", "hook", "save"])
def test_a_run_that_fails_in_its_last_iteration_is_neither_evaluated_nor_saved(
    tiny_entry, tmp_path, monkeypatch, where
):
    """Detectron2's own hook evaluates there, as it takes the last iteration for done."""
    trainer = TinyTrainer(tiny_cfg(tiny_entry, tmp_path, "DATASETS.TEST", (NAME,), "SOLVER.CHECKPOINT_PERIOD", 4))
    monkeypatch.setattr(hooks.EvalHook, "after_train", lambda self: self._do_eval())
    monkeypatch.setattr(TinyTrainer, "evaluate", lambda self: pytest.fail("evaluated"))
    last = lambda t: t.iter == 5 and fail()  # noqa: E731
    if where == "step":
        trainer.register_hooks([hooks.CallbackHook(before_step=last)])
    elif where == "hook":
        trainer._hooks.insert(0, hooks.CallbackHook(after_step=last))
        trainer._hooks[0].trainer = trainer
    else:
        original = trainer.checkpointer.tag_last_checkpoint
        monkeypatch.setattr(
            trainer.checkpointer, "tag_last_checkpoint", lambda name: fail() if "final" in name else original(name)
        )
    with pytest.raises(Broken):
        trainer.train()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert (tmp_path / "model_final.pth").exists() == (where == "save")


def test_a_run_that_ends_or_has_nothing_left_is_evaluated(tiny_entry, tmp_path):
    cfg = tiny_cfg(tiny_entry, tmp_path, "DATASETS.TEST", (NAME,))
    trainer = run(cfg)
    assert any(isinstance(hook, EvalHook) for hook in trainer._hooks) and trainer.results["bbox"]
    assert run(cfg, resume=True).results == trainer.results
