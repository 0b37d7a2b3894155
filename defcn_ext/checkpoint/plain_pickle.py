"""Pickles as plain data: what a file names is never looked up and never called.

An object of an unknown class is kept as an empty shell, so that a training's settings do not stand in the way of its
weights. A call, which is how a pickle runs code, is refused.
"""

from __future__ import annotations

import _compat_pickle
import codecs
import pickle
import pickletools
from collections import OrderedDict
from typing import IO, Any

from .numpy_pickle import PickledArray, PickledScalar, Recorder, named, numpy_globals

LEGACY_ENCODINGS = ("latin1", "latin-1", "iso-8859-1")
LEFT_OUT = object()
# Modules of which no data needs a name, not even that of a class.
REFUSED_MODULES = frozenset(
    "os posix nt sys subprocess runpy importlib ctypes socket shutil pty code codeop webbrowser commands".split()
)
# Calls that make a value of a plain type, recorded and not made.
RECORDED_CALLS = frozenset(
    ["builtins.getattr", "builtins.slice", "builtins.range", "builtins.frozenset", "fractions.Fraction", "uuid.UUID"]
    + ["decimal.Decimal", "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta"]
    + [f"pathlib.{pure}{kind}Path" for pure in ("", "Pure") for kind in ("", "Posix", "Windows")]
)


class RefusedGlobalError(Exception):
    """A pickle would call something, or names what no data needs."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class Foreign:
    """The shell of an object whose class is unknown here."""

    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Foreign:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        """Only a call comes here; an object is made by `__new__` alone."""
        raise RefusedGlobalError(name_of(type(self)))

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Entries of a dict of an unknown class are not kept."""

    def append(self, value: Any) -> None:
        """Nor are those of a list."""

    extend = append


class RecordedCall(Foreign):
    """The shell of what a harmless call would give."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass


class PickledNamespace(Foreign):
    """An `argparse.Namespace`: its settings are read as a dict."""


class PlainDict(Foreign):
    """A `collections.defaultdict`: a dict without its default."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return {}


def name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def stand_in(name: str) -> type:
    """The class that stands for a dotted name in a pickle.

    Raises:
        RefusedGlobalError: of a module that no data needs.
    """
    if name.split(".")[0] in REFUSED_MODULES:
        raise RefusedGlobalError(name)
    base = {"argparse.Namespace": PickledNamespace, "collections.defaultdict": PlainDict}.get(name, Foreign)
    return named(RecordedCall if name in RECORDED_CALLS else base, name)


def names_in(file: IO[bytes], pickles: int = 1) -> set[str]:
    """The dotted names in the first pickles of a file of an old protocol, by Python 3's names of the modules.

    Raises:
        ValueError and others: no pickle.
    """
    found = set()
    for _ in range(pickles):
        for operation, argument, _ in pickletools.genops(file):
            if operation.name == "GLOBAL":
                found.add(_modern(*argument.split(" ", 1)))
    return found


def load_plain_pickle(file: IO[bytes]) -> Any:
    """Containers, numbers, strings, `PickledArray`s, `PickledScalar`s and `Foreign`s of a file, of Python 2 and 3.

    Raises:
        RefusedGlobalError: the file would call something.
        pickle.UnpicklingError, EOFError and others: it is damaged.
    """
    return _DataUnpickler(file, encoding="latin1").load()


def plain(value: Any, left_out: set[str]) -> Any:
    """The same with arrays, numbers and dicts in place of what stood for them, in containers of any depth.

    Args:
        left_out: takes the names of the classes whose objects have no place in plain data; entries of dicts that
            hold one are dropped, as are whole lists, tuples and sets.
    """
    return _Plain(left_out)(value)


class _Plain:
    """Goes through each object once, however often a file refers to it, also where that is a circle."""

    def __init__(self, left_out: set[str]):
        self.left_out = left_out
        self.done: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any) -> Any:
        if id(value) not in self.done:
            self.done[id(value)] = (value, LEFT_OUT)
            self.done[id(value)] = (value, self._convert(value))
        return self.done[id(value)][1]

    def _convert(self, value: Any) -> Any:
        if isinstance(value, (PickledArray, PickledScalar)):
            return self._number(value)
        if isinstance(value, PickledNamespace):
            value = value.state if isinstance(value.state, dict) else {}
        if isinstance(value, (Foreign, Recorder, type)):
            self.left_out.add(name_of(value if isinstance(value, type) else type(value)))
            return LEFT_OUT
        if isinstance(value, dict):
            return self._dict(value)
        if type(value) in (list, tuple, set, frozenset):
            items = [self(x) for x in value]
            return LEFT_OUT if any(x is LEFT_OUT for x in items) else type(value)(items)
        return value

    def _dict(self, value: dict) -> dict:
        out = OrderedDict() if isinstance(value, OrderedDict) else {}
        for key, x in ((self(key), self(x)) for key, x in value.items()):
            if key is not LEFT_OUT and x is not LEFT_OUT:
                out[key] = x
        return out

    def _number(self, value: PickledArray | PickledScalar) -> Any:
        try:
            array = value.resolve()
        except (ValueError, TypeError):  # text, dates, objects
            self.left_out.add("numpy.ndarray")
            return LEFT_OUT
        return array if isinstance(value, PickledArray) else array.item()


class _DataUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], **options: Any):
        super().__init__(file, **options)
        self._allowed: dict[str, Any] = {
            **numpy_globals(),
            "collections.OrderedDict": OrderedDict,
            "_codecs.encode": _encode,
            "builtins.bytes": _no_bytes,
            "copyreg._reconstructor": _blank,
        }

    def find_class(self, module: str, name: str) -> Any:
        full = _modern(module, name)
        if full not in self._allowed:
            self._allowed[full] = stand_in(full)
        return self._allowed[full]


def _modern(module: str, name: str) -> str:
    """Python 3's name of what an old protocol calls by Python 2's."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def _blank(kind: Any, *base_and_state: Any) -> Any:
    """How the oldest protocols make an object before they give it its state."""
    if not (isinstance(kind, type) and issubclass(kind, Foreign)):
        raise RefusedGlobalError("copyreg._reconstructor")
    return kind.__new__(kind)


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    """How Python 3 writes bytes in old protocols; other codecs may decompress or transform."""
    if encoding not in LEGACY_ENCODINGS:
        raise RefusedGlobalError(f"_codecs.encode with {encoding!r}")
    return codecs.latin_1_encode(text)[0]


def _no_bytes() -> bytes:
    """How Python 3 writes empty bytes in old protocols."""
    return b""
