"""The config that a checkpoint carries, as one of this project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from defcn_ext.checkpoint import Checkpoint
from defcn_ext.checkpoint.description import config_text_of
from defcn_ext.engine.preflight import load_config
from detectron2.config import CfgNode


def config_of(source: str | Path | Checkpoint, opts: Sequence[str] = ()) -> CfgNode | None:
    """The frozen config that a checkpoint was trained with, with MODEL.WEIGHTS its own file.

    MODEL.DEVICE and OUTPUT_DIR are not kept in files: they have their defaults, as in `load_config`.

    Args:
        source: the file, or what `read_checkpoint` made of it.
        opts: KEY, VALUE, ... that change it.

    Returns:
        None where the file carries no config, as those of stock Detectron2.

    Raises:
        UserError: the file cannot be read, or a key of its config is unknown here or has a value of another type.
    """
    content = config_text_of(source)
    if content is None:
        return None
    path = source.path if isinstance(source, Checkpoint) else str(source)
    if isinstance(content.get("MODEL"), dict):
        content["MODEL"]["WEIGHTS"] = path
    return load_config(content, opts, name=f"{path}, its config")
