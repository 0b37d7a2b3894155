"""Whether a checkpoint holds all that a run goes on from, and is of the same model, optimizer and hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from defcn_ext.checkpoint.entries import entries
from defcn_ext.config import UserError

MANIFEST = "entries"  # under which a trainer's state lists what is in it
OPTIMIZER = "_trainer/optimizer/"
# What Detectron2's own trainers do not write, or the step makes as it goes.
MAY_LACK = (f"{MANIFEST}/", OPTIMIZER, "_trainer/seed", "_trainer/grad_scaler/", "_trainer/skipped/")
# Detectron2 no longer writes the first two, and once wrote the third.
QUIET = ("pixel_mean", "pixel_std", "anchor_generator.cell_anchors")
HYPERPARAMETERS = ("a number", "numbers")  # of an optimizer; its switches differ with the version of torch


class DamagedError(UserError):
    """A checkpoint that is not what was saved. An earlier one may be."""


class OtherRunError(UserError):
    """A whole checkpoint that this model or optimizer cannot go on from. Earlier ones are no better."""

    @classmethod
    def of(cls, what: str, difference: str) -> OtherRunError:
        return cls(
            f"of another {what} ({difference}). Resume with the config that it was trained with; or start from its "
            "weights: give it as MODEL.WEIGHTS, with another OUTPUT_DIR and without --resume"
        )


def with_manifest(state: dict[str, Any]) -> dict[str, Any]:
    """A trainer's state, and in it the list of its entries, by which a loss can be told from another run."""
    return {**state, MANIFEST: [path for path, _ in entries(state)]}


def check_model(state: Mapping[str, Tensor], model: nn.Module, *, steps_alike: bool = True) -> None:
    """
    Args:
        state: the weights of a checkpoint.
        steps_alike: what `steps_alike` says; else missing entries are no loss, but were never there.

    Raises:
        DamagedError: entries are missing.
        OtherRunError: entries have other shapes, or are not the model's.
    """
    own = model.state_dict()
    both = [name for name in own if name in state]
    other = [
        *(f"model/{k} is {_kind(state[k])}, here {_kind(own[k])}" for k in both if own[k].shape != state[k].shape),
        *(f"model/{name} is not of this model" for name in state if name not in own and not _is_quiet(name)),
    ]
    missing = [name for name in own if name not in state and not _is_quiet(name)]
    if other:
        more = f", and {len(other) + len(missing) - 1} more" if len(other) + len(missing) > 1 else ""
        raise OtherRunError.of("model", other[0] + more)
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        if not steps_alike:
            raise OtherRunError.of("model", f"it has no entry model/{missing[0]}{more}")
        raise DamagedError(f"no entry model/{missing[0]}{more}: incomplete, or of another model")


def steps_alike(state: Any, trainer: Any) -> bool:
    """Whether the optimizer in a trainer's state steps as many parameters as this trainer's, or does not say."""
    try:
        groups = state["_trainer"]["optimizer"]["param_groups"]
        return sum(_sizes(groups)) == sum(_sizes(trainer.optimizer.param_groups))
    except (KeyError, TypeError):
        return True


def _sizes(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def check_trainer(state: Mapping[str, Any], trainer: Any) -> None:
    """
    Args:
        state: the entry "trainer" of a checkpoint.
        trainer: of Detectron2's `DefaultTrainer`.

    Raises:
        DamagedError: entries are missing, or contradict each other.
        OtherRunError: of another optimizer or model, or with other hooks.
    """
    own, found = trainer.state_dict(), dict(entries(state))
    lost = [path for path in state.get(MANIFEST, ()) if path not in found]
    if lost:
        raise DamagedError(f"incomplete, it has no entry trainer/{lost[0]}")
    _check_optimizer(state, trainer.optimizer)
    unknown = [name for name in state.get("hooks", {}) if name not in own.get("hooks", {})]
    if unknown:
        raise OtherRunError.of("trainer", f"trainer/hooks/{unknown[0]} is of a hook that this run lacks")
    for path, value in entries(own):
        if path.startswith(MAY_LACK):
            continue
        if path not in found:
            if MANIFEST in state:
                raise OtherRunError.of("trainer", f"it has no entry trainer/{path}")
            raise DamagedError(f"incomplete, it has no entry trainer/{path}")
        if _kind(value) != _kind(found[path]):
            raise DamagedError(f"trainer/{path} is {_kind(found[path])}, where {_kind(value)} belongs")
    _check_iterations(state["iteration"], state["_trainer"]["iteration"], found.get("hooks/LRScheduler/last_epoch"))


def _check_iterations(iteration: int, of_step: int, of_schedule: int | None) -> None:
    """A hook of Detectron2 saves after the training too, when the first number is one ahead."""
    if of_schedule not in (None, of_step + 1) or iteration not in (of_step, of_step + 1):
        raise DamagedError(
            f"trainer/iteration {iteration}, trainer/_trainer/iteration {of_step} and "
            f"trainer/hooks/LRScheduler/last_epoch {of_schedule} contradict each other"
        )


def _check_optimizer(state: Mapping[str, Any], optimizer: Optimizer) -> None:
    try:
        found = state["_trainer"]["optimizer"]
        groups, kept = found["param_groups"], found["state"]
    except (KeyError, TypeError) as error:
        raise DamagedError(f"incomplete, it has no entry trainer/{OPTIMIZER}... ({error})") from error
    for own, group in zip(optimizer.param_groups, groups):
        lacks = [key for key, value in own.items() if _kind(value) in HYPERPARAMETERS and key not in group]
        if lacks:
            raise OtherRunError.of("optimizer", f"it has no {lacks[0]!r}, and here is {type(optimizer).__name__}")
    sizes = [_sizes(groups), _sizes(optimizer.param_groups)]
    if sizes[0] != sizes[1]:
        raise OtherRunError.of("model or optimizer", f"of {sizes[0]} parameters in its groups, here {sizes[1]}")
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, values in kept.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != params[index].shape:
                path = f"trainer/{OPTIMIZER}state/{index}/{key}"
                raise OtherRunError.of("model", f"{path} is {_kind(value)}, here {_kind(params[index])}")


def _is_quiet(name: str) -> bool:
    return any(part in name for part in QUIET)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return "a tensor of " + ("x".join(map(str, value.shape)) or "one number")
    if isinstance(value, bool) or value is None:
        return "a switch"
    if isinstance(value, (tuple, list)):
        return "numbers"
    return "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}"
