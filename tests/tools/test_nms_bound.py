import json

import numpy as np
import pytest
import torch
from PIL import Image

from defcn_ext.evaluation.nms_bound import nms_bound as count_bound
from defcn_ext.inference.nms import greedy_nms
from defcn_ext.tools import nms_bound

# IoU of neighbours 2/3 (8 x 10 of 12 x 10), of the first and the third 3/7
CHAIN = [[0, 0, 10, 10], [2, 0, 10, 10], [4, 0, 10, 10]]


def run(capsys, *arguments):
    nms_bound.main(list(map(str, arguments)))
    return capsys.readouterr().out


def write_odgt(path, boxes, size=None):
    people = [{"tag": "person", "fbox": box} for box in boxes] + [{"tag": "mask", "fbox": [0, 0, 10, 10]}]
    path.write_text(json.dumps({"ID": "a,1", "gtboxes": people, **(size or {})}))
    return path


def test_a_chain_of_three_people(tmp_path, capsys):
    """At .5 and .6 the first suppresses the second, and the third stays; at .4 both go, at .7 none."""
    out = run(capsys, write_odgt(tmp_path / "x.odgt", CHAIN), "--thresholds", 0.4, 0.5, 0.6, 0.7)
    lines = out.splitlines()
    assert lines[0] == "1 images, 3 objects, 3.00 an image"
    assert lines[1].startswith("100.0 % of the objects") and lines[1].endswith("2.00 such pairs an image")
    assert lines[5:] == ["| 0.4 | 1 | 33.3 |", "| 0.5 | 2 | 66.7 |", "| 0.6 | 2 | 66.7 |", "| 0.7 | 3 | 100.0 |"]


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_nms(seed):
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(8):
        low = rng.uniform(0, 40, (rng.integers(0, 40), 2))
        boxes = np.concatenate([low, low + rng.uniform(10, 40, low.shape)], 1).astype(np.float32).astype(np.float64)
        images.append((boxes, rng.integers(0, 2, len(boxes))))
    bound = count_bound(iter(images), [0.3, 0.5, 0.6])
    for threshold, kept in bound.kept.items():
        expected = 0
        for boxes, classes in images:
            tensor = torch.tensor(boxes, dtype=torch.float32)
            expected += len(greedy_nms(tensor, torch.ones(len(boxes)), torch.tensor(classes), threshold))
        assert kept == expected < bound.num_objects
    crowded = sum(crowded_by_hand(*image) for image in images)
    assert bound.num_crowded == crowded > 0


def crowded_by_hand(boxes, classes):
    count = 0
    for i, a in enumerate(boxes):
        for j, b in enumerate(boxes):
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            common = max(w, 0) * max(h, 0)
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
            if i != j and classes[i] == classes[j] and common / union > 0.5:
                count += 1
                break
    return count


def test_boxes_are_clipped_where_the_size_is_known(tmp_path, capsys):
    """Two boxes that differ outside the image only."""
    boxes = [[-30, 0, 40, 10], [0, 0, 10, 10]]
    assert "| 0.5 | 2 |" in run(capsys, write_odgt(tmp_path / "x.odgt", boxes))
    assert "| 0.5 | 1 |" in run(capsys, write_odgt(tmp_path / "x.odgt", boxes, {"height": 50, "width": 50}))
    Image.new("RGB", (50, 50)).save(tmp_path / "a,1.jpg")
    assert "| 0.5 | 1 |" in run(capsys, write_odgt(tmp_path / "x.odgt", boxes), "--sizes", tmp_path)


def test_classes_do_not_meet_and_crowds_take_no_part(tmp_path, capsys):
    """Two objects of one place and two classes, a crowd on top, and another that is suppressed."""
    boxes = [(1, 0), (2, 0), (1, 1), (2, 0)]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 50, "width": 50}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": c, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": crowd}
            for i, (c, crowd) in enumerate(boxes, start=1)
        ],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    out = run(capsys, tmp_path / "x.json", "--thresholds", 0.6)
    assert "1 images, 3 objects" in out and "| 0.6 | 2 | 66.7 |" in out


def test_a_registered_data_set(quick, capsys):
    assert run(capsys, "quick_val").startswith("6 images, ")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["no_such_set"], "no_such_set: no .odgt or .json file and no registered data set"),
        (["/nowhere.odgt"], "/nowhere.odgt: No such file"),
        (["/nowhere.json"], "/nowhere.json: no such file"),
        (["quick_val", "--sizes", "x"], "--sizes"),
    ],
)
def test_errors_are_one_line(arguments, message):
    with pytest.raises(SystemExit) as error:
        nms_bound.main(arguments)
    assert message in error.value.code and "\n" not in error.value.code


def test_thresholds_are_checked():
    with pytest.raises(SystemExit) as error:
        nms_bound.main(["x", "--thresholds", "5"])
    assert error.value.code == 2


@pytest.mark.parametrize("ignored", [[], [{"tag": "person", "fbox": [1, 1, 5, 5], "extra": {"ignore": 1}}]])
def test_a_source_without_objects_has_no_bound(tmp_path, ignored, capsys):
    path = tmp_path / "none.odgt"
    path.write_text(json.dumps({"ID": "a", "gtboxes": ignored}) + "\n")
    with pytest.raises(SystemExit, match=r"none\.odgt: has no object in 1 images"):
        nms_bound.main([str(path)])
    assert capsys.readouterr().out == ""
