"""Tests of the stand-in, which an installed Detectron2 passes too, but for those marked `standin_only`."""

from collections.abc import Callable
from typing import Any

from defcn_ext._platform import ensure_detectron2


def says(pattern: str) -> str:
    """What the text of an error must match: the stand-in's names the culprit, Detectron2's need not."""
    return pattern if ensure_detectron2() == "standin" else "^"


def raised(function: Callable, *args: Any, **kwargs: Any) -> str | None:
    """The name of what a call raises, as the facts have it; None if it goes through."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__
    return None
