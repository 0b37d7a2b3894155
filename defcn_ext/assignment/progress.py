"""How far a training is, for the rules that change with it."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

Number = TypeVar("Number", int, float)
# An option that is one number, or (start, end): a straight line over the training. Where a step's signature says so,
# yaml may give either.
Moving: TypeAlias = "Number | tuple[Number, Number]"


class Progress(float):
    """The share `i / (I - 1)` of iteration i of I, from 0 at the first to 1 at the last; it knows I.

    With the share alone, the epoch of an iteration cannot be told where the epochs do not divide I.

    Attributes:
        finished: the share `i / I` of the iterations that lie behind.
    """

    finished: float

    def __new__(cls, iteration: int, iterations: int) -> Progress:
        """Iterations beyond the last count as the last; a training of one iteration is at 0."""
        iteration = min(iteration, iterations - 1)
        progress = super().__new__(cls, iteration / max(1, iterations - 1))
        progress.finished = iteration / iterations
        return progress


def epoch_of(progress: float, epochs: int) -> int:
    """The 0-based epoch `floor(i epochs / I)` (40-o2f, section 5), epochs - 1 at most.

    A plain number counts as the share that lies behind.
    """
    finished = progress.finished if isinstance(progress, Progress) else progress
    return min(epochs - 1, int(finished * epochs + 1e-9))  # i epochs / I is whole, or 1 / I away from whole


def is_before(progress: float, switch: float) -> bool:
    """Whether less than the share `switch` of the training lies behind."""
    return (progress.finished if isinstance(progress, Progress) else progress) < switch


def moving(value: Moving[float], progress: float) -> float:
    """The value of an option at a share of the training.

    Example:
        >>> moving(1.5, 0.25), moving((1.5, 0.3), 0.25)
        (1.5, 1.2)
    """
    start, end = ends(value)
    return start + (end - start) * progress


def moving_number(value: Moving[int], progress: float) -> int:
    """The same in whole numbers, each for an equal share of the training.

    Example:
        >>> [moving_number((3, 1), progress) for progress in (0.0, 0.3, 0.4, 0.6, 0.7, 1.0)]
        [3, 3, 2, 2, 1, 1]
    """
    start, end = ends(value)
    steps = min(abs(end - start), int((abs(end - start) + 1) * progress))
    return start + steps if end > start else start - steps


def ends(value: Moving[Number]) -> tuple[Number, Number]:
    """(start, end) of an option that may be one number."""
    return value if isinstance(value, tuple) else (value, value)
