"""Results speak of images, classes and pixels as the user's json does, whatever had to be changed to read it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from defcn_ext.data import register_from_config
from defcn_ext.evaluation import build_evaluator
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from tests.tiny import tiny_cfg

NAME = "own_terms"


@pytest.fixture
def register(tmp_path):
    """Registers a json of 100 x 80 images with one object each, a box of 20 x 30, and gives its config."""

    def make(images: dict[str, object], categories: dict[object, str], classes: list) -> object:
        content = {"images": [], "annotations": [], "categories": [{"id": k, "name": v} for k, v in categories.items()]}
        for n, (name, number) in enumerate(images.items()):
            Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save(tmp_path / name)
            content["images"].append({"id": number, "file_name": name, "height": 80, "width": 100})
            box = {"id": n, "image_id": number, "category_id": classes[n], "bbox": [10, 20, 20, 30]}
            content["annotations"].append(box)
        (tmp_path / "mine.json").write_text(json.dumps(content))
        cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path / "out"), "DATASETS.TEST", (NAME,), "MODEL.DEFCN.COMPARE_NMS", False)
        cfg.DATASETS.REGISTER = (f"{NAME}={tmp_path}/mine.json:{tmp_path}",)
        register_from_config(cfg)
        return cfg

    yield make
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def perfect(record: dict) -> Instances:
    """The objects of a record as detections."""
    found = Instances((80, 100))
    found.pred_boxes = Boxes(torch.tensor([[10.0, 20.0, 30.0, 50.0]]))
    found.scores = torch.tensor([0.9])
    found.pred_classes = torch.tensor([record["annotations"][0]["category_id"]])
    return found


@pytest.mark.parametrize(
    "ids, classes",
    [
        (["b", 7, "7"], {1: "cat", 2: "dog"}),
        ([2**70, 5, 6], {"10": "cat", "9": "dog"}),
        (["1", "2", "3"], {2**64: "cat", 1: "dog"}),
        ([1, 2, 3], {"x": "cat", "y": "dog"}),
    ],
)
def test_the_file_of_results_has_the_ids_of_the_json(register, tmp_path, ids, classes):
    wanted = [list(classes)[n] for n in (0, 1, 1)]
    cfg = register(dict(zip(("a.png", "b.png", "c.png"), ids)), classes, wanted)
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    for record in DatasetCatalog.get(NAME):
        evaluator.process([record], [{"instances": perfect(record)}])
    results = evaluator.evaluate()["bbox"]
    assert [results[key] for key in ("AP", "AP-cat", "AP-dog")] == pytest.approx([100] * 3)
    written = json.loads((tmp_path / "out" / "inference" / "coco_instances_results.json").read_text())
    assert {(line["image_id"], line["category_id"]) for line in written} == set(zip(ids, wanted))
