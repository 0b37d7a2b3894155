"""What was measured of the structures, and comparison with it."""

import json

import numpy as np
import torch

from tests.conftest import FACTS

ARRAYS = np.load(FACTS / "golden_structures.npz")
GOLDEN = json.loads((FACTS / "golden_structures.json").read_text())
ERRORS = {
    error.__name__: error
    for error in (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError)
} | {"TypeError": TypeError, "ValueError": ValueError}


def array(name):
    return torch.from_numpy(ARRAYS[name])


def close(actual, name):
    expected = array(name)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if not expected.is_floating_point():
        assert torch.equal(actual, expected)
        return
    atol = 1e-4 * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=atol)


def outcome(call):
    """What the facts record of a call: its type, or the exception."""
    try:
        return {"ok": True, "type": type(call()).__name__}
    except Exception as error:
        return {"ok": False, "raises": type(error).__name__}
