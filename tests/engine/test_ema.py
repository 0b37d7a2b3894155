import pytest
import torch
from torch import nn

from defcn_ext.engine.ema import AveragedCheckpointer, WeightAverage


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("constant", torch.tensor([0.1]))


def advance(net: Net, average: WeightAverage, weight: float) -> None:
    net.weight.data.fill_(weight)
    net.count += 1
    average.update()


@pytest.fixture
def net_and_average():
    net = Net()
    average = WeightAverage(net, decay=0.25)
    average.before_train()
    advance(net, average, 3.0)
    advance(net, average, 9.0)
    return net, average


def test_by_hand(net_and_average):
    _, average = net_and_average
    # decay of step 1 is min(0.25, 2/11), of step 2 min(0.25, 3/12)
    first = 1.0 * 2 / 11 + 3.0 * 9 / 11
    assert average.average["weight"].item() == pytest.approx(first * 0.25 + 9.0 * 0.75)
    assert average.average["count"].item() == 2
    assert average.average["constant"].item() == torch.tensor(0.1).item()  # not even rounded


def test_model_has_the_average_inside_and_its_own_weights_after(net_and_average):
    net, average = net_and_average
    expected = average.average["weight"].item()
    with pytest.raises(RuntimeError), average.applied():
        assert net.weight.item() == expected
        raise RuntimeError
    assert net.weight.item() == 9.0


def test_checkpoint_holds_the_average_and_restores_both(net_and_average, tmp_path):
    net, average = net_and_average
    AveragedCheckpointer(average, net, str(tmp_path), ema=average).save("model")
    assert net.weight.item() == 9.0
    saved = torch.load(tmp_path / "model.pth", weights_only=True)
    assert torch.equal(saved["model"]["weight"], average.average["weight"])

    fresh = Net()
    resumed = WeightAverage(fresh, decay=0.25)
    AveragedCheckpointer(resumed, fresh, str(tmp_path), ema=resumed).load(str(tmp_path / "model.pth"))
    resumed.before_train()
    assert fresh.weight.item() == 9.0 and resumed.steps == 2
    advance(net, average, -5.0)
    advance(fresh, resumed, -5.0)
    assert torch.equal(resumed.average["weight"], average.average["weight"])


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=r"SOLVER\.EMA\.DECAY"):
        WeightAverage(Net(), decay)
