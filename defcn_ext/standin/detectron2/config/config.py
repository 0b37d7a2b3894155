"""The config node, the global config, and the decorator that builds objects from a config."""

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any

from fvcore.common.config import CfgNode as _CfgNode

from detectron2.utils.file_io import PathManager

__all__ = ["CfgNode", "get_cfg", "global_cfg", "set_global_cfg", "configurable"]


class CfgNode(_CfgNode):
    """A tree of settings that reads versioned yaml files. Unknown keys and changed types are errors."""

    @classmethod
    def _open_cfg(cls, filename: str):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Overrides values with those of a yaml file, after bringing an old file to the version of this node.

        Args:
            cfg_filename: path that PathManager understands.
            allow_unsafe: evaluate Python tags in the file. Stock RetinaNet configs need it; never use it on
                files from strangers.

        Raises:
            AssertionError: the file is missing, or newer than this node.
            KeyError: the file sets a key that does not exist here.
            ValueError: the file changes the type of a key.
        """
        from .compat import guess_version, upgrade_config

        assert PathManager.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist"
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        if "VERSION" not in loaded:
            loaded.VERSION = guess_version(loaded, cfg_filename)
        assert loaded.VERSION <= self.VERSION, (
            f"Config file '{cfg_filename}' has VERSION {loaded.VERSION}, but only up to {self.VERSION} is known"
        )
        if loaded.VERSION < self.VERSION:
            logging.getLogger(__name__).warning(
                f"Loading an old v{loaded.VERSION} config file '{cfg_filename}' by automatically upgrading to "
                f"v{self.VERSION}. See docs/CHANGELOG.md for instructions to update your files."
            )
            loaded = upgrade_config(loaded, self.VERSION)
        self.merge_from_other_cfg(loaded)

    def dump(self, *args, **kwargs) -> str:
        """The config as yaml; arguments go to `yaml.safe_dump`."""
        return super().dump(*args, **kwargs)


global_cfg = CfgNode()


def get_cfg() -> CfgNode:
    """A fresh, unfrozen copy of the defaults."""
    from .defaults import _C

    return _C.clone()


def set_global_cfg(cfg: CfgNode) -> None:
    """Makes `global_cfg` a view of `cfg`: for hacks that would otherwise thread one value through many calls."""
    global_cfg.clear()
    global_cfg.update(cfg)


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None):
    """Lets a constructor or a function also be called with a config.

    `@configurable` on `__init__` uses the class method `from_config(cls, cfg, ...)`, which returns a dict of
    constructor arguments. `@configurable(from_config=f)` on a function uses `f(cfg, ...)`. A call whose first
    argument (or `cfg=`) is no config goes through unchanged. In a config call, arguments that `from_config` does
    not take go straight to the constructor, and win over what `from_config` returns.

    Raises (at the call):
        AttributeError: the class has no `from_config`.
        TypeError: `from_config` is not a class method, or its first argument is not called `cfg`.
    """
    if init_func is not None:
        assert inspect.isfunction(init_func) and init_func.__name__ == "__init__" and from_config is None, (
            "@configurable without arguments is for __init__; a function needs @configurable(from_config=...)"
        )
        return _configurable_init(init_func)
    if from_config is None:
        return configurable
    assert inspect.isfunction(from_config), "from_config must be a function"
    return functools.partial(_configurable_function, from_config=from_config)


def _configurable_init(init_func: Callable) -> Callable:
    @functools.wraps(init_func)
    def wrapper(self, *args, **kwargs):
        from_config = getattr(type(self), "from_config", None)
        if from_config is None:
            raise AttributeError(f"{type(self).__name__} has no from_config, which @configurable needs")
        if not inspect.ismethod(from_config):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod")
        if _called_with_cfg(args, kwargs):
            args, kwargs = (), _arguments_from_config(from_config, args, kwargs)
        init_func(self, *args, **kwargs)

    return wrapper


def _configurable_function(function: Callable, from_config: Callable) -> Callable:
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if _called_with_cfg(args, kwargs):
            args, kwargs = (), _arguments_from_config(from_config, args, kwargs)
        return function(*args, **kwargs)

    wrapper.from_config = from_config
    return wrapper


def _arguments_from_config(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as its first argument")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return from_config(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    direct = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **known), **direct}


def _called_with_cfg(args: tuple, kwargs: dict[str, Any]) -> bool:
    types: tuple[type, ...] = (_CfgNode,)
    # omegaconf is optional: a DictConfig can only arrive if somebody imported it.
    if "omegaconf" in sys.modules:
        types += (sys.modules["omegaconf"].DictConfig,)
    return bool(args and isinstance(args[0], types)) or isinstance(kwargs.get("cfg"), types)
