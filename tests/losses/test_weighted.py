"""The losses of weighted pairs against sums over every entry, term by term, in float64."""

import math

import pytest
import torch

from defcn_ext.losses import dual_losses, soft_label, weighted_loss_sum
from tests.weighted_examples import dw_example

POINTS, CLASSES = 30, 4


def pairs(count, shared=False, seed=0):
    """Rows, classes, positive and negative weights. `shared`: several pairs on one entry."""
    rng = torch.Generator().manual_seed(seed)
    entries = POINTS * CLASSES
    entry = torch.randint(8, (count,), generator=rng) if shared else torch.randperm(entries, generator=rng)[:count]
    weights = torch.rand(2, count, generator=rng)
    return entry // CLASSES, entry % CLASSES, weights[0], weights[1]


def logits(scale=3.0, seed=1):
    return (torch.randn(POINTS, CLASSES, generator=torch.Generator().manual_seed(seed)) * scale).requires_grad_()


def dense_weighted(z, rows, classes, positive, negative, background=0.75, gamma=2.0):
    s, taken, total = z.sigmoid(), set(zip(rows.tolist(), classes.tolist())), 0.0
    for r, c, p, n in zip(rows.tolist(), classes.tolist(), positive.double(), negative.double()):
        total = total - p * s[r, c].log() - n * (1 - s[r, c]).log()
    for r in range(z.shape[0]):
        for c in range(z.shape[1]):
            if (r, c) not in taken:
                total = total - background * s[r, c] ** gamma * (1 - s[r, c]).log()
    return total


def dense_dual(z, rows, classes, positive, negative, constant=False, candidate_gamma=2.0):
    s, smallest, positives = z.sigmoid(), {}, z.new_zeros(())
    for r, c, p, n in zip(rows.tolist(), classes.tolist(), positive.double(), negative.double()):
        positives = positives - p * s[r, c].log()
        smallest[r, c] = min(smallest.get((r, c), 1.0), n)
    negatives = 0.0
    for r in range(z.shape[0]):
        for c in range(z.shape[1]):
            importance = s[r, c].detach() if constant else s[r, c]
            importance = importance ** (candidate_gamma if (r, c) in smallest else 2.0)
            negatives = negatives - smallest.get((r, c), 1.0) * importance * (1 - s[r, c]).log()
    return positives, negatives, z.new_tensor(sum(1 - float(x) for x in smallest.values()))


def assert_equal(loss, expected, z, exact):
    """Values to 1e-5, gradients to 1e-5 of the largest."""
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    if expected.requires_grad:
        (grad,) = torch.autograd.grad(loss, z, retain_graph=True)
        (slope,) = torch.autograd.grad(expected, exact, retain_graph=True)
        torch.testing.assert_close(grad.double(), slope, atol=1e-5 * max(1, slope.abs().max().item()), rtol=1e-4)


@pytest.mark.parametrize("count, shared", [(0, False), (1, False), (40, False), (25, True)])
@pytest.mark.parametrize("background, gamma", [(0.75, 2.0), (1.0, 2.0), (0.0, 2.0), (0.75, 1.0)])
def test_weighted_loss_of_every_entry(count, shared, background, gamma):
    z, p = logits(), pairs(count, shared)
    exact = z.detach().double().requires_grad_()
    expected = dense_weighted(exact, *p, background, gamma)
    assert_equal(weighted_loss_sum(z, *p, background=background, gamma=gamma), expected, z, exact)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("pair_gamma, gamma", [(2.0, 2.0), (1.0, 0.0), (0.0, 1.5)])
def test_weighted_loss_with_importances(pair_gamma, gamma, constant):
    """|s - t|^g of pairs and s^gamma of the others, with their gradients or as constants."""
    z, (rows, classes, positive, negative) = logits(), pairs(40)
    exact = z.detach().double().requires_grad_()
    s = exact.sigmoid()
    held = s.detach() if constant else s
    label = (positive / (positive + negative)).double()
    p = s[rows, classes]
    of_pairs = (held[rows, classes] - label).abs() ** pair_gamma * -(positive * p.log() + negative * (1 - p).log())
    others = torch.ones_like(s).index_put((rows, classes), torch.zeros(40, dtype=torch.double))
    expected = of_pairs.sum() - (others * held**gamma * (1 - s).log()).sum()
    options = {"gamma": gamma, "pair_gamma": pair_gamma, "detach_importance": constant, "background": 1.0}
    got = weighted_loss_sum(z, rows, classes, positive, negative, **options)
    assert_equal(got, expected, z, exact)


