"""The conversion of odgt files to COCO json, and the synthetic set in CrowdHuman's layout."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from defcn_ext.data.crowdhuman import load_crowdhuman, read_crowdhuman
from defcn_ext.data.crowdhuman_files import AnnotationLine, PersonBox, write_annotations
from defcn_ext.evaluation.crowdhuman_inputs import to_truth
from defcn_ext.evaluation.crowdhuman_metrics import Detections, GroundTruth, crowdhuman_metrics
from detectron2.data.datasets import load_coco_json

SCRIPTS = Path(__file__).parents[2] / "datasets"


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(SCRIPTS))
    try:
        import prepare_crowdhuman
        import prepare_quick_crowd
        import quick_crowd_scene
    finally:
        sys.path.remove(str(SCRIPTS))
    return prepare_crowdhuman, prepare_quick_crowd, quick_crowd_scene


@pytest.fixture
def root(tmp_path):
    """Both splits: two images each, of which one has no boxes."""
    (tmp_path / "Images").mkdir()
    boxes = [
        PersonBox("person", (10, 10, 20, 40), vbox=(10, 10, 20, 20), hbox=(10, 10, 5, 5), head_attr={"ignore": 1}),
        PersonBox("person", (90, -10, 20.5, 40), extra={"ignore": 0}),
        PersonBox("person", (40, 10, 20, 40), extra={"ignore": 1}),
        PersonBox("mask", (70, 10, 28, 60)),
        PersonBox("person", (0, 0, -3, 8)),
    ]
    for split in ("train", "val"):
        lines = [AnnotationLine(f"{split},0", tuple(boxes)), AnnotationLine(f"{split},1", ())]
        write_annotations(tmp_path / f"annotation_{split}.odgt", lines)
        for line in lines:
            Image.new("RGB", (100, 80)).save(tmp_path / "Images" / f"{line.id}.jpg")
    return tmp_path


def test_the_json_holds_what_the_annotations_say(scripts, root, capsys):
    scripts[0].main(["--root", str(root)])
    content = json.loads((root / "val.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "person"}]
    assert content["images"] == [
        {"id": 1, "ID": "val,0", "file_name": "val,0.jpg", "height": 80, "width": 100},
        {"id": 2, "ID": "val,1", "file_name": "val,1.jpg", "height": 80, "width": 100},
    ]
    boxes = content["annotations"]
    assert [b["id"] for b in boxes] == [1, 2, 3, 4, 5]
    assert {(b["image_id"], b["category_id"]) for b in boxes} == {(1, 1)}
    assert [b["bbox"] for b in boxes][1:4] == [[90, -10, 20.5, 40], [40, 10, 20, 40], [70, 10, 28, 60]]
    assert [b["iscrowd"] for b in boxes] == [0, 0, 1, 1, 0]
    assert [b["area"] for b in boxes] == [800, 820, 800, 1680, 0]
    assert (boxes[0]["vbox"], boxes[0]["hbox"], boxes[0]["head_ignore"]) == ([10, 10, 20, 20], [10, 10, 5, 5], 1)
    assert (boxes[1]["vbox"], boxes[1]["head_ignore"]) == (None, 0)
    out = capsys.readouterr().out
    assert "val: 2 images, 3 people, 2 boxes to ignore" in out and "2 images, the official file has 4370" in out
    assert "1 boxes without area: the metrics count them, training skips them (first: val,0" in out


def test_the_json_and_the_data_set_agree(scripts, root):
    scripts[0].convert(root, "train")
    own = load_crowdhuman(str(root / "annotation_train.odgt"), str(root / "Images"))
    coco = load_coco_json(str(root / "train.json"), str(root / "Images"))
    keys = ("file_name", "image_id", "height", "width")
    assert [[r[k] for k in keys] for r in coco] == [[r[k] for k in keys] for r in own]
    keys = ("bbox", "iscrowd", "bbox_mode")
    for theirs, ours in zip(coco, own):
        assert [[a[k] for k in keys] for a in theirs["annotations"]] == [
            [a[k] for k in keys] for a in ours["annotations"]
        ]


def test_a_second_call_does_nothing_until_something_changes(scripts, root):
    convert = scripts[0].convert
    assert convert(root, "val")
    before = (root / "val.json").stat().st_mtime_ns
    assert not convert(root, "val")
    assert (root / "val.json").stat().st_mtime_ns == before
    whole = (root / "val.json").read_bytes()
    (root / "val.json").write_bytes(whole[:-10])  # a copy that was cut off
    assert convert(root, "val") and (root / "val.json").read_bytes() == whole
    os.utime(root / "annotation_val.odgt", ns=(1, 1))
    assert convert(root, "val")
    (root / "val.json").write_text("")
    assert convert(root, "val")


def test_bad_lines_and_images_are_named_and_left_out(scripts, root, capsys):
    odgt = root / "annotation_val.odgt"
    good = odgt.read_text().splitlines()
    bad = ["{", *good[:1], '{"ID": "c", "gtboxes": [{"tag": "person", "fbox": [1, 2, 3]}]}']
    odgt.write_text("\n".join([good[0], *bad, '{"ID": "gone", "gtboxes": []}', good[1]]))
    scripts[0].convert(root, "val")
    out = capsys.readouterr().out
    assert "annotation_val.odgt: line 2: not valid JSON" in out
    assert "annotation_val.odgt: line 3: ID 'val,0' is on line 1 already" in out
    assert "annotation_val.odgt: line 4: gtboxes[0].fbox: expected 4 numbers" in out
    assert "1 images that cannot be read (first: gone.jpg" in out
    images = json.loads((root / "val.json").read_text())["images"]
    assert [(i["id"], i["ID"]) for i in images] == [(1, "val,0"), (3, "val,1")]  # the numbers of the data set's records


@pytest.mark.parametrize("missing, message", [("Images", "Images/: missing"), ("annotation_val.odgt", "odgt: missing")])
def test_what_is_missing_is_said(scripts, root, capsys, missing, message):
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(SystemExit) as error:
        scripts[0].main(["--root", str(root), "--splits", "val"])
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and not (root / "val.json").exists()


def test_images_that_are_all_broken_are_refused(scripts, root):
    for path in (root / "Images").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="none of the 2 images can be read, val,0.jpg: UnidentifiedImageError"):
        scripts[0].convert(root, "val")


def test_the_round_trip_reproduces_the_metrics_of_a_worked_example(scripts, tmp_path):
    """E1 of the protocol: AP .322222, MR^-2 .666667, recall 1, JI .583333."""
    (tmp_path / "Images").mkdir()
    a = [
        PersonBox("person", (10, 10, 20, 40)),
        PersonBox("person", (40, 10, 20, 40)),
        PersonBox("mask", (70, 10, 28, 60)),
    ]
    lines = [AnnotationLine("a", tuple(a)), AnnotationLine("b", (PersonBox("person", (20, 20, 20, 40)),))]
    write_annotations(tmp_path / "annotation_val.odgt", lines)
    for line in lines:
        Image.new("RGB", (100, 100)).save(tmp_path / "Images" / f"{line.id}.jpg")
    scripts[0].convert(tmp_path, "val")
    content = json.loads((tmp_path / "val.json").read_text())
    truth = {}
    for image in content["images"]:
        boxes = [x for x in content["annotations"] if x["image_id"] == image["id"]]
        ignored = np.array([bool(x["iscrowd"]) for x in boxes])
        size = (image["height"], image["width"])
        truth[image["ID"]] = GroundTruth(np.array([x["bbox"] for x in boxes]), ignored, size)
    in_a = np.array([[10, 10, 20, 40], [12, 10, 20, 40], [40, 10, 20, 34], [75, 20, 10, 20], [66, 10, 12, 20]])
    in_b = np.array([[60, 60, 20, 20], [20, 20, 20, 30]])
    found = {
        "a": Detections(in_a, np.array([0.9, 0.8, 0.7, 0.6, 0.5])),
        "b": Detections(in_b, np.array([0.85, 0.4])),
    }
    metrics = crowdhuman_metrics(truth, found)
    expected = (0.322222, 0.666667, 1.0, 0.583333)
    assert (metrics.ap, metrics.mr, metrics.recall, metrics.ji) == pytest.approx(expected, abs=1e-6)


# The synthetic set


@pytest.fixture(scope="module")
def quick(scripts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "quick_crowd"
    assert scripts[1].prepare(folder, train=3, val=2, seed=5, size=96)
    return folder


def test_digest_is_the_same_on_every_machine(quick):
    meta = json.loads((quick / "meta.json").read_text())
    assert meta["sha256"] == "21ef899de9c4b863acfabbcb3c917dc07b01381241ccfd68743d13427e782e3f"


def test_it_is_written_once_and_only_over_itself(scripts, quick, tmp_path):
    prepare = scripts[1].prepare
    assert not prepare(quick, train=3, val=2, seed=5, size=96)
    victim = next((quick / "Images").iterdir())
    content = victim.read_bytes()
    victim.unlink()
    assert prepare(quick, train=3, val=2, seed=5, size=96) and victim.read_bytes() == content
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="not written by this script"):
        prepare(tmp_path / "mine")
    with pytest.raises(ValueError, match="--size 10: must be at least 64"):
        prepare(tmp_path / "new", size=10)


def test_its_layout_is_the_official_one(quick):
    found = read_crowdhuman(quick / "annotation_train.odgt", quick / "Images")
    assert len(found.lines) == 3 and not found.bad and not found.flaws().counts
    assert all(line.height is None and "," in line.id for line in found.lines)
    assert found.sizes[found.lines[0].id][0] == 96


def test_scenes_are_crowded_cut_and_hidden(scripts):
    scenes = [scripts[2].draw(seed=0, split=0, index=i, size=160) for i in range(16)]
    truth = to_truth(
        AnnotationLine(str(i), tuple(PersonBox(x["tag"], tuple(x["fbox"]), extra=x["extra"]) for x in entries))
        for i, (_, entries) in enumerate(scenes)
    )
    boxes = np.concatenate([t.boxes[~t.ignored] for t in truth.values()])
    assert len(boxes) > 100 and sum(t.ignored.sum() for t in truth.values()) > 15
    assert (boxes[:, 3] / boxes[:, 2]).min() > 1.8 and (boxes[:, 2:] > 0).all()
    outside = 0
    for pixels, entries in scenes:
        assert pixels.dtype == np.uint8 and pixels.shape[0] == 160
        people = [x for x in entries if x["tag"] == "person"]
        for entry in people:
            x, y, w, h = entry["fbox"]
            vx, vy, vw, vh = entry["vbox"]
            # whole pixels round outwards by one at most
            assert vx >= x - 1 and vy >= y - 1 and vx + vw <= x + w + 1 and vy + vh <= y + h + 1
            assert vx >= 0 and vy >= 0 and vx + vw <= pixels.shape[1] and vy + vh <= 160
            assert entry["extra"]["occ"] or (abs(vw - w) <= 1 and abs(vh - h) <= 1)
            outside += x < 0 or y < 0 or x + w > pixels.shape[1] or y + h > 160
        assert all(x["extra"]["ignore"] == 1 for x in entries if x["tag"] == "mask")
    assert outside > 15
    hidden = [x["vbox"][2] * x["vbox"][3] / (x["fbox"][2] * x["fbox"][3]) for _, s in scenes for x in s]
    assert sum(share < 0.7 for share in hidden) > 30


def test_a_scene_depends_on_seed_split_and_index_alone(scripts):
    draw = scripts[2].draw
    pixels, entries = draw(1, 0, 2, 96)
    again, same = draw(1, 0, 2, 96)
    assert (pixels == again).all() and entries == same
    assert all(draw(*other, 96)[1] != entries for other in [(2, 0, 2), (1, 1, 2), (1, 0, 3)])
    assert draw(0, 0, 39, 96)[1] == []  # one image in 40 is empty
