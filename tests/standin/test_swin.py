import importlib
import json

import pytest
import torch

from defcn_ext._platform import ensure_detectron2
from detectron2.modeling import (
    SwinTransformer,
)
from detectron2.modeling.backbone import swin
from tests.conftest import FACTS

GOLDEN = json.loads((FACTS / "golden_backbone.json").read_text())


# Detectron2's Swin imports it where it drops paths, as it does by default.
NEEDS_TIMM = pytest.mark.skipif(
    ensure_detectron2() == "installed" and not importlib.util.find_spec("timm"), reason="timm is not installed"
)


def describe(spec):
    return {"channels": spec.channels, "stride": spec.stride}


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
