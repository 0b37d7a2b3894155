"""Classes are matched by name: over the sets of a run, and with the checkpoint that it starts from."""

import json

import pytest
import torch

from defcn_ext.config import UserError
from defcn_ext.data import add_data_config, register_from_config
from defcn_ext.data.classes import category_ids, class_order, model_classes, weights_of_run, with_classes
from defcn_ext.data.loaders import dicts_to_look_at, train_dicts
from defcn_ext.data.register import check_num_classes
from defcn_ext.evaluation.own_terms import OwnTermsEvaluator
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

pytestmark = pytest.mark.usefixtures("unregistered")

BOXES = {"cat": (5.0, 6.0, 20.0, 10.0), "dog": (30.0, 20.0, 20.0, 10.0), "eel": (2.0, 25.0, 20.0, 10.0)}
TRAIN, VAL = {1: "cat", 2: "dog", 3: "eel"}, {7: "eel", 8: "cat", 2: "dog"}  # two exports of one project


@pytest.fixture
def cfg(tmp_path):
    config = get_cfg()
    add_data_config(config)
    config.OUTPUT_DIR = str(tmp_path / "output")
    config.MODEL.DEFCN = CfgNode({"NUM_CLASSES": 3})
    config.DATASETS.TRAIN, config.DATASETS.TEST = ("mine_train",), ("mine_val",)
    return config


@pytest.fixture
def export(make_json, make_image, coco_image, tmp_path):
    """Writes a json with one object of each class, at a place that tells its class."""

    def make(name: str, classes: dict[int, str]) -> tuple[str, str]:
        make_image("a.png")
        objects = [
            {"id": n, "image_id": 1, "category_id": number, "bbox": BOXES[x], "area": 200, "iscrowd": 0}
            for n, (number, x) in enumerate(classes.items(), start=1)
        ]
        categories = [{"id": number, "name": x} for number, x in classes.items()]
        return make_json([coco_image(1, "a.png")], objects, categories, name=f"{name}.json"), str(tmp_path / "images")

    return make


def register(cfg, export, **sets) -> None:
    cfg.DATASETS.REGISTER = [
        f"{name}={json_file}:{images}"
        for name, classes in sets.items()
        for json_file, images in [export(name, classes)]
    ]
    register_from_config(cfg)


def places(records: list[dict], names: list[str]) -> dict[str, list]:
    return {names[a["category_id"]]: a["bbox"] for record in records for a in record["annotations"]}


def test_a_second_training_set_takes_the_order_of_the_first(cfg, export):
    register(cfg, export, mine_train=TRAIN, more_train=VAL, mine_val=TRAIN)
    cfg.DATASETS.TRAIN = ("mine_train", "more_train")
    records = train_dicts(cfg)
    expected = {name: list(box) for name, box in BOXES.items()}
    assert len(records) == 2
    assert [places([record], ["cat", "dog", "eel"]) for record in records] == [expected, expected]
    cfg.DATASETS.CLASSES = ("eel", "cat", "dog")
    assert [places([record], ["eel", "cat", "dog"]) for record in train_dicts(cfg)] == [expected, expected]


@pytest.mark.parametrize("stock", [False, True])
def test_a_validation_set_with_other_ids_is_evaluated_by_name(cfg, export, stock):
    register(cfg, export, mine_train=TRAIN)
    if stock:
        register_coco_instances("mine_val", {}, *export("val", VAL))
    else:
        register(cfg, export, mine_val=VAL)
    assert class_order(cfg, "mine_train") == [0, 1, 2]
    assert class_order(cfg, "mine_val") == [2, 0, 1]  # the set's own order: dog, eel, cat
    DatasetCatalog.get("mine_val")  # as the loader does: metadata then know the ids
    evaluator = OwnTermsEvaluator("mine_val", classes=class_order(cfg, "mine_val"), output_dir=cfg.OUTPUT_DIR)
    evaluator.reset()
    boxes = torch.tensor([BOXES[name] for name in TRAIN.values()])
    boxes[:, 2:] += boxes[:, :2]
    found = Instances((40, 60), pred_boxes=Boxes(boxes), scores=torch.ones(3), pred_classes=torch.arange(3))
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    results = evaluator.evaluate()["bbox"]
    assert [results[key] for key in ("AP", "AP-cat", "AP-dog", "AP-eel")] == pytest.approx([100] * 4)
    assert found.pred_classes.tolist() == [0, 1, 2]
    with open(f"{cfg.OUTPUT_DIR}/coco_instances_results.json") as file:
        assert [line["category_id"] for line in json.load(file)] == [8, 2, 7]
    assert category_ids(cfg) == (8, 2, 7)


def test_other_names_stop_with_both_lists(cfg, export):
    register(cfg, export, mine_train=TRAIN, mine_val={1: "cat", 2: "dog"}, other_val={**TRAIN, 4: "eel"})
    message = r"mine_val has the classes cat, dog; mine_train has cat, dog, eel; lacking: eel\. Classes are matched"
    with pytest.raises(UserError, match=message):
        with_classes(cfg, ("mine_train", "mine_val"))
    with pytest.raises(UserError, match=message):
        class_order(cfg, "mine_val")
    with pytest.raises(
        UserError, match=r"other_val has the classes cat, dog, eel \(id 3\), eel \(id 4\); .*unknown: eel"
    ):
        with_classes(cfg, ("mine_train", "other_val"))
    cfg.DATASETS.CLASSES = ("dog", "cat")
    assert class_order(cfg, "mine_val") == [1, 0]
    with pytest.raises(UserError, match=r"DATASETS\.CLASSES has dog, cat; unknown: eel"):
        train_dicts(cfg)


