"""What a branch says about itself: its towers, its gradient, its weight, and the branches that it leans on."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from defcn_ext.branches import BRANCH_REGISTRY, Branch, PointBranch, build_branches
from defcn_ext.structures import HeadFeatures, Objects, Points
from detectron2.config import CfgNode, configurable
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tests.tiny import batch, tiny_cfg

SECOND = "MODEL.DEFCN.SECOND."
TWO = (SECOND + "TYPE", "point", SECOND + "RULE", "FCOS", "MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "SECOND"])
THREE = (
    *(*TWO, "MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "SECOND", "THIRD"]),
    *("MODEL.DEFCN.THIRD.TYPE", "point", "MODEL.DEFCN.THIRD.TOWERS", "SECOND"),
)


def build(*opts):
    torch.manual_seed(0)
    return build_model(tiny_cfg(*opts))


def gradients(model, suffix):
    """Names of the parameters that the losses of one branch move."""
    losses = model(batch())
    sum(value for name, value in losses.items() if name.endswith(suffix)).backward()
    return {name for name, x in model.named_parameters() if x.grad is not None and x.grad.abs().max() > 0}


def test_losses_carry_the_name_of_the_node():
    assert set(build(*TWO)(batch())) == {"loss_cls", "loss_box", "loss_cls_second", "loss_box_second"}


def test_a_branch_moves_towers_and_backbone_unless_it_is_detached():
    moved = gradients(build(*TWO), "second")
    assert any(x.startswith("backbone.") for x in moved) and any(x.startswith("head.scales") for x in moved)
    moved = gradients(build(*TWO, SECOND + "DETACH", True), "second")
    assert moved == {f"branches.second.{x}" for x in ("cls_score.weight", "cls_score.bias", "bbox_pred.weight")} | {
        "branches.second.bbox_pred.bias"
    }


def test_detaching_changes_no_number():
    assert build(*TWO)(batch()) == build(*TWO, SECOND + "DETACH", True)(batch())


def test_own_towers_learn_from_a_detached_pyramid():
    moved = gradients(build(*TWO, SECOND + "DETACH", True, SECOND + "TOWERS", "own"), "second")
    assert any(x.startswith("branches.second.towers.cls_subnet") for x in moved)
    assert all(x.startswith("branches.second.") for x in moved)


def test_the_features_of_another_branch():
    model = build(*THREE, SECOND + "TOWERS", "own")
    assert not any("third.towers" in name for name, _ in model.named_parameters())
    calls = []
    model.branches["second"].towers.register_forward_hook(lambda *_: calls.append("towers"))
    moved = gradients(model, "third")
    assert calls == ["towers"]
    assert any(x.startswith("branches.second.towers") for x in moved)
    assert not any(x.startswith(("head.cls_subnet", "head.bbox_subnet", "branches.second.cls_score")) for x in moved)


def test_a_deployed_model_keeps_what_its_branch_leans_on():
    opts = (*THREE, SECOND + "TOWERS", "own", "MODEL.DEFCN.TEST_BRANCH", "THIRD")
    whole, small = build(*opts), build(*opts, "MODEL.DEFCN.INFERENCE_ONLY", True)
    assert list(small.branches) == ["second", "third"]
    needed = {name.split(".")[1] for name in whole.state_dict() if "branches" in name and whole.needs_to_detect(name)}
    assert needed == {"second", "third"}
    small.load_state_dict(whole.state_dict(), strict=False)
    with torch.no_grad():
        for a, b in zip(whole.eval()(batch()), small.eval()(batch()), strict=True):
            assert torch.equal(a["instances"].scores, b["instances"].scores)


@pytest.mark.parametrize(
    "opts, message",
    [
        (
            (SECOND + "TOWERS", "THIRD"),
            "MODEL.DEFCN.SECOND.TOWERS: no branch 'third' before it in BRANCHES; there: .*own",
        ),
        (("MODEL.DEFCN.AUX.BASE", "SECOND"), "MODEL.DEFCN.AUX.BASE: no branch 'second' before it"),
        (("MODEL.DEFCN.BRANCHES", ["SECOND", "second"]), "unknown branch 'second'; known: .*SECOND; .*needs a TYPE"),
        (("MODEL.DEFCN.POP.TYPE", "point", "MODEL.DEFCN.BRANCHES", ["POP"]), "'POP' is a name that torch keeps"),
    ],
)
def test_what_a_branch_cannot_lean_on(opts, message):
    opts = (*TWO, "MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "AUX", "SECOND"], *opts)
    with pytest.raises(ValueError, match=message):
        build_branches(tiny_cfg(*opts), 64)


def test_an_auxiliary_loss_on_another_branch_than_the_first():
    opts = (*TWO, "MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "SECOND", "AUX"], "MODEL.DEFCN.AUX.BASE", "SECOND")
    moved = gradients(build(*opts), "aux")
    assert "branches.second.cls_score.weight" in moved and "branches.one_to_one.cls_score.weight" not in moved


@pytest.mark.parametrize("iteration, weight", [(0, 2.0), (50, 1.25), (100, 0.5)])
def test_the_loss_weight_moves_over_the_training(iteration, weight):
    plain, moving = build(*TWO), build(*TWO, SECOND + "LOSS_WEIGHT", (2.0, 0.5))
    moving.max_iter = 101
    with EventStorage(iteration):
        expected, found = plain(batch()), moving(batch())
    for name, value in expected.items():
        factor = weight if name.endswith("second") else 1.0
        assert found[name].item() == pytest.approx(factor * value.item(), rel=1e-6)


# what the README shows: a branch of one's own


@pytest.fixture
def heat_branch():
    """Registered as from outside the package, and gone afterwards."""

    @BRANCH_REGISTRY.register()
    class HeatBranch(PointBranch):
        """Class scores alone, by plain cross entropy."""

        @configurable
        def __init__(self, *, sharpness: float = 1.0, **options):
            super().__init__(**options)
            self.sharpness = sharpness

        @classmethod
        def add_config(cls, node: CfgNode) -> None:
            super().add_config(node)
            node.SHARPNESS = 1.0  # factor on the logits

        @classmethod
        def from_config(cls, cfg, name, in_channels):
            options = super().from_config(cfg, name, in_channels)
            return {**options, "sharpness": cfg.MODEL.DEFCN[name].SHARPNESS}

        def terms(self, points, predictions, objects, pairs):
            logits = self.sharpness * predictions.logits.flatten(0, 1)
            target = torch.zeros_like(logits)
            target[pairs.point, objects.classes[pairs.object]] = 1
            return {"heat": binary_cross_entropy_with_logits(logits, target)}

    yield HeatBranch
    del BRANCH_REGISTRY._obj_map["HeatBranch"]


def test_a_branch_of_ones_own_trains_from_a_node_of_yaml(heat_branch, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "MODEL: {DEFCN: {HEAT: {TYPE: HeatBranch, RULE: FCOS, SHARPNESS: 2.0}, BRANCHES: [ONE_TO_ONE, HEAT]}}"
    )
    cfg = tiny_cfg()
    cfg.merge_from_file(str(path))
    cfg.merge_from_list(["MODEL.DEFCN.HEAT.RULE", "QualityTopK(k=3)"])
    model = build_model(cfg)
    assert isinstance(model.branches["heat"], heat_branch) and model.branches["heat"].sharpness == 2.0
    losses = model(batch())
    assert set(losses) == {"loss_cls", "loss_box", "loss_heat_heat"}
    sum(losses.values()).backward()
    assert model.branches["heat"].cls_score.weight.grad.abs().max() > 0
    with pytest.raises(KeyError, match="MODEL.DEFCN.HEAT.SHARPNES.$"):
        cfg.merge_from_other_cfg(CfgNode({"MODEL": {"DEFCN": {"HEAT": {"SHARPNES": 1.0}}}}))


def test_its_loss_is_the_mean_cross_entropy(heat_branch):
    """ln 2 where nothing is known."""
    branch, points = heat_branch(num_classes=2, in_channels=4, rule="FCOS"), Points.from_sizes([(2, 2)], [8])
    torch.nn.init.zeros_(branch.cls_score.bias)
    predictions = branch(points, features_of(points, 4))
    objects = Objects(torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([1]), torch.tensor([0]))
    losses = branch.losses(points, predictions, objects, branch.assign(points, predictions, objects))
    assert losses["heat"].item() == pytest.approx(0.6931472)


def features_of(points, channels):
    levels = [torch.zeros(1, channels, h, w) for h, w in points.sizes]
    return HeadFeatures(cls=levels, box=levels)


def test_the_registry_is_clean_again():
    assert "HeatBranch" not in BRANCH_REGISTRY


def test_a_name_is_taken_once():
    with pytest.raises(AssertionError, match="point"):
        BRANCH_REGISTRY.register("point")(Branch)
