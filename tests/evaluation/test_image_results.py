import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from defcn_ext.evaluation.errors import find_errors
from defcn_ext.evaluation.image_results import SUBSETS, match
from tests.evaluation.error_examples import image, random_images


def coco_stats(images):
    """AP, AP50, AP75, APs, APm, APl in [0, 1]."""
    objects, found = [], []
    for number, x in enumerate(images, start=1):
        for box, label, crowd, area in zip(x.objects, x.object_classes, x.crowd, x.areas):
            entry = {"id": len(objects) + 1, "image_id": number, "category_id": int(label) + 1, "bbox": box.tolist()}
            objects.append({**entry, "area": float(area), "iscrowd": int(crowd)})
        for box, label, score in zip(x.boxes, x.classes, x.scores):
            entry = {"image_id": number, "category_id": int(label) + 1, "bbox": box.tolist()}
            found.append({**entry, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": i + 1} for i in range(len(images))], "annotations": objects}
        truth.dataset["categories"] = [{"id": i} for i in range(1, 4)]
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6]


@pytest.mark.parametrize("seed", range(4))
def test_ap_is_cocos(seed):
    images = random_images(np.random.default_rng(seed), count=12)
    every, small, medium = (find_errors(images, SUBSETS[name]).ap for name in ("all", "small", "medium"))
    ap, ap50, ap75, ap_small, ap_medium, _ = coco_stats(images)
    got = [every.mean(), every[0], every[5], small.mean(), medium.mean()]
    assert got == pytest.approx([ap, ap50, ap75, ap_small, ap_medium], abs=1e-9)
    assert 0.05 < ap < 0.9 and ap_small > 0 and ap_medium > 0


def test_who_takes_which_object():
    """Two boxes on the first object, of which the second takes the neighbour (IoU 2/3) at .5 and nothing at .75."""
    objects = [(0, 0, 10, 10, 0), (2, 0, 10, 10, 0)]
    at = image([(0, 0, 10, 10, 0, 0.8), (0, 0, 10, 10, 0, 0.9), (0, 0, 10, 10, 1, 1.0)], objects)
    counts = np.array([True, True])
    assert match(at, counts, np.array([0.5, 0.75])).tolist() == [[1, 0, -1], [-1, 0, -1]]
    # An object that does not count is taken where none that counts is free.
    assert match(at, ~counts | [False, True], np.array([0.5])).tolist() == [[0, 1, -1]]
