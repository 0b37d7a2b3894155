"""ResNets and pyramids: their parts, options and first weights."""

import json

import pytest
import torch
from torch import nn

from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import (
    FPN,
    Backbone,
    ResNet,
    build_backbone,
    build_resnet_backbone,
)
from detectron2.modeling.backbone import resnet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, build_resnet_fpn_backbone
from tests.conftest import FACTS
from tests.standin import says

GOLDEN = json.loads((FACTS / "golden_backbone.json").read_text())


def config(**resnets):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    for name, value in resnets.items():
        cfg.MODEL.RESNETS[name] = value
    return cfg


def resnet_fpn(**resnets):
    return build_backbone(config(**resnets))


R18 = {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}


def describe(spec):
    return {"channels": spec.channels, "stride": spec.stride}


def stages():
    names = ["stem", "res2", "res3", "res4", "res5"]
    return build_resnet_backbone(config(**R18, OUT_FEATURES=names), ShapeSpec(channels=3))


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
