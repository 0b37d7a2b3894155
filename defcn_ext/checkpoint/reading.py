"""Checkpoint files, read without running anything that is in them."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from defcn_ext.config import UserError

from .numpy_pickle import RefusedGlobalError, load_numpy_pickle, numpy_globals, tensor_of_bytes, tensors_of

ZIP = b"PK\x03\x04"
TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number as a pickle
WRAPPERS = ("state_dict", "model")
GLOBAL = re.compile(r"GLOBAL ([A-Za-z_][\w.]*)")  # in what torch says when it refuses
NOT_WEIGHTS = {
    "an HTML page, perhaps of a failed download": re.compile(rb"\s*<(?:!doctype|html|head|\?xml)", re.I),
    "a pointer of git LFS, not the file itself (git lfs pull)": re.compile(rb"version https://git-lfs"),
    "a numpy .npy file": re.compile(rb"\x93NUMPY"),
    "a gzip archive; unpack it first": re.compile(rb"\x1f\x8b"),
    "a text file": re.compile(rb"[\t\r\n -~]{16}"),
}
SAFETENSORS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SAFETENSORS |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file by name, and what else it holds."""

    path: str
    state: dict[str, Tensor]
    extras: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path, trust: bool = False) -> Checkpoint:
    """Reads a torch file, a pickle of numpy arrays, or a safetensors file; which one, its first bytes say.

    Args:
        trust: let the file run what it names, where it names more than tensors and plain data.

    Raises:
        UserError: no such file, not weights, damaged, or it names something that is refused. One line, with the file.
    """
    path = Path(path)
    read = _reader(path)
    try:
        content = read(path, trust)
    except RefusedGlobalError as error:
        raise UserError(_refusal(path, error.name)) from error
    except pickle.UnpicklingError as error:
        name = GLOBAL.search(str(error))
        if name:
            raise UserError(_refusal(path, name[1])) from error
        raise UserError(f"{path}: truncated, damaged, or no file of weights ({_first_line(error)})") from error
    except UserError:
        raise
    except Exception as error:  # what a damaged pickle or archive raises is without limit
        detail = f"{type(error).__name__}: {_first_line(error)}"
        raise UserError(f"{path}: truncated, damaged, or no file of weights ({detail})") from error
    return _unwrap(path, content)


def _reader(path: Path) -> Callable[[Path, bool], Any]:
    if path.is_dir():
        raise UserError(f"{path}: a folder; give the file of weights in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise UserError(f"{path}: empty")
    if start.startswith(ZIP) or TORCH_LEGACY in start[:16]:
        return _read_torch
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _read_safetensors
    if start[:1] == b"\x80" or start[:2] in (b"(d", b"}q", b"cc"):
        return _read_pickle
    for what, pattern in NOT_WEIGHTS.items():
        if pattern.match(start):
            raise UserError(f"{path}: {what}")
    raise UserError(f"{path}: no file of weights; known are torch files, pickles of numpy arrays and safetensors")


def _read_torch(path: Path, trust: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old storages; and what numpy says of its old names
        if trust:
            return torch.load(path, map_location="cpu", weights_only=False)
        with torch.serialization.safe_globals(list(numpy_globals().values())):
            return torch.load(path, map_location="cpu", weights_only=True)


def _read_pickle(path: Path, trust: bool) -> Any:
    with path.open("rb") as file:
        if not trust:
            return load_numpy_pickle(file)
        content = pickle.load(file, encoding="latin1")
    state = content.get("model", content)
    return {"model": {key: torch.as_tensor(value) for key, value in state.items()}}


def _read_safetensors(path: Path, trust: bool) -> dict[str, Tensor]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header, data = json.loads(file.read(size)), file.read()
    header.pop("__metadata__", None)
    state = {}
    for name, entry in header.items():
        if entry["dtype"] not in SAFETENSORS:
            raise ValueError(f"{name}: safetensors type {entry['dtype']}")
        begin, end = entry["data_offsets"]
        state[name] = tensor_of_bytes(data[begin:end], SAFETENSORS[entry["dtype"]], entry["shape"])
    return state


def _unwrap(path: Path, content: Any) -> Checkpoint:
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not weights by name")
    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
    state = content if wrapper is None else content[wrapper]
    extras = {} if wrapper is None else {key: value for key, value in content.items() if key != wrapper}
    if not state:
        raise UserError(f"{path}: holds no weights")
    try:
        state = tensors_of(state)
    except ValueError as error:
        raise UserError(f"{path}: holds {error}") from error
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: entry {key!r} is a {type(value).__name__}, not a tensor: no weights by name")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return Checkpoint(str(path), state, extras)


def _refusal(path: Path, name: str) -> str:
    return (
        f"{path}: refused, as it names {name}, which could run anything. Ask for a file of tensors alone, or, if you "
        "trust whoever made it, give --trust"
    )


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split(". ")[0].split())[:200]
