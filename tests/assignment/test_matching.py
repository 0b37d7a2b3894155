import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from defcn_ext.assignment.matching import match_pairs


def match(matrix, valid, invalid):
    """Matches the valid entries of a dense matrix; returns {object: point}, and the total, `invalid` for the rest."""
    objects, points = valid.nonzero()
    chosen = match_pairs(
        torch.from_numpy(points), torch.from_numpy(objects), torch.from_numpy(matrix[valid]), invalid=invalid
    ).numpy()
    pairs = dict(zip(objects[chosen].tolist(), points[chosen].tolist()))
    assert len(pairs) == len(chosen) == len(set(pairs.values())), "an object or a point was used twice"
    unmatched = min(matrix.shape) - len(pairs)
    return pairs, matrix[valid][chosen].sum() + invalid * unmatched


def optimum(matrix, valid, invalid):
    dense = np.where(valid, matrix, invalid)
    rows, columns = linear_sum_assignment(dense, maximize=True)
    return dense[rows, columns].sum()


@st.composite
def problems(draw):
    num_objects, num_points = draw(st.integers(0, 12)), draw(st.integers(1, 16))
    seed, density, kind = (
        draw(st.integers(0, 2**32 - 1)),
        draw(st.floats(0, 1)),
        draw(st.sampled_from("smooth ties same zero".split())),
    )
    rng = np.random.default_rng(seed)
    matrix = rng.random((num_objects, num_points))
    if kind == "ties":
        matrix = np.round(matrix * 3) / 3
    elif kind == "same":
        matrix[:] = matrix[:1]
    elif kind == "zero":
        matrix[:] = 0
    return matrix, rng.random(matrix.shape) < density


@settings(max_examples=1500, deadline=None)
@given(problems(), st.sampled_from([-1.0, 0.0]))
def test_total_quality_is_the_dense_optimum(problem, invalid):
    matrix, valid = problem
    _, total = match(matrix, valid, invalid)
    assert total == pytest.approx(optimum(matrix, valid, invalid), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_crowd_of_300_objects(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.random((300, 400)).astype(np.float32).astype(np.float64)
    valid = rng.random(matrix.shape) < 0.05
    _, total = match(matrix, valid, -1.0)
    assert total == pytest.approx(optimum(matrix, valid, -1.0), abs=1e-8)


@settings(max_examples=300, deadline=None)
@given(problems())
def test_costs_with_a_huge_penalty_keep_their_precision(problem):
    """The foreground-loss rule: minus a cost, invalid pairs at -1e8. As many objects as possible first."""
    matrix, valid = problem
    pairs, _ = match(-7 * matrix, valid, -1e8)
    rows, columns = linear_sum_assignment(np.where(valid, -7 * matrix, -1e4), maximize=True)
    kept = valid[rows, columns]
    assert len(pairs) == kept.sum()
    total = sum(-7 * matrix[g, r] for g, r in pairs.items())
    assert total == pytest.approx((-7 * matrix)[rows, columns][kept].sum(), abs=1e-9)


def test_matching_gives_way_where_the_sum_gains():
    """10-defcn, 'Hungarian vs argmax' and '-1 vs 0'."""
    nan = float("nan")
    first = np.array([[0.60, 0.55, nan], [0.58, 0.10, nan]])
    assert match(first, ~np.isnan(first), -1.0)[0] == {0: 1, 1: 0}
    second = np.array([[0.50, 0.01, nan], [0.48, nan, nan]])
    assert match(second, ~np.isnan(second), -1.0)[0] == {0: 1, 1: 0}
    assert match(second, ~np.isnan(second), 0.0)[0] == {0: 0}


def test_no_pairs_and_no_finite_quality():
    empty = torch.zeros(0, dtype=torch.long)
    assert match_pairs(empty, empty, torch.zeros(0)).tolist() == []
    with pytest.raises(ValueError, match="not finite"):
        match_pairs(torch.tensor([0]), torch.tensor([0]), torch.tensor([float("nan")]))


def test_equal_objects_share_the_points_in_order():
    pairs, _ = match(np.ones((3, 5)), np.ones((3, 5), bool), -1.0)
    assert sorted(pairs.values()) == [0, 1, 2]
