"""Weights for looking at images: all that the model needs for it, or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from defcn_ext.config import UserError
from detectron2.checkpoint import DetectionCheckpointer

from .entries import first_non_finite
from .guard import UnfitWeightsError

QUIET = ("num_batches_tracked", "pixel_mean", "pixel_std")  # that some versions save and others do not
OLD = "anchor_generator.cell_anchors"
SHOWN = 3  # names of each kind


def load_weights(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Loads a checkpoint into a model that is to detect, not to train.

    Branches that only train may be in one and not in the other; everything else must be in both, with the same shape.

    Args:
        path: file or URL, as in MODEL.WEIGHTS.

    Returns:
        what else is in the file.

    Raises:
        UserError: the file holds no weights, or those of another model. One line, with the file and some names.
    """
    if not str(path):
        raise UserError("no weights given: a detector with random ones finds nothing")
    try:
        return StrictCheckpointer(model).load(str(path), checkpointables=[])
    except (AssertionError, OSError) as error:  # not there, or a URL that cannot be fetched
        raise UserError(f"{path}: no such file, or it cannot be fetched ({error})") from error


def check_fit(
    model: nn.Module, missing: Sequence[str], unused: Sequence[str] = (), shapes: Sequence[tuple[str, Any, Any]] = ()
) -> None:
    """
    Args:
        model: with the weights in it.
        missing: entries of the model that the weights lack, or have in another shape.
        unused: entries of the weights that the model lacks.
        shapes: name, shape in the weights, shape in the model.

    Raises:
        UnfitWeightsError: an entry matters for detecting, or one that does is not finite.
    """
    needs = getattr(model, "needs_to_detect", lambda name: True)
    other = {name for name, _, _ in shapes}
    absent = [name for name in missing if name not in other and needs(name) and not name.endswith(QUIET)]
    foreign = [name for name in unused if needs(name) and not name.endswith(QUIET) and OLD not in name]
    wrong = [f"{name} {tuple(there)}, here {tuple(here)}" for name, there, here in shapes if needs(name)]
    kinds = {"that they lack": absent, "that the model lacks": foreign, "of another shape": wrong}
    told = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names)
    if told:
        raise UnfitWeightsError(
            f"weights of another model, by their entries: {told}. Give the config that they were trained with"
        )
    check_finite({name: value for name, value in model.state_dict().items() if needs(name)})


def check_finite(state: Mapping[str, Tensor]) -> None:
    """
    Raises:
        UnfitWeightsError: an entry holds a nan or an infinity.
    """
    bad = first_non_finite(state)
    if bad:
        raise UnfitWeightsError(f"{bad} of these weights is not finite; give an earlier checkpoint")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


class StrictCheckpointer(DetectionCheckpointer):
    """Detectron2's, for a model that is to detect: weights that are not its own are an error, as in `load_weights`."""

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        training, self.model.training = self.model.training, True  # the model's own check knows less of the file
        try:
            found = super()._load_model(checkpoint)
        finally:
            self.model.training = training
        check_fit(self.model, found.missing_keys, found.unexpected_keys, found.incorrect_shapes)
        return found
