"""Branch types by name, and the config node that each of them reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry

if TYPE_CHECKING:
    from .base import Branch


class BranchRegistry(Registry):
    """A Detectron2 registry whose entries may have a name of their own, beside that of their class."""

    def register(self, name: Any = None) -> Any:
        """`@BRANCH_REGISTRY.register()` goes by the class's name, `@BRANCH_REGISTRY.register("point")` by that one."""
        if not isinstance(name, str):
            return super().register(name)

        def add(kind: type[Branch]) -> type[Branch]:
            self._do_register(name, kind)
            return kind

        return add


# What the TYPE of a branch's node names: subclasses of `defcn_ext.branches.Branch`.
BRANCH_REGISTRY = BranchRegistry("BRANCH")


def branch_class(key: str, name: str) -> type[Branch]:
    """The class registered under `name`.

    Args:
        key: where the name stands, for the error.

    Raises:
        ValueError: there is none.
    """
    if name not in BRANCH_REGISTRY:
        known = ", ".join(repr(known) for known, _ in sorted(BRANCH_REGISTRY))
        hint = "MODEL.DEFCN.IMPORTS names modules that register others"
        raise ValueError(f"{key}: unknown type {name!r}; known: {known}; {hint}")
    kind: type[Branch] = BRANCH_REGISTRY.get(name)
    return kind


def branch_node(name: str, *others: str) -> CfgNode:
    """A node with the keys and defaults of a type; those of `others` are there too, should TYPE become one of them."""
    node = CfgNode()
    node.TYPE = name
    branch_class("TYPE", name).add_config(node)
    for other in others:
        for key, default in branch_node(other).items():
            node.setdefault(key, default)
    return node
