"""Norms by name."""

from __future__ import annotations

from torch import nn

from detectron2.layers import get_norm


def build_norm(name: str, channels: int, key: str) -> nn.Module | None:
    """What `detectron2.layers.get_norm` builds; None for "".

    >>> build_norm("GN", 64, "NORM").num_groups, build_norm("", 64, "NORM")
    (32, None)

    Args:
        key: the option that names the norm, for the error.

    Raises:
        ValueError: the name is unknown, or the norm cannot have so many channels.
    """
    try:
        norm: nn.Module | None = get_norm(name, channels)
    except (KeyError, ValueError):
        known = "'BN', 'SyncBN', 'LN', 'GN' for a multiple of 32 channels, or '' for none"
        raise ValueError(f"{key}: no norm {name!r} for {channels} channels; take {known}") from None
    return norm
