"""The moments of a training that hooks act at."""

from .train_loop import TrainerBase


def is_due(trainer: TrainerBase, period: int) -> bool:
    """After a step: whether a multiple of `period` iterations is done. Never with period 0."""
    return period > 0 and (trainer.iter + 1) % period == 0


def is_last(trainer: TrainerBase) -> bool:
    """During a step: whether no other follows."""
    return trainer.iter + 1 == trainer.max_iter


def is_finished(trainer: TrainerBase) -> bool:
    """After training: whether the last iteration was reached; as in Detectron2 also where it failed."""
    return trainer.iter + 1 >= trainer.max_iter
