from defcn_ext.data import hints
from tests.tiny import tiny_cfg


def test_more_objects_than_detections(monkeypatch):
    told = []
    monkeypatch.setattr(hints, "log_first_n", lambda level, message, **options: told.append(message))
    records = [{"annotations": [{"iscrowd": 0}] * count + [{"iscrowd": 1}] * 5} for count in (2, 3, 7)] + [{}]
    hints.tell_more_objects(tiny_cfg("TEST.DETECTIONS_PER_IMAGE", 7), "DATASETS.TRAIN x", records)
    assert not told
    hints.tell_more_objects(tiny_cfg("TEST.DETECTIONS_PER_IMAGE", 2), "DATASETS.TRAIN x", records)
    assert told == [
        "DATASETS.TRAIN x: 2 of 4 images have more objects, up to 7, than TEST.DETECTIONS_PER_IMAGE 2 lets the "
        "detector find: set TEST.DETECTIONS_PER_IMAGE 7"
    ]


def test_nothing_to_find(monkeypatch):
    told = []
    monkeypatch.setattr(hints, "log_first_n", lambda level, message, **options: told.append(message))
    crowd, thing = {"annotations": [{"iscrowd": 1}]}, {"annotations": [{"iscrowd": 0}]}
    for records in ([], [{}], [crowd, {}], [crowd, thing]):  # of some data sets others than the loader read the objects
        hints.tell_no_object("DATASETS.TEST x", records)
    assert not told
    hints.tell_no_object("DATASETS.TEST x", [crowd, {"annotations": []}])
    assert told == ["DATASETS.TEST x: none of its 2 images has an object: results are written, and metrics are nan"]
