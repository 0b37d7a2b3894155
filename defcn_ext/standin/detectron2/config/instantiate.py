"""Objects from descriptions: a mapping whose `_target_` is called with the rest of it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.utils.registry import locate

__all__ = ["instantiate"]


def instantiate(cfg: Any) -> Any:
    """What a description with `_target_` describes; described arguments are made first.

    Args:
        cfg: a dict or omegaconf's DictConfig. `_target_` is a callable, or the dotted name of one. Lists are gone
            through; anything else, also a mapping without `_target_`, comes back as it is.

    Raises:
        ImportError: there is nothing of that name.
        TypeError: `_target_` cannot be called, or not with these arguments.
    """
    if isinstance(cfg, Sequence) and not isinstance(cfg, (str, bytes, tuple)):
        return [instantiate(item) for item in cfg]
    if not (isinstance(cfg, Mapping) and "_target_" in cfg):
        return cfg
    arguments = {name: instantiate(value) for name, value in cfg.items()}
    target = arguments.pop("_target_")
    target = locate(target) if isinstance(target, str) else target
    if not callable(target):
        raise TypeError(f"_target_ {target!r} cannot be called")
    try:
        return target(**arguments)
    except TypeError:
        name = f"{target.__module__}.{getattr(target, '__qualname__', target)}"
        logging.getLogger(__name__).error(f"Error when instantiating {name}!")
        raise
