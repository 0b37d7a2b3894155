import pytest

from defcn_ext.assignment.progress import Progress, epoch_of, is_before


@pytest.mark.parametrize(
    "iteration, iterations, share, behind",
    [(0, 10, 0.0, 0.0), (3, 10, 3 / 9, 0.3), (9, 10, 1.0, 0.9), (12, 10, 1.0, 0.9), (0, 1, 0.0, 0.0), (5, 1, 0.0, 0.0)],
)
def test_both_shares(iteration, iterations, share, behind):
    progress = Progress(iteration, iterations)
    assert progress == share and progress.finished == behind


def test_epochs_of_ten_iterations_in_three():
    assert [epoch_of(Progress(i, 10), 3) for i in range(10)] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_plain_share():
    assert [epoch_of(p, 3) for p in (0.0, 0.333, 1 / 3, 0.99, 1.0)] == [0, 0, 1, 2, 2]
    assert is_before(0.66, 2 / 3) and not is_before(2 / 3, 2 / 3)


def test_the_switch_of_ten_iterations_at_two_thirds():
    assert [is_before(Progress(i, 10), 2 / 3) for i in range(10)] == [True] * 7 + [False] * 3
