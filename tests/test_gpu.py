"""What must hold on a GPU as on the CPU: run with `pytest -m gpu`."""

import pytest
import torch

from defcn_ext.assignment import build_rule
from defcn_ext.structures import Points
from detectron2.modeling import build_model
from tests.assignment.test_rules import POINTS, crowd
from tests.tiny import ALL, batch, tiny_cfg

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("name", ["POTO", "POTO(select=argmax)", "POTO(prior=global)", "FCOS", "QualityATSS"])
@pytest.mark.parametrize("num_objects, seed", [(0, 0), (1, 1), (60, 2), (500, 3)])
def test_rules_pair_the_same_points(name, num_objects, seed):
    scene = crowd(num_objects, seed)
    on_cpu = build_rule(name)(POINTS, *scene)
    points = Points.from_sizes(POINTS.sizes, POINTS.strides, device="cuda")
    on_gpu = build_rule(name)(points, *[x.cuda() for x in scene])
    assert on_gpu.point.is_cuda
    assert on_gpu.point.tolist() == on_cpu.point.tolist()
    assert on_gpu.object.tolist() == on_cpu.object.tolist()


def build(name):
    torch.manual_seed(0)
    return build_model(tiny_cfg(*ALL[name], "MODEL.RESNETS.NORM", "FrozenBN"))


@pytest.mark.parametrize("name", ALL)
def test_losses_equal_those_of_the_cpu(name):
    model = build(name)
    expected = {k: v.item() for k, v in model(batch()).items()}
    losses = model.cuda()(batch())
    for key, value in losses.items():
        assert value.item() == pytest.approx(expected[key], rel=1e-3), key


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_float32_losses_and_finite_gradients(name, dtype):
    model = build(name).cuda()
    exact = model(batch())
    with torch.autocast("cuda", dtype=dtype):
        losses = model(batch())
    sum(losses.values()).backward()
    for key, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[key].item(), rel=0.05), key
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_matching_copies_to_the_host_once():
    from torch.profiler import ProfilerActivity, profile

    from defcn_ext.assignment.matching import match_pairs

    point, object = torch.arange(40, device="cuda") % 7, torch.arange(40, device="cuda") // 5
    quality = torch.rand(40, device="cuda")
    match_pairs(point, object, quality)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        match_pairs(point, object, quality)
        torch.cuda.synchronize()
    assert sum("DtoH" in event.name for event in trace.events()) == 1
