"""Loaders over dirty data: training goes on, evaluation says what is wrong before it starts."""

import itertools
import os

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_api

from defcn_ext.config import UserError
from defcn_ext.data import (
    RobustMapper,
    UnreadableImageError,
    add_data_config,
    build_test_loader,
    build_train_loader,
    register_from_config,
)
from defcn_ext.data.loaders import BlankCounter, check_test_images, train_dicts
from defcn_ext.evaluation.own_terms import OwnTermsEvaluator
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

pytestmark = pytest.mark.usefixtures("unregistered")


def annotation(box) -> dict:
    return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}


@pytest.fixture
def cfg():
    config = get_cfg()
    add_data_config(config)
    config.DATASETS.TRAIN, config.DATASETS.TEST = ("dirty",), ("dirty",)
    config.DATALOADER.NUM_WORKERS = 0
    config.SOLVER.IMS_PER_BATCH = 2
    config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MIN_SIZE_TEST = (40,), 40
    return config


@pytest.fixture
def register(make_image, make_truncated, tmp_path):
    """Registers records given as name -> boxes; a name with "cut" is cut off, one with "gone" has no file."""

    def make(content: dict[str, list], **more) -> None:
        records = []
        for i, (name, boxes) in enumerate(content.items()):
            path = str(tmp_path / "images" / name)
            if "gone" not in name:
                (make_truncated if "cut" in name else make_image)(name)
            fixed = {"file_name": path, "height": 40, "width": 60, "image_id": i}
            records.append({**fixed, "annotations": [annotation(b) for b in boxes], **more})
        DatasetCatalog.register("dirty", lambda: records)
        MetadataCatalog.get("dirty").set(thing_classes=["thing"])

    return make


GOOD = [5.0, 6.0, 20.0, 10.0]


def test_training_survives_every_kind_at_once(cfg, register):
    register({"a.jpg": [GOOD, [1, 1, 0, 0]], "cut.jpg": [GOOD], "gone.jpg": [GOOD], "empty.jpg": []}, width=61)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    names = set()
    for batch in itertools.islice(build_train_loader(cfg), 12):
        assert len(batch) == 2
        for record in batch:
            names.add(record["file_name"].rsplit("/", 1)[1])
            assert (record["height"], record["width"]) == (40, 60)
            assert len(record["instances"]) == (1 if record["file_name"].endswith("a.jpg") else 0)
    assert names == {"a.jpg", "empty.jpg"}


def test_emptiness_is_judged_after_cleaning(cfg, register):
    register({"a.jpg": [GOOD], "b.jpg": [[5.0, 6.0, 0.0, 0.0]], "c.jpg": []})
    assert [r["image_id"] for r in train_dicts(cfg)] == [0]
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert [r["image_id"] for r in train_dicts(cfg)] == [0, 1, 2]


def test_nothing_to_train_on_is_explained(cfg, register):
    register({"gone.jpg": [GOOD], "a.jpg": [[99, 99, 5, 5]]})
    with pytest.raises(ValueError, match=r"TRAIN dirty: no image with an object is left: 1 unreadable .*gone\.jpg"):
        train_dicts(cfg)


def test_why_no_object_is_left(cfg, register, make_json, make_image, coco_image, tmp_path):
    make_image("a.jpg")
    images, root = [coco_image(1, "a.jpg")], tmp_path / "images"
    box = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2]}
    for name, annotations, why in (
        ("none", [], "there are no annotations"),
        ("boxless", [box], r"1 annotations whose bbox is not four finite numbers: skipped \(first: id 1 in a\.jpg"),
        (
            "crowds",
            [{**box, "bbox": [1, 2, 3, 4], "iscrowd": "1"}],
            "1 annotations are crowds, which are not trained on",
        ),
    ):
        cfg.DATASETS.REGISTER = (f"{name}={make_json(images, annotations, name=f'{name}.json')}:{root}",)
        cfg.DATASETS.TRAIN, cfg.OUTPUT_DIR = (name,), str(tmp_path / "out")
        register_from_config(cfg)
        for empty_too in (False, True):
            cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = empty_too
            with pytest.raises(UserError, match=f"TRAIN {name}: no image with an object is left: .*{why}"):
                train_dicts(cfg)


