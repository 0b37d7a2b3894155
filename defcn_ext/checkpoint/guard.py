"""Detectron2's checkpointer, made to read files as plain data.

Detectron2 unpickles `.pkl` files, which runs whatever they name, and its predictor, trainer and scripts all build their
own `DetectionCheckpointer`. There is no way in between but the class itself, so importing `defcn_ext` replaces how it
reads a file, and nothing else of it: files of every kind that it knows (its zoo's, Caffe2's and pycls's) give the same
weights, and others that are safe to read load too.
"""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import parse_qs, urlsplit

from defcn_ext.config import UserError
from detectron2.checkpoint import DetectionCheckpointer

from .reading import Checkpoint, read_checkpoint

HEURISTICS = "matching_heuristics"
QUERY = "_defcn_query"  # of the path that a checkpointer is loading


class UnfitWeightsError(UserError):
    """Weights of another model."""


def install() -> None:
    """Makes every `DetectionCheckpointer` of this process read its files by `read_checkpoint`."""
    if DetectionCheckpointer._load_file is _load_file:
        return
    plain_load = DetectionCheckpointer.load

    @functools.wraps(plain_load)
    def load(self: DetectionCheckpointer, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        setattr(self, QUERY, parse_qs(urlsplit(path).query) if path else {})
        try:
            return plain_load(self, path, *args, **kwargs)
        except UnfitWeightsError as error:
            raise UserError(f"{path}: {error}") from error

    DetectionCheckpointer.load = load
    DetectionCheckpointer._load_file = _load_file


def _load_file(self: DetectionCheckpointer, filename: str) -> dict[str, Any]:
    """
    Raises:
        UserError: no weights, or a file that would run something.
        ValueError: the path ends in a query that is not understood.
    """
    read = read_checkpoint(filename)
    if read.pickled and "__author__" in read.extras:
        self.logger.info(f"Reading a file from '{read.extras['__author__']}'")
    content = as_detectron2(read)
    query = dict(getattr(self, QUERY, {}))
    if query.pop(HEURISTICS, None) == ["True"]:
        content[HEURISTICS] = True
    if query:
        raise ValueError(f"{filename}: unknown query {query}; known: ?{HEURISTICS}=True")
    return content


def as_detectron2(read: Checkpoint) -> dict[str, Any]:
    """What Detectron2 makes of such a file: the weights as "model", and how their names are to be matched."""
    if read.pickled and "__author__" not in read.extras:
        blobs = {name: value for name, value in read.state.items() if not name.endswith("_momentum")}
        return {"model": blobs, "__author__": "Caffe2", HEURISTICS: True}
    if read.wrapper == "model_state":
        state = {name: value for name, value in read.state.items() if "num_batches_tracked" not in name}
        return {"model": state, "__author__": "pycls", HEURISTICS: True}
    return {**read.extras, "model": read.state}
