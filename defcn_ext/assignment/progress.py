"""How far a training is, for the rules that change with it."""

from __future__ import annotations


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
