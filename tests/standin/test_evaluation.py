"""COCO's metrics, against values measured on Detectron2."""

import json
import math

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import (
    COCOEvaluator,
)
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets, instances_to_coco_json
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from tests.standin import says

from ..conftest import FACTS

CASES = {  # name in the facts -> (arguments, whether predictions have masks)
    "bbox+segm": ({"use_fast_impl": False}, True),
    "tasks=('bbox',) with masks present": ({"tasks": ("bbox",)}, True),
    "max_dets_per_image=2": ({"max_dets_per_image": 2}, False),
    "max_dets_per_image=100 given explicitly": ({"max_dets_per_image": 100}, False),
    "img_ids_first_4": ({}, False),
    "no_predictions_processed": ({}, False),
    "all_images_processed_zero_instances": ({}, False),
    "all_images_processed_zero_instances,tasks=('bbox','segm')": ({"tasks": ("bbox", "segm")}, False),
}


@pytest.fixture
def register():
    """Registers COCO files under fresh names, and forgets them."""
    names = []

    def add(path, **metadata):
        name = f"eval_test_{len(names)}"
        register_coco_instances(name, metadata, str(path), "images_root")
        names.append(name)
        DatasetCatalog.get(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def synth(register):
    return register(FACTS / "coco_eval_gt.json", extra_key="x")


def predictions(facts, masks: bool) -> list[tuple[dict, dict]]:
    """(input, output) pairs as a model would give them."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in facts("coco_eval_gt.json")["images"]}
    pairs = []
    for entry in facts("coco_eval_predictions.json")["predictions"]:
        instances = Instances(sizes[entry["image_id"]])
        instances.pred_boxes = Boxes(torch.tensor(entry["boxes"]).reshape(-1, 4))
        instances.scores = torch.tensor(entry["scores"])
        instances.pred_classes = torch.tensor(entry["classes"], dtype=torch.int64)
        if masks:
            decoded = [torch.from_numpy(mask_util.decode(rle)).bool() for rle in entry["masks_rle"]]
            instances.pred_masks = torch.stack(decoded) if decoded else torch.zeros(0, *instances.image_size).bool()
        pairs.append(({"image_id": entry["image_id"]}, {"instances": instances}))
    return pairs


def feed(evaluator, pairs):
    evaluator.reset()
    for record, output in pairs:
        evaluator.process([record], [output])
    return evaluator


def empty(pairs):
    return [(record, {"instances": output["instances"][:0]}) for record, output in pairs]


def assert_results_equal(found, expected):
    assert list(found) == list(expected)
    for task, metrics in expected.items():
        assert list(found[task]) == list(metrics)
        np.testing.assert_allclose(list(found[task].values()), [float(v) for v in metrics.values()], rtol=1e-9)


def test_every_case_of_the_facts_is_run(facts):
    assert set(CASES) == set(facts("golden_coco_eval.json")["results"])


@pytest.mark.parametrize("case", CASES)
def test_metrics(facts, synth, case):
    expected = facts("golden_coco_eval.json")["results"][case]
    arguments, masks = CASES[case]
    evaluator = COCOEvaluator(synth, **arguments)
    pairs = predictions(facts, masks)
    if case == "no_predictions_processed":
        pairs = []
    elif "zero_instances" in case:
        pairs = empty(pairs)
    feed(evaluator, pairs)
    if case == "img_ids_first_4":
        found, expected = evaluator.evaluate(img_ids=expected["ids"]), expected["result"]
    else:
        found = evaluator.evaluate()
    assert_results_equal(found, expected)


def test_both_implementations_agree_and_evaluating_twice_changes_nothing(facts, synth):
    expected = facts("golden_coco_eval.json")["results"]["bbox+segm"]
    evaluator = feed(COCOEvaluator(synth, use_fast_impl=True), predictions(facts, True))
    assert_results_equal(evaluator.evaluate(), expected)
    assert_results_equal(evaluator.evaluate(), expected)


def test_predictions_of_all_workers_meet_on_rank_0(facts, synth, monkeypatch):
    expected = facts("golden_coco_eval.json")["results"]["img_ids_first_4"]
    pairs = predictions(facts, False)
    other = feed(COCOEvaluator(synth), pairs[7:])._predictions
    evaluator = feed(COCOEvaluator(synth), pairs[:7])
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: [data, other])
    assert_results_equal(evaluator.evaluate(img_ids=expected["ids"]), expected["result"])
    assert_results_equal(evaluator.evaluate(), facts("golden_coco_eval.json")["results"]["max_dets_per_image=2"])
    alone = feed(COCOEvaluator(synth, distributed=False), pairs[:7])
    assert alone.evaluate()["bbox"]["AP"] != evaluator.evaluate()["bbox"]["AP"]
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: [])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert evaluator.evaluate() == {}


def test_log_of_an_evaluation(facts, synth, lines):
    feed(COCOEvaluator(synth, use_fast_impl=False), predictions(facts, True)).evaluate()
    found = [[level, text] for name, level, text in lines() if name == "detectron2.evaluation.coco_evaluation"]
    assert found == facts("golden_coco_eval.json")["evaluator_log_bbox+segm"]


def test_log_without_predictions(facts, synth, lines):
    evaluator = feed(COCOEvaluator(synth), [])
    evaluator.evaluate()
    feed(evaluator, empty(predictions(facts, False))).evaluate()
    found = [[level, text] for name, level, text in lines() if name == "detectron2.evaluation.coco_evaluation"]
    assert found == facts("golden_coco_eval.json")["evaluator_log_no_predictions_then_zero_instances"]


def test_files(facts, synth, tmp_path):
    golden = facts("golden_coco_eval.json")
    feed(COCOEvaluator(synth, output_dir=str(tmp_path / "inference")), predictions(facts, True)).evaluate()
    folder = tmp_path / "inference"
    assert sorted(path.name for path in folder.iterdir()) == golden["output_dir_files"]

    results = json.loads((folder / "coco_instances_results.json").read_text())
    assert len(results) == golden["results_json"]["n"]
    assert results[0] == golden["results_json"]["first"]
    assert sorted(results[0]) == golden["results_json"]["keys"]

    expected = golden["instances_predictions_pth"]
    saved = torch.load(folder / "instances_predictions.pth")
    assert type(saved).__name__ == expected["type"] and len(saved) == expected["len"]
    assert all(sorted(item) == expected["item_keys"] for item in saved)
    assert any(not item["instances"] for item in saved) == expected["image_with_zero_instances_still_present"]
    classes = {result["category_id"] for item in saved for result in item["instances"]}
    assert sorted(classes) == expected["category_id_values"]


def test_instances_to_coco_json(facts):
    golden = facts("golden_coco_eval.json")["instances_to_coco_json"]
    (record, output), *_ = predictions(facts, True)
    found = instances_to_coco_json(output["instances"], record["image_id"])
    assert found[0] == golden["with_masks_first"]
    assert list(found[0]) == list(golden["with_masks_first"])
    assert instances_to_coco_json(output["instances"][:0], 10) == golden["empty"]


def test_keypoints_become_pixel_indices():
    instances = Instances((20, 20))
    instances.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 4.0, 8.0]]))
    instances.scores = torch.tensor([0.5])
    instances.pred_classes = torch.tensor([0])
    instances.pred_keypoints = torch.tensor([[[3.5, 4.5, 0.9], [7.0, 8.0, 0.1]]])
    (result,) = instances_to_coco_json(instances, 1)
    np.testing.assert_allclose(result["keypoints"], [3.0, 4.0, 0.9, 6.5, 7.5, 0.1], rtol=1e-6)
    assert instances.pred_keypoints[0, 0, 0] == 3.5


@pytest.mark.parametrize("sigmas", [(), (0.5, 0.5)])
def test_keypoint_ap(register, tmp_path, sigmas):
    count = len(sigmas) or 17
    points = [[5.0 + i, 6.0 + i, 2] for i in range(count)]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0}
    annotation |= {"keypoints": [value for point in points for value in point], "num_keypoints": count}
    data = {"images": [{"id": 1, "height": 60, "width": 60, "file_name": "a"}], "annotations": [annotation]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"info": {}, **data, "categories": [{"id": 1, "name": "person"}]}))
    instances = Instances((60, 60))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]]))
    instances.scores = torch.tensor([0.9])
    instances.pred_classes = torch.tensor([0])
    instances.pred_keypoints = torch.tensor([points]) + torch.tensor([0.5, 0.5, 0])
    evaluator = COCOEvaluator(register(path), kpt_oks_sigmas=sigmas)
    results = feed(evaluator, [({"image_id": 1}, {"instances": instances})]).evaluate()
    assert list(results) == ["bbox", "keypoints"]
    assert list(results["keypoints"]) == ["AP", "AP50", "AP75", "APm", "APl"]
    assert results["keypoints"]["AP"] == pytest.approx(100)
    assert math.isnan(results["keypoints"]["APl"])


def test_keypoint_count_must_match_the_sigmas(register, tmp_path):
    path = tmp_path / "a.json"
    images = [{"id": 1, "height": 60, "width": 60, "file_name": "a"}]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    instances = Instances((60, 60))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]]))
    instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    instances.pred_keypoints = torch.ones(1, 5, 3)
    evaluator = feed(COCOEvaluator(register(path)), [({"image_id": 1}, {"instances": instances})])
    with pytest.raises(AssertionError, match=says("5 keypoints predicted")):
        evaluator.evaluate()


def test_class_out_of_range(facts, synth):
    pairs = predictions(facts, False)
    pairs[0][1]["instances"].pred_classes[0] = 4
    with pytest.raises(AssertionError, match=says("class 4")):
        feed(COCOEvaluator(synth), pairs).evaluate()


def test_unknown_task(facts, synth):
    with pytest.raises(AssertionError, match=says("unknown task 'box'")):
        feed(COCOEvaluator(synth, tasks=("box",)), predictions(facts, False)).evaluate()


def test_json_without_annotations(facts, register, tmp_path):
    golden = facts("golden_coco_eval.json")["json_without_annotations"]
    data = facts("coco_eval_gt.json")
    path = tmp_path / "test.json"
    path.write_text(json.dumps({key: value for key, value in data.items() if key != "annotations"}))
    name = "eval_test_no_annotations"
    MetadataCatalog.get(name).set(json_file=str(path))
    try:
        evaluator = COCOEvaluator(name, output_dir=str(tmp_path / "out"))
        assert feed(evaluator, predictions(facts, False)).evaluate() == golden["result"]
    finally:
        MetadataCatalog.remove(name)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == golden["files"]


def test_data_set_without_json_is_converted(facts, tmp_path):
    golden = facts("golden_coco_eval.json")
    box = {"bbox": [5, 5, 25, 25], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    DatasetCatalog.register(
        "plain", lambda: [{"file_name": "a.jpg", "height": 40, "width": 50, "image_id": 3, "annotations": [box]}]
    )
    MetadataCatalog.get("plain").thing_classes = ["a"]
    try:
        with pytest.raises(ValueError, match=says("output_dir")):
            COCOEvaluator("plain")
        assert golden["plain_without_output_dir"] == "ValueError"
        evaluator = COCOEvaluator("plain", output_dir=str(tmp_path))
        assert sorted(path.name for path in tmp_path.iterdir()) == golden["plain_with_output_dir_files"]
        instances = Instances((40, 50))
        instances.pred_boxes = Boxes(torch.tensor([[5.0, 5.0, 25.0, 25.0]]))
        instances.scores, instances.pred_classes = torch.tensor([0.5]), torch.tensor([0])
        results = feed(evaluator, [({"image_id": 3}, {"instances": instances})]).evaluate()
        assert results["bbox"]["AP"] == pytest.approx(100)
        assert "AP-a" not in results["bbox"]  # a single class
    finally:
        DatasetCatalog.remove("plain")
        MetadataCatalog.remove("plain")


def coco_eval(kind, synth, facts, max_dets):
    api = COCOEvaluator(synth)._coco_api
    results = []
    for entry in facts("coco_eval_predictions.json")["predictions"]:
        for box, score, label in zip(entry["boxes"], entry["scores"], entry["classes"]):
            x1, y1, x2, y2 = box
            category = [1, 3, 7, 20][label]
            result = {"image_id": entry["image_id"], "category_id": category, "score": score}
            results.append({**result, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    found = kind(api, api.loadRes(results), "bbox")
    found.params.maxDets = max_dets
    found.evaluate()
    found.accumulate()
    found.summarize()
    return found.stats


@pytest.mark.parametrize("kind", [COCOevalMaxDets, COCOeval_opt])
def test_variants_of_cocoeval_agree_with_it(synth, facts, kind):
    expected = coco_eval(COCOeval, synth, facts, [1, 10, 100])
    assert expected[0] > 0.2
    np.testing.assert_allclose(coco_eval(kind, synth, facts, [1, 10, 100]), expected, rtol=1e-12)


def test_max_dets_counts_the_best_detections_only(synth, facts):
    few = coco_eval(COCOevalMaxDets, synth, facts, [1, 2, 3])
    many = coco_eval(COCOevalMaxDets, synth, facts, [1, 10, 100])
    assert few[6] == many[6]  # recall with one detection
    assert few[6] <= few[7] <= few[8] < many[8]
    assert few[0] < many[0]


def test_cocoeval_max_dets_needs_accumulate(synth):
    with pytest.raises(Exception, match="accumulate"):
        COCOevalMaxDets(COCOEvaluator(synth)._coco_api, None, "bbox").summarize()
