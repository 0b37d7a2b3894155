"""Configs as Python files that describe objects without making them. They need the package omegaconf."""

from __future__ import annotations

import ast
import copy
import inspect
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import yaml

from detectron2.utils.file_io import PathManager

__all__ = ["LazyCall", "LazyConfig"]

ANYTHING = {"allow_objects": True}  # omegaconf's flag for values that yaml does not know


def _omegaconf() -> ModuleType:
    try:
        import omegaconf
    except ImportError as error:
        raise ImportError("lazy configs need omegaconf: pip install omegaconf") from error
    return omegaconf


class LazyCall:
    """Describes a call instead of making it: `LazyCall(nn.Conv2d)(in_channels=3)` is a config to be changed, and
    `instantiate` makes it.

    Args:
        target: a callable, its dotted name, or a mapping that describes one.
    """

    def __init__(self, target: Any):
        if not (callable(target) or isinstance(target, (str, Mapping))):
            raise TypeError(f"the target of LazyCall must be a callable or its name, got {target!r}")
        self._target = target

    def __call__(self, **kwargs: Any) -> Any:
        return _omegaconf().DictConfig(content={**kwargs, "_target_": self._target}, flags=ANYTHING)


class LazyConfig:
    """Reads, changes and writes lazy configs."""

    @staticmethod
    def load_rel(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """`load` of a file beside the one that calls this."""
        caller = inspect.stack()[1].filename
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)

    @staticmethod
    def load(filename: str, keys: str | tuple[str, ...] | None = None) -> Any:
        """The configs in a file.

        Args:
            filename: .py or .yaml. A Python file is run; its relative imports are those of config files, whose configs
                are copied, and which need be in no package.
            keys: one name, or several; by default all public names that hold a config, as one config.

        Raises:
            ValueError: neither .py nor .yaml.
            ImportError: omegaconf is not there, or a relative import finds nothing.
        """
        omegaconf = _omegaconf()
        extension = os.path.splitext(filename)[1]
        if extension not in (".py", ".yaml", ".yml"):
            raise ValueError(f"{filename}: a lazy config ends in .py or .yaml")
        if extension == ".py":
            found = _run(filename.replace("/./", "/"))
        else:
            with PathManager.open(filename) as f:
                found = dict(omegaconf.OmegaConf.create(yaml.safe_load(f), flags=ANYTHING))
        if isinstance(keys, str):
            return _as_config(found[keys])
        if keys is not None:
            return tuple(_as_config(found[key]) for key in keys)
        configs = {k: v for k, v in found.items() if not k.startswith("_") and _is_config(v)}
        return omegaconf.DictConfig(configs if extension == ".py" else found, flags=ANYTHING)

    @staticmethod
    def save(cfg: Any, filename: str) -> None:
        """Writes yaml. Classes and functions become their dotted names; what has none is a TypeError."""
        content = _omegaconf().OmegaConf.to_container(cfg, resolve=False)
        with PathManager.open(filename, "w") as f:
            yaml.safe_dump(_plain(content), f, sort_keys=False)

    @staticmethod
    def apply_overrides(cfg: Any, overrides: list[str]) -> Any:
        """The config, changed by "key.of.some=value" with the value in yaml; "~key" deletes.

        Raises:
            ValueError: an override is neither.
            KeyError: something above the key is no mapping, or a key to delete is not there.
        """
        omegaconf = _omegaconf()
        for override in overrides:
            key, equals, value = override.partition("=")
            if override.startswith("~"):
                parent, _, name = override[1:].rpartition(".")
                del (omegaconf.OmegaConf.select(cfg, parent) if parent else cfg)[name]
                continue
            if not (equals and key):
                raise ValueError(f"{override!r} must have the form KEY=VALUE or ~KEY")
            _check_parents(cfg, key)
            omegaconf.OmegaConf.update(cfg, key, yaml.safe_load(value), force_add=True)
        return cfg

    @staticmethod
    def to_py(cfg: Any, prefix: str = "cfg.") -> str:
        """Lines "cfg.key = value" and calls with their arguments, to be read rather than run."""
        content = _omegaconf().OmegaConf.to_container(cfg, resolve=False)
        return "".join(f"{prefix}{key} = {_as_code(value)}\n" for key, value in content.items())


def _is_config(value: Any) -> bool:
    return isinstance(value, (Mapping, _omegaconf().ListConfig))


def _as_config(value: Any) -> Any:
    return _omegaconf().DictConfig(value, flags=ANYTHING) if isinstance(value, dict) else value


def _run(filename: str) -> dict[str, Any]:
    """The names that a Python file defines."""
    with PathManager.open(filename) as f:
        tree = _Imports(filename).visit(ast.parse(f.read(), filename))
    names: dict[str, Any] = {"__file__": filename, "__name__": os.path.basename(filename)[:-3], "_import_": _take}
    exec(compile(ast.fix_missing_locations(tree), filename, "exec"), names)
    return {name: value for name, value in names.items() if name not in ("__builtins__", "_import_")}


class _Imports(ast.NodeTransformer):
    """Turns `from ..data import loader as x` into `x = _import_(FILE, "loader")`, for files without a package."""

    def __init__(self, filename: str):
        self.folder = os.path.dirname(filename)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if node.level == 0:
            return node
        if node.module is None:
            raise ImportError(f"{self.folder}: line {node.lineno}: name the config file to import from")
        file = os.path.join(self.folder, *[os.pardir] * (node.level - 1), *node.module.split(".")) + ".py"
        return [
            ast.copy_location(
                ast.parse(f"{alias.asname or alias.name} = _import_({file!r}, {alias.name!r})").body[0], node
            )
            for alias in node.names
        ]


def _take(filename: str, name: str) -> Any:
    """A copy of what a config file calls by that name: to change an imported config changes no other."""
    if not PathManager.isfile(filename):
        raise ImportError(f"{filename}: no such config to import {name} from")
    found = _run(filename)
    if name not in found:
        raise ImportError(f"{filename} has no {name}")
    value = found[name]
    return copy.deepcopy(_as_config(value)) if _is_config(value) else value


def _check_parents(cfg: Any, key: str) -> None:
    parts = key.split(".")
    for end in range(1, len(parts)):
        above = _omegaconf().OmegaConf.select(cfg, ".".join(parts[:end]))
        if above is not None and not _is_config(above):
            raise KeyError(f"{key}: {'.'.join(parts[:end])} is {above!r}, which has no keys")


def _plain(value: Any) -> Any:
    """Containers of what yaml can write."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return _dotted(value)


def _dotted(value: Any) -> str:
    name = getattr(value, "__qualname__", None)
    if name is None or "<" in name:
        raise TypeError(f"{value!r} cannot be written to yaml: it has no name that it could be found by")
    return f"{value.__module__}.{name}"


def _as_code(value: Any) -> str:
    if isinstance(value, dict) and "_target_" in value:
        target = value["_target_"]
        arguments = ", ".join(f"{k}={_as_code(v)}" for k, v in value.items() if k != "_target_")
        return f"{target if isinstance(target, str) else _dotted(target)}({arguments})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_as_code(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_code, value)) + "]"
    return _dotted(value) if hasattr(value, "__qualname__") else repr(value)
