"""The ranking term of the selector."""

import pytest
import torch

from defcn_ext.losses import ranking_loss

LOGITS = torch.tensor([0.6, 0.3, 0.5, 0.2, 0.1]).logit().view(1, 5, 1)
TWO = torch.tensor([0, 1]), torch.tensor([0, 0])


def test_the_worked_example():
    """90-closing-the-gap, section 2: a hinge sum of 1.9, a term of .158333."""
    assert 3 * ranking_loss(LOGITS, *TWO, negatives=3).item() == pytest.approx(1.9)
    assert 0.25 * ranking_loss(LOGITS, *TWO, negatives=3).item() == pytest.approx(0.158333, abs=1e-6)


def test_only_the_highest_negatives_of_the_own_image_count():
    """Of .5 and .2: .4 + .1 for .6, .7 + .4 for .3, over 2; the other image has no positive and takes no part."""
    other = torch.full((1, 5, 1), 9.0)
    both = torch.cat([other, LOGITS])
    found = ranking_loss(both, TWO[0] + 5, TWO[1], negatives=2)
    assert found.item() == pytest.approx((0.4 + 0.1 + 0.7 + 0.4) / 2, abs=1e-6)


def test_other_classes_of_a_positive_are_negatives_and_ignored_rows_are_not():
    logits = torch.tensor([[[0.9, 0.8], [0.7, 0.6], [0.99, 0.99]]]).logit()
    zero = torch.tensor([0])
    found = ranking_loss(logits, zero, zero, ignored=torch.tensor([2]), negatives=4)
    assert found.item() == pytest.approx((0.4 + 0.3 + 0.2 + 0.0) / 4, abs=1e-6)  # three negatives are left


def test_its_gradient_lifts_positives_and_lowers_negatives():
    logits = LOGITS.clone().requires_grad_()
    ranking_loss(logits, *TWO, negatives=2).backward()
    assert (logits.grad.flatten().sign().tolist()) == [-1, -1, 1, 1, 0]


def test_without_positives_it_is_zero_and_wrong_shapes_are_refused():
    nothing = torch.zeros(0, dtype=torch.long)
    logits = LOGITS.clone().requires_grad_()
    loss = ranking_loss(logits, nothing, nothing)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
    with pytest.raises(ValueError, match=r"\(N, R, K\).*\(5, 1\)"):
        ranking_loss(LOGITS[0], *TWO)
