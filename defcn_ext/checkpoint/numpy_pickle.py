"""Pickles of numpy arrays, read without numpy's own reconstruction: nothing that a file names is ever called."""

from __future__ import annotations

import codecs
import math
import pickle
import re
from collections import OrderedDict
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

PLAIN_DTYPE = re.compile(r"(b1|[iu][1248]|f[248])")
LEGACY_ENCODINGS = ("latin1", "latin-1", "iso-8859-1")


class RefusedGlobalError(pickle.UnpicklingError):
    """A pickle names something beyond plain data."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class _Recorder:
    """Stands in for a class of numpy in a pickle, and only keeps what it is given."""

    def __init__(self, *args: Any):
        self.args, self.state = args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class PickledDtype(_Recorder):
    def resolve(self) -> np.dtype:
        """
        Raises:
            ValueError: no type of plain numbers.
        """
        code = _text(self.args[0]) if self.args else ""
        if not PLAIN_DTYPE.fullmatch(code):
            raise ValueError(f"numpy type {code!r}, and weights are plain numbers")
        order = _text(self.state[1]) if self.state else "<"
        return np.dtype((">" if order == ">" else "<") + code)


class PickledArray(_Recorder):
    def resolve(self) -> np.ndarray:
        """
        Raises:
            ValueError: not an array of plain numbers, or its bytes are not those of its shape.
        """
        shape, dtype, fortran, data = self._fields()
        data = _bytes(data)
        if not isinstance(dtype, PickledDtype) or not all(isinstance(x, int) and x >= 0 for x in shape):
            raise ValueError("a damaged numpy array")
        resolved = dtype.resolve()
        if len(data) != resolved.itemsize * math.prod(shape):
            raise ValueError(f"a numpy array of {len(data)} bytes whose shape is {tuple(shape)} of {resolved}")
        array = np.frombuffer(data, resolved).reshape(shape, order="F" if fortran else "C")
        return np.array(array, dtype=resolved.newbyteorder("="), order="C")

    def _fields(self) -> tuple[Any, Any, bool, Any]:
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("a damaged numpy array")
        return self.state[1], self.state[2], bool(self.state[3]), self.state[4]


class PickledBuffer(PickledArray):
    """The array as protocol 5 writes it."""

    def _fields(self) -> tuple[Any, Any, bool, Any]:
        data, dtype, shape, order = self.args
        return shape, dtype, order == "F", data


def numpy_globals() -> dict[str, type]:
    """Name in a pickle -> its stand-in, of numpy 1 and 2. New classes at every call, so that no file changes another's.

    They carry numpy's module names, by which `torch.serialization.safe_globals` knows them.
    """
    found = {"numpy.dtype": PickledDtype, "numpy.ndarray": _Recorder}
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray._reconstruct"] = PickledArray
        found[f"{core}.multiarray.scalar"] = _Recorder
        found[f"{core}.numeric._frombuffer"] = PickledBuffer
    return {name: _named(base, name) for name, base in found.items()}


def load_numpy_pickle(file: IO[bytes]) -> Any:
    """Containers, numbers, strings and `PickledArray`s of a pickle file, of Python 2 and 3.

    Raises:
        RefusedGlobalError: the file names anything else.
        pickle.UnpicklingError, EOFError and others: it is damaged.
    """
    return _DataUnpickler(file, encoding="latin1").load()


def tensors_of(value: Any) -> Any:
    """The same with a tensor for each `PickledArray`, in dicts of dicts.

    Raises:
        ValueError: an array is not one of plain numbers.
    """
    if isinstance(value, PickledArray):
        return torch.from_numpy(value.resolve())
    if isinstance(value, dict):
        return {key: tensors_of(x) for key, x in value.items()}
    return value


def tensor_of_bytes(data: bytes, dtype: torch.dtype, shape: list[int]) -> Tensor:
    """
    Raises:
        ValueError: the bytes are not those of the shape.
    """
    if len(data) != dtype.itemsize * math.prod(shape):
        raise ValueError(f"a tensor of {len(data)} bytes whose shape is {tuple(shape)} of {dtype}")
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


class _DataUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], **options: Any):
        super().__init__(file, **options)
        self._allowed = {
            **numpy_globals(),
            "collections.OrderedDict": OrderedDict,
            "_codecs.encode": _encode,
            "__builtin__.bytes": _no_bytes,
            "builtins.bytes": _no_bytes,
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self._allowed:
            raise RefusedGlobalError(full)
        return self._allowed[full]


def _named(base: type, name: str) -> type:
    module, _, last = name.rpartition(".")
    return type(last, (base,), {"__module__": module, "__qualname__": last})


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    """How Python 3 writes bytes in old protocols; other codecs may decompress or transform."""
    if encoding not in LEGACY_ENCODINGS:
        raise RefusedGlobalError(f"_codecs.encode with {encoding!r}")
    return codecs.latin_1_encode(text)[0]


def _no_bytes() -> bytes:
    """How Python 3 writes empty bytes in old protocols."""
    return b""


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _bytes(value: Any) -> bytes:
    """
    Raises:
        ValueError: the array holds objects.
    """
    if isinstance(value, str):  # bytes of Python 2
        return value.encode("latin1")
    if not isinstance(value, (bytes, bytearray)):
        raise ValueError("a numpy array of objects, and weights are plain numbers")
    return bytes(value)