@pytest.mark.parametrize("positive, negative, label", [(0.3, 0.1, 0.75), (0.0, 0.0, 0.0), (1e-13, 1e-13, 0.5)])
def test_soft_label(positive, negative, label):
    assert soft_label(torch.tensor([positive]), torch.tensor([negative])).item() == pytest.approx(label)


@pytest.mark.parametrize("count, shared", [(0, False), (1, False), (40, False), (25, True)])
@pytest.mark.parametrize("constant", [False, True])
def test_dual_losses_of_every_entry(count, shared, constant):
    z, p = logits(), pairs(count, shared)
    exact = z.detach().double().requires_grad_()
    for got, expected in zip(dual_losses(z, *p, detach_importance=constant), dense_dual(exact, *p, constant)):
        assert_equal(got, expected, z, exact)


@pytest.mark.parametrize("gamma", [1.0, 3.0])
@pytest.mark.parametrize("constant", [False, True])
def test_importance_of_candidates(gamma, constant):
    """g2 of DW, Table 3; entries without a pair keep s^2."""
    z, p = logits(), pairs(25, shared=True)
    exact = z.detach().double().requires_grad_()
    got = dual_losses(z, *p, candidate_gamma=gamma, detach_importance=constant)[1]
    assert_equal(got, dense_dual(exact, *p, constant, gamma)[1], z, exact)


WIDE = torch.linspace(-30, 30, 121, dtype=torch.float64)


def log_s(z):
    return torch.nn.functional.logsigmoid(z)


@pytest.mark.parametrize("positive, negative", [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7), (0.0, 0.0)])
def test_weighted_loss_of_every_logit(positive, negative):
    """Value and gradient of a pair alone, against float64; nothing of it as background is left over."""
    for logit in WIDE:
        exact = logit.clone().requires_grad_()
        expected = -positive * log_s(exact) - negative * log_s(-exact)
        z, zero = logit.float().reshape(1, 1).requires_grad_(), torch.tensor([0])
        loss = weighted_loss_sum(z, zero, zero, torch.tensor([positive]), torch.tensor([negative]))
        loss.backward(), expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-30), logit
        # with both weights the gradient is a difference, exact to the rounding of these
        assert z.grad.item() == pytest.approx(exact.grad.item(), rel=1e-4, abs=1e-7 * positive * negative), logit


@pytest.mark.parametrize("smallest, g2", [(0.0, 2.0), (0.4, 2.0), (1.0, 0.5), (0.4, 0.0)])
@pytest.mark.parametrize("constant", [False, True])
def test_dual_losses_of_every_logit(smallest, g2, constant):
    for logit in WIDE:
        exact = logit.clone().requires_grad_()
        importance = (g2 * log_s(exact.detach() if constant else exact)).exp()
        expected = -0.6 * log_s(exact), -smallest * importance * log_s(-exact)
        z, zero = logit.float().reshape(1, 1).requires_grad_(), torch.tensor([0])
        weights = torch.tensor([0.6]), torch.tensor([smallest])
        got = dual_losses(z, zero, zero, *weights, candidate_gamma=g2, detach_importance=constant)
        for a, b in zip(got, expected):
            (of_a,), (of_b,) = torch.autograd.grad(a, z, retain_graph=True), torch.autograd.grad(b, exact)
            assert a.item() == pytest.approx(b.item(), rel=1e-4, abs=1e-30), logit
            assert of_a.item() == pytest.approx(of_b.item(), rel=1e-4, abs=1e-30), logit


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_only_in_the_logits(dtype):
    z, p = logits().detach().to(dtype).requires_grad_(), pairs(40)
    exact = z.detach().double()
    loss = weighted_loss_sum(z, *p)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(dense_weighted(exact, *p).item(), rel=1e-5)
    for got, expected in zip(dual_losses(z, *p), dense_dual(exact, *p)):
        assert got.dtype == torch.float32 and got.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert z.grad.dtype == dtype and z.grad.isfinite().all()


def test_extreme_logits():
    """A score of e^-80 as a positive costs 80, and so does one of 1 - e^-80 as a negative; nothing saturates."""
    z = torch.tensor([[80.0, -80.0], [80.0, -80.0], [80.0, -80.0]], requires_grad=True)
    rows, classes = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    positive, negative = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    loss = weighted_loss_sum(z, rows, classes, positive, negative)
    assert loss.item() == pytest.approx(80 + 80 + 0.75 * 80)
    loss.backward()
    torch.testing.assert_close(z.grad, torch.tensor([[0.0, -1.0], [1.0, 0.0], [0.75, 0.0]]))
    z.grad = None
    of_positives, of_negatives, spared = dual_losses(z, rows, classes, positive, negative)
    assert [x.item() for x in (of_positives, of_negatives, spared)] == pytest.approx([80, 160, 2])
    (of_positives + of_negatives).backward()
    torch.testing.assert_close(z.grad, torch.tensor([[0.0, -1.0], [1.0, 0.0], [1.0, 0.0]]))


