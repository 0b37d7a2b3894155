"""Backbones as a whole, against what Detectron2 built."""

import importlib
import json

import numpy as np
import pytest
import torch

from defcn_ext._platform import ensure_detectron2
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    FPN,
    Backbone,
    SwinTransformer,
    build_backbone,
    build_resnet_backbone,
)
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from tests.conftest import FACTS

ARRAYS = np.load(FACTS / "golden_backbone.npz")


GOLDEN = json.loads((FACTS / "golden_backbone.json").read_text())


BEHAVIOURS = json.loads((FACTS / "golden_behaviours.json").read_text())["models"]


API = json.loads((FACTS / "api.json").read_text())


def config(**resnets):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    for name, value in resnets.items():
        cfg.MODEL.RESNETS[name] = value
    return cfg


def resnet_fpn(**resnets):
    return build_backbone(config(**resnets))


def with_p6_from_p5(**resnets):
    cfg = config(**resnets)
    bottom_up = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    return FPN(bottom_up, ["res3", "res4", "res5"], 256, top_block=LastLevelP6P7(256, 256, in_feature="p5"))


def swin_fpn():
    bottom_up = SwinTransformer(drop_path_rate=0.2, out_indices=(1, 2, 3))
    return FPN(bottom_up, ["p1", "p2", "p3"], 256, top_block=LastLevelP6P7(256, 256, in_feature="p5"))


R18 = {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}


X101 = {
    "DEPTH": 101,
    "STRIDE_IN_1X1": False,
    "DEFORM_ON_PER_STAGE": [False, True, True, True],
    "DEFORM_MODULATED": True,
    "DEFORM_NUM_GROUPS": 1,
}


# Detectron2's Swin imports it where it drops paths, as it does by default.
NEEDS_TIMM = pytest.mark.skipif(
    ensure_detectron2() == "installed" and not importlib.util.find_spec("timm"), reason="timm is not installed"
)


MODELS = {
    "resnet18_fpn_p6p7_res5": lambda: resnet_fpn(**R18),
    "resnet18_fpn_p6p7_p5": lambda: with_p6_from_p5(**R18),
    "resnet50_fpn_p6p7_res5": lambda: resnet_fpn(),
    "resnet50_fpn_p6p7_p5": lambda: with_p6_from_p5(),
    "resnet50_fpn_p6p7_res5_normBN": lambda: resnet_fpn(NORM="BN"),
    "resnet101_fpn_p6p7_res5": lambda: resnet_fpn(DEPTH=101),
    "resnext101_32x8d_dcnv2_fpn_p6p7_res5": lambda: resnet_fpn(**X101, NUM_GROUPS=32, WIDTH_PER_GROUP=8),
    "resnext101_64x4d_dcnv2_fpn_p6p7_res5": lambda: resnet_fpn(**X101, NUM_GROUPS=64, WIDTH_PER_GROUP=4),
    "swin_tiny_fpn_p6p7_p5": swin_fpn,
}


DETECTORS = {"fcos_R50", "retinanet_R50"}  # whole detectors, tested with the meta-architectures


def test_every_state_dict_fact_is_tested():
    names = {path.stem.removeprefix("state_dict_") for path in FACTS.glob("state_dict_*.json")}
    assert names == set(MODELS) | DETECTORS


def describe(spec):
    return {"channels": spec.channels, "stride": spec.stride}


def with_marks(names):
    return [pytest.param(name, marks=NEEDS_TIMM) if name.startswith("swin") else name for name in names]


@pytest.mark.parametrize("name", with_marks(MODELS))
def test_state_dict(name):
    golden = json.loads((FACTS / f"state_dict_{name}.json").read_text())
    with torch.device("meta"):
        model = MODELS[name]()
    parameters = dict(model.named_parameters())
    entries = [
        [
            entry,
            list(value.shape),
            str(value.dtype).removeprefix("torch."),
            "parameter" if entry in parameters else "buffer",
            entry in parameters and parameters[entry].requires_grad,
        ]
        for entry, value in model.state_dict().items()
    ]
    assert entries == golden["entries"]
    assert len(entries) == golden["num_entries"]
    assert sum(p.numel() for p in parameters.values()) == golden["num_parameters"]
    assert sum(p.numel() for p in parameters.values() if p.requires_grad) == golden["num_trainable_parameters"]
    assert sum(v.numel() for v in model.state_dict().values()) == golden["num_state_dict_elements"]
    assert {k: describe(s) for k, s in model.output_shape().items()} == golden["output_shape"]
    assert model.size_divisibility == golden["size_divisibility"]
    assert model.padding_constraints == golden["padding_constraints"]


def fill(model):
    """The weight rule of the facts: numbers that depend on nothing but position, name and shape."""
    state = model.state_dict()
    for i, (name, value) in enumerate(state.items()):
        if not value.is_floating_point():
            continue
        u = np.sin(np.arange(value.numel()) * 0.37 + i * 0.71).reshape(value.shape)
        if name.endswith("running_var"):
            u = 1 + 0.1 * np.abs(u)
        elif name.endswith("running_mean"):
            u = 0.1 * u
        elif value.dim() >= 2:
            u = 2 * u / np.sqrt(value.numel() / value.shape[0])
        elif "norm" in name and name.endswith("weight"):
            u = 1 + 0.1 * u
        else:
            u = 0.02 * u
        state[name] = torch.from_numpy(u.astype(np.float32))
    model.load_state_dict(state)
    return model.eval()


def stages():
    names = ["stem", "res2", "res3", "res4", "res5"]
    return build_resnet_backbone(config(**R18, OUT_FEATURES=names), ShapeSpec(channels=3))


