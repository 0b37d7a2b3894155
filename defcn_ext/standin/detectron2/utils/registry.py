"""Names to objects: registries of components, and import paths."""

import pydoc
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """The object at a dotted path such as "torch.nn.Linear".

    Raises:
        ImportError: nothing is there.
    """
    found = pydoc.locate(name)
    if found is None:
        raise ImportError(f"Cannot locate object '{name}'")
    return found
