import pytest
import torch
from torch import nn

from detectron2.structures import Boxes, Instances
from detectron2.utils.analysis import (
    FlopCountAnalysis,
    activation_count_operators,
    find_unused_parameters,
    flop_count_operators,
    parameter_count,
    parameter_count_table,
)
from tests.standin import says


class Detector(nn.Module):
    """Takes and returns what a detector does. 2 x 3 x 3 x 3 weights and 2 biases; `unused` is not called."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        self.unused = nn.Linear(2, 2)

    def forward(self, batched_inputs):
        assert batched_inputs[0]["file_name"] == "a.jpg"
        features = self.conv(torch.stack([x["image"] for x in batched_inputs]))
        if self.training:
            return {"loss_a": features.mean(), "loss_b": features.sum()}
        boxes = Boxes(features.flatten(1)[:, :4])
        return [{"instances": Instances((8, 10), pred_boxes=boxes, scores=features[:, 0, 0, 0])}]


INPUTS = [{"image": torch.rand(3, 8, 10), "file_name": "a.jpg"}]
# 80 pixels, and for each of them 27 multiply-adds for each of 2 channels.
MACS = 80 * 27 * 2


@pytest.mark.standin_only("counts with all entries of an input, where Detectron2 keeps the image alone")
def test_flops_of_a_model_of_dicts():
    model = Detector()
    counts = flop_count_operators(model, INPUTS)
    assert counts["conv"] == pytest.approx(MACS / 1e9) and counts["nothing"] == 0
    assert model.training


def test_flop_analysis_by_module():
    analysis = FlopCountAnalysis(Detector().eval(), INPUTS)
    assert analysis.total() == MACS
    assert analysis.by_module()["model.conv"] == MACS and analysis.by_module()["model.unused"] == 0


def test_a_tuple_holds_several_arguments():
    class Product(nn.Module):
        def forward(self, a, b):
            return {"product": a @ b["right"]}

    assert FlopCountAnalysis(Product(), (torch.rand(2, 3), {"right": torch.rand(3, 4)})).total() == 2 * 3 * 4


@pytest.mark.standin_only("counts with all entries of an input, where Detectron2 keeps the image alone")
def test_activations():
    model = Detector().eval()
    assert activation_count_operators(model, INPUTS)["conv"] == pytest.approx(80 * 2 / 1e6)
    assert not model.training


def test_parameter_count():
    counts = parameter_count(Detector())
    assert (counts[""], counts["conv"], counts["unused"]) == (62, 56, 6)
    assert "conv.weight" in parameter_count_table(Detector())


def test_find_unused_parameters():
    model = Detector()
    assert find_unused_parameters(model, INPUTS) == ["unused.weight", "unused.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(AssertionError, match=says("train mode")):
        find_unused_parameters(model.eval(), INPUTS)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x, factor):
            return self.used(x).mean() * factor

    assert find_unused_parameters(Loss(), (torch.rand(2, 3), 2.0)) == ["idle.weight", "idle.bias"]