def test_a_set_that_lacks_a_class_is_told_of_it_and_not_of_the_number(cfg, export):
    """Many exports leave out the categories without objects; another NUM_CLASSES would only move the fault."""
    register(cfg, export, mine_train=TRAIN, mine_val={1: "cat", 3: "eel"})
    message = (
        "mine_val has the classes cat, eel; mine_train has cat, dog, eel; lacking: dog.*add the lacking ones to its"
    )
    for names in (("mine_train", "mine_val"), ("mine_val", "mine_train")):
        with pytest.raises(UserError, match=message):
            check_num_classes(cfg, names)
    cfg.MODEL.DEFCN.NUM_CLASSES = 80
    with pytest.raises(ValueError, match=r"mine_train has 3 categories .*: set MODEL\.DEFCN\.NUM_CLASSES 3"):
        check_num_classes(cfg, ("mine_train", "mine_val"))


def test_a_stock_set_with_two_classes_of_one_name_is_refused(cfg, export):
    register_coco_instances("mine_val", {}, *export("val", {1: "cat", 2: "dog", 3: "cat"}))
    with pytest.raises(UserError, match=r"mine_val: several categories are called 'cat': .*DATASETS\.REGISTER"):
        class_order(cfg, "mine_val")


def test_nobody_knows_the_ids_of_a_set_that_is_not_there(cfg):
    register_coco_instances("mine_val", {}, "nowhere.json", "nowhere")
    assert category_ids(cfg) == ()


def test_an_evaluation_needs_no_training_data(cfg, export):
    register(cfg, export, mine_val=VAL)
    assert model_classes(cfg) == ["dog", "eel", "cat"]
    cfg.DATASETS.TRAIN = ("mine_train",)
    register_coco_instances("mine_train", {}, "/none/train.json", "/none")
    assert class_order(cfg, "mine_val") == [0, 1, 2]


@pytest.fixture
def checkpoint(tmp_path):
    """A file of weights that names its classes."""
    path = tmp_path / "model.pth"
    torch.save({"model": {"w": torch.zeros(1)}, "thing_classes": ["eel", "dog", "cat"]}, path)
    return str(path)


def test_the_order_of_a_checkpoint_goes_before_that_of_the_data(cfg, export, checkpoint):
    register(cfg, export, mine_train=TRAIN, mine_val=VAL)
    cfg.freeze()
    for keep in (False, True):
        settled = with_classes(cfg, ("mine_train", "mine_val"), checkpoint, keep=keep)
        assert settled.DATASETS.CLASSES == ("eel", "dog", "cat") and settled.is_frozen()
        assert class_order(settled, "mine_val") == [1, 0, 2]
    assert cfg.DATASETS.CLASSES == ()
    assert with_classes(cfg, ("mine_val",)).DATASETS.CLASSES == ("cat", "dog", "eel")


def test_a_checkpoint_of_other_classes_is_fine_tuned_but_not_evaluated(cfg, export, checkpoint, caplog):
    register(cfg, export, mine_train={1: "cat"}, mine_val={5: "cat"})
    with caplog.at_level("INFO"):
        assert with_classes(cfg, ("mine_train", "mine_val"), checkpoint).DATASETS.CLASSES == ("cat",)
    assert "its classes (eel, dog, cat) give way to cat" in caplog.text
    message = r"mine_val has the classes cat; .*model\.pth has eel, dog, cat; lacking: eel, dog"
    with pytest.raises(UserError, match=message):
        with_classes(cfg, ("mine_val",), checkpoint, keep=True)
    cfg.DATASETS.CLASSES = ("cat",)  # whoever says so knows better than the file
    assert with_classes(cfg, ("mine_val",), checkpoint, keep=True).DATASETS.CLASSES == ("cat",)


def test_the_classes_of_a_checkpoint_by_hand_in_another_order_are_refused(cfg, export, checkpoint):
    register(cfg, export, mine_train=TRAIN, mine_val=VAL)
    cfg.DATASETS.CLASSES = ("eel", "dog", "cat")
    assert with_classes(cfg, ("mine_val",), checkpoint, keep=True).DATASETS.CLASSES == ("eel", "dog", "cat")
    cfg.DATASETS.CLASSES = ("cat", "dog", "eel")
    with pytest.raises(UserError, match=r"DATASETS\.CLASSES: .*model\.pth has these .* order \(eel, dog, cat\)"):
        with_classes(cfg, ("mine_val",), checkpoint, keep=True)


def test_the_checkpoint_that_a_run_starts_from(cfg, checkpoint, tmp_path):
    cfg.MODEL.WEIGHTS = checkpoint
    assert weights_of_run(cfg, resume=True) == checkpoint
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "last_checkpoint").write_text("model_0000009.pth")
    (tmp_path / "output" / "model_0000009.pth").touch()
    assert weights_of_run(cfg, resume=True) == str(tmp_path / "output" / "model_0000009.pth")
    assert weights_of_run(cfg, resume=False) == checkpoint
    cfg.MODEL.WEIGHTS = "https://example.org/model.pth"
    assert weights_of_run(cfg, resume=False) == ""
    assert "mine_val" not in DatasetCatalog


def test_pictures_show_a_set_in_the_models_classes(cfg, export):
    register(cfg, export, mine_train=TRAIN, mine_val=VAL)
    (record,) = dicts_to_look_at(cfg, "mine_val")
    assert places([record], ["cat", "dog", "eel"]) == {name: list(box) for name, box in BOXES.items()}
