import importlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from defcn_ext._platform import ensure_detectron2
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    FPN,
    Backbone,
    ResNet,
    SwinTransformer,
    build_backbone,
    build_resnet_backbone,
)
from detectron2.modeling.backbone import resnet, swin
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7, build_resnet_fpn_backbone
from tests.conftest import FACTS
from tests.standin import says

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


class TestWhatASeedGives:
    """Checkpoints aside, equal seeds give equal runs on both Detectron2s only if numbers are drawn in one order."""

    CHANNELS = {"in_channels": 8, "out_channels": 16, "stride": 2, "norm": "FrozenBN"}
    BLOCKS = {
        "basic": (resnet.BasicBlock, {}, ["shortcut", "conv1", "conv2"]),
        "bottleneck": (resnet.BottleneckBlock, {"bottleneck_channels": 4}, ["shortcut", "conv1", "conv2", "conv3"]),
        "deformable": (
            resnet.DeformBottleneckBlock,
            {"bottleneck_channels": 4},
            ["shortcut", "conv1", "conv2_offset", "conv2", "conv3"],
        ),
    }

    @pytest.mark.parametrize("name", BLOCKS)
    def test_a_block_makes_all_convs_then_fills_them_the_shortcut_last(self, name):
        block_class, options, made = self.BLOCKS[name]
        torch.manual_seed(1)
        block = block_class(**self.CHANNELS, **options)
        torch.manual_seed(1)
        weights = {}
        for conv in made:  # what the layers' own constructors draw
            weights[conv] = torch.empty_like(getattr(block, conv).weight)
            deformable = name == "deformable" and conv == "conv2"
            nn.init.kaiming_uniform_(weights[conv], **({"nonlinearity": "relu"} if deformable else {"a": 5**0.5}))
            if conv == "conv2_offset":
                torch.empty_like(block.conv2_offset.bias).uniform_()
        for conv in [*[c for c in made if c not in ("shortcut", "conv2_offset")], "shortcut"]:
            nn.init.kaiming_normal_(weights[conv], mode="fan_out", nonlinearity="relu")
            assert torch.equal(getattr(block, conv).weight, weights[conv]), conv
        if name == "deformable":
            assert not block.conv2_offset.weight.any() and not block.conv2_offset.bias.any()

    @pytest.mark.parametrize("name", ["basic", "bottleneck"])
    def test_the_shortcut_is_computed_last(self, name):
        """The gradient of the input is a sum over its uses, in their order: another order, another last bit."""
        block_class, options, made = self.BLOCKS[name]
        block = block_class(**self.CHANNELS, **options)
        used = []
        for conv in made:
            getattr(block, conv).register_forward_hook(lambda *_, conv=conv: used.append(conv))
        block(torch.rand(1, 8, 6, 6))
        assert used == [*made[1:], "shortcut"]

    def test_a_pyramid_makes_both_convs_of_a_level_then_fills_them(self):
        torch.manual_seed(1)
        model = FPN(Pyramid(), ["fine", "coarse"], 4)
        torch.manual_seed(1)
        for level, channels in ((3, 2), (4, 3)):
            convs = [nn.Conv2d(channels, 4, 1), nn.Conv2d(4, 4, 3)]
            for name, conv in zip(("lateral", "output"), convs):
                nn.init.kaiming_uniform_(conv.weight, a=1)
                assert torch.equal(getattr(model, f"fpn_{name}{level}").weight, conv.weight), (name, level)


