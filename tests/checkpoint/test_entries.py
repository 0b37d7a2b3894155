import torch

from defcn_ext.checkpoint.entries import entries, first_non_finite

CONTENT = {"a": {"w": torch.ones(2), 3: [1.0, (True, None)]}, "empty": {}, "b": "text"}


def test_every_leaf_has_a_path():
    assert [path for path, _ in entries(CONTENT)] == ["a/w", "a/3/0", "a/3/1/0", "a/3/1/1", "b"]
    assert [path for path, _ in entries(CONTENT, "file")][-1] == "file/b"


def test_the_first_that_is_not_finite_is_named():
    assert first_non_finite(CONTENT) is None
    assert first_non_finite({**CONTENT, "lr": [0.1, float("inf")], "c": torch.tensor(float("nan"))}) == "lr/1"
    assert first_non_finite({"half": torch.tensor([1.0, float("-inf")]).bfloat16()}) == "half"
    assert first_non_finite({"count": torch.tensor(2**62), "mask": torch.tensor([True])}) is None
