"""Any steps in one line of yaml, and what is refused; steps and rules of one's own."""

import importlib
import itertools

import pytest
import torch

from defcn_ext.assignment import Rule, build_rule, candidates, register_rule, register_step, rules, selection, steps
from defcn_ext.structures import Points
from detectron2.modeling import build_model
from tests import reference
from tests.assignment.scenes import POINTS, as_dict, assign, crowd
from tests.tiny import batch, tiny_cfg

# one anchor a cell, so that the steps of points and those of anchors run on the same scene
SMALL = Points.with_anchors([(6, 8), (3, 4), (2, 2)], [8, 16, 32], torch.tensor([[4.0, 4.0]]), offset=0.5)
OURS = {
    "candidates": "center inside nearest_per_level size_range best_per_level everywhere overlapping_anchors".split(),
    "quality": "poto smallest_area square_anchor anchor_iou foreground_loss min_cost".split(),
    "selection": "matching full_matching top_of_object top_k best_level best_of_point mean_plus_std thresholds".split(),
}


@pytest.fixture
def registries(monkeypatch):
    """Rules and steps that a test adds are gone after it."""
    # the modules, whose names in the package are those of the functions that list rules and steps
    of_rules, of_steps = (importlib.import_module(f"defcn_ext.assignment.{name}") for name in ("rules", "steps"))
    monkeypatch.setattr(of_rules, "_RULES", dict(of_rules._RULES))
    monkeypatch.setattr(of_steps, "_STEPS", {kind: dict(known) for kind, known in of_steps._STEPS.items()})


def small_scene(num_objects=5):
    rng = torch.Generator().manual_seed(0)
    scores = torch.rand(len(SMALL), 3, generator=rng)
    boxes = SMALL.boxes(torch.rand(len(SMALL), 4, generator=rng) * 24)
    corner = torch.rand(num_objects, 2, generator=rng) * 30
    gt_boxes = torch.cat([corner, corner + 8 + torch.rand(num_objects, 2, generator=rng) * 24], 1)
    return scores, boxes, gt_boxes, torch.arange(num_objects) % 3


def test_the_steps_of_this_file_are_registered():
    for kind, names in OURS.items():
        assert set(names) <= set(steps(kind))


ONE_TO_ONE = ("matching", "full_matching", "top_of_object")


def refused(c, q, s):
    """The two steps that do not go together, or None."""
    if q == "smallest_area" and s != "best_of_point":
        return q, s
    if q == "smallest_area" and c in ("best_per_level", "everywhere"):
        return q, c
    if c == "everywhere" and s not in ONE_TO_ONE:
        return c, s
    if q in ("foreground_loss", "min_cost") and s in ("matching", "mean_plus_std", "thresholds"):
        return q, s
    return None


@pytest.mark.parametrize("c", OURS["candidates"])
def test_every_combination_runs_or_is_refused_with_both_names(c):
    scene, count = small_scene(), 0
    for q, s in itertools.product(OURS["quality"], OURS["selection"]):
        written = "size_range(prior=inside)" if c == "size_range" else c
        text = f"Combine(candidates={written}, quality={q}, selection={s})"
        pair = refused(c, q, s)
        if pair is not None:
            with pytest.raises(ValueError) as error:
                build_rule(text)
            assert all(name in str(error.value) for name in pair), text
            continue
        pairs = build_rule(text)(SMALL, *scene)
        as_dict(pairs)
        assert len(pairs) > 0 and len(pairs.covered) == 5, text
        count += 1
    assert count >= 12


def test_any_other_step_is_told_apart_too():
    """Steps that come from elsewhere: each combination builds, or is refused with a reason."""
    for c, q, s in itertools.product(*(steps(kind) for kind in OURS)):
        try:
            build_rule(f"Combine(candidates={c}, quality={q}, selection={s})")
        except ValueError as error:
            assert "option 'prior' is missing" in str(error) or q in str(error) or s in str(error)


def test_combine_can_write_the_named_rules():
    scene = crowd(30, 2)
    for name, written in {
        "POTO": "candidates=center, quality=poto, selection=matching",
        "POTO(select=argmax, prior=inside)": "candidates=inside(), quality=poto(alpha=0.8), selection=top_of_object",
        "POTO(prior=global, alpha=0.6)": "candidates=everywhere, quality=poto(alpha=0.6), selection=matching",
        "FCOS": "candidates=size_range(prior=center(radius=1.5)), quality=smallest_area, selection=best_of_point",
        "FCOS(prior=inside)": "candidates=size_range(prior=inside), quality=smallest_area, selection=best_of_point",
        "ATSS": "candidates=nearest_per_level(k=9), quality=square_anchor(scale=8), selection=mean_plus_std",
        "ForegroundLoss": "candidates=center, quality=foreground_loss, selection=full_matching",
        "QualityTopK(k=5)": "candidates=inside, quality=poto, selection=top_k(k=5)",
    }.items():
        assert as_dict(assign(f"Combine({written})", *scene)) == as_dict(assign(name, *scene)), name


def test_foreground_loss_over_all_points_is_the_dense_optimum():
    scene = crowd(25, 3)
    pairs = assign("Combine(candidates=everywhere, quality=foreground_loss, selection=full_matching)", *scene)
    cost = reference.dense_foreground_cost(*scene)
    expected, _ = reference.dense_match(-cost.float(), torch.ones_like(cost, dtype=torch.bool), invalid=-1e4)
    found = cost[pairs.object, pairs.point].sum().item()
    assert len(pairs) == 25 and found == pytest.approx(sum(cost[g, r].item() for g, r in expected), abs=1e-3)


