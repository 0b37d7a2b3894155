"""What a checkpoint holds, entry by entry: every number and tensor by its path."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def entries(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts and lists: ("trainer/_trainer/optimizer/state/0/exp_avg", tensor), ..."""
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    else:
        yield path, content
        return
    for key, value in items:
        yield from entries(value, f"{path}/{key}" if path else str(key))


def first_non_finite(content: Any) -> str | None:
    """The path of the first number or tensor that holds a nan or an infinity."""
    return next((path for path, value in entries(content) if not _finite(value)), None)


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    return not isinstance(value, float) or math.isfinite(value)
