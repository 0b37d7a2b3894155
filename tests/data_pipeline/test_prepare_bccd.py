"""The conversion of VOC xml to the layout of bccd_train and bccd_val."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[2] / "datasets"

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        import prepare_bccd
    finally:
        sys.path.remove(str(SCRIPTS))
    return prepare_bccd


@pytest.fixture
def source(tmp_path):
    """A clone with two training images and one for validation."""
    root = tmp_path / "BCCD_Dataset" / "BCCD"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    objects = {
        "one": [("WBC", 68, 315, 286, 480), ("RBC", 10, 20, 30, 50)],
        "two": [("Platelets", 5, 5, 5, 5)],
        "three": [],
    }
    for stem, rows in objects.items():
        body = "".join(OBJECT.format(*row) for row in rows)
        xml = f"<annotation><size><width>640</width><height>480</height></size>{body}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(xml)
        Image.new("RGB", (640, 480)).save(root / "JPEGImages" / f"{stem}.jpg")
    (root / "ImageSets/Main/train.txt").write_text("one\ntwo\n")
    (root / "ImageSets/Main/val.txt").write_text("three\n")
    return root.parent


def test_conversion(script, source, tmp_path, capsys):
    script.main([str(source), "--output", str(tmp_path / "bccd")])
    assert "train: 2 images, 3 objects" in capsys.readouterr().out
    train = json.loads((tmp_path / "bccd" / "train.json").read_text())
    assert train["categories"] == [{"id": 1, "name": "RBC"}, {"id": 2, "name": "WBC"}, {"id": 3, "name": "Platelets"}]
    assert train["images"][1] == {"id": 2, "file_name": "two.jpg", "width": 640, "height": 480}
    assert train["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [68, 315, 218, 165], "area": 35970, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [10, 20, 20, 30], "area": 600, "iscrowd": 0},
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": [5, 5, 0, 0], "area": 0, "iscrowd": 0},
    ]
    val = json.loads((tmp_path / "bccd" / "val.json").read_text())
    assert (len(val["images"]), val["annotations"]) == (1, [])
    assert sorted(p.name for p in (tmp_path / "bccd" / "images").iterdir()) == ["one.jpg", "three.jpg", "two.jpg"]
    assert sorted(p.name for p in (tmp_path / "bccd").iterdir()) == ["images", "train.json", "val.json"]


def test_inner_folder_works_too_and_twice(script, source, tmp_path):
    assert script.convert(source / "BCCD", tmp_path / "b") == {"train": (2, 3), "val": (1, 0)}
    assert script.convert(source / "BCCD", tmp_path / "b") == {"train": (2, 3), "val": (1, 0)}


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation>", r"one\.xml: not valid xml"),
        ("<annotation/>", r"one\.xml: <size> is missing"),
        ("<a><size><width>6</width></size></a>", r"one\.xml: <height> is None, expected a number"),
        (
            "<a><size><width>6</width><height>6</height></size>" + OBJECT.format("dog", 1, 1, 2, 2) + "</a>",
            r"one\.xml: unknown class 'dog'; known: RBC, WBC, Platelets",
        ),
        (
            "<a><size><width>6</width><height>6</height></size>" + OBJECT.format("RBC", "x", 1, 2, 2) + "</a>",
            r"one\.xml: <xmin> is 'x', expected a number",
        ),
    ],
)
def test_broken_xml_is_named(script, source, tmp_path, xml, message):
    (source / "BCCD" / "Annotations" / "one.xml").write_text(xml)
    with pytest.raises(ValueError, match=message):
        script.convert(source, tmp_path / "b")


def test_wrong_folder_is_named(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([str(tmp_path)])
    assert "no ImageSets/Main/train.txt; expected a clone of BCCD_Dataset" in capsys.readouterr().err


def test_home_in_the_root_of_the_data_sets(script, source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    script.main([str(source)])
    assert (tmp_path / "data" / "bccd" / "train.json").is_file()
