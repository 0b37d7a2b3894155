"""CrowdHuman's files: annotations (.odgt) and results, one JSON object a line, both ways.

    {"ID": "273271,c9db", "gtboxes": [{"tag": "person", "fbox": [x, y, w, h], "vbox": ..., "hbox": ...,
     "extra": {"ignore": 0}, "head_attr": {"ignore": 0}}], "width": 800, "height": 600}     sizes are optional
    {"ID": "273271,c9db", "height": 600, "width": 800, "dtboxes": [{"box": [x, y, w, h], "score": 0.9, "tag": 1}]}

Boxes are in pixels of the image, which is ID.jpg; an ID may hold a comma.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from defcn_ext._text import whole_file

Box = tuple[float, float, float, float]  # x, y, w, h
File = str | os.PathLike


class _Unusable(ValueError):
    """What is wrong with a line."""


class BadLine(NamedTuple):
    line: int  # from 1
    reason: str


class CrowdHumanFileError(ValueError):
    """Lines that cannot be used: "FILE:LINE: reason", and how many there are."""

    def __init__(self, file: File, bad: list[BadLine]):
        more = f" ({len(bad)} bad lines in all)" if len(bad) > 1 else ""
        super().__init__(f"{os.fspath(file)}:{bad[0].line}: {bad[0].reason}{more}")
        self.bad = bad


@dataclass(frozen=True)
class PersonBox:
    """One entry of "gtboxes". `fbox` is the full body and may leave the image."""

    tag: str
    fbox: Box
    vbox: Box | None = None
    hbox: Box | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    head_attr: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ignored(self) -> bool:
        """Crowds, reflections and the like: neither an object nor background."""
        return self.tag != "person" or bool(self.extra.get("ignore", 0))

    @property
    def head_ignored(self) -> bool:
        return self.ignored or bool(self.head_attr.get("ignore", 0))


@dataclass(frozen=True)
class AnnotationLine:
    """One image of an annotation file."""

    id: str
    boxes: tuple[PersonBox, ...]
    height: float | None = None
    width: float | None = None

    @property
    def size(self) -> tuple[float, float] | None:
        """(height, width) where the line has both."""
        return None if self.height is None or self.width is None else (self.height, self.width)


@dataclass(frozen=True)
class ResultLine:
    """One image of a result file: boxes (D, 4) as x, y, w, h, scores (D,). Tags are not kept: nothing looks at them."""

    id: str
    boxes: np.ndarray
    scores: np.ndarray
    height: float | None = None
    width: float | None = None

    @property
    def size(self) -> tuple[float, float] | None:
        """(height, width) where the line has both."""
        return None if self.height is None or self.width is None else (self.height, self.width)


Line = TypeVar("Line", AnnotationLine, ResultLine)


def read_annotations(path: File, bad: list[BadLine] | None = None) -> list[AnnotationLine]:
    """Reads an .odgt file. Empty lines are passed over.

    Args:
        bad: gets the lines that cannot be used, which are then left out; None refuses a file that has any.

    Raises:
        OSError: the file cannot be read.
        CrowdHumanFileError: lines cannot be used and `bad` is None.
    """
    return _read(path, _annotation, bad)


def read_results(path: File, bad: list[BadLine] | None = None) -> list[ResultLine]:
    """Reads a result file, as CrowdDet and cvpods write it; arguments and errors as `read_annotations`."""
    return _read(path, _result, bad)


def write_annotations(path: File, lines: Iterable[AnnotationLine]) -> None:
    """Writes an .odgt file whole or not at all; heights and widths where they are known."""
    _write(path, map(_annotation_json, lines))


def write_results(path: File, lines: Iterable[ResultLine]) -> None:
    """Writes a result file whole or not at all, every number in full, so that its metrics are those of the arrays."""
    _write(path, map(_result_json, lines))


def with_sizes(lines: Iterable[AnnotationLine], sizes: Mapping[str, tuple[float, float]]) -> list[AnnotationLine]:
    """Fills in the heights and widths that lines lack, from (height, width) by ID."""
    return [
        line if line.size or line.id not in sizes else replace(line, height=sizes[line.id][0], width=sizes[line.id][1])
        for line in lines
    ]


def _read(path: File, parse: Callable[[dict], Line], bad: list[BadLine] | None) -> list[Line]:
    lines: list[Line] = []
    found: list[BadLine] = []
    seen: dict[str, int] = {}  # ID -> line
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if not raw.strip():
                continue
            try:
                line = parse(_object(raw))
                if line.id in seen:
                    raise _Unusable(f"ID {line.id!r} is on line {seen[line.id]} already")
            except _Unusable as error:
                found.append(BadLine(number, str(error)))
                continue
            seen[line.id] = number
            lines.append(line)
    if found and bad is None:
        raise CrowdHumanFileError(path, found)
    if bad is not None:
        bad.extend(found)
    return lines


def _object(raw: bytes) -> dict:
    try:
        content = json.loads(raw.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise _Unusable(f"not valid JSON ({error.msg} at column {error.colno})") from None
    except UnicodeDecodeError:
        raise _Unusable("not valid UTF-8") from None
    except (RecursionError, ValueError):
        raise _Unusable("not valid JSON (nested too deeply, or a number is too long)") from None
    if not isinstance(content, dict):
        raise _Unusable(f"expected a JSON object, not {_kind(content)}")
    return content


def _annotation(content: dict) -> AnnotationLine:
    name, height, width = _header(content)
    boxes = (_person(f"gtboxes[{i}]", x) for i, x in enumerate(_list(content, "gtboxes")))
    return AnnotationLine(name, tuple(boxes), height, width)


def _person(where: str, content: Any) -> PersonBox:
    if not isinstance(content, dict):
        raise _Unusable(f"{where}: expected an object, not {_kind(content)}")
    tag = content.get("tag")
    if not isinstance(tag, str):
        raise _Unusable(f"{where}: 'tag' must be a text, not {_kind(tag)}")
    visible, head = (None if content.get(k) is None else _box(f"{where}.{k}", content[k]) for k in ("vbox", "hbox"))
    attributes = [_attributes(where, content, key) for key in ("extra", "head_attr")]
    return PersonBox(tag, _box(f"{where}.fbox", content.get("fbox")), visible, head, *attributes)


def _attributes(where: str, content: dict, key: str) -> dict:
    value = content.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Unusable(f"{where}.{key}: expected an object, not {_kind(value)}")
    if not isinstance(value.get("ignore", 0), (int, float)):
        raise _Unusable(f"{where}.{key}.ignore: expected 0 or 1, not {_kind(value['ignore'])}")
    return value


def _result(content: dict) -> ResultLine:
    name, height, width = _header(content)
    entries = _list(content, "dtboxes")
    try:  # all at once; only where that fails one by one, for the reason
        boxes, scores = np.array([x["box"] for x in entries]), np.array([x["score"] for x in entries])
        usable = boxes.dtype.kind in "iuf" and scores.dtype.kind in "iuf" and boxes.shape == (len(entries), 4)
        usable = usable and scores.shape == (len(entries),) and np.isfinite(boxes).all() and np.isfinite(scores).all()
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        usable = False
    if not usable:
        pairs = [_detection(f"dtboxes[{i}]", x) for i, x in enumerate(entries)]
        boxes, scores = np.array([b for b, _ in pairs]).reshape(-1, 4), np.array([s for _, s in pairs])
    return ResultLine(name, boxes.astype(np.float64), scores.astype(np.float64), height, width)


def _detection(where: str, content: Any) -> tuple[Box, float]:
    if not isinstance(content, dict):
        raise _Unusable(f"{where}: expected an object, not {_kind(content)}")
    return _box(f"{where}.box", content.get("box")), _number(f"{where}.score", content.get("score"))


def _header(content: dict) -> tuple[str, float | None, float | None]:
    name = content.get("ID")
    if not isinstance(name, str) or not name:
        raise _Unusable(f"'ID' must be a text, not {'empty' if name == '' else _kind(name)}")
    sizes = [None if content.get(key) is None else _number(key, content[key]) for key in ("height", "width")]
    if any(size is not None and size <= 0 for size in sizes):
        raise _Unusable("height and width must be above 0")
    return name, sizes[0], sizes[1]


def _list(content: dict, key: str) -> list:
    if not isinstance(content.get(key), list):
        raise _Unusable(f"'{key}' must be a list, not {_kind(content.get(key))}")
    return content[key]


def _box(where: str, value: Any) -> Box:
    if not isinstance(value, list) or len(value) != 4:
        found = f"{len(value)} values" if isinstance(value, list) else _kind(value)
        raise _Unusable(f"{where}: expected 4 numbers x, y, w, h, not {found}")
    x, y, w, h = (_number(where, v) for v in value)
    return x, y, w, h


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Unusable(f"{where}: expected a number, not {_kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Unusable(f"{where}: a number is not finite")
    return number


def _kind(value: Any) -> str:
    kinds = {type(None): "nothing", bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def _annotation_json(line: AnnotationLine) -> dict[str, Any]:
    boxes = []
    for box in line.boxes:
        entry = {"tag": box.tag, "fbox": box.fbox, "vbox": box.vbox, "hbox": box.hbox}
        entry |= {"extra": box.extra or None, "head_attr": box.head_attr or None}
        boxes.append({key: value for key, value in entry.items() if value is not None})
    return {"ID": line.id, "gtboxes": boxes, **_size_json(line)}


def _result_json(line: ResultLine) -> dict[str, Any]:
    boxes = [{"box": b, "score": s, "tag": 1} for b, s in zip(line.boxes.tolist(), line.scores.tolist())]
    return {"ID": line.id, **_size_json(line), "dtboxes": boxes}


def _size_json(line: AnnotationLine | ResultLine) -> dict[str, float]:
    sizes = {"height": line.height, "width": line.width}
    return {k: int(v) if v == int(v) else v for k, v in sizes.items() if v is not None}


def _write(path: File, contents: Iterator[dict[str, Any]]) -> None:
    with whole_file(Path(path)) as file:
        for content in contents:
            file.write((json.dumps(content, allow_nan=False) + "\n").encode("utf-8"))