class TestDeformableStages:
    def block(self, **options):
        block = resnet.DeformBottleneckBlock(8, 8, bottleneck_channels=4, norm="FrozenBN", **options)
        # From the start the residual is what the plain bottleneck makes of the same weights.
        plain = resnet.BottleneckBlock(8, 8, bottleneck_channels=4, norm="FrozenBN")
        plain.load_state_dict({k: v for k, v in block.state_dict().items() if "offset" not in k})
        return block, plain

    def test_plain_starts_as_a_bottleneck(self):
        block, plain = self.block()
        assert block.conv2_offset.weight.shape[0] == GOLDEN["deform_notes"]["block_offset_channels"]["plain"]
        x = torch.randn(2, 8, 6, 7)
        torch.testing.assert_close(block(x), plain(x))

    @pytest.mark.standin_only("deformable convs on a CPU: Detectron2 has the plain one's forward pass only")
    def test_modulated_starts_with_half_of_it(self):
        block, plain = self.block(deform_modulated=True)
        assert block.conv2_offset.weight.shape[0] == GOLDEN["deform_notes"]["block_offset_channels"]["modulated"]
        plain.conv2.weight.data *= 0.5
        x = torch.randn(2, 8, 6, 7)
        torch.testing.assert_close(block(x), plain(x))

    @pytest.mark.standin_only("deformable convs on a CPU: Detectron2 has the plain one's forward pass only")
    def test_offsets_come_before_masks(self):
        block, plain = self.block(deform_modulated=True, deform_num_groups=2)
        assert block.conv2_offset.weight.shape[0] == 54
        # A mask logit of 50 opens the taps; every tap one cell to the right shifts what the conv sees.
        block.conv2_offset.bias.data[36:] = 50.0
        block.conv2_offset.bias.data[1:36:2] = 1.0
        x = torch.randn(1, 8, 6, 7)
        shifted = plain.residual(torch.roll(x, -1, dims=3))
        torch.testing.assert_close(block.residual(x)[..., 1:5], shifted[..., 1:5])

    @pytest.mark.standin_only("deformable convs on a CPU: Detectron2 has the plain one's forward pass only")
    @pytest.mark.parametrize("modulated", [False, True])
    def test_gradients_reach_the_offsets(self, modulated):
        block, _ = self.block(deform_modulated=modulated, stride=2)
        x = torch.randn(2, 8, 6, 7, requires_grad=True)
        out = block.residual(x)
        assert out.shape == (2, 8, 3, 4)
        out.square().sum().backward()
        grad = block.conv2_offset.bias.grad
        assert x.grad.any() and (grad[:18] != 0).all() and (grad[18:] != 0).all()


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


class TestResNet:
    def test_default_stages_make_a_classifier(self):
        model = ResNet(resnet.BasicStem(), ResNet.make_default_stages(18), num_classes=7)
        assert model(torch.rand(2, 3, 64, 64))["linear"].shape == (2, 7)
        assert model.linear.weight.std().item() == pytest.approx(0.01, rel=0.1)
        depths = {18: 64, 34: 64, 50: 256, 101: 256, 152: 256}
        for depth, channels in depths.items():
            with torch.device("meta"):
                stages = ResNet.make_default_stages(depth, norm="FrozenBN")
            assert stages[0][0].out_channels == channels
            assert 2 + sum(len(s) for s in stages) * (2 if depth < 50 else 3) == depth

    def test_unneeded_stages_are_not_built(self):
        model = build_resnet_backbone(config(**R18, OUT_FEATURES=["res3"]), ShapeSpec(channels=3))
        assert model.stage_names == ("res2", "res3")
        assert {k: describe(s) for k, s in model.output_shape().items()} == {"res3": {"channels": 128, "stride": 8}}

    @pytest.mark.parametrize("freeze_at, frozen", [(0, []), (1, ["stem"]), (3, ["stem", "res2", "res3"])])
    def test_freeze(self, freeze_at, frozen):
        model = ResNet(resnet.BasicStem(), ResNet.make_default_stages(18), freeze_at=freeze_at)
        for name in ("stem", "res2", "res3", "res4", "res5"):
            part = getattr(model, name)
            assert all(p.requires_grad for p in part.parameters()) == (name not in frozen)
            assert any(isinstance(m, FrozenBatchNorm2d) for m in part.modules()) == (name in frozen)

    def test_dilated_res5_keeps_the_resolution(self):
        options = {"OUT_FEATURES": ["res4", "res5"], "RES5_DILATION": 2}
        model = build_resnet_backbone(config(**options), ShapeSpec(channels=3))
        outputs = model(torch.rand(1, 3, 64, 64))
        assert outputs["res5"].shape[2:] == outputs["res4"].shape[2:] == (4, 4)
        assert model.output_shape()["res5"].stride == 16

    def test_errors_name_the_culprit(self):
        with pytest.raises(AssertionError, match=says("res9")):
            ResNet(resnet.BasicStem(), ResNet.make_default_stages(18), out_features=["res9"])
        with pytest.raises(AssertionError, match=says("stride_per_block must have 2 values")):
            ResNet.make_stage(resnet.BasicBlock, 2, in_channels=4, out_channels=4, stride_per_block=[1])

    def test_values_per_block(self):
        options = {"in_channels": 4, "out_channels": 8, "norm": ""}
        blocks = ResNet.make_stage(resnet.BasicBlock, 2, stride_per_block=[2, 1], **options)
        assert [(b.in_channels, b.out_channels, b.stride) for b in blocks] == [(4, 8, 2), (8, 8, 1)]


