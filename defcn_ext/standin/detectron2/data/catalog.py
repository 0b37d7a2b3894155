"""Names of data sets: how to load each one, and what is known about it."""

from __future__ import annotations

import copy
import logging
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

__all__ = ["DatasetCatalog", "MetadataCatalog", "Metadata"]

logger = logging.getLogger(__name__)


class _DatasetCatalog(UserDict):
    """Data set name -> function without arguments that returns its records."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Raises AssertionError if `func` is not callable or `name` is taken."""
        assert callable(func), f"DatasetCatalog.register({name!r}) needs a function, got {func!r}"
        assert name not in self, f"Dataset '{name}' is already registered"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Loads the data set anew at each call. Raises KeyError, with the known names, for an unknown one."""
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered; known: {', '.join(self.list())}")
        return self[name]()

    def list(self) -> list[str]:
        return list(self)

    def remove(self, name: str) -> None:
        del self[name]

    def __str__(self) -> str:
        return f"DatasetCatalog({', '.join(self)})"

    __repr__ = __str__


class Metadata(types.SimpleNamespace):
    """What is known about one data set, as attributes. A value once set can only be set again to an equal one."""

    name: str = "N/A"

    _RENAMED = {
        "class_names": "thing_classes",
        "dataset_id_to_contiguous_id": "thing_dataset_id_to_contiguous_id",
        "stuff_class_names": "stuff_classes",
    }

    def _current(self, key: str) -> str:
        if key not in self._RENAMED:
            return key
        logger.warning("Metadata '%s' is now called '%s'", key, self._RENAMED[key])
        return self._RENAMED[key]

    def __getattr__(self, key: str) -> Any:
        if key in self._RENAMED:
            return getattr(self, self._current(key))
        # Read through __dict__: pickle asks for special methods before any attribute exists.
        known = sorted(self.__dict__)
        raise AttributeError(f"Metadata of '{self.name}' has no '{key}'; it has: {', '.join(known) or 'nothing'}")

    def __setattr__(self, key: str, val: Any) -> None:
        key = self._current(key)
        if key in self.__dict__:
            old = self.__dict__[key]
            assert old == val, f"Metadata '{key}' of '{self.name}' is already {old!r}, refusing to set it to {val!r}"
        else:
            super().__setattr__(key, val)

    def as_dict(self) -> dict[str, Any]:
        """A shallow copy of everything that is set."""
        return copy.copy(self.__dict__)

    def set(self, **kwargs: Any) -> Metadata:
        for key, val in kwargs.items():
            setattr(self, key, val)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)


class _MetadataCatalog(UserDict):
    """Data set name -> its `Metadata`, made empty on first use."""

    def get(self, name: str) -> Metadata:
        assert len(name), "A data set needs a non-empty name"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        return list(self)

    def remove(self, name: str) -> None:
        """Raises KeyError for an unknown name."""
        del self[name]

    def __str__(self) -> str:
        return f"MetadataCatalog({', '.join(self)})"

    __repr__ = __str__


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