def test_ignored_rows_add_nothing():
    z, p = logits(), pairs(40)
    free = torch.tensor(sorted(set(range(POINTS)) - set(p[0].tolist()) | {0, 3}))
    p = [x[~torch.isin(p[0], free)] for x in p]
    kept = torch.tensor([r for r in range(POINTS) if r not in free.tolist()])
    moved = torch.searchsorted(kept, p[0])
    loss = weighted_loss_sum(z, *p, ignored=free)
    assert loss.item() == pytest.approx(weighted_loss_sum(z[kept], moved, *p[1:]).item(), rel=1e-6)
    (grad,) = torch.autograd.grad(loss, z, retain_graph=True)
    assert (grad[free] == 0).all() and grad.isfinite().all()
    for constant in (False, True):
        got = dual_losses(z, *p, ignored=free, detach_importance=constant)
        expected = dual_losses(z[kept], moved, *p[1:], detach_importance=constant)
        assert [x.item() for x in got] == pytest.approx([x.item() for x in expected], rel=1e-6)
        (grad,) = torch.autograd.grad(got[1], z)
        assert (grad[free] == 0).all() and grad.isfinite().all()


def test_gradient_vanishes_where_the_score_is_the_label():
    """40-o2f, 'What to test'; on either side it points there."""
    label = torch.tensor([0.3])
    for score, sign in [(0.3, 0), (0.2, -1), (0.4, 1)]:
        z = torch.tensor([[score]]).logit().requires_grad_()
        zero = torch.tensor([0])
        weighted_loss_sum(z, zero, zero, 0.4 * label, 0.4 * (1 - label)).backward()
        assert z.grad.item() == pytest.approx(0.4 * (score - 0.3), abs=1e-7)
        assert sign == 0 or math.copysign(1, z.grad.item()) == sign


# 50-dw section 11

NEGATIVE = torch.tensor([0.303571, 0.0, 1.0, 1.0])
RELEASED = torch.tensor([0.702855, 0.745864, 0.057582, 0.002201])


def example(positive, negative, constant=False, only_first=False):
    scores = dw_example(1 if only_first else 5).scores.double().requires_grad_()
    rows = torch.arange(len(positive))
    sums = dual_losses(scores.logit(), rows, 0 * rows, positive, negative, detach_importance=constant)
    return scores, sums


def test_sums_of_the_example():
    _, (positive, negative, spared) = example(RELEASED, NEGATIVE)
    assert 0.25 * positive.item() == pytest.approx(0.300891, abs=1e-5)
    assert negative.item() == pytest.approx(0.428764, abs=1e-5)
    assert spared.item() == pytest.approx(1.696429, abs=1e-5)


@pytest.mark.parametrize(
    "constant, expected",
    [(False, [0.362205, 0, 1.999549, 0.139257, 0.342576]), (True, [0.151786, 0, 0.9, 0.05, 0.128571])],
)
def test_gradients_of_the_example(constant, expected):
    scores, (_, negative, _) = example(RELEASED, NEGATIVE, constant)
    (grad,) = torch.autograd.grad(negative, scores)
    torch.testing.assert_close(grad[:, 0], torch.tensor(expected).double(), atol=1e-5, rtol=1e-5)


def test_one_point_of_the_example():
    _, (_, negative, spared) = example(torch.tensor([1.0]), torch.tensor([1.0]), only_first=True)
    assert negative.item() == pytest.approx(0.174340, abs=1e-5) and spared.item() == 0


def test_paper_form_of_the_example():
    """Both sums over the bag alone, without the four other entries of the background."""
    positive = torch.tensor([0.439437, 0.545783, 0.014607, 0.000173])
    scores, (of_positives, of_negatives, _) = example(positive, torch.tensor([0.402299, 0.141762, 1.0, 1.0]))
    s = scores.detach()
    outside = (s[:, 1] ** 2 * -(1 - s[:, 1]).log()).sum() + s[4, 0] ** 2 * -(1 - s[4, 0]).log()
    assert (of_positives + of_negatives - outside).item() == pytest.approx(1.232520, abs=1e-5)
