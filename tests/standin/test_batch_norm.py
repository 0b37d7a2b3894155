"""Norms, against values measured on Detectron2."""

import json
import multiprocessing

import numpy as np
import pytest
import torch
from torch import nn

from detectron2.layers import (
    CycleBatchNormList,
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    get_norm,
)
from detectron2.layers.batch_norm import LayerNorm
from tests.conftest import FACTS
from tests.standin import says

ARRAYS = np.load(FACTS / "golden_layers.npz")


GOLDEN = json.loads((FACTS / "golden_backbone.json").read_text())


def array(name):
    return torch.from_numpy(ARRAYS[name])


def close(actual, name):
    expected = array(name)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def load(module, prefix):
    """Fills a module from the arrays under `prefix`."""
    module.load_state_dict({name: array(prefix + name) for name in module.state_dict()})
    return module.eval()


class TestFrozenBatchNorm:
    GOLDEN = GOLDEN["frozen_bn"]

    def test_state(self):
        layer = FrozenBatchNorm2d(6)
        assert list(layer.state_dict()) == self.GOLDEN["state_dict_keys"]
        assert {name: value[3].item() for name, value in layer.state_dict().items()} == self.GOLDEN["initial"]
        assert layer.eps == self.GOLDEN["eps"]
        assert sum(p.numel() for p in layer.parameters()) == self.GOLDEN["num_parameters"]
        assert layer.state_dict()._metadata[""]["version"] == self.GOLDEN["version_in_state_dict_metadata"]

    def test_starts_as_the_identity(self):
        x = array("x")
        torch.testing.assert_close(FrozenBatchNorm2d(6)(x), x)

    def test_values_and_gradient(self):
        layer = load(FrozenBatchNorm2d(6), "frozen_bn/")
        close(layer(array("x")), "frozen_bn/out_eval")
        x = array("x").requires_grad_()
        out = layer(x)
        close(out.detach(), "frozen_bn/out_with_grad")
        # The recorded gradient is that of the sum of the squared outputs.
        out.square().sum().backward()
        close(x.grad, "frozen_bn/grad_x")

    @pytest.mark.parametrize("version", GOLDEN["load_without_running_stats"])
    def test_old_files_lack_running_statistics(self, version):
        golden = self.GOLDEN["load_without_running_stats"][version]
        state = {"weight": torch.ones(6), "bias": torch.zeros(6)}
        layer = FrozenBatchNorm2d(6)
        given = nn.Module.state_dict(layer)
        for name in ("running_mean", "running_var"):
            del given[name]
        given.update(state)
        given._metadata[""] = {} if version == "None" else {"version": int(version)}
        result = layer.load_state_dict(given, strict=False)
        assert result.missing_keys == golden["missing"]
        assert set(given) == {"weight", "bias"}
        assert layer.running_mean[0].item() == golden["running_mean"]
        assert layer.running_var[0].item() == golden["running_var"]

    def test_conversion_there_and_back_keeps_the_function(self):
        x = torch.rand(4, 3, 5, 5)
        model = nn.Sequential(nn.Sequential(nn.BatchNorm2d(3, eps=1e-3)), nn.ReLU())
        model(x)
        expected = model.eval()(x)
        frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(model)
        assert frozen is model and type(model[0][0]) is FrozenBatchNorm2d
        assert not list(frozen.parameters())
        assert frozen[0][0].num_batches_tracked.item() == 1
        torch.testing.assert_close(frozen.train()(x), expected)
        thawed = FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(frozen)
        assert type(thawed[0][0]) is nn.BatchNorm2d
        torch.testing.assert_close(thawed.eval()(x), expected)
        assert type(FrozenBatchNorm2d.convert_frozen_batchnorm(nn.BatchNorm2d(3))) is FrozenBatchNorm2d

    def test_half_precision_stays_half(self):
        layer = FrozenBatchNorm2d(6)
        x = array("x").to(torch.bfloat16)
        assert layer(x).dtype == torch.bfloat16
        assert layer(x.requires_grad_()).dtype == torch.bfloat16


class TestGetNorm:
    @pytest.mark.parametrize("name", GOLDEN["get_norm"])
    def test_classes(self, name):
        expected = GOLDEN["get_norm"][name]
        norm = get_norm(None if name == "None" else name, 64)
        if expected is None:
            assert norm is None
            return
        package, _, class_name = expected.partition(":")
        assert type(norm).__name__ == class_name
        assert type(norm).__module__.split(".")[0] == package
        assert norm.weight.shape == (64,)

    def test_others(self):
        assert get_norm("GN", 64).num_groups == GOLDEN["get_norm_GN_groups"]
        assert get_norm("naiveSyncBN_N", 4)._stats_mode == "N"
        assert isinstance(get_norm(nn.InstanceNorm2d, 5), nn.InstanceNorm2d)
        assert GOLDEN["get_norm_unknown"] == "KeyError"
        with pytest.raises(KeyError, match=says("'XN'")):
            get_norm("XN", 4)

    def test_layer_norm_is_over_channels(self):
        x = torch.rand(2, 5, 3, 4)
        out = LayerNorm(5)(x)
        torch.testing.assert_close(out.mean(dim=1), torch.zeros(2, 3, 4), atol=1e-6, rtol=0)
        torch.testing.assert_close(out.std(dim=1, unbiased=False), torch.ones(2, 3, 4), atol=1e-3, rtol=0)


