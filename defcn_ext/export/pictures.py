"""Pictures to compare a file on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from defcn_ext.config import UserError
from defcn_ext.deploy.images import files_of, read_rgb
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog


def pictures_of(folder: str | None, cfg: CfgNode, number: int) -> list[np.ndarray]:
    """Up to so many pictures, evenly from a folder, or from the test set of a config where it is at hand.

    Raises:
        ModelFileError: no such folder, none in it, or one that cannot be read.
    """
    files = files_of(folder) if folder else _test_files(cfg)
    step = max(1, len(files) // max(1, number))
    return [read_rgb(file) for file in files[::step][:number]]


def _test_files(cfg: CfgNode) -> list[Path]:
    for name in cfg.DATASETS.TEST:
        try:
            files = [Path(record["file_name"]) for record in DatasetCatalog.get(name)]
        except (OSError, KeyError, UserError):  # it is not on this machine
            continue
        if files and all(file.is_file() for file in files):
            return files
    return []
