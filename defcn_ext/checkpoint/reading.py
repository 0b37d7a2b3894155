"""Checkpoint files, read without running anything that is in them."""

from __future__ import annotations

import io
import json
import logging
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from defcn_ext.config import UserError

from .numpy_pickle import PickledArray, PickledScalar, numpy_globals, tensor_of_bytes
from .plain_pickle import Foreign, RefusedGlobalError, load_plain_pickle, name_of, names_in, plain, stand_in

logger = logging.getLogger(__name__)

ZIP = b"PK\x03\x04"
TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number as a pickle
LEGACY_PICKLES = 4  # magic number, protocol, machine, content; then the numbers
# Where weights lie in files, the first that is there: Detectron2 and most, mmdetection and Lightning, pycls, others,
# the average of timm and DETR's relatives, Caffe2.
WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict", "model_ema", "ema_state_dict", "blobs")
PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, Lightning, torch.compile
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
    """The weights of a file by name, and what else it holds, as plain data.

    `wrapper` is the key that they lay under, "" for none; `pickled` says that no torch wrote the file.
    """

    path: str
    state: dict[str, Tensor]
    extras: dict[str, Any] = field(default_factory=dict)
    wrapper: str = ""
    pickled: bool = False


def read_checkpoint(path: str | Path, trust: bool = False) -> Checkpoint:
    """Reads a torch file, a pickle of numpy arrays, or a safetensors file; which one, its first bytes say.

    Weights may lie under any of `WRAPPERS`, and their names may all begin with one of `PREFIXES`. Objects of unknown
    classes beside the weights are left out, with a line in the log.

    Args:
        trust: let the file run what it names, where it names more than tensors and plain data.

    Raises:
        UserError: no such file, not weights, damaged, or it would call something. One line, with the file.
    """
    path = Path(path)
    read = _reader(path)
    try:
        return _unwrap(path, read(path, trust), read is _read_pickle)
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


def check_kind(path: str | Path) -> None:
    """Looks at the first bytes of a file, where it takes long to read it all.

    Raises:
        UserError: no such file, or not weights. One line, with the file.
    """
    _reader(Path(path))


def _reader(path: Path) -> Callable[[Path, bool], Any]:
    if path.is_dir():
        raise UserError(f"{path}: a folder; give the file of weights in it")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path}: a pipe or a device, not a file of weights")
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
        known, names = numpy_globals(), sorted(_torch_names(path))
        others = [stand_in(name) for name in names if name not in known]
        with torch.serialization.safe_globals([*known.values(), *others]):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                module = next((name for name in names if name.startswith("torch.nn.modules.")), "")
                if module:  # of the old format, which keeps modules in a way of its own
                    raise UserError(_whole_module(path, module)) from error
                raise


def _torch_names(path: Path) -> set[str]:
    """What the pickle in a torch file names; torch itself looks up those that it knows to be harmless.

    Raises:
        UserError: a program, not weights.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(len(ZIP)) == ZIP:
                raise UserError(f"{path}: truncated, damaged, or no file of weights (a zip archive without an end)")
            file.seek(0)
            return names_in(file, LEGACY_PICKLES)
    with zipfile.ZipFile(path) as archive:
        parts = {name.partition("/")[2]: name for name in archive.namelist()}
        if "constants.pkl" in parts:
            raise UserError(f"{path}: a TorchScript program, not weights; save its state_dict() instead")
        if "data.pkl" not in parts:
            raise UserError(f"{path}: a zip archive without weights in it; unpack it first")
        return names_in(io.BytesIO(archive.read(parts["data.pkl"])))


def _read_pickle(path: Path, trust: bool) -> Any:
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1") if trust else load_plain_pickle(file)


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


def _unwrap(path: Path, content: Any, pickled: bool) -> Checkpoint:
    if isinstance(content, Foreign):
        raise UserError(_whole_module(path, name_of(type(content))))
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not weights by name")
    wrapper = _wrapper(path, content)
    inner = content[wrapper] if wrapper else content
    if wrapper == "model" and _wrapper(path, inner):  # one within the other
        inner = inner[_wrapper(path, inner)]
    left_out: set[str] = set()
    extras = plain({key: value for key, value in content.items() if key != wrapper}, left_out) if wrapper else {}
    if left_out:
        logger.warning("%s: read without its objects of %s", path, ", ".join(sorted(left_out)))
    return Checkpoint(str(path), _weights(path, inner), extras, wrapper, pickled)


def _wrapper(path: Path, content: dict) -> str:
    for key in WRAPPERS:
        if isinstance(content.get(key), dict):
            return key
        if isinstance(content.get(key), Foreign):
            raise UserError(_whole_module(path, name_of(type(content[key]))))
    return ""


def _weights(path: Path, entries: dict) -> dict[str, Tensor]:
    if not entries:
        raise UserError(f"{path}: holds no weights")
    state: dict[str, Tensor] = OrderedDict()
    for key, value in entries.items():
        try:
            tensor = _tensor(value)
        except ValueError as error:
            raise UserError(f"{path}: holds {error}") from error
        if not isinstance(key, str) or tensor is None:
            raise UserError(f"{path}: entry {key!r} is a {type(value).__name__}, not a tensor: no weights by name")
        state[key] = tensor
    while prefix := next((x for x in PREFIXES if all(key.startswith(x) for key in state)), ""):
        state = OrderedDict((key.removeprefix(prefix), value) for key, value in state.items())
    if hasattr(entries, "_metadata"):  # by which modules know their older versions
        state._metadata = plain(entries._metadata, set())  # type: ignore[attr-defined]
    return state


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, (PickledArray, PickledScalar)):
        value = value.resolve()
    if isinstance(value, (np.ndarray, np.generic)):  # of a trusted file
        return torch.from_numpy(np.array(value))
    return value if isinstance(value, Tensor) else None


def _whole_module(path: Path, name: str) -> str:
    return (
        f"{path}: a whole pickled {name}, not weights by name; where its code is installed, save "
        "model.state_dict() of it and give that file"
    )


def _refusal(path: Path, name: str) -> str:
    return (
        f"{path}: refused, as it names {name}, which could run anything. Ask for a file of tensors alone, or, if you "
        "trust whoever made it, rewrite it with convert_checkpoint --trust"
    )


def _first_line(error: Exception) -> str:
    text = str(error).rpartition("WeightsUnpickler error:")[2]  # behind torch's advice
    return " ".join(text.split(". ")[0].split())[:200]
