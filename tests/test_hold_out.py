"""A split of a training set: nothing is lost, nothing is in both halves, and the old validation set stays out."""

import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "datasets"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        import hold_out
    finally:
        sys.path.remove(str(SCRIPTS))
    return hold_out


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in (12, 3, 1, 10, 7)],
        "annotations": [{"id": 10 * i + n, "image_id": i} for i in (1, 3, 7, 10, 12) for n in range(i % 3 + 1)],
        "categories": [{"id": 5, "name": "x"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "val.json").write_text("not read")
    return folder


def test_every_image_and_its_objects_go_to_one_half(script, source, tmp_path):
    assert script.hold_out(source, tmp_path / "out", every=2) == {"train": 3, "val": 2}
    halves = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("train", "val")}
    assert [[x["id"] for x in half["images"]] for half in halves.values()] == [[1, 7, 12], [3, 10]]
    whole = json.loads((source / "train.json").read_text())
    assert sorted(x["id"] for half in halves.values() for x in half["annotations"]) == sorted(
        x["id"] for x in whole["annotations"]
    )
    for half in halves.values():
        assert half["categories"] == whole["categories"]
        assert {x["image_id"] for x in half["annotations"]} == {x["id"] for x in half["images"]}
    assert (tmp_path / "out" / "images").resolve() == (source / "images").resolve()
    assert script.hold_out(source, tmp_path / "out", every=2) == {"train": 3, "val": 2}  # once more, over the old


@pytest.mark.parametrize(
    "every, output, message", [(1, "out", "--every"), (2, "set", "the data set itself"), (2, "out", "no such file")]
)
def test_what_cannot_be_split_is_named(script, source, tmp_path, every, output, message):
    folder = source if message != "no such file" else tmp_path / "nothing"
    with pytest.raises(ValueError, match=message):
        script.hold_out(folder, tmp_path / output, every)
