"""The evaluator of CrowdHuman: worked examples, the result file, several workers, with and without NMS."""

import json
import logging
import math

import numpy as np
import pytest
import torch

from defcn_ext.data.crowdhuman_files import read_results
from defcn_ext.evaluation import CrowdHumanEvaluator, NMSGapEvaluator, build_evaluator
from defcn_ext.evaluation.crowdhuman_inputs import to_detections
from defcn_ext.evaluation.crowdhuman_metrics import Detections, crowdhuman_metrics
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import launch
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from tests.evaluation.crowdhuman_examples import EXAMPLES
from tests.tiny import tiny_cfg

NAME = "crowd"


def records(truth):
    """Detectron2's records of an example; the ID is in the file name only."""
    out = []
    for index, (name, gt) in enumerate(truth.items()):
        annotations = [
            {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": int(ignored)}
            for box, ignored in zip(gt.boxes.tolist(), gt.ignored)
        ]
        record = {"file_name": f"/images/{name}.jpg", "image_id": index, "annotations": annotations}
        out.append({**record, "height": gt.size[0], "width": gt.size[1]})
    return out


def register(truth):
    DatasetCatalog.register(NAME, lambda: records(truth))
    MetadataCatalog.get(NAME).set(evaluator_type="crowdhuman", thing_classes=["person"])


@pytest.fixture(autouse=True)
def _unregister():
    yield
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
    if NAME in MetadataCatalog.list():
        MetadataCatalog.remove(NAME)


def instances(detections, size=(100, 100)):
    boxes = torch.tensor(detections.boxes, dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    out = Instances(size)
    out.pred_boxes, out.scores = Boxes(boxes), torch.tensor(detections.scores, dtype=torch.float64)
    out.pred_classes = torch.zeros(len(boxes), dtype=torch.long)
    return out


def feed(evaluator, truth, detections, start=0, step=1):
    for record in records(truth)[start::step]:
        name = record["file_name"][8:-4]
        if name in detections:
            evaluator.process([record], [{"instances": instances(detections[name])}])


def percent(expected):
    return pytest.approx(dict(zip(("AP", "MR", "recall", "JI"), (100 * x for x in expected))), abs=2e-4)


@pytest.mark.parametrize("name", ["E1", "E4", "E8", "E10"])
def test_the_examples_and_their_file(name, tmp_path):
    truth, detections, expected = EXAMPLES[name]
    register(truth)
    evaluator = CrowdHumanEvaluator(NAME, output_dir=str(tmp_path))
    feed(evaluator, truth, detections)
    assert evaluator.evaluate() == {"bbox": percent(expected)}
    # the file holds what was judged
    read = to_detections(read_results(tmp_path / "crowdhuman_results.json"))
    assert crowdhuman_metrics(truth, read).ap == pytest.approx(expected[0], abs=2e-6)
    assert list(read) == list(detections)


def test_reset_forgets_and_missing_images_have_no_detections():
    truth, detections, expected = EXAMPLES["E8"]
    register(truth)
    evaluator = CrowdHumanEvaluator(NAME)
    feed(evaluator, truth, detections)
    evaluator.reset()
    assert evaluator.evaluate() == {"bbox": percent((0, 1, 0, 0))}
    feed(evaluator, truth, detections)
    assert evaluator.evaluate() == {"bbox": percent(expected)}


def test_predictions_that_are_not_finite_are_left_out(caplog):
    truth, detections, expected = EXAMPLES["E1"]
    register(truth)
    worse = {
        name: Detections(np.append(d.boxes, [[0, 0, math.inf, 1]], 0), np.append(d.scores, 1.0))
        for name, d in detections.items()
    }
    evaluator = CrowdHumanEvaluator(NAME)
    feed(evaluator, truth, worse)
    with caplog.at_level(logging.WARNING):
        assert evaluator.evaluate() == {"bbox": percent(expected)}
    assert "2 detections that are not finite" in caplog.text


def test_errors_name_the_image(tmp_path):
    truth, detections, _ = EXAMPLES["E1"]
    register({"b": truth["b"]})
    evaluator = CrowdHumanEvaluator(NAME)
    with pytest.raises(ValueError, match="crowd: the ground truth has no image with the ID 'a'"):
        feed(evaluator, truth, detections)
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: [{"file_name": f"{f}/a.jpg", "height": 1, "width": 1} for f in "xy"])
    with pytest.raises(ValueError, match="crowd: two images have the ID 'a'"):
        CrowdHumanEvaluator(NAME)


def test_an_id_of_its_own_and_other_box_modes():
    box = {"bbox": [10, 10, 30, 50], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"ID": "27,c9", "file_name": "/x/1.jpg", "height": 100, "width": 100, "annotations": [box]}
    DatasetCatalog.register(NAME, lambda: [record])
    evaluator = CrowdHumanEvaluator(NAME)
    evaluator.process([record], [{"instances": instances(Detections(np.array([[10, 10, 20, 40]]), np.array([0.9])))}])
    assert evaluator.evaluate()["bbox"]["recall"] == 100


@pytest.mark.parametrize("nms", [False, True])
def test_with_and_without_nms_in_one_pass(nms, tmp_path):
    truth, detections, expected = EXAMPLES["E8"]
    register(truth)
    cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path), "MODEL.DEFCN.NMS", nms)
    evaluator = build_evaluator(cfg, NAME)
    assert isinstance(evaluator, NMSGapEvaluator)
    evaluator.reset()
    nothing = Detections(np.zeros((0, 4)), np.zeros(0))
    for record in records(truth):
        good, bad = instances(detections[record["file_name"][8:-4]]), instances(nothing)
        evaluator.process([record], [{"with_nms": good, "without_nms": bad}])
    results = evaluator.evaluate()
    other = "without_nms" if nms else "with_nms"
    assert list(results) == ["bbox", f"bbox_{other}", "bbox_nms_gap"]
    assert results["bbox" if nms else "bbox_with_nms"] == percent(expected)
    gap = (expected[0], expected[1] - 1, expected[2], expected[3])
    assert results["bbox_nms_gap"] == percent(gap)
    folder = tmp_path / "inference"
    counts = [count_boxes(folder / "crowdhuman_results.json"), count_boxes(folder / other / "crowdhuman_results.json")]
    assert counts == ([19, 0] if nms else [0, 19])


def count_boxes(path):
    return sum(len(json.loads(line)["dtboxes"]) for line in path.read_text().splitlines())


def evaluate_a_part(path):
    truth, detections, _ = EXAMPLES["E8"]
    register(truth)
    evaluator = CrowdHumanEvaluator(NAME, output_dir=path)
    feed(evaluator, truth, detections, comm.get_rank(), comm.get_world_size())
    results = evaluator.evaluate()
    assert bool(results) == comm.is_main_process()
    if results:
        torch.save(results["bbox"], f"{path}/results.pth")


def test_two_workers_equal_one(tmp_path, monkeypatch):
    with monkeypatch.context() as workers:
        workers.setenv("CUDA_VISIBLE_DEVICES", "")
        launch(evaluate_a_part, 2, dist_url="auto", args=(str(tmp_path),))
    two = torch.load(tmp_path / "results.pth"), (tmp_path / "crowdhuman_results.json").read_text()
    evaluate_a_part(str(tmp_path))
    assert two == (torch.load(tmp_path / "results.pth"), (tmp_path / "crowdhuman_results.json").read_text())
    assert two[0] == percent(EXAMPLES["E8"][2])
