"""Hooks around the training of a model of one weight."""

import json
import math
import re
import time

import pytest
import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import nn

from detectron2.engine import (
    BestCheckpointer,
    SimpleTrainer,
    hooks,
)
from detectron2.utils.events import EventWriter, JSONWriter, get_event_storage
from tests.standin import says
from tests.standin.small_trainer import GOLDEN, Spy, Weight, eval_iterations, make_trainer

EVAL_RUNS = [name for name in GOLDEN["eval_hook"] if name != "returns"]


@pytest.mark.parametrize("name", EVAL_RUNS)
def test_when_evaluation_happens(name):
    expected = GOLDEN["eval_hook"][name]
    numbers = {key: int(value) for key, value in re.findall(r"(failing_at_iter_|start|period|max)(\d+)", name)}
    seen, result, _ = eval_iterations(
        numbers["period"], numbers.get("start", 0), numbers["max"], numbers.get("failing_at_iter_")
    )
    if isinstance(expected, dict):
        assert {"eval_called_at_trainer_iter": seen, "result": result} == expected
    else:
        assert (seen, result) == (expected, True)


def test_a_failure_in_the_last_iteration_is_evaluated():
    assert eval_iterations(2, 0, 6, fail_at=5)[0] == [1, 3, 5]
    assert eval_iterations(2, 0, 6, fail_at=4)[0] == [1, 3]


RETURNS = {
    "None": None,
    "empty": {},
    "nested": {"bbox": {"AP": 3.5}},
    "not_a_dict": [3.5],
    "string_value": {"x": "good"},
    "numeric_string": {"x": "2.5"},
}


def test_every_evaluation_result_of_the_facts_is_run():
    assert set(RETURNS) == set(GOLDEN["eval_hook"]["returns"])


@pytest.mark.parametrize("case", RETURNS)
def test_what_evaluation_may_return(case):
    expected = GOLDEN["eval_hook"]["returns"][case]
    trainer = make_trainer(hook_list=[hooks.EvalHook(0, lambda: RETURNS[case])])
    if isinstance(expected, str):
        with pytest.raises((AssertionError, ValueError)) as error:
            trainer.train(0, 1)
        assert error.type.__name__ == expected
    else:
        trainer.train(0, 1)
        found = {k: list(v) for k, v in trainer.storage.latest().items() if k == "x" or "/" in k}
        assert found == expected


def test_evaluation_after_training_can_be_left_out():
    seen = []
    make_trainer(hook_list=[hooks.EvalHook(2, lambda: seen.append(1), eval_after_train=False)]).train(0, 4)
    assert len(seen) == 1


def test_callback_hook():
    seen = []
    moments = ("before_train", "after_train", "before_step", "after_step")
    hook = hooks.CallbackHook(**{name: lambda t, name=name: seen.append((name, t.iter)) for name in moments})
    make_trainer(hook_list=[hook, hooks.CallbackHook()]).train(3, 4)
    assert seen == [("before_train", 3), ("before_step", 3), ("after_step", 3), ("after_train", 4)]


class Clock:
    """Stands still until it is told to go on."""

    now = 1000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