FILLED = {
    "resnet18_fpn": MODELS["resnet18_fpn_p6p7_res5"],
    "resnet50_fpn": MODELS["resnet50_fpn_p6p7_res5"],
    "resnet50_fpn_p5": MODELS["resnet50_fpn_p6p7_p5"],
    "resnet50_fpn_stride3x3": lambda: resnet_fpn(STRIDE_IN_1X1=False),
    "swin_tiny_fpn": swin_fpn,
    "resnet18_stages": stages,
}


def test_every_output_fact_is_tested():
    assert set(GOLDEN["models"]) == set(FILLED)
    assert {name.split("/")[0] for name in ARRAYS} == set(FILLED) | {"image"}


@pytest.mark.parametrize("name", FILLED)
def test_outputs(name):
    golden = GOLDEN["models"][name]
    model = fill(FILLED[name]())
    state = list(model.state_dict().items())
    for position, entry, values in golden.get("weight_checks", []):
        assert state[position][0] == entry
        np.testing.assert_allclose(state[position][1].flatten()[:3], values, rtol=1e-5, atol=1e-8)
    with torch.no_grad():
        outputs = model(torch.from_numpy(ARRAYS["image"]))
    assert {level: list(out.shape) for level, out in outputs.items()} == golden["outputs"]
    if "output_shape" in golden:
        assert {k: describe(s) for k, s in model.output_shape().items()} == golden["output_shape"]
    for key in (key for key in ARRAYS if key.startswith(name + "/")):
        expected = torch.from_numpy(ARRAYS[key])
        actual = outputs[key.split("/")[1]][:, : expected.shape[1]]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_image_of_the_facts():
    c, y, x = np.mgrid[:3, :96, :128]
    image = 60 * np.sin(0.11 * x + 0.07 * y + 1.3 * c) + 30 * np.cos(0.023 * x * (c + 1) - 0.19 * y)
    np.testing.assert_allclose(ARRAYS["image"][0], image, rtol=1e-4, atol=1e-3)


def test_initial_weights():
    torch.manual_seed(0)
    state = resnet_fpn().state_dict()
    for name, golden in GOLDEN["init_statistics_seed0"].items():
        weight = state[name]
        count = weight.numel() ** 0.5
        # The draws may differ; mean and spread may not, beyond three standard errors.
        assert abs(weight.mean().item() - golden["mean"]) <= 4.5 * golden["std"] / count + 1e-5, name
        assert weight.std().item() == pytest.approx(golden["std"], rel=3 / count + 1e-3, abs=1e-5), name
        assert weight.abs().max().item() == pytest.approx(golden["absmax"], rel=0.25, abs=1e-5), name


class TestBuildBackbone:
    def test_errors(self):
        def raised(cfg):
            with pytest.raises((KeyError, AssertionError)) as info:
                build_backbone(cfg)
            return {"ok": False, "raises": type(info.value).__name__}

        unknown = config()
        unknown.MODEL.BACKBONE.NAME = "nothing"
        assert raised(unknown) == BEHAVIOURS["unknown_backbone"]
        assert raised(config(DEPTH=18)) == BEHAVIOURS["r18_wrong_res2_channels"]
        assert raised(config(**R18, DEFORM_ON_PER_STAGE=[False, True, True, True])) == BEHAVIOURS["r18_deform"]
        assert raised(config(**R18, NUM_GROUPS=2)) == BEHAVIOURS["r18_groups"]
        assert raised(config(DEPTH=33)) == BEHAVIOURS["depth_33"]
        assert raised(config(RES5_DILATION=3)) == BEHAVIOURS["dilation_3"]

    def test_registered_backbones(self, monkeypatch):
        names = API["detectron2.modeling"]["names"]["BACKBONE_REGISTRY"]["registered_names"]
        assert all(name in BACKBONE_REGISTRY for name in names)
        seen = {}
        monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "Spy", lambda cfg, shape: seen.update(shape=shape))
        cfg = config()
        cfg.MODEL.BACKBONE.NAME = "Spy"
        with pytest.raises(AssertionError) as info:
            build_backbone(cfg)
        assert type(info.value).__name__ == BEHAVIOURS["backbone_not_subclass"]["raises"]
        shape = seen["shape"]
        assert [shape.channels, shape.height, shape.width, shape.stride] == BEHAVIOURS["input_shape_passed"]
        cfg.MODEL.PIXEL_MEAN = [1.0, 2.0]
        with pytest.raises(AssertionError):
            build_backbone(cfg)
        assert seen["shape"].channels == BEHAVIOURS["channels_follow_PIXEL_MEAN_length"]

    def test_backbone_defaults(self):
        class Tiny(Backbone):
            def __init__(self):
                super().__init__()
                self._out_features = ["x"]
                self._out_feature_channels = {"x": 3}
                self._out_feature_strides = {"x": 2}

            def forward(self, x):
                return {"x": x[..., ::2, ::2]}

        tiny = Tiny()
        shapes = {name: [spec.channels, spec.stride] for name, spec in tiny.output_shape().items()}
        assert shapes == BEHAVIOURS["default_output_shape"]
        assert tiny.size_divisibility == BEHAVIOURS["default_size_divisibility"]
        assert tiny.padding_constraints == BEHAVIOURS["default_padding_constraints"]
        spec = ShapeSpec()
        assert [spec.channels, spec.height, spec.width, spec.stride] == BEHAVIOURS["ShapeSpec_defaults"]


@pytest.mark.parametrize("module", ["fpn", "resnet", "swin"])
def test_modules_offer_the_names_of_the_facts(module):
    import importlib

    ours = importlib.import_module(f"detectron2.modeling.backbone.{module}")
    for name in API[f"detectron2.modeling.backbone.{module}"]["names"]:
        assert hasattr(ours, name), name
