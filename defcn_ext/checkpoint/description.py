"""What a checkpoint says of itself, so that the file of weights alone is enough: its config and its classes.

Both are plain text in entries of their own, which Detectron2 hands back unread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from defcn_ext.config import UserError
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from .reading import Checkpoint, read_checkpoint

CONFIG, CLASSES = "config", "thing_classes"
NOT_SAVED = (("MODEL", "DEVICE"), ("MODEL", "WEIGHTS"), ("OUTPUT_DIR",), ("DATASETS", "CLASSES"))


def describe(cfg: CfgNode) -> dict[str, Any]:
    """The entries to save: "config", the whole config as yaml without what belongs to one machine, and "thing_classes",
    the names of the classes in the order of the model's, where DATASETS.CLASSES or the data sets say them.
    """
    own = cfg.clone()
    own.defrost()
    for *parents, key in NOT_SAVED:
        node = own
        for name in parents:
            node = node[name]
        node.pop(key, None)
    classes = next(_class_names(cfg), None)
    return {CONFIG: own.dump(), **({} if classes is None else {CLASSES: classes})}


def _class_names(cfg: CfgNode) -> Iterator[list[str]]:
    if cfg.DATASETS.get("CLASSES"):
        yield list(cfg.DATASETS.CLASSES)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name in DatasetCatalog:
            classes = MetadataCatalog.get(name).get("thing_classes")
            if classes:
                yield [str(x) for x in classes]


def classes_of(source: str | Path | Checkpoint) -> list[str] | None:
    """The names of the classes that a checkpoint's model knows, by class index; None where the file does not say.

    Raises:
        UserError: the file cannot be read, or what it says is no list of names.
    """
    checkpoint = _read(source)
    found = checkpoint.extras.get(CLASSES)
    if found is not None and not _is_names(found):
        raise UserError(f"{checkpoint.path}: entry {CLASSES!r} is no list of names")
    return None if found is None else list(found)


def config_text_of(source: str | Path | Checkpoint) -> dict[str, Any] | None:
    """The config that a checkpoint carries, as nested dicts; None where it carries none.

    Raises:
        UserError: the file cannot be read, or its config is no yaml of keys and values.
    """
    checkpoint = _read(source)
    text = checkpoint.extras.get(CONFIG)
    if text is None:
        return None
    try:
        content = yaml.safe_load(text) if isinstance(text, str) else None
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{checkpoint.path}: entry {CONFIG!r} is no config")
    return content


def _read(source: str | Path | Checkpoint) -> Checkpoint:
    return source if isinstance(source, Checkpoint) else read_checkpoint(source)


def _is_names(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(x, str) for x in value)
