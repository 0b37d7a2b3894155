"""What a config may not ask of a branch, and what it gets otherwise."""

import pytest
import torch

from defcn_ext.branches import AnchorBranch, PointBranch, build_branches
from defcn_ext.structures import HeadFeatures, Points
from detectron2.modeling import build_model
from tests.tiny import ALL, BOTH, DATE_F, DATE_R, MANY, ONE, tiny_cfg

FIRST_OF_ANCHORS = (*DATE_R, "MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY", "AUX"])


def build(*opts):
    return build_branches(tiny_cfg(*opts), 64)


@pytest.mark.parametrize(
    "opts, node, message",
    [
        (
            (*DATE_F, MANY + "BOX_FORM", "log"),
            "ONE_TO_MANY",
            "BOX_FORM: unknown value 'log'; known: 'relu', 'exp', 'del",
        ),
        ((*DATE_F, MANY + "BOX_LOSS", "l1"), "ONE_TO_MANY", "BOX_LOSS: unknown value 'l1'; known: 'giou', 'iou'"),
        ((*DATE_R, MANY + "BOX_LOSS", "l1"), "ONE_TO_MANY", "BOX_LOSS: unknown value 'l1'; .*'iou', 'delta_l1'"),
        ((*DATE_F, MANY + "BOX_LOSS", "delta_l1"), "ONE_TO_MANY", "BOX_LOSS: .*set BOX_FORM to 'delta', got 'exp'"),
        ((ONE + "IGNORE_PADDING", True), "ONE_TO_ONE", "IGNORE_PADDING: .*set BOX_FORM to 'delta', got 'relu'"),
        ((*DATE_R, MANY + "NORMALIZER", "workers"), "ONE_TO_MANY", "NORMALIZER: unknown .*'positives', 'images'"),
        (
            (*DATE_F, MANY + "CENTERNESS", "box"),
            "ONE_TO_MANY",
            "CENTERNESS: unknown value 'box'; known: '', 'cls', 'reg'",
        ),
        ((*DATE_F, MANY + "CENTERNESS_SCORE", "max"), "ONE_TO_MANY", "CENTERNESS_SCORE: unknown .*'sqrt', 'product'"),
        (
            (*DATE_R, MANY + "ANCHORS.SCALES", []),
            "ONE_TO_MANY",
            "ANCHORS: give positive SCALES and RATIOS, got \\[\\] and",
        ),
        ((*DATE_R, MANY + "ANCHORS.RATIOS", []), "ONE_TO_MANY", "ANCHORS: give positive .*and \\[\\]"),
        ((*DATE_R, MANY + "ANCHORS.SCALES", [4.0, -1.0]), "ONE_TO_MANY", "ANCHORS: give positive .*\\[4.0, -1.0\\]"),
        ((*DATE_R, MANY + "ANCHORS.RATIOS", [0.0]), "ONE_TO_MANY", "ANCHORS: give positive .*and \\[0.0\\]"),
        (
            (*DATE_R, MANY + "REFINE.ENABLED", True),
            "ONE_TO_MANY",
            "REFINE: made for points, not for anchors; set REFINE.ENABLED to False",
        ),
        ((*DATE_F, MANY + "RULE", "RetinaNet"), "ONE_TO_MANY", "has no anchors; set its BOX_FORM to delta"),
        ((*DATE_R, MANY + "RULE", "FCOS"), "ONE_TO_MANY", "9 anchors a cell; take overlapping_anchors, or give .* one"),
        ((*DATE_R, MANY + "RULE", "ATSS"), "ONE_TO_MANY", "9 anchors a cell; take overlapping_anchors, or give .* one"),
        (
            (*BOTH, "MODEL.DEFCN.AUX.RULE", "RetinaNet", "MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "AUX"]),
            "AUX",
            "BOX_FORM",
        ),
    ],
)
def test_errors_name_the_node_and_the_fix(opts, node, message):
    with pytest.raises(ValueError, match=f"^MODEL.DEFCN.{node}: .*{message}"):
        build(*opts)


def test_an_auxiliary_loss_does_not_follow_anchors():
    with pytest.raises(
        ValueError, match="^MODEL.DEFCN.BRANCHES: .*one point a cell, and ONE_TO_MANY has 9; leave it out"
    ):
        build(*FIRST_OF_ANCHORS)


def test_an_auxiliary_loss_may_follow_one_anchor():
    assert list(build(*ALL["anchor"], "MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "AUX"])) == ["one_to_one", "aux"]


@pytest.mark.parametrize("name", ["AUX", "potto"])
def test_a_deployed_model_needs_a_branch_that_predicts(name):
    opts = (*ALL["poto_3dmf_aux"], "MODEL.DEFCN.INFERENCE_ONLY", True, "MODEL.DEFCN.TEST_BRANCH", name)
    with pytest.raises(ValueError, match=f"MODEL.DEFCN.TEST_BRANCH: '{name}' is not among .*one_to_one"):
        build_model(tiny_cfg(*opts))


@pytest.mark.parametrize("wanted, kept", [("", "one_to_one"), ("ONE_TO_MANY", "one_to_many"), ("one_to_one",) * 2])
def test_a_deployed_model_has_one_branch(wanted, kept):
    branches = build(*DATE_R, "MODEL.DEFCN.INFERENCE_ONLY", True, "MODEL.DEFCN.TEST_BRANCH", wanted)
    assert list(branches) == [kept]


def test_what_dates_branches_are():
    one, fcos = build(*DATE_F).values()
    _, retinanet = build(*DATE_R).values()
    assert [type(x) for x in (one, fcos, retinanet)] == [PointBranch, PointBranch, AnchorBranch]
    assert (one.cls_weight, one.l1_weight, one.box_weight, one.loss_weight) == (2, 5, 2, 1)
    assert (fcos.cls_weight, fcos.l1_weight, fcos.box_weight, fcos.loss_weight) == (1, 0, 1, 1)
    weights = retinanet.cls_weight, retinanet.l1_weight, retinanet.box_weight, retinanet.loss_weight
    assert weights == (1, 0, 1, 2) and retinanet.per_cell == 9


@pytest.mark.parametrize(
    "opts, counts",
    [
        (DATE_F, {"one_to_one": 184_400 + 9_220, "one_to_many": 195_925}),
        (DATE_R, {"one_to_one": 184_400 + 9_220, "one_to_many": 1_742_580}),
        ((*DATE_F, ONE + "MAX_FILTERING.ENABLED", True), {"one_to_one": 193_620 + 590_080 + 512 + 2_305}),
        (
            (*DATE_R, "MODEL.DEFCN.SHARE_TOWERS", False, "MODEL.DEFCN.NUM_CONVS", 4),
            {"one_to_many": 1_742_580 + 4_722_688},
        ),
    ],
)
def test_numbers_of_parameters(opts, counts):
    """20-date, sections 1 and 8: the towers of DATE-R's own add 38,482,765 - 33,760,077 parameters."""
    branches = build_branches(tiny_cfg(*opts, "MODEL.DEFCN.NUM_CLASSES", 80), 256)
    for name, count in counts.items():
        assert sum(p.numel() for p in branches[name].parameters()) == count, name


def test_building_draws_the_first_branch_before_the_second():
    """So that the same seed gives the same one-to-one predictor with and without a second branch."""
    torch.manual_seed(0)
    both = build(*DATE_R)["one_to_one"]
    torch.manual_seed(0)
    alone = build(*DATE_R, "MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE"])["one_to_one"]
    assert all(torch.equal(a, b) for a, b in zip(both.state_dict().values(), alone.state_dict().values(), strict=True))


@pytest.mark.parametrize("key", ["MAX_FILTERING.ENABLED", "QUALITY.ENABLED"])
def test_maps_that_multiply_the_scores_have_a_channel_an_anchor(key):
    branch = build(*DATE_R, MANY + key, True)["one_to_many"]
    points = Points.from_sizes([(2, 3), (1, 2)], [8, 16])
    levels = [torch.rand(2, 64, h, w) for h, w in points.sizes]
    predictions = branch(points, HeadFeatures(levels, levels))
    assert predictions.objectness.shape == (2, 9 * 8, 1) and predictions.logits.shape == (2, 9 * 8, 3)
    last = branch.filter if key.startswith("MAX") else branch.filter[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(9.0))
    again = branch(points, HeadFeatures(levels, levels)).objectness
    assert torch.equal(again.view(2, 8, 9), torch.arange(9.0).expand(2, 8, 9))
