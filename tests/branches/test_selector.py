"""The selector: its score, where its gradient ends, and what it leaves as it was."""

import pytest
import torch

from defcn_ext.branches import SelectorBranch, build_branches
from defcn_ext.engine.solver import build_optimizer
from defcn_ext.structures import DensePredictions, HeadFeatures, Objects, Pairs, Points
from detectron2.modeling import build_model
from tests.tiny import DATE_RETINANET, DW, DW_REFINE, MANY, batch, image_with, mostly_slow, tiny_cfg

SELECTOR = "MODEL.DEFCN.SELECTOR."
WITH = (
    *(SELECTOR + "TYPE", "selector", "MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY", "SELECTOR"]),
    *("MODEL.DEFCN.TEST_BRANCH", "SELECTOR", "MODEL.DEFCN.NMS", False, "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0),
)
ANCHOR_RULE = (SELECTOR + "RULE", "Combine(candidates=overlapping_anchors, quality=poto, selection=matching)")
FCOS = ("MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY"])
BASES = {
    "fcos": (),
    "fcos_centerness": (MANY + "CENTERNESS", "reg"),
    "atss": (MANY + "RULE", "ATSS", MANY + "CENTERNESS", "reg"),
    "retinanet": (*DATE_RETINANET, MANY + "LOSS_WEIGHT", 1.0),
    "dw": DW,
    "dw_refine": DW_REFINE,
}
CLIPPED = (
    *("SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 1e-3, "SOLVER.CLIP_GRADIENTS.ENABLED", True),
    *("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm", "SOLVER.CLIP_GRADIENTS.FULL_MODEL", True),
    *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1),  # every step is clipped
    *("MODEL.BACKBONE.FREEZE_AT", 5),  # the pyramid, the towers and the branches are enough
)
SMALL = [image_with([[4, 4, 40, 50], [20, 10, 60, 30]], [0, 2], size=(64, 64))]
POINTS = Points.from_sizes([(2, 2)], [8])


def opts_of(base, *opts):
    return (*FCOS, *BASES[base], *WITH, *(ANCHOR_RULE if base == "retinanet" else ()), *opts)


def build(*opts, seed=0):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(*opts))


def features(channels=32, images=1):
    maps = [torch.rand(images, channels, 2, 2, generator=torch.Generator().manual_seed(0))]
    return HeadFeatures(maps, maps)


def base_of(logit=0.0, classes=2, **maps):
    return DensePredictions(torch.full((1, 4, classes), logit), torch.rand(1, 4, 4), **maps)


# What it predicts


@pytest.mark.parametrize("reads", ["reg", "cls", "both"])
def test_its_score_is_the_product_of_all_maps_and_its_boxes_are_the_bases(reads):
    branch = SelectorBranch(in_channels=32, reads=reads, bias=1.0, num_convs=0)
    torch.nn.init.zeros_(branch.map[-1].weight)
    base = base_of(0.5, objectness=torch.full((1, 4, 1), -1.0), centerness=torch.full((1, 4, 1), 2.0))
    found = branch(POINTS, features(), base)
    expected = torch.tensor([0.5, -1.0, 2.0, 1.0]).sigmoid().prod()
    torch.testing.assert_close(found.score_logits().sigmoid(), expected.expand(1, 4, 2))
    assert found.centerness is None and torch.equal(found.boxes, base.boxes)


def test_the_map_alone_puts_down_a_score_that_has_rounded_to_one():
    """Trap 1: in log space the product of a certain base still follows the map."""
    branch = SelectorBranch(in_channels=32)
    predictions = branch(POINTS, features(), base_of(60.0))
    objects = Objects.from_lists([[]], [[]])
    none = torch.zeros(0, dtype=torch.long)
    branch.terms(POINTS, predictions, objects, Pairs(none, none))["cls"].backward()
    assert branch.map[-1].bias.grad.item() > 1


def test_it_reads_the_tower_it_is_told_to():
    cls, reg = torch.rand(1, 32, 2, 2), torch.rand(1, 32, 2, 2)
    seen = HeadFeatures([cls], [reg])
    found = {reads: SelectorBranch(in_channels=32, reads=reads).inputs(seen)[0] for reads in ("cls", "reg", "both")}
    assert torch.equal(found["cls"], cls) and torch.equal(found["reg"], reg)
    assert torch.equal(found["both"], torch.cat([cls, reg], dim=1))