def test_shares_of_the_image_are_refused_in_any_data_set(cfg, register):
    register({"a.jpg": [[0.1, 0.2, 0.3, 0.4]], "b.jpg": [[0.5, 0.2, 0.25, 0.1]]})
    with pytest.raises(UserError, match="TRAIN dirty: 2 of 2 boxes lie between 0 and 1: they are shares"):
        train_dicts(cfg)
    with pytest.raises(UserError, match="TEST dirty: 2 of 2 boxes lie between 0 and 1: they are shares"):
        check_test_images(cfg)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [1, 2])
def test_boxes_drawn_on_the_stored_pixels_are_found_in_training_and_evaluation(
    cfg, make_image, make_json, tmp_path, orientation, scale, caplog
):
    """Images of 40 x 60 as stored, `scale` times as large when they were annotated, with and without EXIF's turn."""
    boxes = {"a.png": [10.0, 4.0, 20.0, 10.0], "b.png": [34.0, 22.0, 24.0, 16.0]}
    images, annotations = [], []
    for number, (name, box) in enumerate(boxes.items(), start=1):
        path = make_image(name)
        pixels = np.zeros((40, 60, 3), np.uint8)
        x, y, w, h = map(int, box)
        pixels[y : y + h, x : x + w] = 255
        exif = Image.Exif()
        exif[0x0112] = orientation if name == "a.png" else 6  # the second tells how the first was looked at
        Image.fromarray(pixels).save(path, exif=exif)
        images.append({"id": number, "file_name": name, "height": 40 * scale, "width": 60 * scale})
        large = [scale * v for v in box]
        full = np.zeros((40 * scale, 60 * scale), np.uint8)
        full[y * scale : (y + h) * scale, x * scale : (x + w) * scale] = 1
        mask = mask_api.encode(np.asfortranarray(full))
        mask["counts"] = mask["counts"].decode()
        fixed = {"id": number, "image_id": number, "category_id": 2, "bbox": large, "iscrowd": 0, "segmentation": mask}
        annotations.append({**fixed, "area": large[2] * large[3]})
    cfg.DATASETS.REGISTER = (f"turned={make_json(images, annotations)}:{tmp_path}/images",)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("turned",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP, cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = (
        (0,),
        "none",
        True,
        "bitmask",
    )
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    register_from_config(cfg)
    for record in train_dicts(cfg):
        mapped = RobustMapper(cfg, True)(record)
        white = torch.nonzero(mapped["image"][0] > 128)
        found = [*white.min(0).values.flip(0).tolist(), *(white.max(0).values.flip(0) + 1).tolist()]
        assert mapped["instances"].gt_boxes.tensor[0].tolist() == pytest.approx(found)
        assert torch.equal(mapped["instances"].gt_masks.tensor[0], mapped["image"][0] > 128)
    evaluator = OwnTermsEvaluator("turned", output_dir=cfg.OUTPUT_DIR)
    evaluator.reset()
    caplog.clear()
    for batch in build_test_loader(cfg, "turned"):
        evaluator.process(batch, [{"instances": white_box(batch[0])}])
    told = [r.getMessage() for r in caplog.records if "boxes" in r.getMessage()]
    assert len(told) == (2 if scale == 2 and orientation == 1 else 1)
    results = evaluator.evaluate()
    assert [results[task]["AP"] for task in ("bbox", "segm")] == pytest.approx([100, 100])


def white_box(record: dict) -> Instances:
    """What a perfect detector sees on a black picture with one white box."""
    white = record["image"][0] > 128
    places = torch.nonzero(white)
    box = [*places.min(0).values.flip(0).tolist(), *(places.max(0).values.flip(0) + 1).tolist()]
    fields = {"pred_boxes": Boxes([box]), "pred_masks": white[None], "scores": torch.ones(1)}
    return Instances((record["height"], record["width"]), pred_classes=torch.zeros(1, dtype=torch.long), **fields)


def test_evaluation_refuses_sizes_that_nothing_explains(cfg, register):
    register({"a.jpg": [GOOD]}, height=80)
    message = (
        r"TEST dirty: 1 images .* not explained .*a\.jpg: 80 x 60, the file has 40 x 60\).*without height and width"
    )
    with pytest.raises(UserError, match=message):
        check_test_images(cfg)
    with pytest.raises(UserError, match=message):
        build_test_loader(cfg, "dirty")


def test_unchecked_files_are_met_in_training(cfg, register):
    register({"a.jpg": [GOOD], "gone.jpg": [GOOD]})
    cfg.DATASETS.CHECK_FILES = "none"
    assert len(train_dicts(cfg)) == 2
    for batch in itertools.islice(build_train_loader(cfg), 4):
        assert all(record["file_name"].endswith("a.jpg") for record in batch)


def test_unknown_check_is_named(cfg, register):
    register({"a.jpg": [GOOD]})
    cfg.DATASETS.CHECK_FILES = "all"
    with pytest.raises(ValueError, match=r"DATASETS\.CHECK_FILES: unknown value 'all'; known: header, none"):
        train_dicts(cfg)


def test_evaluation_keeps_every_image_in_order(cfg, register):
    register({"b.jpg": [GOOD], "a.jpg": [], "c.jpg": [[0, 0, 0, 0]]}, height=11)
    batches = list(build_test_loader(cfg, "dirty"))
    assert [[r["image_id"] for r in batch] for batch in batches] == [[0], [1], [2]]
    assert {(r["height"], r["width"]) for (r,) in batches} == {(40, 60)}
    assert all("annotations" not in r for (r,) in batches)


def test_evaluation_names_missing_files_before_it_starts(cfg, register):
    register({"a.jpg": [GOOD], "gone.jpg": [GOOD], "gone2.jpg": [GOOD]})
    with pytest.raises(UnreadableImageError, match=r"TEST dirty: 2 of 3 images cannot be read, first .*gone\.jpg"):
        build_test_loader(cfg, "dirty")


def test_backslashes_in_names_of_missing_files_are_hinted_at(cfg, register):
    register({"a.jpg": [GOOD], "gone\\b.jpg": [GOOD]})
    with pytest.raises(UnreadableImageError, match=r"gone\\b\.jpg .*backslashes are part of the name here, write /"):
        build_test_loader(cfg, "dirty")


def test_evaluation_goes_on_past_a_file_that_is_cut_off(cfg, register, caplog):
    register({"a.jpg": [GOOD], "cut.jpg": [GOOD]})
    (whole,), (cut,) = build_test_loader(cfg, "dirty")
    assert whole["image"].any() and not cut["image"].any()
    assert cut["image"].shape == whole["image"].shape and (cut["height"], cut["width"]) == (40, 60)
    told, summary = [r.getMessage() for r in caplog.records]
    assert "DATASETS.TEST dirty: 1 of 2 images cannot be decoded and count as blank ones, the first" in summary
    assert told.startswith("1 image(s) that cannot be decoded") and "cut.jpg" in told


def test_every_test_set_is_checked_at_once(cfg, register):
    register({"a.jpg": [GOOD], "gone.jpg": [GOOD]})
    cfg.DATASETS.CHECK_FILES = "none"
    check_test_images(cfg)
    cfg.DATASETS.CHECK_FILES = "header"
    with pytest.raises(UnreadableImageError, match=r"TEST dirty: 1 of 2 images cannot be read, first .*gone\.jpg"):
        check_test_images(cfg)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_images_without_pixels_end_the_evaluation(cfg, register, workers):
    """Two of three: more than one, and more than a tenth."""
    cfg.DATALOADER.NUM_WORKERS = workers
    register({"a.jpg": [GOOD], "cut1.jpg": [GOOD], "cut2.jpg": [GOOD]})
    loader = build_test_loader(cfg, "dirty")
    assert len(loader) == 3 and loader.num_workers == workers
    seen = []
    with pytest.raises(UnreadableImageError, match=r"TEST dirty: 2 images of 3 cannot be decoded already.*cut1\.jpg"):
        seen += list(loader)
    assert seen == []


def test_a_tenth_may_be_without_pixels(cfg, register, caplog):
    register({f"{'cut' if i in (3, 7) else 'a'}{i}.jpg": [GOOD] for i in range(20)})
    loader = build_test_loader(cfg, "dirty")
    for _ in range(2):  # every pass counts anew
        caplog.clear()
        blank = [record.get("blank", False) for (record,) in loader]
        assert [i for i, x in enumerate(blank) if x] == [3, 7]
        assert "dirty: 2 of 20 images cannot be decoded and count as blank ones, the first" in caplog.text
    caplog.clear()
    assert list(BlankCounter([[{"file_name": "x.jpg"}]], "whole")) == [[{"file_name": "x.jpg"}]] and not caplog.records


def test_training_files_that_all_vanish_end_the_training(cfg, register):
    """Detectron2's loader looks for another image, and has none."""
    register({f"a{i}.jpg": [GOOD] for i in range(5)})
    loader = build_train_loader(cfg)
    for record in train_dicts(cfg):
        os.unlink(record["file_name"])
    with pytest.raises(UnreadableImageError, match=r"^none of 5 images can be read, the last: .*FileNotFoundError"):
        next(iter(loader))