def test_a_nested_prior_takes_its_options():
    scene = crowd(30, 2)
    wide = assign(
        "Combine(candidates=size_range(prior=center(radius=3)), quality=smallest_area, selection=best_of_point)", *scene
    )
    assert as_dict(wide) == reference.dense_fcos(POINTS, scene[2], 3)
    twice = "size_range(prior=size_range(prior=center(radius=3)))"
    same = assign(f"Combine(candidates={twice}, quality=smallest_area, selection=best_of_point)", *scene)
    assert as_dict(same) == as_dict(wide)


@pytest.mark.parametrize(
    "text, message",
    [
        ("candidates=outside, quality=poto, selection=matching", "unknown candidates step 'outside'; known: .*center"),
        ("candidates=inside, quality=pota, selection=matching", "unknown quality step 'pota'; known: .*poto"),
        ("candidates=inside, quality=poto, selection=match", "unknown selection step 'match'; known: .*matching"),
        ("candidates=3, quality=poto, selection=matching", "unknown candidates step '3'"),
        ("candidates=inside, quality=poto, selection=matching, weighting=w", "unknown weighting step 'w'"),
        ("candidates=inside, quality=poto", "Combine: option 'selection' is missing"),
        ("candidates=inside, quality=poto, selection=matching, k=3", "Combine: unknown option 'k'; known: candidates"),
        (
            "candidates=inside(radius=2), quality=poto, selection=matching",
            "inside: unknown option 'radius'",
        ),
        (
            "candidates=size_range, quality=smallest_area, selection=best_of_point",
            "option 'prior' is missing",
        ),
        ("candidates=size_range(prior=centre), quality=poto, selection=top_k", "unknown candidates step 'centre'"),
        ("candidates=size_range(prior=poto()), quality=poto, selection=top_k", "unknown candidates step 'poto'"),
        ("candidates=center(radius=wide), quality=poto, selection=top_k", "center: option radius must be a float"),
        ("candidates=center(radius=0), quality=poto, selection=top_k", "center: radius must be positive"),
        ("candidates=best_per_level(k=0), quality=poto, selection=top_k", "best_per_level: k must be at least 1"),
        ("candidates=nearest_per_level(k=0), quality=poto, selection=top_k", "nearest_per_level: k must be at least 1"),
        ("candidates=inside, quality=poto, selection=top_k(k=0)", "top_k: k must be at least 1"),
        ("candidates=inside, quality=poto, selection=thresholds(positive=0.3)", "0 < negative <= positive <= 1"),
        ("candidates=overlapping_anchors(low=0), quality=poto, selection=top_k", "low must lie in"),
        ("candidates=inside, quality=square_anchor(scale=0), selection=top_k", "scale must be positive"),
        ("candidates=inside, quality=poto(combine=sum), selection=top_k", "combine must be 'mul' or 'add'"),
        ("candidates=everywhere, quality=min_cost(form=xywh), selection=full_matching", "'cxcywh' or 'xyxy'"),
        # a prior may not hide what it is
        ("candidates=size_range(prior=everywhere), quality=poto, selection=matching", "prior=everywhere keeps only"),
        (
            "candidates=size_range(prior=best_per_level(k=3)), quality=smallest_area, selection=best_of_point",
            r"smallest_area is equal .* size_range\(prior=best_per_level\) would choose",
        ),
    ],
)
def test_what_is_refused_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        build_rule(f"Combine({text})")


def test_an_unknown_kind_and_a_name_that_is_taken(registries):
    with pytest.raises(ValueError, match="quality step 'poto' is registered already"):

        @register_step("quality")
        def poto():
            return None


def test_a_quality_step_of_ones_own(registries):
    """Registered by one decorator, used by its name: the score alone, to some power."""

    @register_step("quality", "unit")
    def score_power(power: float = 1.0):
        return lambda scene, point, object: scene.score(point, object) ** power

    scene = crowd(12, 1)
    text = "Combine(candidates=inside, quality=score_power(power={}), selection=top_k(k=1))"
    inside = reference.dense_prior(POINTS, scene[2])
    score = scene[0][:, scene[3]].T
    assert as_dict(assign(text.format(2), *scene)) == reference.dense_top_k(score**2, inside, 1)
    with pytest.raises(ValueError, match="score_power: unknown option 'exponent'; known: power"):
        build_rule("Combine(candidates=inside, quality=score_power(exponent=2), selection=matching)")


def test_the_registries_are_clean_again():
    assert "score_power" not in steps("quality") and "OwnRule" not in rules()


def test_a_rule_of_ones_own_trains_from_a_line_of_yaml(registries, tmp_path):
    """As the README tells: one function, one registration, one line of yaml."""
    seen = []

    @register_rule("OwnRule")
    def own_rule():
        def by_score(scene, point, object):
            seen.append(len(point))
            return scene.score(point, object)

        return Rule(candidates.inside(), by_score, selection.matching())

    path = tmp_path / "own.yaml"
    path.write_text('MODEL:\n  DEFCN:\n    ONE_TO_ONE:\n      RULE: "OwnRule()"\n')
    cfg = tiny_cfg()
    cfg.merge_from_file(str(path))
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [x.detach().clone() for x in model.parameters()]
    losses = model(batch())
    sum(losses.values()).backward()
    optimizer.step()
    assert seen and all(loss.isfinite() for loss in losses.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
