"""One-to-few's schedule through the trainer: unbroken, resumed, and over the parts of a step."""

import pytest
import torch

from defcn_ext.assignment import weighting
from detectron2.utils.events import has_event_storage
from tests.engine.test_trainer import assert_same, load, stop_after
from tests.engine.tiny import TinyTrainer, run, tiny_cfg
from tests.tiny import ALL as DETECTORS
from tests.tiny import ONE
from tests.tiny import tiny_cfg as detector_cfg

SCHEDULES = {  # T of the six iterations, 0.6 to 0.2
    "step": ("O2F(schedule=step, epochs=3)", [0.6, 0.6, 0.4, 0.4, 0.2, 0.2]),
    "linear": ("O2F(schedule=linear)", [0.6, 0.52, 0.44, 0.36, 0.28, 0.2]),
}


def o2f_cfg(entry, folder, rule, *opts):
    cfg = tiny_cfg(entry, folder, "SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.BASE_LR", 0.001, *opts)
    small = ("MODEL.DEFCN.NUM_CLASSES", 1, ONE + "QUALITY.CONVS", 1, ONE + "RULE", rule)
    cfg.MODEL = detector_cfg(*DETECTORS["o2f"], *small).MODEL
    return cfg


@pytest.fixture
def ceilings(monkeypatch):
    """The T of each assignment in training, in order; building a model tries its rule too."""
    seen, original = [], weighting.label_ceiling

    def label_ceiling(*args):
        ceiling = original(*args)
        if has_event_storage():
            seen.append(ceiling)
        return ceiling

    monkeypatch.setattr(weighting, "label_ceiling", label_ceiling)
    return seen


@pytest.mark.parametrize("rule, expected", SCHEDULES.values(), ids=SCHEDULES)
def test_resumed_in_the_middle_of_the_schedule(tiny_entry, tmp_path, monkeypatch, ceilings, rule, expected):
    run(o2f_cfg(tiny_entry, tmp_path / "whole", rule))
    assert ceilings == pytest.approx(expected)

    broken = o2f_cfg(tiny_entry, tmp_path / "broken", rule)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 4)  # after the checkpoint of iteration 2
        run(broken)
    ceilings.clear()
    torch.manual_seed(99)
    resumed = TinyTrainer(broken)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3
    resumed.train()
    assert ceilings == pytest.approx(expected[3:])
    assert_same(load(tmp_path / "broken"), load(tmp_path / "whole"))


def test_the_parts_of_a_step_see_one_ceiling(tiny_entry, tmp_path, ceilings):
    rule, expected = SCHEDULES["linear"]
    run(o2f_cfg(tiny_entry, tmp_path / "out", rule, "SOLVER.ACCUMULATE", 2))
    assert ceilings == pytest.approx([t for t in expected for _ in range(2)])


def test_the_schedule_reaches_the_weights(tiny_entry, tmp_path):
    """Else the comparisons above would hold with any T."""
    rules = ("O2F(schedule=linear)", "O2F(schedule=linear, t_min=0.6)")
    a, b = (run(o2f_cfg(tiny_entry, tmp_path / str(i), rule)).model.state_dict() for i, rule in enumerate(rules))
    assert any(not torch.equal(a[name], b[name]) for name in a)
