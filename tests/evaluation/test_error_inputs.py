import numpy as np

from defcn_ext.data.crowdhuman_files import ResultLine, write_results
from defcn_ext.evaluation.crowdhuman_metrics import GroundTruth
from defcn_ext.evaluation.error_inputs import coco_images, crowdhuman_images, read_images
from detectron2.data import DatasetCatalog, MetadataCatalog

CONTENT = {
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": 7}, {"id": 3}],
    "annotations": [
        {"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 5},
        {"id": 2, "image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 1},
    ],
}


def test_ids_of_the_users_own_json():
    """The file of results has the ids of the json as it was before its repair."""
    original = {"image_id": {2: "b"}, "category_id": {3: "cat"}}
    results = [{"image_id": "b", "category_id": "cat", "bbox": [0, 0, 1, 1], "score": 0.5}]
    empty, image = coco_images(CONTENT, results, original=original)
    assert len(empty.boxes) == len(empty.objects) == 0
    assert image.classes.tolist() == [1] and image.object_classes.tolist() == [1, 0]
    assert image.areas.tolist() == [5, 12] and image.crowd.tolist() == [False, True]


def test_the_best_of_an_image_and_class_count():
    results = [
        {"image_id": 2, "category_id": label, "bbox": [i, 0, 1, 1], "score": i / 10}
        for label in (3, 7)
        for i in range(5)
    ]
    image = coco_images(CONTENT, results, max_detections=2)[1]
    assert sorted(zip(image.classes.tolist(), image.scores.tolist())) == [(0, 0.3), (0, 0.4), (1, 0.3), (1, 0.4)]


def test_persons_and_what_is_ignored():
    truth = {"a": GroundTruth(np.array([[0.0, 0, 2, 3], [5, 5, 1, 1]]), np.array([False, True]))}
    truth["b"] = GroundTruth(np.zeros((0, 4)), np.zeros(0, dtype=bool))
    first, second = crowdhuman_images(truth, [ResultLine("a", np.array([[0.0, 0, 2, 3]]), np.array([0.5]))])
    assert first.areas.tolist() == [6, 1] and first.crowd.tolist() == [False, True] and len(first.boxes) == 1
    assert len(second.boxes) == 0


def test_a_file_of_crowdhumans_evaluation(tmp_path):
    record = {"file_name": "x/a.jpg", "height": 9, "width": 9, "annotations": []}
    record["annotations"] += [{"bbox": [0, 0, 2, 3], "bbox_mode": 1, "category_id": 0, "iscrowd": i} for i in (0, 1)]
    name = "errors_persons"
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).evaluator_type = "crowdhuman"
    try:
        write_results(str(tmp_path / "results.json"), [ResultLine("a", np.array([[0.0, 0, 2, 3]]), np.array([0.5]))])
        (image,) = read_images(name, tmp_path / "results.json")
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert image.overlap.tolist() == [[1, 1]] and image.crowd.tolist() == [False, True]
