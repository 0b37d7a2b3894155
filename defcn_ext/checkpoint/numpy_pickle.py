"""What numpy writes into a pickle, rebuilt without numpy's own reconstruction: nothing that a file names is called."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

PLAIN_DTYPE = re.compile(r"(b1|[iu][1248]|f[248])")


class Recorder:
    """Stands in for a class of numpy in a pickle, and only keeps what it is given."""

    def __init__(self, *args: Any):
        self.args, self.state = args, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class PickledDtype(Recorder):
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


class PickledArray(Recorder):
    def resolve(self) -> np.ndarray:
        """
        Raises:
            ValueError: not an array of plain numbers, or its bytes are not those of its shape.
        """
        shape, dtype, fortran, data = self._fields()
        return _array(_bytes(data), dtype, shape, fortran)

    def _fields(self) -> tuple[Any, Any, bool, Any]:
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("a damaged numpy array")
        return self.state[1], self.state[2], bool(self.state[3]), self.state[4]


class PickledBuffer(PickledArray):
    """The array as protocol 5 writes it."""

    def _fields(self) -> tuple[Any, Any, bool, Any]:
        data, dtype, shape, order = self.args
        return shape, dtype, order == "F", data


class PickledScalar(Recorder):
    """A number with numpy's type, such as a best AP or a learning rate."""

    def resolve(self) -> np.ndarray:
        """As an array of no dimension.

        Raises:
            ValueError: no plain number, or its bytes are not those of one.
        """
        dtype, data = self.args
        return _array(_bytes(data), dtype, (), fortran=False)


def numpy_globals() -> dict[str, type]:
    """Name in a pickle -> its stand-in, of numpy 1 and 2. New classes at every call, so that no file changes another's.

    They carry numpy's module names, by which `torch.serialization.safe_globals` knows them.
    """
    found = {"numpy.dtype": PickledDtype, "numpy.ndarray": Recorder}
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray._reconstruct"] = PickledArray
        found[f"{core}.multiarray.scalar"] = PickledScalar
        found[f"{core}.numeric._frombuffer"] = PickledBuffer
    return {name: named(base, name) for name, base in found.items()}


def named(base: type, name: str) -> type:
    """A subclass that goes by a dotted name."""
    module, _, last = name.rpartition(".")
    return type(last, (base,), {"__module__": module, "__qualname__": last})


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


def _array(data: bytes, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, PickledDtype) or not all(isinstance(x, int) and x >= 0 for x in shape):
        raise ValueError("a damaged numpy array")
    resolved = dtype.resolve()
    if len(data) != resolved.itemsize * math.prod(shape):
        raise ValueError(f"a numpy array of {len(data)} bytes whose shape is {tuple(shape)} of {resolved}")
    array = np.frombuffer(data, resolved).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype=resolved.newbyteorder("="), order="C")


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
