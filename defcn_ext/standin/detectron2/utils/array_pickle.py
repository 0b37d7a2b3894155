"""Pickles that hold arrays and plain data, and may name nothing else: a pickle runs what it names."""

import pickle
from typing import IO, Any

_CORES = [f"numpy.{core}." for core in ("core", "_core")]
_ALLOWED = {
    *(
        core + name
        for core in _CORES
        for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
    ),
    *("numpy.ndarray", "numpy.dtype", "collections.OrderedDict", "_codecs.encode", "builtins.bytes"),
    "detectron2.structures.boxes.BoxMode",
}


def load_arrays(file: IO[bytes]) -> Any:
    """The content of a pickle, of Python 2 too.

    Raises:
        pickle.UnpicklingError: it names something else.
    """
    return _ArrayUnpickler(file, encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"names {module}.{name}, which no file of arrays needs, and which could run")
        return super().find_class(module, name)
