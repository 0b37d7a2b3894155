"""The formats of a model file: a table, one file a format."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from defcn_ext.config import UserError

from .prepare import Prepared

Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]  # input to boxes, scores, labels

FORMATS: dict[str, type[Format]] = {}


class Format(ABC):
    """Writes a prepared graph as a file of one runtime, and runs it there, to compare.

    Attributes:
        suffix: of the files.
        packages: what must be installed, by the names of imports.
        preprocesses, suppresses: which of these options the format has.
    """

    suffix: str
    packages: tuple[str, ...] = ()
    preprocesses = True
    suppresses = True

    @abstractmethod
    def write(self, prepared: Prepared, path: Path) -> None:
        """Writes the file, and others of its stem if the format has several."""

    @abstractmethod
    def open(self, path: Path) -> Run:
        """The file as a function of its input."""

    @classmethod
    def registered(cls, name: str) -> Callable[[type[Format]], type[Format]]:
        """Decorator that puts a class into the table."""

        def register(format: type[Format]) -> type[Format]:
            FORMATS[name] = format
            return format

        return register


def build_format(name: str, asked: Mapping[str, object], output: Path) -> Format:
    """The format, after everything that could keep it from being written.

    Args:
        asked: the options "preprocess" and "with_nms".
        output: the file.

    Raises:
        UserError: unknown, not installed, or it lacks what is asked for; or the name of the file does not fit.
    """
    if name not in FORMATS:
        raise UserError(f"--format: unknown value {name!r}; known: {', '.join(FORMATS)}")
    format = FORMATS[name]()
    lacking = [x for x in format.packages if importlib.util.find_spec(x) is None]
    if lacking:
        raise UserError(f"--format {name} needs {', '.join(lacking)}: pip install 'defcn_ext[export]'")
    if output.suffix != format.suffix:
        raise UserError(f"--output {output}: a file of format {name} is called *{format.suffix}")
    for option, able in (("preprocess", format.preprocesses), ("with_nms", format.suppresses)):
        if asked[option] and not able:
            raise UserError(f"--{option.replace('_', '-')}: not for format {name}; take onnx")
    return format