def test_iteration_time_is_without_hooks_and_starts_at_the_third(lines, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr("fvcore.common.timer.perf_counter", clock)

    class Slow(Weight):
        def forward(self, x):
            clock.advance(20)
            return super().forward(x)

    model = Slow()
    trainer = SimpleTrainer(model, [torch.ones(1)] * 9, torch.optim.SGD(model.parameters(), 0.1))
    pause = hooks.CallbackHook(after_step=lambda t: clock.advance(100))
    trainer.register_hooks([hooks.IterationTimer(), pause])
    trainer.train(2, 7)
    assert trainer.storage.history("time").values() == [(20, 4), (20, 5), (20, 6)]
    texts = [text for name, _, text in lines() if name == "detectron2.engine.hooks"]
    assert texts[0] == "Overall training speed: 3 iterations in 0:01:00 (20.0000 s / it)"
    # four hooks ran since the clock of the whole was set back at the end of the second step
    assert texts[1] == "Total training time: 0:07:40 (0:06:40 on hooks)"


class Recorder(EventWriter):
    def __init__(self):
        self.writes, self.closed = [], False

    def write(self):
        self.writes.append(get_event_storage().iter)

    def close(self):
        self.closed = True


@pytest.mark.parametrize("period, end, expected", [(20, 45, [19, 39, 44, 45]), (5, 10, [4, 9, 10]), (20, 3, [2, 3])])
def test_writers_write_periodically_and_at_the_end(period, end, expected):
    writer = Recorder()
    make_trainer(hook_list=[hooks.PeriodicWriter([writer], period=period)]).train(0, end)
    assert writer.writes == expected and writer.closed


def test_writers_are_closed_after_an_exception():
    writer = Recorder()
    with pytest.raises(ValueError):
        make_trainer(hook_list=[Spy(fail_at=2), hooks.PeriodicWriter([writer])]).train(0, 9)
    assert writer.writes == [2] and writer.closed
    with pytest.raises(AssertionError):
        hooks.PeriodicWriter([object()])


def test_results_of_the_final_evaluation_reach_the_file(tmp_path):
    writer = JSONWriter(str(tmp_path / "metrics.json"))
    trainer = make_trainer(hook_list=[hooks.EvalHook(0, lambda: {"AP": 5}), hooks.PeriodicWriter([writer])])
    trainer.train(0, 3)
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [2, 3]
    assert rows[1] == {"AP": 5.0, "iteration": 3}


@pytest.mark.parametrize("name", GOLDEN["periodic_checkpointer"])
def test_periodic_checkpoints(name, tmp_path):
    period, end = (int(number) for number in re.match(r"period(\d+)_max(\d+)", name).groups())
    keep = re.search(r"keep(\d+)", name)
    trainer = make_trainer()
    checkpointer = Checkpointer(trainer.model, str(tmp_path))
    trainer.register_hooks(
        [hooks.PeriodicCheckpointer(checkpointer, period, max_to_keep=int(keep.group(1)) if keep else None)]
    )
    trainer.train(0, end)
    expected = GOLDEN["periodic_checkpointer"][name]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected["files"]
    assert (tmp_path / "last_checkpoint").read_text() == expected["last_checkpoint"]


@pytest.mark.parametrize(
    "mode, metrics, saved",
    [
        ("max", [0.3, 0.4, 0.35, 0.5], [9, 19, 40]),
        ("max", [0.3, 0.3, 0.3, 0.3], [9]),
        ("min", [1.0, 0.8, 0.9, 0.9], [9, 19]),
        ("min", [math.nan, 0.8, 0.9, math.inf], [19]),
        ("max", [math.inf, 0.8, 0.9, 0.1], [19, 29]),
    ],
)
def test_best_checkpoint(mode, metrics, saved, tmp_path, monkeypatch):
    values = iter(metrics)
    trainer = make_trainer()
    checkpointer = Checkpointer(trainer.model, str(tmp_path))
    saves = []
    save = checkpointer.save
    monkeypatch.setattr(checkpointer, "save", lambda name, **kw: (saves.append(kw["iteration"]), save(name, **kw)))
    trainer.register_hooks(
        [hooks.EvalHook(10, lambda: {"m": next(values)}), BestCheckpointer(10, checkpointer, "m", mode)]
    )
    trainer.train(0, 40)
    assert saves == saved
    assert torch.load(tmp_path / "model_best.pth")["iteration"] == saved[-1]


def test_best_checkpoint_needs_its_metric(tmp_path, lines):
    trainer = make_trainer()
    trainer.register_hooks([BestCheckpointer(2, Checkpointer(trainer.model, str(tmp_path)), "bbox/AP")])
    trainer.train(0, 2)
    assert [level for *_, level, text in lines() if "bbox/AP" in text] == ["WARNING"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AssertionError, match=says("mode")):
        BestCheckpointer(2, None, "bbox/AP", mode="best")


def test_schedule_and_resume(tmp_path):
    """Twelve iterations of a step schedule, saved after ten; the copy continues from there."""

    def build():
        trainer = make_trainer()
        scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 3)
        checkpointer = Checkpointer(trainer.model, str(tmp_path), opt=trainer.optimizer, trainer=trainer)
        trainer.register_hooks([hooks.LRScheduler(scheduler=scheduler), hooks.PeriodicCheckpointer(checkpointer, 10)])
        return trainer, scheduler, checkpointer

    trainer, scheduler, _ = build()
    trainer.train(0, 12)
    rates = [rate for rate, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 3 + [1e-3] * 3 + [1e-4] * 3)  # those that were used
    assert scheduler.last_epoch == 12
    weight = trainer.model.weight.item()

    trainer, scheduler, checkpointer = build()
    checkpointer.resume_or_load("", resume=True)
    assert (trainer.iter, scheduler.last_epoch) == (11, 12)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)
    assert trainer.model.weight.item() == weight


