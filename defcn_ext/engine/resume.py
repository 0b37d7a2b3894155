"""Which checkpoint a run goes on from: the newest that is whole, and that is of this very model and optimizer."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from defcn_ext.checkpoint import read_checkpoint
from defcn_ext.checkpoint.entries import first_non_finite
from defcn_ext.config import UserError
from defcn_ext.engine.fit import DamagedError, OtherRunError, check_model, check_trainer, steps_alike

logger = logging.getLogger(__name__)


def newest_good(pointed: str, folder: str, model: nn.Module, checkpointables: Mapping[str, Any]) -> Path:
    """The checkpoint that `last_checkpoint` names, or the newest in `folder` that is good, with a warning.

    Args:
        pointed: what `Checkpointer.get_checkpoint_file` says.
        checkpointables: what goes on from a checkpoint besides the model; "trainer" is looked through.

    Raises:
        DamagedError: none is good.
        OtherRunError: the newest whole one is of another model, optimizer or trainer.
    """
    last, reasons = Path(pointed), []
    for path in [last, *(path for path in _by_age(Path(folder)) if path != last)]:
        try:
            check_resumable(path, model, checkpointables)
        except DamagedError as error:
            reasons.append(str(error))
            continue
        if reasons:
            logger.warning("%s; going on from %s instead", reasons[0], path)
        return path
    raise DamagedError(f"{reasons[0]}; {folder} holds no other checkpoint that is whole. Start anew elsewhere")


def check_resumable(path: Path, model: nn.Module, checkpointables: Mapping[str, Any]) -> None:
    """
    Raises:
        DamagedError: unreadable, incomplete, or not finite.
        OtherRunError: of another model, optimizer or trainer.
    """
    if path.is_dir():
        raise DamagedError(f"{path / 'last_checkpoint'}: names no checkpoint")
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        raise DamagedError(str(error)) from error
    content = {key: checkpoint.extras.get(key) for key in checkpointables}
    try:
        _check_sums(path)
        for key, value in content.items():
            if not isinstance(value, Mapping):
                raise DamagedError(f"incomplete, it has no entry {key}")
        trainer = checkpointables.get("trainer")
        check_model(checkpoint.state, model, steps_alike=trainer is None or steps_alike(content["trainer"], trainer))
        if trainer is not None:
            check_trainer(content["trainer"], trainer)
    except (DamagedError, OtherRunError) as error:
        raise type(error)(f"{path}: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    bad = first_non_finite({"model": checkpoint.state, **content})
    if bad:
        raise DamagedError(f"{path}: {bad} is not finite")


def _by_age(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    found = [path for path in folder.glob("*.pth") if path.is_file() and not path.name.startswith(".")]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def _check_sums(path: Path) -> None:
    """torch writes checksums, and reads without a look at them: a flipped bit would be another weight."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError) as error:
        raise DamagedError(f"damaged ({error})") from error
    if part:
        raise DamagedError(f"damaged, the checksum of its part {part} is wrong")
