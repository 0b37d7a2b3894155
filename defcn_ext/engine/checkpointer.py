"""A checkpointer whose files are whole and say what they are, and that refuses what a model or a run cannot use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from defcn_ext._text import whole_file, write_whole
from defcn_ext.checkpoint import StrictCheckpointer, describe
from defcn_ext.checkpoint.entries import first_non_finite
from defcn_ext.checkpoint.guard import UnfitWeightsError
from defcn_ext.checkpoint.strict import check_finite
from defcn_ext.config import UserError
from defcn_ext.engine.resume import newest_good
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils import comm


class Checkpointer(DetectionCheckpointer):
    """Detectron2's: loads what fits by name and shape, and tells the rest in the log. A wrong file is an error here.

    A save that is killed, or that finds no room, leaves the earlier checkpoints and `last_checkpoint` as they were.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, cfg: CfgNode | None = None, **checkpointables: Any):
        """
        Args:
            cfg: saved with the weights, beside the names of its classes; `defcn_ext.checkpoint.describe` tells how.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.cfg = cfg
        self.resumed_from = ""  # name of the checkpoint that a run goes on from

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes the model, the checkpointables, the config and `kwargs` to `name`.pth in the local folder `save_dir`.

        Raises:
            FloatingPointError: a weight, or a number that training goes on with, is not finite.
            UserError: the disk is full, or the folder cannot be written to.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir, f"{name}.pth")
        content = {"model": self.model.state_dict()}
        content |= {key: source.state_dict() for key, source in self.checkpointables.items()}
        bad = first_non_finite(content)
        if bad:
            raise FloatingPointError(
                f"{path}: not saved, as {bad} is not finite; resume from an earlier checkpoint with a lower "
                "SOLVER.BASE_LR, or with SOLVER.CLIP_GRADIENTS"
            )
        content |= kwargs if self.cfg is None else describe(self.cfg) | kwargs
        self.logger.info("Saving checkpoint to %s", path)
        try:
            with whole_file(path) as file:
                torch.save(content, file)
            self.tag_last_checkpoint(path.name)
        except (OSError, RuntimeError) as error:
            reason = _system_error(error)
            if reason is None:
                raise
            raise UserError(
                f"{path}: cannot be saved ({reason.strerror}); what was saved before stays. Continue with --resume "
                "when that is mended"
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_whole(Path(self.save_dir, "last_checkpoint"), last_filename_basename)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With `resume`, goes on from the newest good checkpoint in `save_dir`, if there is a `last_checkpoint`.

        Raises:
            UserError: no checkpoint there is good, or they are of another model or optimizer.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        found: str | UserError | None = None
        if comm.is_main_process():  # one process decides, so that all go on from the same file
            try:
                found = str(newest_good(self._pointed(), self.save_dir, self.model, self.checkpointables))
            except UserError as error:
                found = error
        found = comm.all_gather(found)[0]
        if isinstance(found, UserError):
            raise found
        self.resumed_from = Path(found).name
        return self.load(found)

    def _pointed(self) -> str:
        """The file that `last_checkpoint` names, or the folder where it names none."""
        try:
            return self.get_checkpoint_file() or self.save_dir
        except ValueError:  # no text
            return self.save_dir

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        """
        Raises:
            UserError: no entry has the name and the shape of one of the model, or one is not finite.
        """
        entries = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        if len(incompatible.unexpected_keys) + len(incompatible.incorrect_shapes) >= len(entries):
            some = ", ".join(entries[:3]) or "none"
            raise UnfitWeightsError(
                f"none of the {len(entries)} entries of these weights fits the model (they are: {some} ...): "
                "give weights of the same backbone and detector"
            )
        check_finite(self.model.state_dict())
        return incompatible


class DetectingCheckpointer(StrictCheckpointer, Checkpointer):
    """For a model that is to be evaluated: takes its own weights, whole, or none."""


def _system_error(error: BaseException | None) -> OSError | None:
    """The OSError behind an error: torch's writer meets a full disk with one of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