class TestCycleBatchNormList:
    def test_takes_turns_and_shares_the_affine_part(self):
        layer = CycleBatchNormList(2, num_features=3)
        assert {name for name in layer.state_dict() if "num_batches" not in name} == {
            "weight",
            "bias",
            *(f"{i}.running_{stat}" for i in (0, 1) for stat in ("mean", "var")),
        }
        nn.init.constant_(layer.bias, 7.0)
        for value in (1.0, 3.0, 1.0):
            out = layer(torch.full((2, 3, 4, 4), value))
            torch.testing.assert_close(out, torch.full_like(out, 7.0), atol=1e-4, rtol=0)
        # Momentum 0.1: two steps towards 1 for the first, one step towards 3 for the second.
        assert layer[0].running_mean[0].item() == pytest.approx(0.19)
        assert layer[1].running_mean[0].item() == pytest.approx(0.3)


def _sync_input(mode):
    """Per worker; with mode "N" of unequal sizes, one of them empty."""
    x = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    return {"": x.split([3, 3]), "N": x.split([2, 4]), "empty": x.split([0, 6])}[mode]


def _sync_step(x, mode):
    """Output, gradient of the input, running mean and variance after one step."""
    x = x.detach().requires_grad_()
    layer = NaiveSyncBatchNorm(3, stats_mode="N" if mode else "")
    out = layer(x)
    (out**3).sum().backward()
    return [t.detach() for t in (out, x.grad, layer.running_mean, layer.running_var)]


def _sync_worker(rank, path, mode, queue):
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    queue.put((rank, [t.numpy() for t in _sync_step(_sync_input(mode)[rank], mode)]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


class TestNaiveSyncBatchNorm:
    def check(self, results, mode, names):
        """Two workers must get what one gets from both their batches."""
        x = torch.cat(_sync_input(mode)).requires_grad_()
        out = nn.BatchNorm2d(3)(x)
        (out**3).sum().backward()
        mean, var = x.detach().mean(dim=(0, 2, 3)), x.detach().var(dim=(0, 2, 3), unbiased=False)
        expected = {"out": out.detach(), "grad": x.grad}
        for i, name in enumerate(names):
            joined = torch.cat([torch.as_tensor(results[rank][i]) for rank in (0, 1)])
            torch.testing.assert_close(joined, expected[name], rtol=1e-4, atol=1e-4)
        for rank in (0, 1):
            torch.testing.assert_close(torch.as_tensor(results[rank][2]), 0.1 * mean)
            torch.testing.assert_close(torch.as_tensor(results[rank][3]), 0.9 + 0.1 * var)

    def test_one_process_is_batch_norm(self):
        x = torch.rand(4, 3, 2, 2)
        torch.testing.assert_close(NaiveSyncBatchNorm(3)(x), nn.BatchNorm2d(3)(x))

    @pytest.mark.parametrize("mode", ["", "N", "empty"])
    def test_two_workers_act_as_one(self, mode, monkeypatch):
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        sent = []

        def reduce(local):
            """Each worker takes part twice: first to be heard, then with what the other said."""
            sent.append(local.detach())
            return local + (sent[len(sent) % 2] if len(sent) > 2 else 0 * local)

        monkeypatch.setattr("detectron2.layers.batch_norm.differentiable_all_reduce", reduce)
        batches = _sync_input(mode)
        for x in batches:
            _sync_step(x, mode)
        results = [_sync_step(x, mode) for x in batches]
        self.check(results, mode, ["out"])

    def test_empty_batch_needs_its_mode(self, monkeypatch):
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        with pytest.raises(AssertionError, match=says("stats_mode='N'")):
            NaiveSyncBatchNorm(3)(torch.zeros(0, 3, 2, 2))

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["", "N", "empty"])
    def test_two_processes_act_as_one(self, mode, tmp_path):
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        workers = [context.Process(target=_sync_worker, args=(r, tmp_path / "init", mode, queue)) for r in (0, 1)]
        for worker in workers:
            worker.start()
        results = dict(queue.get(timeout=300) for _ in workers)
        for worker in workers:
            worker.join()
        self.check(results, mode, ["out", "grad"])