@pytest.mark.parametrize("base", mostly_slow(BASES, fast=["fcos_centerness"]))
def test_every_one_to_many_rule_carries_one(base):
    model = build(*opts_of(base))
    losses = model(batch())
    assert {name for name in losses if name.endswith("selector")} == {"loss_cls_selector"}
    model.eval()
    with torch.no_grad():
        points, seen = model.extract(model.preprocess_image(batch()).tensor)
        of_base, found = (model.predict(points, seen, name) for name in ("one_to_many", "selector"))
    places = model.branches["selector"].places(points)
    assert torch.equal(places.xy, model.branches["one_to_many"].places(points).xy)
    assert found.score_logits().shape == of_base.score_logits().shape == (3, len(places), 3)
    assert torch.equal(found.boxes, of_base.boxes)
    assert (found.score_logits() < of_base.score_logits()).all()


def test_anchors_of_a_cell_have_a_channel_each():
    branch = build_branches(tiny_cfg(*opts_of("retinanet")), 64)["selector"]
    torch.nn.init.zeros_(branch.map[-1].weight)
    with torch.no_grad():
        branch.map[-1].bias.copy_(torch.arange(9.0))
    found = branch.select([torch.rand(2, 128, 2, 3), torch.rand(2, 128, 1, 2)])
    assert torch.equal(found, torch.arange(9.0).repeat(8)[None, :, None].expand(2, 72, 1))


# How it learns


REACHED = [
    ((), {"selector"}),
    ((SELECTOR + "DETACH", False), {"selector", "towers"}),
    ((SELECTOR + "DETACH_BASE", False), {"selector", "base", "towers"}),
]


@pytest.mark.parametrize("opts, reached", mostly_slow(REACHED, fast=[()]))
def test_where_its_gradient_ends(opts, reached):
    """Trap 2. The scores of the base come from the towers, so the second reaches these too."""
    model = build(*opts_of("fcos_centerness", *opts))
    model(SMALL)["loss_cls_selector"].backward()
    found = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    parts = {"selector": "branches.selector", "base": "branches.one_to_many", "towers": "head."}
    assert {part for part, prefix in parts.items() if any(n.startswith(prefix) for n in found)} == reached
    assert "branches.one_to_many.bbox_pred.weight" not in found
    assert model.branches["selector"].stands_apart == (not opts)


@pytest.mark.parametrize("base", mostly_slow(["fcos_centerness", "dw_refine", "retinanet"], fast=["fcos_centerness"]))
def test_the_base_learns_what_it_learns_alone_to_the_bit(base):
    """Trap 3, from the same seed, with gradients that are clipped over the whole model."""
    states = []
    for opts in (opts_of(base), (*FCOS, *BASES[base])):
        cfg = tiny_cfg(*opts, *CLIPPED)
        torch.manual_seed(0)
        model = build_model(cfg)
        optimizer = build_optimizer(cfg, model)
        for _ in range(3):
            optimizer.zero_grad()
            sum(model(SMALL).values()).backward()
            optimizer.step()
        states.append(model.state_dict())
    added = set(states[0]) - set(states[1])
    assert added and all(name.startswith("branches.selector.") for name in added)
    assert [name for name, value in states[1].items() if not torch.equal(states[0][name], value)] == []


class Noting:
    weighting = None

    def __call__(self, points, scores, boxes, *_, **__):
        self.scores = scores[torch.arange(len(boxes))]
        return Pairs(torch.tensor([0]), torch.tensor([0]))


@pytest.mark.parametrize("reads, expected", [("product", 0.125), ("base", 0.25)])
def test_its_rule_sees_the_product_or_the_base_with_its_centerness(reads, expected):
    branch = SelectorBranch(in_channels=32, rule=Noting(), rule_reads=reads, num_convs=0)
    torch.nn.init.zeros_(branch.map[-1].weight)
    predictions = branch(POINTS, features(), base_of(centerness=torch.zeros(1, 4, 1)))
    branch.assign(POINTS, predictions, Objects.from_lists([[[0, 0, 16, 16]]], [[1]]))
    assert branch.rule.scores.flatten().tolist() == pytest.approx([expected] * 8)


