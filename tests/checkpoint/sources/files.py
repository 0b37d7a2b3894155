"""Small files of other code bases: their names, made-up numbers."""

import torch
from torchvision.models import resnet18

from detectron2.modeling import build_model
from tests.checkpoint.sources.detections import randomised
from tests.tiny import tiny_cfg

WIDTH, CLASSES = 32, 5


class Drawer:
    """Draws convs and norms into a state dict."""

    def __init__(self, seed=0):
        self.state, self.generator = {}, torch.Generator().manual_seed(seed)

    def conv(self, name, out, channels=WIDTH, kernel=3, *, bias=True):
        scale = (1.5 / (channels * kernel * kernel)) ** 0.5
        self.state[f"{name}.weight"] = scale * torch.randn(out, channels, kernel, kernel, generator=self.generator)
        if bias:
            self.state[f"{name}.bias"] = 0.1 * torch.randn(out, generator=self.generator)

    def norm(self, name):
        self.state[f"{name}.weight"] = 0.5 + torch.rand(WIDTH, generator=self.generator)
        self.state[f"{name}.bias"] = 0.1 * torch.randn(WIDTH, generator=self.generator)

    def scales(self, prefix, shape):
        for level in range(5):
            self.state[f"{prefix}.{level}.scale"] = torch.full(shape, 0.8 + 0.1 * level)


def detectron2_backbone(p6_feature):
    """ResNet-18 and a pyramid under Detectron2's names."""
    cfg = tiny_cfg("MODEL.FPN.OUT_CHANNELS", WIDTH, "MODEL.DEFCN.P6_FEATURE", p6_feature)
    model = randomised(build_model(cfg))
    return {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}


def mmdet_backbone():
    """ResNet-18 under mmdetection's names, which are torchvision's, and the module."""
    model = randomised(resnet18())
    state = {f"backbone.{k}": v for k, v in model.state_dict().items() if not k.startswith("fc.")}
    return state, model
