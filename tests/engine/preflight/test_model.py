import pytest
import torch

from defcn_ext.engine.preflight import model as model_checks
from defcn_ext.engine.preflight.model import build_without_weights, check_model
from detectron2.modeling import build_model
from tests.tiny import ALL, tiny_cfg

DEFORM = ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True], "MODEL.RESNETS.DEFORM_MODULATED", True)
R50 = ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256)


@pytest.mark.parametrize("name", ["poto_3dmf_aux", "date_r", "dw_refine", "o2f"])
def test_it_is_the_model_without_memory_and_without_a_draw(name):
    before = torch.get_rng_state()
    model = build_without_weights(tiny_cfg(*ALL[name]))
    assert torch.equal(torch.get_rng_state(), before)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    expected = build_model(tiny_cfg(*ALL[name])).state_dict()
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in expected.items()}


def test_a_model_that_needs_numbers_is_built_on_the_cpu(monkeypatch):
    class Counting(torch.nn.Linear):
        def __init__(self, cfg):
            super().__init__(int(torch.ones(3).sum().item()), 1)

    monkeypatch.setitem(model_checks.META_ARCH_REGISTRY._obj_map, "Counting", Counting)
    before = torch.get_rng_state()
    assert build_without_weights(tiny_cfg("MODEL.META_ARCHITECTURE", "Counting")).weight.device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), before)


def test_sync_bn_in_processes_on_the_cpu():
    cfg = tiny_cfg("MODEL.DEFCN.NORM", "SyncBN", "MODEL.RESNETS.NORM", "BN")
    check_model(cfg, train=True)
    check_model(cfg, train=False, processes=2)
    with pytest.raises(ValueError, match=r"^MODEL\.DEFCN\.NORM: SyncBN cannot be trained in 2 processes on the CPU"):
        check_model(cfg, train=True, processes=2)


def test_deformable_convs_where_there_are_none_for_the_cpu(monkeypatch):
    def refuse(*args):
        raise NotImplementedError("no CPU path")

    monkeypatch.setattr(model_checks.ModulatedDeformConv, "forward", refuse)
    with pytest.raises(ValueError, match=r"MODEL\.RESNETS\.DEFORM_ON_PER_STAGE: .* and MODEL\.DEVICE is cpu"):
        check_model(tiny_cfg(*DEFORM, *R50), train=False)
    check_model(tiny_cfg(*R50), train=False)
