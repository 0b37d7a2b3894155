import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import load_config
from defcn_ext.tools import errors
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from tests.quick import REPOSITORY

FCOS = str(REPOSITORY / "configs" / "Quick" / "fcos.yaml")
THIN = ["MODEL.FPN.OUT_CHANNELS", "32", "MODEL.DEFCN.NUM_CONVS", "1", "MODEL.DEVICE", "cpu"]


@pytest.fixture
def truth(quick):
    with open(MetadataCatalog.get("quick_val").json_file) as file:
        return json.load(file)


def write_results(path, truth, duplicates=0):
    """The truth itself, some of it twice, the copy with the better score narrower."""
    found = []
    for index, x in enumerate(truth["annotations"]):
        result = {"image_id": x["image_id"], "category_id": x["category_id"], "bbox": x["bbox"], "score": 0.5}
        found.append(result)
        left, top, width, height = x["bbox"]
        if index < duplicates:
            found.append({**result, "bbox": [left, top, 0.97 * width, height], "score": 0.9})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


def write_run(folder, truth, duplicates):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(load_config(FCOS, ["MODEL.DEVICE", "cpu"]).dump())
    with_nms = load_config(FCOS, ["MODEL.DEVICE", "cpu"]).MODEL.DEFCN.NMS
    other = "without_nms" if with_nms else "with_nms"
    for name, count in (("", duplicates), (other, 0)):
        write_results(folder / "inference" / name / "coco_instances_results.json", truth, count)
    return "with_nms" if with_nms else "without_nms"


def read(folder):
    return json.loads((folder / "errors.json").read_text())["detectors"]


def test_files_of_results(truth, tmp_path, capsys):
    """One file repeats the truth, the other has a narrower duplicate before each object."""
    count = len(truth["annotations"])
    write_results(tmp_path / "same.json", truth)
    write_results(tmp_path / "twice.json", truth, count)
    annotations = ["--annotations", MetadataCatalog.get("quick_val").json_file, "--output", str(tmp_path / "out")]
    errors.main([str(tmp_path / "same.json"), f"two boxes={tmp_path / 'twice.json'}", *annotations])
    printed = capsys.readouterr().out
    assert "| same " in printed and "| two boxes " in printed and "By size and crowding" in printed
    same, twice = read(tmp_path / "out")
    assert same["subsets"]["all"][0]["ap"] == pytest.approx([1] * 10)
    assert same["counts"] == [{**dict.fromkeys(twice["counts"][0], 0), "objects": count, "found": count}]
    errors_of_all = twice["subsets"]["all"][0]
    assert errors_of_all["ap"][0] + errors_of_all["won"]["duplicate"][0] == pytest.approx(1)
    assert twice["counts"][0]["duplicate"] == count
    width, height = Image.open(tmp_path / "out" / "errors.png").size
    assert width > 1000 and height > 500


@pytest.mark.slow
def test_folders_of_a_training_and_of_a_comparison(truth, tmp_path, capsys):
    runs = tmp_path / "compare" / "runs" / "fcos"
    kind = write_run(runs / "seed_0", truth, 0)
    write_run(runs / "seed_1", truth, 20)
    entries = [{"label": "FCOS", "weights": f"elsewhere/runs/fcos/seed_{i}/model_final.pth"} for i in (0, 1)]
    (tmp_path / "compare" / "results.json").write_text(json.dumps({"runs": entries}))
    errors.main([str(tmp_path / "compare"), f"one={runs / 'seed_1'}", "--output", str(tmp_path / "out")])
    found = {(x["label"], x["nms"]): x for x in read(tmp_path / "out")}
    assert sorted(found) == [(x, nms) for x in ("FCOS", "one") for nms in ("with_nms", "without_nms")]
    assert [x["duplicate"] for x in found["FCOS", kind]["counts"]] == [0, 20]
    assert [x["duplicate"] for x in found["one", kind]["counts"]] == [20]
    assert "±" in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint_is_evaluated(quick, tmp_path, capsys):
    torch.manual_seed(0)
    model = Trainer.build_model(load_config(FCOS, THIN))
    for branch in model.branches.values():
        torch.nn.init.normal_(branch.cls_score.weight, std=0.3)
        torch.nn.init.constant_(branch.bbox_pred.bias, 1.0)
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    errors.main([f"x={FCOS}:{tmp_path / 'model.pth'}", "--output", str(tmp_path / "out"), *THIN])
    without, with_nms = read(tmp_path / "out")
    assert [without["nms"], with_nms["nms"]] == ["without_nms", "with_nms"]
    capsys.readouterr()
    folder = tmp_path / "out" / "detections" / "x"
    for result, place in ((with_nms, folder), (without, folder / "without_nms")):
        coco = COCO(MetadataCatalog.get("quick_val").json_file)
        evaluation = COCOeval(coco, coco.loadRes(str(place / "coco_instances_results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        subsets = [float(np.mean(result["subsets"][name][0]["ap"])) for name in ("all", "small")]
        assert subsets == pytest.approx([evaluation.stats[0], evaluation.stats[3]], abs=1e-9)
        assert subsets[0] > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "give --annotations"),
        ("{}", "expected a list of COCO results"),
        ('[{"image_id": 1}]', "needs image_id, category_id, bbox and score"),
        ('[{"image_id": -5, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "image_id -5 is not in"),
        ("[", "not valid json"),
    ],
)
def test_bad_results_are_told_in_one_line(truth, tmp_path, content, message):
    (tmp_path / "a.json").write_text(content or "[]")
    arguments = ["--annotations", MetadataCatalog.get("quick_val").json_file] if content else []
    with pytest.raises(SystemExit, match=message) as error:
        errors.main([str(tmp_path / "a.json"), *arguments, "--output", str(tmp_path / "out")])
    assert "\n" not in error.value.code


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["{tmp}"], "no folder of a training"),
        (["a={tmp}/x.pth", "a={tmp}/y.pth"], "two detectors are called 'a'"),
    ],
)
def test_bad_entries_are_told_in_one_line(tmp_path, entries, message):
    with pytest.raises(SystemExit, match=message):
        errors.main([x.format(tmp=tmp_path) for x in entries] + ["--output", str(tmp_path / "out")])
