"""The exponent g2 of the importance of candidates as negatives (DW Eq. 8)."""

import math

import pytest
import torch

from defcn_ext.losses import dual_losses

SCORES = torch.tensor([[0.5, 0.1], [0.4, 0.2]])


def losses(candidate_gamma, detach=False, logits=None):
    """One pair at entry (0, 0) with P = 0.25; the other three entries are background."""
    logits = SCORES.logit() if logits is None else logits
    zero, quarter = torch.tensor([0]), torch.tensor([0.25])
    options = {"candidate_gamma": candidate_gamma, "detach_importance": detach}
    return dual_losses(logits, zero, zero, torch.tensor([1.0]), quarter, **options)


@pytest.mark.parametrize("g2", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("detach", [False, True])
def test_only_candidates_have_it(g2, detach):
    others = sum(s**2 * -math.log(1 - s) for s in (0.1, 0.4, 0.2))
    candidate = 0.25 * 0.5**g2 * -math.log(0.5)
    positive, negative, spared = losses(g2, detach)
    assert negative.item() == pytest.approx(others + candidate, rel=1e-5)
    assert positive.item() == pytest.approx(-math.log(0.5)) and spared.item() == pytest.approx(0.75)


@pytest.mark.parametrize("g2", [0.0, 1.0, 3.0])
def test_its_gradient(g2):
    """d/dz of P s^g (-log(1 - s)) is P (g s^g (1 - s) (-log(1 - s)) + s^g s); with s^g a constant the second part."""
    for detach in (False, True):
        logits = SCORES.logit().requires_grad_()
        losses(g2, detach, logits)[1].backward()
        through = 0.0 if detach else g2 * 0.5**g2 * 0.5 * -math.log(0.5)
        assert logits.grad[0, 0].item() == pytest.approx(0.25 * (through + 0.5 ** (g2 + 1)), rel=1e-4)
