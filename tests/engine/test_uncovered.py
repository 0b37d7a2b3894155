from types import SimpleNamespace

import pytest

from defcn_ext.engine.uncovered import UncoveredObjects
from detectron2.utils.events import EventStorage


def warnings_after(caplog, uncovered, objects, iterations, start=0):
    hook = UncoveredObjects()
    with EventStorage(start) as storage:
        hook.trainer = SimpleNamespace(storage=storage, max_iter=iterations, start_iter=start)
        for _ in range(start, iterations):
            storage.put_scalars(**{"one/uncovered_objects": uncovered, "one/objects": objects})
            hook.after_step()
            storage.step()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("iterations, start, counted", [(4, 0, 4), (10, 7, 3), (80, 0, 50)])
def test_most_objects_cover_no_point(caplog, iterations, start, counted):
    (told,) = warnings_after(caplog, 3, 5, iterations, start)
    assert told.startswith(f"one: {3 * counted} of the {5 * counted} objects of the first {counted} iterations cover")


@pytest.mark.parametrize("uncovered, objects, lines", [(2, 5, 0), (0, 5, 0), (0, 0, 1)])
def test_half_of_them_do_or_there_are_none(caplog, uncovered, objects, lines):
    told = warnings_after(caplog, uncovered, objects, 3)
    assert len(told) == lines and all(line.startswith("No object in the first 3 iterations") for line in told)