def test_schedule_of_fvcore_and_attributes_of_the_trainer():
    trainer = make_trainer()
    trainer.scheduler = MultiStepParamScheduler([1.0, 0.5], milestones=[2], num_updates=4)
    hook = hooks.LRScheduler()
    trainer.register_hooks([hook])
    trainer.train(0, 4)
    assert [rate for rate, _ in trainer.storage.history("lr").values()] == pytest.approx([0.1, 0.1, 0.05, 0.05])
    assert hook.state_dict()["last_epoch"] == 4


def test_group_whose_rate_is_reported():
    def best(*groups):
        params = [{"params": [nn.Parameter(torch.zeros(1)) for _ in range(size)], "lr": lr} for size, lr in groups]
        return hooks.LRScheduler.get_best_param_group_id(torch.optim.SGD(params, 0.1))

    assert best((1, 0.1), (3, 0.2), (2, 0.3)) == 1
    assert best((1, 0.1), (1, 0.2), (1, 0.2)) == 1


def test_precise_bn_replaces_running_statistics():
    bn = nn.BatchNorm1d(1)
    model = nn.Sequential(bn)
    data = iter([torch.tensor([[value - 1.0], [value + 1.0]]) for value in (2.0, 4.0, 6.0, 8.0)])
    hook = hooks.PreciseBN(2, model, data, 2)
    trainer = make_trainer(hook_list=[hook])
    trainer.train(0, 2)
    assert bn.running_mean.item() == pytest.approx(3.0)  # batches of mean 2 and 4
    hook.update_stats()
    assert bn.running_mean.item() == pytest.approx(7.0)  # the loader goes on


def test_precise_bn_without_layers_is_off(lines):
    hook = hooks.PreciseBN(1, nn.Linear(1, 1), [], 2)
    make_trainer(hook_list=[hook]).train(0, 1)
    assert "PreciseBN" in lines()[0][2]


@pytest.mark.parametrize("old", [False, True])
def test_profilers_write_traces(tmp_path, old):
    def predicate(trainer):
        return trainer.iter == 1

    if old:
        hook = hooks.AutogradProfiler(predicate, str(tmp_path), use_cuda=False)
    else:
        hook = hooks.TorchProfiler(predicate, str(tmp_path), save_tensorboard=False)
    make_trainer(hook_list=[hook]).train(0, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["profiler-trace-iter1.json"]
    assert "aten::mul" in (tmp_path / "profiler-trace-iter1.json").read_text()


def test_profiler_for_tensorboard(tmp_path):
    make_trainer(hook_list=[hooks.TorchProfiler(lambda t: t.iter == 0, str(tmp_path))]).train(0, 1)
    (folder,) = (tmp_path / "log").iterdir()
    assert len(list(folder.glob("worker0*.json"))) == 1


@pytest.mark.standin_only("the text of the report")
def test_memory_is_reported_a_few_times_only(monkeypatch, lines):
    cuda = {"is_available": True, "memory_summary": "the summary", "reset_peak_memory_stats": None}
    cuda |= {"max_memory_reserved": 8 << 20, "memory_reserved": 4 << 20}
    cuda |= {"max_memory_allocated": 2 << 20, "memory_allocated": 1 << 20}
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    make_trainer(hook_list=[hooks.TorchMemoryStats(period=2, max_runs=2)]).train(0, 9)
    texts = [text for *_, text in lines() if "iter:" in text or "summary" in text]
    assert [text[:7] for text in texts[:2]] == ["iter: 1", "iter: 3"]
    assert texts[0].endswith("max_reserved: 8MB, reserved: 4MB, max_allocated: 2MB, allocated: 1MB")
    assert texts[2:] == ["\nthe summary"]
