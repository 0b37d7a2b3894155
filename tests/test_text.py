"""Files that are whole or not there."""

import os

import pytest

from defcn_ext._text import drop_torn_line, partial_of, whole_file, write_whole


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old ä")
    with whole_file(path) as file:
        file.write(b"ne")
        assert path.read_text(encoding="utf-8") == "old ä" and partial_of(path).exists()
        file.write(b"w")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(error), whole_file(path) as file:
        file.write(b"half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_killed_ones_leftover_is_written_over(tmp_path):
    partial_of(tmp_path / "a.txt").write_text("a longer leftover")
    write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_rivals_write_into_files_of_their_own(tmp_path):
    """One that is written to after another has renamed it would be a torn file under the final name."""
    path = tmp_path / "a.txt"
    with whole_file(path, rivals=True) as file:
        file.write(b"first")
        own, shared = os.listdir(tmp_path)[0], partial_of(path).name
        assert own != shared and str(os.getpid()) in own
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), ("{}\n", "{}\n"), ('{"a": 1}\n{"b": ', '{"a": 1}\n'), ('{"torn"', ""), (None, None)],
)
def test_a_torn_last_line_is_dropped(tmp_path, before, after):
    path = tmp_path / "metrics.json"
    if before is not None:
        path.write_text(before)
    drop_torn_line(path)
    assert (path.read_text() if path.exists() else None) == after
