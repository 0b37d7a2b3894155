"""Branches without a config: what a dozen keywords with defaults give, and the example of the README."""

import math
import re
from pathlib import Path

import pytest
import torch

from defcn_ext.branches import BRANCH_REGISTRY, AuxiliaryBranch, build_branches
from defcn_ext.structures import HeadFeatures, Objects, Points
from tests.tiny import tiny_cfg

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PREDICTING = [name for name, kind in BRANCH_REGISTRY if kind.predicts and not kind.reads_base]
POINTS = Points.from_sizes([(8, 8), (4, 4)], [8, 16])
OBJECTS = Objects.from_lists([[[4, 4, 40, 44]], []], [[1], []], image_sizes=[(64, 64), (64, 48)])


def maps():
    rng = torch.Generator().manual_seed(0)
    return [torch.rand(2, 32, h, w, generator=rng) for h, w in POINTS.sizes]


def of_config(name):
    opts = ("MODEL.DEFCN.MINE.TYPE", name, "MODEL.DEFCN.BRANCHES", ["MINE"])
    return build_branches(tiny_cfg(*opts), 32)["mine"]


@pytest.mark.parametrize("name", PREDICTING)
def test_a_few_steps_with_plain_tensors_lower_the_loss(name):
    torch.manual_seed(0)
    branch = BRANCH_REGISTRY.get(name)(num_classes=3, in_channels=32)
    optimizer, features, sums = torch.optim.SGD(branch.parameters(), lr=1e-3), HeadFeatures(maps(), maps()), []
    for _ in range(4):
        predictions = branch(POINTS, features)
        total = sum(branch.losses(POINTS, predictions, OBJECTS, branch.assign(POINTS, predictions, OBJECTS)).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        sums.append(total.item())
    assert all(math.isfinite(x) for x in sums) and sums[-1] < sums[0]


@pytest.mark.parametrize("name", PREDICTING)
def test_the_defaults_of_keywords_and_of_keys_agree(name):
    plain, built = BRANCH_REGISTRY.get(name)(num_classes=3, in_channels=32), of_config(name)
    simple = (bool, int, float, str, tuple, list, type(None))
    ours = {key: value for key, value in vars(plain).items() if key != "_places" and isinstance(value, simple)}
    assert ours == {key: vars(built)[key] for key in ours} and len(ours) > 10
    torch.testing.assert_close(getattr(plain, "shapes", None), getattr(built, "shapes", None))
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}
    found = [branch.assign(POINTS, branch(POINTS, HeadFeatures(maps(), maps())), OBJECTS) for branch in (plain, built)]
    assert len(found[0]) > 0 and (found[0].positive is None) == (found[1].positive is None)


def test_an_auxiliary_branch_stands_on_another():
    base = BRANCH_REGISTRY.get("point")(num_classes=3, in_channels=32)(POINTS, HeadFeatures(maps(), maps()))
    branch = AuxiliaryBranch()
    predictions = branch(POINTS, None, base)
    losses = branch.losses(POINTS, predictions, OBJECTS, branch.assign(POINTS, predictions, OBJECTS))
    assert list(losses) == ["cls"] and losses["cls"].item() > 0


@pytest.mark.parametrize("options", [{"l1_weight": 5.0}, {"normalizer": "images"}])
def test_losses_that_are_shares_of_the_image_say_so(options):
    branch = BRANCH_REGISTRY.get("point")(num_classes=3, in_channels=32, **options)
    objects = Objects.from_lists([[[4, 4, 40, 44]], []], [[1], []])
    predictions = branch(POINTS, HeadFeatures(maps(), maps()))
    with pytest.raises(ValueError, match="give Objects its image_sizes"):
        branch.losses(POINTS, predictions, objects, branch.assign(POINTS, predictions, objects))


def block(first_line):
    found = re.search(rf"^    {re.escape(first_line)}\n(?:    .*\n|\n(?=    ))+", README, re.MULTILINE)
    return re.sub(r"^    ", "", found.group(), flags=re.MULTILINE)


def test_the_example_of_the_readme_trains():
    torch.manual_seed(0)
    names = {}
    exec(block("import torch"), names)
    assert set(names["losses"]) == {"cls", "box"} and len(names["pairs"]) >= 3
    assert names["scores"].shape == (2 * 320, 3)


def test_the_branch_of_the_readme_trains_from_its_line_of_yaml(tmp_path):
    from detectron2.modeling import build_model
    from tests.tiny import batch

    exec(block("from torch.nn.functional import binary_cross_entropy_with_logits"), {"__name__": "my_branches"})
    try:
        node = re.search(r"`(PLAIN: \{.*?\})`", README).group(1)
        path = tmp_path / "plain.yaml"
        path.write_text(f"MODEL: {{DEFCN: {{BRANCHES: [ONE_TO_ONE, PLAIN], {node}}}}}")
        cfg = tiny_cfg()
        cfg.merge_from_file(str(path))
        losses = build_model(cfg)(batch())
        assert set(losses) == {"loss_cls", "loss_box", "loss_object_plain"}
        assert 0 < losses["loss_object_plain"].item() < 10
    finally:
        del BRANCH_REGISTRY._obj_map["PlainBranch"]
