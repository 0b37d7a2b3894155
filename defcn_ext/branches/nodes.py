"""Nodes of new names in a config: a branch takes the keys of its TYPE when it is merged."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from .registry import branch_class, branch_node

PREFIX = "MODEL.DEFCN."
DECLARED = ("ONE_TO_ONE", "ONE_TO_MANY", "AUX")  # these keep the keys of several types, as older files write them


def accept_new_branches(cfg: CfgNode) -> None:
    """Makes an ordinary root config one whose MODEL.DEFCN takes branches of new names."""
    if type(cfg) is CfgNode:
        object.__setattr__(cfg, "__class__", BranchingConfig)  # the node's own would make it a key


class BranchingConfig(CfgNode):
    """A root whose MODEL.DEFCN takes branches of new names, from files, other configs and lists.

    A node of a new name needs a TYPE, and begins with that type's keys; whatever else stands in it, and any other new
    name, is an unknown key as everywhere. A TYPE that a node already there changes to adds that type's keys.
    """

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        model = cfg_other.get("MODEL")
        self._make_room(model.get("DEFCN") if isinstance(model, dict) else None)
        super().merge_from_other_cfg(cfg_other)

    def merge_from_list(self, cfg_list: list[Any]) -> None:
        pairs = [pair for key, value in zip(cfg_list[::2], cfg_list[1::2]) for pair in self._leaves(key, value)]
        written: dict[str, Any] = {}
        for key, value in pairs:
            name, _, option = str(key).removeprefix(PREFIX).partition(".")
            if str(key).startswith(PREFIX) and option:
                node = written.setdefault(name, {})
                if isinstance(node, dict):
                    node[option] = self._decode_cfg_value(value)
            elif str(key).startswith(PREFIX):
                written[name] = self._decode_cfg_value(value)
        self._make_room(written)
        odd = cfg_list[len(cfg_list) // 2 * 2 :]  # for the complaint
        super().merge_from_list([x for pair in pairs for x in pair] + list(odd))

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        """As everywhere, but nodes below the root are ordinary ones: merging wants equal types."""
        return CfgNode._decode_cfg_value(value)

    def _leaves(self, key: Any, value: Any) -> Iterator[tuple[Any, Any]]:
        """KEY and a mapping as the pairs that it is short for; other pairs as they are."""
        decoded = self._decode_cfg_value(value) if str(key).startswith(PREFIX) else None
        if not isinstance(decoded, dict):
            yield key, value
            return
        for inner, each in decoded.items():
            yield from self._leaves(f"{key}.{inner}", each)

    def _make_room(self, written: Any) -> None:
        """Prepares MODEL.DEFCN for what will be merged into it."""
        options = self.MODEL.DEFCN
        if not isinstance(written, dict):
            return
        import_modules(written.get("IMPORTS", ()))
        for name, node in written.items():
            here = options.get(name)
            if not isinstance(node, dict) or not (here is None or "TYPE" in here):
                continue
            if isinstance(node.get("TYPE"), str):
                _set_type(options, name, node["TYPE"])
            if name in options and "LOSS_WEIGHT" in node:
                _fit_loss_weight(options[name], node["LOSS_WEIGHT"])
            if options.is_frozen() and name in options:
                options[name].freeze()


def _set_type(options: CfgNode, name: str, kind: str) -> None:
    branch_class(f"{PREFIX}{name}.TYPE", kind)
    here, fresh = options.get(name), branch_node(kind)
    if here is None:
        options[name] = fresh
    elif here.TYPE != kind:
        for key in [key for key in here if key not in fresh and name not in DECLARED]:
            del here[key]
        for key, default in fresh.items():
            here.setdefault(key, default)


def _fit_loss_weight(node: CfgNode, value: Any) -> None:
    """Merging wants equal types, and this key is a number or a pair."""
    if isinstance(value, (list, tuple)) != isinstance(node.get("LOSS_WEIGHT"), (list, tuple)):
        node["LOSS_WEIGHT"] = [] if isinstance(value, (list, tuple)) else 1.0


def import_modules(names: Sequence[str] | Mapping[str, Any]) -> None:
    """Imports what `MODEL.DEFCN.IMPORTS` names.

    Raises:
        ValueError: Python does not find a module, or something is no name.
    """
    if not isinstance(names, (list, tuple)):
        return
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"MODEL.DEFCN.IMPORTS: expected names of modules, got {name!r}")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"MODEL.DEFCN.IMPORTS: cannot import {name!r} ({error}); give modules that PYTHONPATH finds"
            ) from error