class Pyramid(Backbone):
    """Constant features with strides 8 and 16."""

    def __init__(self, strides=(8, 16)):
        super().__init__()
        self._out_features = ["fine", "coarse"]
        self._out_feature_channels = {"fine": 2, "coarse": 3}
        self._out_feature_strides = dict(zip(self._out_features, strides))

    def forward(self, x):
        size = x.shape[-1]
        return {"fine": torch.ones(1, 2, size // 8, size // 8), "coarse": torch.ones(1, 3, size // 16, size // 16)}


class TestFPN:
    @pytest.mark.parametrize("size", GOLDEN["fpn_bad_input_size"])
    def test_input_sizes(self, size):
        golden = GOLDEN["fpn_bad_input_size"][size]
        height, width = (int(s) for s in size.strip("()").split(","))
        model = resnet_fpn(**R18).eval()
        image = torch.zeros(1, 3, height, width)
        if golden == "RuntimeError":
            with pytest.raises(RuntimeError):
                model(image)
        else:
            with torch.no_grad():
                assert {k: list(v.shape) for k, v in model(image).items()} == golden

    @pytest.mark.parametrize("fuse, expected", [("sum", 5.0), ("avg", 2.5)])
    def test_fusion(self, fuse, expected):
        model = FPN(Pyramid(), ["fine", "coarse"], 1, fuse_type=fuse)
        for name, parameter in model.named_parameters():
            nn.init.constant_(parameter, 1.0 if "lateral" in name and "weight" in name else 0.0)
            if "output" in name and "weight" in name:
                parameter.data[0, 0, 1, 1] = 1.0
        # The laterals sum 2 and 3 channels of ones.
        outputs = model(torch.zeros(1, 3, 32, 32))
        assert outputs["p3"].unique().tolist() == [expected]
        assert outputs["p4"].unique().tolist() == [3.0]

    def test_mask_rcnn_levels(self):
        cfg = config(**R18)
        cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        model = build_resnet_fpn_backbone(cfg, ShapeSpec(channels=3)).eval()
        assert isinstance(model.top_block, LastLevelMaxPool)
        with torch.no_grad():
            outputs = model(torch.rand(1, 3, 64, 96))
        assert list(outputs) == ["p2", "p3", "p4", "p5", "p6"] == list(model.output_shape())
        assert torch.equal(outputs["p6"], outputs["p5"][..., ::2, ::2])

    def test_options(self):
        model = FPN(Pyramid(), ["fine", "coarse"], 32, norm="GN", square_pad=64)
        assert model.fpn_output3.bias is None and model.fpn_output3.norm.num_groups == 32
        assert model.padding_constraints == {"square_size": 64}
        assert model.size_divisibility == 16
        with pytest.raises(AssertionError, match=says("double")):
            FPN(Pyramid((8, 32)), ["fine", "coarse"], 4)
        with pytest.raises(AssertionError, match=says("max")):
            FPN(Pyramid(), ["fine", "coarse"], 4, fuse_type="max")


@NEEDS_TIMM
class TestSwin:
    def small(self, **options):
        defaults = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "out_indices": (0, 1)}
        return SwinTransformer(**(defaults | options))

    def test_output_shape(self):
        model = SwinTransformer(depths=(1, 1, 1, 1), out_indices=(1, 2, 3))
        assert {k: describe(s) for k, s in model.output_shape().items()} == GOLDEN["swin_output_shape"]

    def test_any_size(self):
        outputs = self.small()(torch.rand(2, 3, 50, 37))
        assert {k: tuple(v.shape) for k, v in outputs.items()} == {"p0": (2, 8, 13, 10), "p1": (2, 16, 7, 5)}

    def test_images_do_not_see_each_other(self):
        model = self.small().eval()
        images = torch.rand(3, 3, 40, 40)
        together = model(images)["p1"]
        alone = torch.cat([model(image[None])["p1"] for image in images])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_windows(self):
        x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3)
        windows = swin.window_partition(x, 2)
        assert windows.shape == (12, 2, 2, 3)
        assert torch.equal(windows[1], x[0, :2, 2:4])
        assert torch.equal(swin.window_reverse(windows, 2, 4, 6), x)

    @pytest.mark.standin_only("a helper of its own")
    def test_rolled_neighbours_are_kept_apart(self):
        from detectron2.modeling.backbone import swin_blocks

        mask = swin_blocks._shift_mask(4, 8, 4, 2, torch.device("cpu"))
        assert mask.shape == (2, 16, 16)
        # First window: rows 0-1 and 2-3 were apart before the roll. Second: columns as well.
        first = mask[0].view(4, 4, 4, 4)
        assert first[0, 0, 1, 3] == 0 and first[0, 0, 2, 0] == swin_blocks.APART
        second = mask[1].view(4, 4, 4, 4)
        assert second[0, 0, 0, 2] == swin_blocks.APART and second[3, 3, 2, 2] == 0

    def test_relative_positions(self):
        index = swin.WindowAttention(4, (2, 2), 1).relative_position_index
        # Cells in reading order; 4 is "the same cell" in the 3 x 3 table, rows first.
        assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]

    @pytest.mark.parametrize("frozen, layers", [(-1, None), (0, 0), (1, 0), (2, 1)])
    def test_frozen_stages(self, frozen, layers):
        model = self.small(frozen_stages=frozen, ape=True, drop_rate=0.1).train()
        assert model.patch_embed.proj.weight.requires_grad == (frozen < 0)
        assert model.absolute_pos_embed.requires_grad == (frozen < 1)
        for i, layer in enumerate(model.layers):
            trains = layers is None or i >= layers
            assert all(p.requires_grad == trains for p in layer.parameters())
            assert layer.training == trains

    def test_checkpointing_changes_no_gradient(self):
        grads = []
        for use_checkpoint in (False, True):
            torch.manual_seed(1)
            model = self.small(use_checkpoint=use_checkpoint, drop_path_rate=0.0)
            torch.manual_seed(2)
            model(torch.rand(1, 3, 32, 32))["p1"].square().sum().backward()
            grads.append(model.patch_embed.proj.weight.grad)
        torch.testing.assert_close(grads[0], grads[1])

    def test_drop_path_acts_in_training_only(self):
        model = self.small(drop_path_rate=0.9)
        x = torch.rand(4, 3, 32, 32)
        assert not torch.equal(model(x)["p1"], model(x)["p1"])
        model.eval()
        assert torch.equal(model(x)["p1"], model(x)["p1"])


@pytest.mark.parametrize("module", ["fpn", "resnet", "swin"])
def test_modules_offer_the_names_of_the_facts(module):
    import importlib

    ours = importlib.import_module(f"detectron2.modeling.backbone.{module}")
    for name in API[f"detectron2.modeling.backbone.{module}"]["names"]:
        assert hasattr(ours, name), name
