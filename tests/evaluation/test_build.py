"""The evaluator of a data set, run on a file of one image."""

import json

import pytest
import torch

from defcn_ext.evaluation import NMSGapEvaluator
from defcn_ext.evaluation.build import build_evaluator
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from tests.tiny import tiny_cfg

NAME = "one_image"


@pytest.fixture
def cfg(tmp_path):
    truth = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 100, "width": 100}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}
        ],
        "categories": [{"id": 3, "name": "thing"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    register_coco_instances(NAME, {}, str(tmp_path / "truth.json"), str(tmp_path))
    DatasetCatalog.get(NAME)  # fills in the ids of the categories
    yield tiny_cfg("OUTPUT_DIR", str(tmp_path / "out"), "DATASETS.TEST", (NAME,))
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def found(*boxes):
    instances = Instances((100, 100))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.scores = torch.linspace(0.9, 0.5, len(boxes))
    instances.pred_classes = torch.zeros(len(boxes), dtype=torch.long)
    return instances


def evaluate(evaluator, output):
    evaluator.reset()
    evaluator.process([{"image_id": 7}], [output])
    return evaluator.evaluate()


GOOD = found([10, 10, 60, 60])
BAD = found([70, 70, 90, 90], [10, 10, 60, 60])  # the better score is wrong: AP 50


@pytest.mark.parametrize("nms, main, other", [(False, 50, "with_nms"), (True, 100, "without_nms")])
def test_with_and_without_nms(cfg, tmp_path, nms, main, other):
    cfg.MODEL.DEFCN.NMS = nms
    evaluator = build_evaluator(cfg, NAME)
    assert isinstance(evaluator, NMSGapEvaluator)
    results = evaluate(evaluator, {"with_nms": GOOD, "without_nms": BAD})
    assert set(results) == {"bbox", f"bbox_{other}", "bbox_nms_gap"}
    assert results["bbox"]["AP"] == pytest.approx(main, abs=0.1)
    assert results["bbox_nms_gap"]["AP"] == pytest.approx(50, abs=0.1)
    for folder, count in (("", 1 if nms else 2), (other, 2 if nms else 1)):
        file = tmp_path / "out" / "inference" / folder / "coco_instances_results.json"
        assert len(json.loads(file.read_text())) == count


@pytest.mark.parametrize("key, value", [("MODEL.DEFCN.COMPARE_NMS", False), ("MODEL.META_ARCHITECTURE", "RetinaNet")])
def test_without_comparison(cfg, tmp_path, key, value):
    cfg.merge_from_list([key, value])
    results = evaluate(build_evaluator(cfg, NAME, str(tmp_path / "here")), {"instances": BAD})
    assert set(results) == {"bbox"} and results["bbox"]["AP"] == pytest.approx(50, abs=0.1)
    assert len(json.loads((tmp_path / "here" / "coco_instances_results.json").read_text())) == 2


@pytest.mark.parametrize("kind", ["lvis", None])
def test_another_type_is_named_with_the_way_out(cfg, kind):
    del MetadataCatalog.get(NAME).__dict__["evaluator_type"]
    if kind is not None:
        MetadataCatalog.get(NAME).evaluator_type = kind
    message = rf"DATASETS\.TEST: 'one_image' has evaluator_type {kind!r}.*DATASETS\.REGISTER"
    with pytest.raises(ValueError, match=message):
        build_evaluator(cfg, NAME)
