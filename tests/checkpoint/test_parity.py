"""Converted weights compute what they computed where they come from."""

import pytest
import torch
import torchvision

from defcn_ext.branches import build_branches, build_towers
from defcn_ext.checkpoint import Checkpoint
from defcn_ext.checkpoint.convert import convert
from defcn_ext.structures import Points
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from tests.checkpoint import layouts

SIZES = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]


def converted(state, *args, **kwargs):
    return convert(Checkpoint("in.pth", state, {}), *args, **kwargs)


def golden_weights(entries):
    """80-checkpoints, section 7: entry k in sorted order, element n: 0.05 cos(0.7 n + k), 1 more for norms, scales."""
    state = layouts.weights(entries)
    names = sorted(name.removeprefix("bbox_head.") for name in state if name.startswith("bbox_head."))
    for k, name in enumerate(names):
        if name.startswith("center_prior."):
            continue
        shape = state[f"bbox_head.{name}"].shape
        n = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
        values = 0.05 * torch.cos(0.7 * n + k) + (1 if name.endswith(("gn.weight", ".scale")) else 0)
        state[f"bbox_head.{name}"] = values.view(shape).float()
    return state


def features():
    out = []
    for level, (h, w) in enumerate(SIZES):
        n = torch.arange(256 * h * w, dtype=torch.float64)
        out.append(torch.sin(0.01 * n + level).view(1, 256, h, w).float())
    return out


@torch.no_grad()
def predict(conversion, maps, name=None):
    """The head's predictions; the backbone stays out of it."""
    model = conversion.model
    head = build_towers(conversion.cfg, 256, level_scales=conversion.cfg.MODEL.DEFCN.LEVEL_SCALES)
    branches = torch.nn.ModuleDict(build_branches(conversion.cfg, 256))
    head.load_state_dict({k.removeprefix("head."): v for k, v in model.items() if k.startswith("head.")})
    branches.load_state_dict({k.removeprefix("branches."): v for k, v in model.items() if k.startswith("branches.")})
    points = Points.from_sizes(SIZES, [8, 16, 32, 64, 128])
    return points, branches.eval()[name or next(iter(branches))](points, head.eval()(maps))


def by_level(points, values):
    return [x.mean().item() for x in values.split(points.counts, dim=1)]


def ltrb(points, boxes):
    return torch.cat([points.xy - boxes[..., :2], boxes[..., 2:] - points.xy], dim=-1)


CLS = {
    "o2f": [-0.000216, 0.002422, 0.004353, 0.007712, 0.004582],
    "dw": [0.003528, 0.003795, 0.006717, 0.011874, 0.006565],
}
OBJECTNESS = {
    "o2f": [0.434641, 0.710283, 0.820473, 1.368912, 0.879360],
    "dw": [0.125470, 0.473815, 0.888273, 1.572291, 0.908301],
}


@pytest.mark.parametrize(
    ("entries", "kind", "expected"),
    [
        (layouts.o2f(), "o2f", [13.76817, 15.35552, 53.23876, 113.34339, 120.52824]),
        (layouts.dw(refine=False), "dw", [12.32125, 10.84237, 36.56754, 71.29782, 82.07922]),
        (layouts.dw(), "dw", [18.06680, 13.40286, 20.0, 24.0, 32.0]),
    ],
    ids=["o2f", "dw", "dw_refine"],
)
def test_released_heads_predict_the_same(entries, kind, expected):
    """The figures are those of the released heads (80-checkpoints, section 7)."""
    points, out = predict(converted(golden_weights(entries)), features())
    assert by_level(points, ltrb(points, out.boxes)) == pytest.approx(expected, rel=1e-4)
    assert by_level(points, out.logits) == pytest.approx(CLS[kind], abs=1e-5)
    assert by_level(points, out.objectness) == pytest.approx(OBJECTNESS[kind], abs=1e-5)
    if kind == "o2f":
        highest = [x.max().item() for x in out.logits.split(points.counts, dim=1)]
        assert highest == pytest.approx([8.508158, 6.566784, 5.596351, 4.221472, 2.184281], abs=1e-5)


def test_date_with_3dmf_is_defcns_model():
    """The same random head under DATE's names and under DeFCN's, whose tower convs have biases: of zero."""
    generator = torch.Generator().manual_seed(3)
    date, defcn = layouts.date(filtering=True), layouts.defcn(kind="3dmf")
    theirs = layouts.weights(date)
    drawn = {}
    for x in date:
        if x.theirs.startswith("bbox_head."):
            drawn[x.ours] = theirs[x.theirs] = torch.randn(x.shape, generator=generator) * 0.05
            drawn[x.ours] += x.theirs.endswith(("gn.weight", ".scale"))
    cvpods = layouts.weights(defcn)
    for x in defcn:
        if x.theirs.startswith("head."):
            cvpods[x.theirs] = drawn[x.ours].view(x.shape) if x.ours in drawn else torch.zeros(x.shape)
    maps = [torch.randn(1, 256, h, w, generator=generator) for h, w in SIZES]
    points, a = predict(converted(theirs, inference=True), maps)
    _, b = predict(converted(cvpods), maps)
    assert torch.equal(a.logits, b.logits) and torch.equal(a.boxes, b.boxes) and torch.equal(a.objectness, b.objectness)
    assert a.logits.std() > 0.1 and a.objectness.std() > 0.01 and ltrb(points, a.boxes).std() > 1


def randomised(model, seed=0):
    """Statistics that no fresh model has."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data = torch.rand(module.num_features, generator=generator) + 0.5
            module.bias.data = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_torchvision_and_detectron2_give_the_same_maps(name):
    """Norms frozen, stride in the 3x3 conv, groups: C3 to C5 of an image of 64 x 96."""
    theirs = randomised(getattr(torchvision.models, name)())
    done = converted(theirs.state_dict(), "timm")
    cfg = done.cfg.clone()
    cfg.defrost()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    ours = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    ours.load_state_dict(done.model)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    expected = {}
    for index in range(1, 5):
        x = expected[f"res{index + 1}"] = getattr(theirs, f"layer{index}")(x)
    for level, value in ours(image).items():
        torch.testing.assert_close(value, expected[level], rtol=1e-4, atol=1e-4)
    assert done.dropped["fc"] == 2 and done.dropped["num_batches_tracked"] > 0


def test_the_same_maps_under_mmdetections_names():
    """Its backbone is torchvision's with a prefix; the values arrive unchanged beside the rest of o2f."""
    theirs = torchvision.models.resnet50()
    state = layouts.weights(layouts.o2f())
    state |= {f"backbone.{k}": v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    done, alone = converted(state), converted(theirs.state_dict())
    assert all(torch.equal(done.model[f"backbone.bottom_up.{key}"], value) for key, value in alone.model.items())
