import pytest
import torch

from defcn_ext.engine.precision import amp_dtype, fastest_dtype
from tests.tiny import tiny_cfg


@pytest.mark.parametrize("enabled, name, dtype", [(False, "auto", None), (True, "bfloat16", torch.bfloat16)])
def test_the_named_type_is_used_where_enabled(enabled, name, dtype):
    assert amp_dtype(tiny_cfg("SOLVER.AMP.ENABLED", enabled, "SOLVER.AMP.DTYPE", name)) == dtype


def test_any_device_does_not_ask_for_detectron2s_own_switch():
    assert amp_dtype(tiny_cfg("SOLVER.AMP.ANY_DEVICE", True)) == torch.float16


@pytest.mark.parametrize("native, dtype", [(True, torch.bfloat16), (False, None)])
def test_auto_takes_bfloat16_only_where_the_cpu_has_it(native, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert fastest_dtype("cpu") == dtype
    assert amp_dtype(tiny_cfg("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "auto")) == dtype


def test_auto_survives_a_torch_that_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert fastest_dtype("cpu") is None
