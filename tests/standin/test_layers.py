"""Convs, blocks and what works on regions, against values measured on Detectron2."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from detectron2.layers import (
    ASPP,
    CNNBlockBase,
    Conv2d,
    DeformConv,
    DepthwiseSeparableConv2d,
    FrozenBatchNorm2d,
    ModulatedDeformConv,
    ROIAlign,
    ShapeSpec,
    batched_nms,
    cat,
    cross_entropy,
    interpolate,
    move_device_like,
    nonzero_tuple,
    paste_masks_in_image,
    shapes_to_tensor,
)
from detectron2.layers.mask_ops import pad_masks, paste_mask_in_image_old, scale_boxes
from tests.conftest import FACTS
from tests.standin import says

ARRAYS = np.load(FACTS / "golden_layers.npz")


GOLDEN = json.loads((FACTS / "golden_backbone.json").read_text())


WRAPPERS = json.loads((FACTS / "golden_structures.json").read_text())["layers"]


def array(name):
    return torch.from_numpy(ARRAYS[name])


def test_every_array_is_used():
    groups = {"x", "frozen_bn", "conv2d_wrapper", "deform_conv", "modulated_deform_conv_equivalent"}
    assert {name.split("/")[0] for name in ARRAYS} == groups


def close(actual, name):
    expected = array(name)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def load(module, prefix):
    """Fills a module from the arrays under `prefix`."""
    module.load_state_dict({name: array(prefix + name) for name in module.state_dict()})
    return module.eval()


class TestConv2d:
    def make(self):
        return Conv2d(6, 4, 3, padding=1, bias=False, norm=FrozenBatchNorm2d(4), activation=nn.functional.relu)

    def test_values(self):
        layer = load(self.make(), "conv2d_wrapper/")
        assert list(layer.state_dict()) == GOLDEN["conv2d_wrapper_state_dict"]
        close(layer(array("x")), "conv2d_wrapper/out")

    def test_empty_batch_keeps_shape_and_graph(self):
        layer = self.make()
        out = layer(torch.zeros(0, 6, 7, 9))
        assert out.shape == (0, 4, 7, 9)
        out.sum().backward()
        assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


class TestDeformableConvs:
    """The arrays have stride 2 and padding 1: maps of 7 x 9 become 4 x 5."""

    def test_plain(self):
        layer = DeformConv(6, 4, 3, stride=2, padding=1)
        layer.weight.data = array("deform_conv/weight")
        out = layer(array("x"), array("deform_conv/offset"))
        close(out.detach(), "deform_conv/out")
        close(out.detach(), "deform_conv/out_torchvision")

    @pytest.mark.standin_only("deformable convs on a CPU: Detectron2 has the plain one's forward pass only")
    def test_modulated(self):
        layer = ModulatedDeformConv(6, 4, 3, stride=2, padding=1, bias=False)
        layer.weight.data = array("deform_conv/weight")
        mask = array("modulated_deform_conv_equivalent/mask")
        out = layer(array("x"), array("deform_conv/offset"), mask)
        close(out.detach(), "modulated_deform_conv_equivalent/out_torchvision")

    @pytest.mark.standin_only("deformable convs on a CPU: Detectron2 has the plain one's forward pass only")
    def test_without_offsets_it_is_a_conv(self):
        layer = ModulatedDeformConv(4, 6, 3, padding=1, groups=2, activation=nn.functional.relu)
        nn.init.constant_(layer.bias, 0.3)
        x = torch.randn(2, 4, 5, 6)
        expected = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1, groups=2).relu()
        out = layer(x, torch.zeros(2, 18, 5, 6), torch.ones(2, 9, 5, 6))
        torch.testing.assert_close(out, expected)

    @pytest.mark.standin_only("deformable convs on a CPU: Detectron2 has the plain one's forward pass only")
    def test_gradients_reach_everything(self):
        layer = ModulatedDeformConv(4, 4, 3, padding=1, deformable_groups=2)
        inputs = [torch.rand(1, channels, 5, 6, requires_grad=True) for channels in (4, 36, 18)]
        layer(*inputs).square().sum().backward()
        assert all(t.grad.abs().sum() > 0 for t in [*inputs, layer.weight, layer.bias])

    def test_repr_and_errors(self):
        common = "in_channels=3, out_channels=10, kernel_size=(3, 3)"
        assert repr(DeformConv(3, 10, 3, padding=1, deformable_groups=2)) == (
            f"DeformConv({common}, stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1, deformable_groups=2, "
            "bias=False)"
        )
        assert repr(ModulatedDeformConv(3, 10, 3, padding=1, deformable_groups=2)) == (
            f"ModulatedDeformConv({common}, stride=1, padding=1, dilation=1, groups=1, deformable_groups=2, bias=True)"
        )
        with pytest.raises(RuntimeError, match=says("18 channels, got 17")):
            DeformConv(3, 10, 3, padding=1)(torch.rand(1, 3, 5, 5), torch.rand(1, 17, 5, 5))
        with pytest.raises(AssertionError, match=says("no bias")):
            DeformConv(3, 10, 3, bias=True)


class TestBlocks:
    def test_depthwise_separable(self):
        layer = DepthwiseSeparableConv2d(6, 4, norm1="BN", norm2="BN", activation1=nn.PReLU(), activation2=nn.PReLU())
        names = [[n, list(t.shape)] for n, t in layer.state_dict().items() if "activation" not in n]
        assert names == GOLDEN["depthwise_separable_state_dict"]
        assert layer(array("x")).shape == (2, 4, 7, 9)
        shared = nn.PReLU()
        layer = DepthwiseSeparableConv2d(3, 3, activation1=shared, activation2=shared)
        assert layer.depthwise.activation is not layer.pointwise.activation
        assert layer.depthwise.bias is not None

    def test_freeze(self):
        class Block(CNNBlockBase):
            def __init__(self):
                super().__init__(3, 4, 1)
                self.conv = Conv2d(3, 4, 1, norm=nn.BatchNorm2d(4))

        block = Block()
        assert block.freeze() is block
        assert [n for n, p in block.named_parameters() if p.requires_grad] == []
        assert type(block.conv.norm) is FrozenBatchNorm2d

    @pytest.mark.parametrize("separable", [False, True])
    def test_aspp(self, separable):
        layer = ASPP(
            6,
            10,
            [2, 3, 4],
            norm="",
            activation=nn.PReLU(),
            use_depthwise_separable_conv=separable,
        )
        assert layer(array("x")).shape == (2, 10, 7, 9)
        activations = [m for m in layer.modules() if isinstance(m, nn.PReLU)]
        assert len({id(a) for a in activations}) == (9 if separable else 6)
        assert layer.project.weight.shape == (10, 50, 1, 1)

    def test_aspp_pools_whole_windows_only(self):
        layer = ASPP(6, 4, [1, 2, 3], norm="BN", activation=nn.ReLU(), pool_kernel_size=(7, 3), dropout=0.5)
        assert layer(array("x")).shape == (2, 4, 7, 9)
        with pytest.raises(ValueError, match=says("divisible")):
            layer(array("x")[..., :8])


class TestWrappers:
    def test_facts(self):
        x = torch.ones(2)
        assert (cat([x]) is x) == WRAPPERS["cat_single_returns_same_object"]
        logits, labels = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.int64)
        loss = cross_entropy(logits, labels, reduction="mean")
        assert loss.item() == WRAPPERS["cross_entropy_empty_mean"]
        loss.backward()
        assert cross_entropy(logits, labels, reduction="sum").item() == WRAPPERS["cross_entropy_empty_sum"]
        logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
        default = WRAPPERS["cross_entropy_default_reduction"]
        expected = nn.functional.cross_entropy(logits, labels, reduction=default)
        torch.testing.assert_close(cross_entropy(logits, labels), expected)
        found = nonzero_tuple(torch.tensor([[0, 1], [1, 1]]))
        assert [index.tolist() for index in found] == WRAPPERS["nonzero_tuple"]

    def test_cat(self):
        assert cat((torch.ones(2, 1), torch.ones(2, 3)), dim=1).shape == (2, 4)
        with pytest.raises(AssertionError, match=says("list or tuple")):
            cat(torch.ones(2))

    def test_shapes_and_devices(self):
        assert shapes_to_tensor([3, 4]).tolist() == [3, 4]
        assert shapes_to_tensor([torch.tensor(3), 4]).tolist() == [3, 4]
        assert move_device_like(torch.ones(1), torch.ones(2)).device == torch.device("cpu")
        assert interpolate(torch.ones(1, 1, 2, 2), scale_factor=2).shape == (1, 1, 4, 4)
        spec = ShapeSpec(channels=3)
        assert (spec.channels, spec.height, spec.width, spec.stride) == (3, None, None, None)
        assert spec == ShapeSpec(3)


OUTSIDE = pytest.mark.standin_only("a mask that lies beyond the image is an empty one, not an error")


class TestRegions:
    def test_roi_align_of_a_ramp_gives_its_values_at_bin_centers(self):
        ramp = torch.arange(8.0).expand(1, 1, 8, 8) + 0.5  # the value of a cell is its center
        out = ROIAlign((2, 2), 0.5, 0)(ramp, torch.tensor([[0.0, 4.0, 4.0, 12.0, 12.0]]))
        torch.testing.assert_close(out, torch.tensor([3.0, 5.0]).expand(1, 1, 2, 2))
        expected = "ROIAlign(output_size=7, spatial_scale=0.25, sampling_ratio=2, aligned=True)"
        assert repr(ROIAlign(7, 0.25, 2)) == expected

    @pytest.mark.standin_only("a helper of its own")
    def test_masks_are_pasted_chunk_by_chunk(self, monkeypatch):
        masks, boxes = torch.rand(3, 4, 4), torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 3.0], [2.0, 2, 4, 5]])
        whole = paste_masks_in_image(masks, boxes, (6, 6))
        monkeypatch.setattr("detectron2.layers.mask_ops._masks_per_chunk", lambda height, width: 1)
        assert torch.equal(paste_masks_in_image(masks, boxes, (6, 6)), whole)

    def test_paste_masks(self):
        masks = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.6], [0.6, 0.6]]])
        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 3.0]])
        diagonal = [[True, False, False], [False, True, False], [False, False, False]]
        whole = paste_masks_in_image(masks, boxes, (3, 3))
        assert whole[0].tolist() == diagonal
        assert whole[1].any(dim=0).tolist() == [False, True, True]
        soft = paste_masks_in_image(masks, boxes, (3, 3), threshold=-1)
        assert soft.dtype == torch.uint8
        assert soft[0, 0, 0] == 255 and soft[1, 1, 1].item() == int(0.6 * 255)
        assert paste_masks_in_image(masks[:0], boxes[:0], (3, 4)).shape == (0, 3, 4)

    def test_padding_masks_and_scaling_boxes_fit_together(self):
        masks = torch.rand(2, 4, 4)
        padded, scale = pad_masks(masks, 1)
        assert padded.shape == (2, 6, 6) and scale == 1.5
        assert torch.equal(padded[:, 1:-1, 1:-1], masks)
        assert padded.sum().item() == pytest.approx(masks.sum().item())
        boxes = torch.tensor([[0.0, 0.0, 4.0, 8.0], [10.0, 10.0, 10.0, 20.0]])
        expected = torch.tensor([[-1.0, -2.0, 5.0, 10.0], [10.0, 7.5, 10.0, 22.5]])
        torch.testing.assert_close(scale_boxes(boxes, scale), expected)
        # The border of zeros around a larger box changes nothing.
        masks, boxes = torch.ones(1, 4, 4), torch.tensor([[3.0, 2.0, 7.0, 8.0]])
        padded, scale = pad_masks(masks, 1)
        again = paste_masks_in_image(padded, scale_boxes(boxes, scale), (10, 12))
        assert torch.equal(again, paste_masks_in_image(masks, boxes, (10, 12))) and again.sum() == 24

    @pytest.mark.parametrize(
        "box, expected",
        [
            ([1.9, 0.2, 2.5, 1.9], [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]),
            ([-1.0, 1.0, 0.0, 9.0], [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]),
            ([2.0, 2.0, 2.0, 2.0], [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]),
            ([4.0, 0.0, 6.0, 2.0], [[0, 0, 0, 0]] * 3),
            pytest.param([1.0, 5.0, 6.0, 9.0], [[0, 0, 0, 0]] * 3, marks=OUTSIDE),
            pytest.param([6.0, 0.0, 9.0, 2.0], [[0, 0, 0, 0]] * 3, marks=OUTSIDE),
            pytest.param([-6.0, -6.0, -4.0, -4.0], [[0, 0, 0, 0]] * 3, marks=OUTSIDE),
        ],
    )
    def test_old_way_of_pasting_fills_whole_pixels(self, box, expected):
        pasted = paste_mask_in_image_old(torch.ones(2, 2), torch.tensor(box), 3, 4, 0.5)
        assert pasted.dtype == torch.uint8 and pasted.tolist() == expected

    def test_old_way_of_pasting_interpolates(self):
        mask = torch.tensor([[0.2, 0.8], [0.2, 0.8]])
        soft = paste_mask_in_image_old(mask, torch.tensor([0.0, 0.0, 3.0, 1.0]), 2, 4, -1)
        assert soft[0].tolist() == [int(255 * x) for x in (0.2, 0.35, 0.65, 0.8)]
        assert paste_mask_in_image_old(mask, torch.tensor([0.0, 0.0, 3.0, 1.0]), 2, 4, 0.5)[0].tolist() == [0, 0, 1, 1]

    @pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
    def test_scripted_functions_are_the_eager_ones(self):
        masks, boxes, scores = torch.rand(5, 7, 7), torch.rand(5, 4) * 20, torch.rand(5)
        boxes[:, 2:] += boxes[:, :2] + 1
        scripted = torch.jit.script(paste_masks_in_image)(masks, boxes, (30, 40))
        assert torch.equal(scripted, paste_masks_in_image(masks, boxes, (30, 40)))
        classes = torch.tensor([0, 0, 1, 1, 0])
        scripted = torch.jit.script(batched_nms)(boxes, scores, classes, 0.1)
        assert torch.equal(scripted, batched_nms(boxes, scores, classes, 0.1))
