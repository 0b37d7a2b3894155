"""A checkpointer that refuses weights of which the model can use nothing."""

from __future__ import annotations

import pickle
from typing import Any

from defcn_ext.config import UserError
from detectron2.checkpoint import DetectionCheckpointer


class Checkpointer(DetectionCheckpointer):
    """Detectron2's: loads what fits by name and shape, and tells the rest in the log. A wrong file is an error here."""

    def _load_file(self, filename: str) -> dict[str, Any]:
        """
        Raises:
            UserError: the file holds no weights.
        """
        try:
            checkpoint = super()._load_file(filename)
            checkpoint["model"].keys()
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).split("\n")[0]
            raise UserError(f"{filename}: holds no weights of a model ({type(error).__name__}: {reason})") from error
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]):
        """
        Raises:
            UserError: no entry has the name and the shape of one of the model.
        """
        entries = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        if len(incompatible.unexpected_keys) + len(incompatible.incorrect_shapes) >= len(entries):
            some = ", ".join(entries[:3]) or "none"
            raise UserError(
                f"none of the {len(entries)} entries of these weights fits the model (they are: {some} ...): "
                "give weights of the same backbone and detector"
            )
        return incompatible
