"""Two processes on two halves of a batch do what one process does on the whole."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from detectron2.engine import launch
from detectron2.modeling import build_model
from detectron2.utils import comm
from tests.tiny import ALL, image_with, tiny_cfg

SIZE = (64, 96)


def joint_batch():
    """Unequal numbers of objects in the halves, so that a wrong normaliser shows."""
    many = [[8 * i, 6 * i, 8 * i + 30, 6 * i + 24] for i in range(6)]
    return [
        image_with([[4, 4, 60, 60]], [0], SIZE, seed=1),
        image_with([], [], SIZE, seed=2),
        image_with(many, [i % 3 for i in range(6)], SIZE, seed=3),
        image_with([[30, 10, 90, 60], [0, 0, 20, 20]], [2, 1], SIZE, seed=4),
    ]


def build(name):
    torch.manual_seed(0)
    return build_model(tiny_cfg(*ALL[name], "MODEL.RESNETS.NORM", "FrozenBN"))


def step_on_a_half(name, path):
    torch.set_num_threads(1)
    model = DistributedDataParallel(build(name))
    half = joint_batch()[2 * comm.get_rank() :][:2]
    losses = model(half)
    sum(losses.values()).backward()
    mean = {k: sum(comm.all_gather(v.item())) / comm.get_world_size() for k, v in losses.items()}
    if comm.is_main_process():
        torch.save((mean, {n: p.grad for n, p in model.module.named_parameters()}), path)
    comm.synchronize()


@pytest.mark.parametrize("name", ["poto_3dmf_aux", pytest.param("fcos_centerness", marks=pytest.mark.slow)])
def test_losses_and_gradients_equal_those_of_the_joint_batch(name, tmp_path, monkeypatch):
    """Tolerance: 1e-4 of each loss, 1e-3 of each gradient's largest entry (float32 sums in another order)."""
    path = str(tmp_path / "result.pth")
    with monkeypatch.context() as workers:
        workers.setenv("CUDA_VISIBLE_DEVICES", "")  # else they would want a GPU each, and talk over NCCL
        launch(step_on_a_half, 2, dist_url="auto", args=(name, path))
    mean, grads = torch.load(path)
    model = build(name)
    losses = model(joint_batch())
    sum(losses.values()).backward()
    for key, value in losses.items():
        assert mean[key] == pytest.approx(value.item(), rel=1e-4), key
    for key, parameter in model.named_parameters():
        error = (grads[key] - parameter.grad).abs().max()
        assert error <= 1e-3 * parameter.grad.abs().max() + 1e-7, key
