"""Images with their objects, and which of a data set are shown."""

import pytest
from PIL import Image

from defcn_ext.data import UnreadableImageError
from defcn_ext.pictures import scenes
from defcn_ext.pictures.scenes import load_scene, most_crowded, spread
from detectron2.data import DatasetCatalog


def test_a_scene_holds_the_objects_without_crowd_regions(quick):
    record = DatasetCatalog.get("quick_val")[0]
    whole = load_scene(record)
    assert whole.image.shape == (record["height"], record["width"], 3)
    x, y, w, h = record["annotations"][0]["bbox"]
    assert whole.objects.gt_boxes.tensor[0].tolist() == pytest.approx([x, y, x + w, y + h])
    first, *rest = record["annotations"]
    crowd = load_scene({**record, "annotations": [{**first, "iscrowd": 1}, *rest]})
    assert len(crowd.objects) == len(whole.objects) - 1


def test_choice_of_images(quick):
    records = DatasetCatalog.get("quick_val")
    assert spread(records, 100) == [r for r in records if r["annotations"]]
    assert len(spread(records, 3)) == 3
    ranked = most_crowded(records, 2)
    assert len(ranked) == 2 and ranked[0] == most_crowded(records, 1)[0]
    counts = sorted(len(r["annotations"]) for r in records)
    few_first = most_crowded(records, 100, max_objects=counts[0])
    assert len(few_first) == len(records) and len(few_first[0]["annotations"]) == counts[0] < counts[-1]


def test_crowded_means_pairs_of_one_class_that_overlap(tmp_path):
    def record(name, boxes, classes):
        Image.new("RGB", (50, 50)).save(tmp_path / name)
        annotations = [{"bbox": b, "bbox_mode": 0, "category_id": c} for b, c in zip(boxes, classes)]
        return {"file_name": str(tmp_path / name), "annotations": annotations}

    near, far = [[0, 0, 10, 10], [2, 0, 12, 10]], [[0, 0, 10, 10], [30, 30, 40, 40]]
    records = [record("a.png", far, [0, 0]), record("b.png", near, [0, 1]), record("c.png", near, [1, 1])]
    assert most_crowded(records, 1) == records[2:]
    crowding = [scenes.crowding(load_scene(r)) for r in records]
    assert crowding == pytest.approx([0, 0, (8 * 10 / 50 / 50) ** 0.5])


def test_unreadable_images_are_named_or_left_out(quick, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    bad = {"file_name": str(tmp_path / "bad.png"), "annotations": []}
    with pytest.raises(UnreadableImageError, match=r"bad\.png: cannot be read \(UnidentifiedImageError"):
        load_scene(bad)
    records = DatasetCatalog.get("quick_val")
    assert most_crowded([bad, *records], 100) == most_crowded(records, 100)
    with pytest.raises(UnreadableImageError, match="bad"):
        most_crowded([bad], 1)
