"""Equal inputs, equal results: wherever they stand, in tensors of any length and layout."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext._elementwise import BLOCK, alike, power
from defcn_ext.losses import product_logit

FUNCTIONS = {
    "power": lambda x: power(x, 0.2),
    "sigmoid": lambda x: alike(torch.sigmoid, x),
    "softplus": lambda x: alike(F.softplus, x),
    "exp": lambda x: alike(torch.exp, x),
    "logit": lambda x: alike(lambda p: p.logit(eps=1e-7), x),
    "product_logit": lambda x: alike(product_logit, x, 3 - 8 * x),
}
named = pytest.mark.parametrize("name", list(FUNCTIONS))


@named
def test_lengths_of_1_to_40(name):
    f = FUNCTIONS[name]
    for x in torch.linspace(0.013, 0.987, 40):
        alone = f(x)
        for length in range(1, 41):
            assert (f(x.repeat(length)) == alone).all(), (x, length)


@named
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_any_layout(name, length, width, seed):
    """Whole, as columns, gathered in another order, and broadcast."""
    f, rng = FUNCTIONS[name], torch.Generator().manual_seed(seed)
    x = torch.rand(length, width, generator=rng)
    whole, order = f(x), torch.randperm(length, generator=rng)
    assert torch.equal(torch.stack([f(column) for column in x.unbind(1)], 1), whole)
    assert torch.equal(f(x[order]), whole[order])
    assert torch.equal(f(x.t()), whole.t())
    assert torch.equal(f(x[:, :1].expand(length, 3)), whole[:, :1].expand(length, 3))


def test_more_than_a_block_with_threads():
    threads = torch.get_num_threads()
    x = torch.rand(997).repeat(2 * BLOCK // 997 + 1)[: 2 * BLOCK + 77]
    try:
        torch.set_num_threads(3)
        y = power(x, 0.8)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(y, power(x[:997], 0.8).repeat(2 * BLOCK // 997 + 1)[: len(y)])
    torch.testing.assert_close(y, x**0.8)


def test_inputs_broadcast():
    a, b = torch.rand(3, 1), torch.rand(4)
    torch.testing.assert_close(alike(torch.logaddexp, a, b), torch.logaddexp(a, b))
    assert alike(torch.exp, torch.zeros(0, 4)).shape == (0, 4)
