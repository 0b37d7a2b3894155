import copy

import pytest
import torch
from torch import nn

from defcn_ext.engine.train_step import TrainStep, split
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
        self.scale = 1.0
        self.dtypes: list[torch.dtype] = []

    def forward(self, batch):
        out = self.layers(torch.stack([item["x"] for item in batch]))
        self.dtypes.append(out.dtype)
        target = torch.stack([item["y"] for item in batch])
        loss = (out.float() - target).square().mean()
        return {"loss_a": loss * self.scale, "loss_b": 0.1 * out.float().abs().mean()}


def data(batches: int = 8, size: int = 4) -> list[list[dict]]:
    generator = torch.Generator().manual_seed(5)
    new = lambda n: torch.randn(n, generator=generator)  # noqa: E731
    return [[{"x": new(6), "y": new(1)} for _ in range(size)] for _ in range(batches)]


def train(kind, model, batches, **options):
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = kind(model, batches, optimizer, **options)
    with EventStorage() as storage:
        for i in range(len(batches)):
            step.iter = storage.iter = i
            step.run_step()
    return model, storage


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def test_default_step_is_detectron2s_bit_for_bit(net):
    ours, our_storage = train(TrainStep, net, data(), seed=1)
    theirs, storage = train(SimpleTrainer, net, data())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    for name in ("loss_a", "loss_b", "total_loss"):
        assert our_storage.history(name).values() == storage.history(name).values()
    assert {"data_time", "rank_data_time"} <= set(our_storage.histories())


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_whole_batch(net, parts):
    whole, storage = train(TrainStep, net, data(), seed=1)
    cut, cut_storage = train(TrainStep, net, data(), seed=1, accumulate=parts)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert cut_storage.history("loss_a").latest() == pytest.approx(storage.history("loss_a").latest(), rel=1e-4)
    assert len(cut.dtypes) == parts * len(whole.dtypes)


def test_batch_that_cannot_be_cut():
    assert split([{}] * 4, 2) == [[{}] * 2, [{}] * 2]
    with pytest.raises(ValueError, match=r"SOLVER\.ACCUMULATE 3 .* 4 images"):
        split([{}] * 4, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_on_the_cpu(net, dtype):
    exact, storage = train(TrainStep, net, data(), seed=1)
    mixed, mixed_storage = train(TrainStep, net, data(), seed=1, amp_dtype=dtype)
    assert set(mixed.dtypes) == {dtype} and set(exact.dtypes) == {torch.float32}
    assert {p.dtype for p in mixed.parameters()} == {torch.float32}
    assert mixed_storage.history("total_loss").latest() == pytest.approx(
        storage.history("total_loss").latest(), rel=0.1
    )


@pytest.mark.parametrize("dtype, scaled", [(torch.float16, True), (torch.bfloat16, False)])
@pytest.mark.gpu
def test_autocast_on_the_gpu(net, dtype, scaled):
    batches = [[{k: v.cuda() for k, v in item.items()} for item in batch] for batch in data()]
    model, storage = train(TrainStep, net.cuda(), batches, seed=1, amp_dtype=dtype)
    assert set(model.dtypes) == {dtype}
    step = TrainStep(model, [], torch.optim.SGD(model.parameters(), lr=1.0), seed=1, amp_dtype=dtype)
    assert step.grad_scaler.is_enabled() == scaled == ("grad_scaler" in step.state_dict())
    assert storage.history("total_loss").latest() < storage.history("total_loss").values()[0][0]


def test_losses_are_scaled_for_float16_on_gpus_only(net):
    step = TrainStep(net, [], torch.optim.SGD(net.parameters(), lr=1.0), seed=1, amp_dtype=torch.float16)
    assert not step.grad_scaler.is_enabled() and "grad_scaler" not in step.state_dict()


def test_infinite_loss_stops_before_the_weights_change(net):
    net.scale = float("inf")
    before = [p.clone() for p in net.parameters()]
    step = TrainStep(net, data(), torch.optim.SGD(net.parameters(), lr=0.1), seed=1)
    step.iter = 0
    with EventStorage(), pytest.raises(FloatingPointError):
        step.run_step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_random_numbers_of_a_step_depend_on_seed_and_iteration_alone(net):
    class Noisy(Net):
        def forward(self, batch):
            self.draws = [*getattr(self, "draws", []), torch.rand(()).item()]
            return super().forward(batch)["loss_a"]

    def draws(first: int, seed: int) -> list[float]:
        model = Noisy()
        step = TrainStep(model, data(), torch.optim.SGD(model.parameters(), lr=0.0), seed=seed)
        with EventStorage():
            for step.iter in range(first, 6):
                torch.rand(first + 1)  # whatever else draws in between
                step.run_step()
        return model.draws

    assert draws(0, 1)[3:] == draws(3, 1)
    assert not set(draws(0, 1)) & set(draws(0, 2))
    assert len(set(draws(0, 1))) == 6


def test_drawn_seed_is_taken_over_on_resume_and_a_given_one_is_not(net):
    saved = TrainStep(net, [], torch.optim.SGD(net.parameters(), lr=1.0), seed=11)
    saved.iter = 4
    for keep, expected in ((False, 11), (True, 5)):
        step = TrainStep(net, [], torch.optim.SGD(net.parameters(), lr=1.0), seed=5, keep_seed=keep)
        step.load_state_dict(saved.state_dict())
        assert step.seed == expected


def test_new_loader_is_used_from_the_next_step(net):
    step = TrainStep(net, data(), torch.optim.SGD(net.parameters(), lr=0.0), seed=1)
    with EventStorage() as storage:
        for loader in (None, [[{"x": torch.zeros(6), "y": torch.full((1,), 1000.0)}]]):
            if loader:
                step.reset_data_loader(lambda new=loader: new)
            step.iter = 0
            step.run_step()
        assert storage.history("loss_a").values()[0][0] < 100 < storage.history("loss_a").latest()