def test_its_loss_is_the_focal_loss_over_the_objects_and_the_ranking_term():
    """Scores of .25 everywhere, one object of two covered: 00-common's .1949476 and .0134851 at p .25."""
    branch = SelectorBranch(in_channels=32, num_convs=0, ranking_weight=0.25, ranking_negatives=3)
    torch.nn.init.zeros_(branch.map[-1].weight)
    predictions = branch(POINTS, features(), base_of())
    objects = Objects.from_lists([[[0, 0, 16, 16], [0, 0, 1, 1]]], [[1, 0]])
    found = branch.terms(POINTS, predictions, objects, Pairs(torch.tensor([0]), torch.tensor([0])))
    assert found["cls"].item() == pytest.approx((0.1949476 + 7 * 0.0134851) / 2)
    assert found["rank"].item() == pytest.approx(0.25 * 0.5)  # three negatives, each a margin away


def test_max_filtering_goes_before_the_map():
    branch = build_branches(tiny_cfg(*opts_of("fcos", SELECTOR + "MAX_FILTERING.ENABLED", True)), 64)["selector"]
    assert branch.max3d.conv.weight.shape == (128, 128, 3, 3)
    levels = [torch.rand(1, 64, 2, 2), torch.rand(1, 64, 1, 1)]
    found = branch.inputs(HeadFeatures(levels, levels))
    for a, b in zip(found, branch.max3d([torch.cat([x, x], dim=1) for x in levels]), strict=True):
        assert torch.equal(a, b)


# Its place among the branches


def test_a_deployed_model_keeps_it_and_its_base():
    opts = opts_of("fcos", "MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY", "ONE_TO_ONE", "SELECTOR"])
    model = build(*opts, "MODEL.DEFCN.INFERENCE_ONLY", True)
    assert list(model.branches) == ["one_to_many", "selector"]
    assert model.needs_to_detect("branches.one_to_many.cls_score.weight")


def test_it_reads_the_towers_of_its_base():
    """Also where SHARE_TOWERS is off, and the base has its own."""
    names = ["ONE_TO_ONE", "ONE_TO_MANY", "SELECTOR"]
    opts = opts_of("fcos", "MODEL.DEFCN.BRANCHES", names, SELECTOR + "BASE", "ONE_TO_MANY")
    branches = build_branches(tiny_cfg(*opts, "MODEL.DEFCN.SHARE_TOWERS", False), 64)
    assert branches["one_to_many"].towers is not None and branches["selector"].towers is None
    assert branches["selector"].features_of == branches["selector"].base == "one_to_many"


@pytest.mark.parametrize(
    "opts, message",
    [
        ((SELECTOR + "READS", "boxes"), "READS: unknown value 'boxes'; known: 'reg', 'cls', 'both'"),
        ((SELECTOR + "RULE_READS", "map"), "RULE_READS: unknown value 'map'; known: 'product', 'base'"),
        ((SELECTOR + "CONVS", -1), "CONVS.*must not be negative"),
        ((SELECTOR + "RANKING.NEGATIVES", 0), "RANKING.NEGATIVES below 1"),
        ((SELECTOR + "RULE", "DW"), "TYPE: its losses are hard"),
        ((SELECTOR + "BASE", "ONE_TO_ONE"), "BASE: no branch 'one_to_one' before it in BRANCHES; there: ONE_TO_MANY"),
        (
            ("MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY", "AUX", "SELECTOR"], SELECTOR + "BASE", "AUX"),
            "BASE: AUX predicts nothing",
        ),
        (("MODEL.DEFCN.BRANCHES", ["SELECTOR"]), "BASE: no branch 'selector' before it"),
    ],
)
def test_errors_name_the_key_and_the_fix(opts, message):
    with pytest.raises(ValueError, match=f"^MODEL.DEFCN.SELECTOR.*{message}"):
        build_branches(tiny_cfg(*opts_of("fcos", *opts)), 64)


def test_a_rule_for_points_does_not_go_with_anchors():
    opts = (*opts_of("retinanet"), SELECTOR + "RULE", "POTO")
    with pytest.raises(ValueError, match="9 anchors a cell; take overlapping_anchors"):
        build_branches(tiny_cfg(*opts), 64)
