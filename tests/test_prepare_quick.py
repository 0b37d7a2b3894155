"""The embedded data set: reproducible, honest about what is visible, crowded as promised."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

SCRIPTS = Path(__file__).parents[1] / "datasets"


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(SCRIPTS))
    try:
        import prepare_quick
        import quick_scene
    finally:
        sys.path.remove(str(SCRIPTS))
    return prepare_quick, quick_scene


@pytest.fixture(scope="module")
def scenes(modules):
    return [modules[1].draw(seed=0, split=0, index=i, size=160) for i in range(40)]


@pytest.fixture(scope="module")
def written(modules, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "quick"
    assert modules[0].prepare(folder, train=3, val=2, seed=5, size=96)
    return folder


def best_same_class_iou(annotations: list[dict]) -> np.ndarray:
    """For each object the largest box IoU with another one of its class."""
    if not annotations:
        return np.zeros(0)
    boxes = np.array([a["bbox"] for a in annotations])
    labels = np.array([a["category_id"] for a in annotations])
    ious = mask_api.iou(boxes, boxes, [0] * len(boxes))
    return np.where((labels[:, None] == labels) & ~np.eye(len(boxes), dtype=bool), ious, 0).max(axis=1)


def nms_survivors(annotations: list[dict], threshold: float) -> int:
    """Objects left when a perfect detector's boxes go through NMS, largest first."""
    kept: list[dict] = []
    for a in sorted(annotations, key=lambda a: -a["area"]):
        same = [k["bbox"] for k in kept if k["category_id"] == a["category_id"]]
        if not same or mask_api.iou([a["bbox"]], same, [0] * len(same)).max() <= threshold:
            kept.append(a)
    return len(kept)


def test_digest_is_the_same_on_every_machine(written):
    meta = json.loads((written / "meta.json").read_text())
    assert meta["sha256"] == "c34086bc606516a9ee5f0837ae9890cf342c4ebfc2c84a7bf3f1074a1da635ee"
    assert meta["parameters"] == {"version": 2, "train": 3, "val": 2, "seed": 5, "size": 96}


def test_files_agree_with_json(written):
    for split, count in (("train", 3), ("val", 2)):
        content = json.loads((written / f"{split}.json").read_text())
        assert [c["id"] for c in content["categories"]] == [1, 2, 3, 4]
        assert len(content["images"]) == count
        for entry in content["images"]:
            with Image.open(written / "images" / entry["file_name"]) as image:
                assert image.size == (entry["width"], entry["height"])
                assert image.mode == "RGB"
        assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])
        assert all(isinstance(v, float) for a in content["annotations"] for v in a["bbox"])


def test_masks_are_disjoint_and_fit_boxes_and_areas(scenes):
    for pixels, annotations in scenes:
        height, width = pixels.shape[:2]
        covered = np.zeros((height, width), dtype=int)
        for a in annotations:
            encoded = mask_api.frPyObjects(a["segmentation"], height, width)
            covered += mask_api.decode(encoded)
            assert mask_api.area(encoded) == a["area"]
            assert mask_api.toBbox(encoded).tolist() == a["bbox"]
        assert covered.max(initial=0) <= 1


def test_sizes_include_wide_and_tall_images(scenes):
    assert {pixels.shape[:2] for pixels, _ in scenes} == {(160, 160), (160, 192), (192, 160)}


def test_every_fortieth_image_is_empty_and_no_other(scenes):
    assert [i for i, (_, annotations) in enumerate(scenes) if not annotations] == [39]


def test_crowded_so_that_nms_costs_a_little(scenes):
    ious = np.concatenate([best_same_class_iou(a) for _, a in scenes])
    assert 0.6 < (ious > 0.2).mean() < 0.8
    assert 0.01 < (ious > 0.6).mean() < 0.06
    assert ious.max() < 0.95
    left = sum(nms_survivors(a, 0.6) for _, a in scenes) / len(ious)
    assert 0.97 < left < 0.998


def test_scales_span_a_factor_of_three(scenes):
    sides = np.array([max(a["bbox"][2:]) for _, annotations in scenes for a in annotations])
    assert np.percentile(sides, 5) < 18
    assert np.percentile(sides, 95) > 50
    assert min(min(a["bbox"][2:]) for _, annotations in scenes for a in annotations) >= 6


