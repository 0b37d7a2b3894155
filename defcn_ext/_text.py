"""How the tools print numbers and write files."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any


def number(value: float, form: str = ".1f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def say(text: str) -> None:
    print(text, flush=True)


def without_nan(value: Any) -> Any:
    """Lists and dicts with None in place of nan, which JSON does not know."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is there whole or not at all, also when the process is killed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def explained(error: OSError | ValueError) -> str:
    """One line for the user."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
