"""Numbers as files hold them: whole or not, as text or as numbers, of any size. One way to read them all."""

import math
import numbers
import reprlib
from typing import Any

import numpy as np

LARGEST = 2**63 - 1  # what int64 holds, and with it numpy, torch and pycocotools
LARGEST_SIDE = 10**6  # pixels of an image; what is larger is no size
LARGEST_BOX = 1e10  # pixels; no coordinate lies farther out, and float32 has room for its square
MAX_DEPTH = 50  # lists in lists; COCO needs five, and Python's own limit depends on who calls

FLAGS = {"true": 1, "yes": 1, "false": 0, "no": 0, "": 0}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


def as_number(value: Any) -> float | int | None:
    """A finite number, also one written as text; whole ones as int. None for all else, True and False included."""
    if type(value) is int:
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (str, numbers.Real)):
        return None
    try:
        if isinstance(value, str):
            value = int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
        if isinstance(value, numbers.Integral):
            return int(value)
        value = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def as_whole(value: Any) -> int | None:
    """A whole number that int64 holds, or None."""
    number = as_number(value)
    return number if isinstance(number, int) and -LARGEST <= number <= LARGEST else None


def as_index(value: Any) -> int | None:
    """A whole number from 0 that int64 holds, or None."""
    number = as_whole(value)
    return number if number is not None and number >= 0 else None


def as_floats(values: Any, count: int) -> list[float] | None:
    """`count` finite floats, or None if that is not what `values` holds."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or len(values) != count:
        return None
    try:
        floats = [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return floats if all(map(math.isfinite, floats)) else None


def as_box(values: Any, count: int = 4) -> list[float] | None:
    """`as_floats`, none of which is beyond all images."""
    box = as_floats(values, count)
    return None if box is None or max(map(abs, box)) > LARGEST_BOX else box


def as_size(height: Any, width: Any) -> tuple[int, int] | None:
    """(height, width) of an image, or None if they cannot be."""
    sides = as_index(height), as_index(width)
    return sides if all(sides) and max(sides) <= LARGEST_SIDE else None


def as_flag(value: Any) -> int | None:
    """0 or 1 of a number, of true and false, or of any of them written as text; None for all else."""
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if isinstance(value, str) and value.strip().lower() in FLAGS:
        return FLAGS[value.strip().lower()]
    number = as_number(value)
    return None if number is None else int(number != 0)


def holds_text(values: Any) -> bool:
    """Whether there is text in a list, or in the lists in it."""
    return any(isinstance(v, str) or (isinstance(v, (list, tuple)) and holds_text(v)) for v in values)


def too_deep(value: Any) -> bool:
    """Whether lists and mappings lie deeper in each other than MAX_DEPTH."""
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [x for x in layer if isinstance(x, (list, dict))]
        if not layer:
            return False
        layer = [x for part in layer for x in (part.values() if isinstance(part, dict) else part)]
    return any(isinstance(x, (list, dict)) for x in layer)


def shown(value: Any) -> str:
    """Any value on a line, shortened."""
    return _short.repr(value)[:100]