def test_objects_show_half_of_their_shape_or_more(modules):
    _, scene = modules
    rng = np.random.RandomState(0)
    canvas = scene.Canvas(rng, 160, 160, 1.0)
    front = scene.Shape(label=0, x=80, y=80, radius=30, cos=1.0, sin=0.0, hole=0.5)
    assert canvas.try_add(front)
    # A disc of radius 20 on top leaves 1 - (20/30)^2 = 56 % of the one below; radius 22 leaves 46 %.
    assert not canvas.try_add(scene.Shape(label=0, x=80, y=80, radius=22, cos=1.0, sin=0.0, hole=0.5))
    assert canvas.try_add(scene.Shape(label=0, x=80, y=80, radius=20, cos=1.0, sin=0.0, hole=0.5))
    assert len(canvas.shapes) == 2
    assert (canvas.owner == 0).sum() == pytest.approx(np.pi * (30**2 - 20**2), rel=0.03)


@pytest.mark.parametrize(
    ("label", "area"), [(0, np.pi * 400), (1, np.pi * 400 * 0.75), (2, 1600.0), (3, 1.725 * 0.995929 * 400)]
)
def test_shape_areas(modules, label, area):
    shape = modules[1].Shape(label, x=50.0, y=50.0, radius=20.0, cos=0.8, sin=0.6, hole=0.5)
    y, x = np.mgrid[0:100, 0:100] + 0.5
    inside = shape.distance(x, y) < 0
    assert inside.sum() == pytest.approx(area, rel=0.02)
    box = modules[1].visible_box(inside)
    assert np.abs(np.array(box) - np.array(shape.extent())).max() < 1.5


def test_rle_counts_columns_and_starts_with_zeros(modules):
    mask = np.array([[1, 0, 1], [1, 1, 1]], dtype=bool)
    assert modules[1].rle(mask) == {"size": [2, 3], "counts": [0, 2, 1, 3]}
    assert modules[1].rle(np.array([[0, 1], [0, 0]], dtype=bool))["counts"] == [2, 1, 1]


def test_seed_and_split_change_the_scene(modules):
    draw = modules[1].draw
    reference = draw(0, 0, 3, 96)[0]
    for other in (draw(1, 0, 3, 96)[0], draw(0, 1, 3, 96)[0], draw(0, 0, 4, 96)[0]):
        assert other.shape != reference.shape or (other != reference).mean() > 0.5


def test_second_call_does_nothing_unless_something_changed(modules, tmp_path, capsys):
    prepare_quick, _ = modules
    arguments = ["--output", str(tmp_path / "q"), "--train", "2", "--val", "1", "--size", "64"]
    prepare_quick.main(arguments)
    assert "written in" in capsys.readouterr().out
    before = (tmp_path / "q" / "train.json").stat().st_mtime_ns
    prepare_quick.main(arguments)
    assert "already there" in capsys.readouterr().out
    assert (tmp_path / "q" / "train.json").stat().st_mtime_ns == before
    (tmp_path / "q" / "images" / "val_00000.png").unlink()
    assert prepare_quick.prepare(tmp_path / "q", 2, 1, 0, 64)
    assert prepare_quick.prepare(tmp_path / "q", 1, 1, 0, 64)
    assert sorted(p.name for p in (tmp_path / "q" / "images").iterdir()) == ["train_00000.png", "val_00000.png"]


def test_refuses_a_folder_of_somebody_else(modules, tmp_path):
    (tmp_path / "meta.json").write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match="was not written by this script"):
        modules[0].prepare(tmp_path, 1, 1, 0, 64)
    assert (tmp_path / "meta.json").read_text() == '{"mine": 1}'


def test_failure_leaves_the_old_copy_and_no_litter(modules, tmp_path, monkeypatch):
    prepare_quick, _ = modules
    prepare_quick.prepare(tmp_path / "q", 1, 1, 0, 64)
    monkeypatch.setattr(prepare_quick, "draw", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        prepare_quick.prepare(tmp_path / "q", 2, 1, 0, 64)
    assert [p.name for p in tmp_path.iterdir()] == ["q"]
    assert json.loads((tmp_path / "q" / "meta.json").read_text())["parameters"]["train"] == 1


def test_numbers_out_of_range_are_named(modules, tmp_path, capsys):
    with pytest.raises(SystemExit):
        modules[0].main(["--output", str(tmp_path / "q"), "--size", "16"])
    assert "--size 16: must be at least 64" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(modules, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        modules[0].main(["--output", str(tmp_path / "file" / "q"), "--train", "1", "--val", "1", "--size", "64"])
    assert "error: " in capsys.readouterr().err


def test_home_in_the_root_of_the_data_sets(modules, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    modules[0].main(["--train", "1", "--val", "1", "--size", "64"])
    assert (tmp_path / "data" / "quick" / "train.json").is_file()
