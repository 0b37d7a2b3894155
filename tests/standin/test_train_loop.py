"""Trainers and hooks, on a model of one weight."""

import json
import math
import re
import threading
import time

import pytest
import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import nn

from detectron2.engine import (
    AMPTrainer,
    BestCheckpointer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from detectron2.utils.events import EventWriter, JSONWriter, get_event_storage
from tests.conftest import FACTS
from tests.standin import says

GOLDEN = json.loads((FACTS / "golden_training.json").read_text())


class Weight(nn.Module):
    """The loss at iteration i is weight * x[i], as one loss, two, or a bare tensor."""

    def __init__(self, kind="one_loss"):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.kind = kind

    def forward(self, x):
        loss = (self.weight * x).sum()
        return {"two_losses": {"loss_a": loss, "loss_b": loss * 3}, "bare_tensor": loss}.get(self.kind, {"loss": loss})


def make_trainer(kind="one_loss", values=None, hook_list=(), **kwargs):
    model = Weight(kind)
    data = [torch.tensor([value]) for value in (values or [1.0] * 100)]
    trainer = SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), 0.1), **kwargs)
    trainer.register_hooks(list(hook_list))
    return trainer


class Spy(HookBase):
    """Notes each call with the iteration."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def before_train(self):
        self.calls.append("before_train")

    def before_step(self):
        self.calls.append(f"before_step {self.trainer.iter}")
        if self.trainer.iter == self.fail_at:
            raise ValueError("on purpose")

    def after_backward(self):
        self.calls.append(f"after_backward {self.trainer.iter}")

    def after_step(self):
        self.calls.append(f"after_step {self.trainer.iter}")

    def after_train(self):
        self.calls.append(f"after_train trainer.iter={self.trainer.iter} storage.iter={self.trainer.storage.iter}")


def eval_iterations(period, start, end, fail_at=None):
    """Values of trainer.iter at which an EvalHook evaluates, and the calls that a spy saw."""
    seen = []
    spy = Spy(fail_at)
    trainer = make_trainer(hook_list=[spy, hooks.EvalHook(period, lambda: seen.append(trainer.iter))])
    try:
        trainer.train(start, end)
        return seen, True, spy.calls
    except ValueError as error:
        return seen, type(error).__name__, spy.calls


def test_order_of_calls():
    spy = Spy()
    make_trainer(hook_list=[spy, None]).train(0, 2)
    assert spy.calls == GOLDEN["hook_call_order_2_iterations"]


def test_an_exception_still_ends_the_training(lines):
    spy = Spy(fail_at=1)
    with pytest.raises(ValueError, match="on purpose"):
        make_trainer(hook_list=[spy]).train(0, 2)
    assert spy.calls == GOLDEN["hook_calls_when_iteration_1_raises"]
    assert ("detectron2.engine.train_loop", "ERROR", "Exception during training:") in lines()


def test_training_from_its_end():
    expected = GOLDEN["start_equals_max"]
    seen, result, calls = eval_iterations(0, 4, 4)
    assert (seen, result, calls) == (expected["eval_called_at_trainer_iter"], expected["result"], expected["spy"])


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


@pytest.mark.parametrize("case", GOLDEN["simple_trainer_scalars"])
def test_recorded_scalars(case):
    expected = GOLDEN["simple_trainer_scalars"][case]
    if isinstance(expected, dict):
        trainer = make_trainer(values=[1.0, float(case), 1.0])
        with pytest.raises(FloatingPointError, match=says("iteration 1")):
            trainer.train(0, 3)
        updated = trainer.model.weight.item() != pytest.approx(0.9)  # after the first, good step
        assert updated == expected["weights_were_updated"]
    else:
        trainer = make_trainer(case)
        trainer.train(0, 1)
        assert sorted(trainer.storage.latest()) == expected


def test_values_of_losses_and_updates():
    trainer = make_trainer("two_losses", [1.0, 2.0])
    trainer.train(0, 2)
    weight = 1 - 0.1 * 4  # gradient 1 + 3 at the first step
    latest = trainer.storage.latest()
    assert latest["loss_a"] == (pytest.approx(2 * weight), 1)
    assert latest["loss_b"] == (pytest.approx(6 * weight), 1)
    assert latest["total_loss"] == (pytest.approx(8 * weight), 1)
    assert trainer.model.weight.item() == pytest.approx(weight - 0.1 * 8)


def test_train_mode():
    model = Weight().eval()
    trainer = SimpleTrainer(model, [torch.ones(1)] * 2, torch.optim.SGD(model.parameters(), 0.1))
    assert model.training == GOLDEN["simple_trainer_puts_model_in_train_mode"]
    model.eval()
    assert GOLDEN["simple_trainer_eval_mode_model"] == "AssertionError"
    with pytest.raises(AssertionError, match=says("eval mode")):
        trainer.train(0, 1)


@pytest.mark.parametrize("before", [False, True])
def test_old_gradients_are_forgotten(before):
    class Greedy(Weight):
        """Meets gradients of the step before in its forward pass, unless they were forgotten."""

        seen = []

        def forward(self, x):
            self.seen.append(self.weight.grad is not None)
            return super().forward(x)

    model = Greedy()
    model.seen = []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    SimpleTrainer(model, [torch.ones(1)] * 3, optimizer, zero_grad_before_forward=before).train(0, 3)
    assert model.seen == [False, not before, not before]
    assert model.weight.item() == pytest.approx(0.7)  # three steps of 0.1, nothing accumulated


def test_metrics_are_gathered_every_few_iterations():
    trainer = make_trainer(values=[float(i) for i in range(10)], gather_metric_period=4)
    trainer.train(0, 10)
    assert [iteration for _, iteration in trainer.storage.history("total_loss").values()] == [3, 7]


@pytest.mark.standin_only("hooks after the training see all that the thread wrote")
def test_metrics_written_in_a_thread_are_complete_and_under_their_iteration(monkeypatch):
    write = SimpleTrainer.write_metrics
    slow = staticmethod(lambda *args: (time.sleep(0.01), write(*args)))
    monkeypatch.setattr(SimpleTrainer, "write_metrics", slow)
    seen = []
    at_end = hooks.CallbackHook(after_train=lambda t: seen.append(t.storage.latest()["total_loss"][1]))
    trainer = make_trainer(values=[1.0, 2.0, 3.0], hook_list=[at_end], async_write_metrics=True)
    trainer.train(0, 3)
    expected = [(1.0, 0), (2 * 0.9, 1), (3 * 0.7, 2)]
    assert [(pytest.approx(v), i) for v, i in trainer.storage.history("total_loss").values()] == expected
    assert seen == [2]


@pytest.mark.standin_only("an error of the thread is not lost")
def test_metrics_written_in_a_thread_raise_in_the_next_step():
    spy, threads = Spy(), threading.active_count()
    trainer = make_trainer(values=[1.0, math.nan, 1.0, 1.0], hook_list=[spy], async_write_metrics=True)
    with pytest.raises(FloatingPointError, match=says("iteration 1")):
        trainer.train(0, 4)
    assert spy.calls[-1] == "after_train trainer.iter=2 storage.iter=2"
    assert threading.active_count() == threads


def test_prefix_of_the_total_loss():
    class Prefixed(HookBase):
        def after_step(self):
            SimpleTrainer.write_metrics({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, 0.5, 7, "val_")

    trainer = make_trainer(hook_list=[Prefixed()])
    trainer.train(0, 1)
    assert trainer.storage.latest()["val_total_loss"] == (3.0, 7)
    assert trainer.storage.latest()["b"] == (2.0, 7)


def test_the_loader_can_be_replaced():
    trainer = make_trainer(values=[1.0])
    trainer.train(0, 1)
    trainer.reset_data_loader(lambda: [torch.tensor([5.0])])
    trainer.train(0, 1)
    assert trainer.storage.latest()["total_loss"][0] == pytest.approx(5 * 0.9)


def test_register_hooks_takes_hooks_only():
    with pytest.raises(AssertionError, match=says("HookBase")):
        make_trainer().register_hooks([lambda: None])


class Keeper(HookBase):
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


class OtherKeeper(Keeper):
    pass


def test_state_of_hooks(lines):
    trainer = make_trainer(hook_list=[Keeper(1), Spy(), Keeper(2), OtherKeeper(3)])
    trainer.iter = 7
    state = trainer.state_dict()
    assert list(state) == ["iteration", "hooks", "optimizer"]
    assert state["iteration"] == 7
    assert state["hooks"] == {"Keeper": {"value": 1}, "OtherKeeper": {"value": 3}}

    keeper = Keeper(0)
    other = make_trainer(hook_list=[keeper])
    other.load_state_dict(state)
    assert (other.iter, keeper.value) == (7, 1)
    ((_, level, text),) = lines()
    assert level == "WARNING" and re.search(says("No hook OtherKeeper to load a state into"), text)
    assert "hooks" not in make_trainer().state_dict()


def test_run_step_must_be_written():
    with pytest.raises(NotImplementedError):
        TrainerBase().train(0, 1)


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


def test_amp_trainer_needs_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = Weight()
    trainer = AMPTrainer(model, [torch.ones(1)], torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(AssertionError, match=says("CUDA")):
        trainer.train(0, 1)


class Scaler:
    """A GradScaler of factor 4 for any device."""

    def scale(self, loss):
        return loss * 4

    def step(self, optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 4
        optimizer.step()

    def update(self):
        self.updated = True

    def get_scale(self):
        return 4.0

    def state_dict(self):
        return {"scale": 4.0}

    def load_state_dict(self, state):
        self.loaded = state


@pytest.mark.standin_only("a scaler that needs no GPU")
def test_amp_trainer_scales_gradients(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model, seen = Weight(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = AMPTrainer(model, [torch.ones(1)] * 2, optimizer, grad_scaler=Scaler(), log_grad_scaler=True)
    gradient = HookBase()
    gradient.after_backward = lambda: seen.append(model.weight.grad.item())
    trainer.register_hooks([gradient])
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: torch.enable_grad())
    trainer.train(0, 1)
    assert seen == [4.0]
    assert model.weight.item() == pytest.approx(0.9)
    assert trainer.grad_scaler.updated
    assert trainer.storage.latest()["[metric]grad_scaler"] == (4.0, 0)
    assert list(trainer.state_dict()) == ["iteration", "optimizer", "grad_scaler"]
    trainer.load_state_dict(trainer.state_dict())
    assert trainer.grad_scaler.loaded == {"scale": 4.0}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_amp_trainer_on_a_gpu(precision):
    class Linear(nn.Linear):
        def forward(self, x):
            y = super().forward(x.cuda())
            self.seen = y.dtype
            return {"loss": y.float().square().mean()}

    model = Linear(4, 4).cuda()
    data = [torch.ones(2, 4)] * 20
    trainer = AMPTrainer(model, data, torch.optim.SGD(model.parameters(), 0.1), precision=precision)
    trainer.train(0, 20)
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert model.seen == precision
    assert losses[-1] < 0.1 * losses[0]


def test_one_process_needs_no_wrapper():
    model = Weight()
    assert create_ddp_model(model) is model
