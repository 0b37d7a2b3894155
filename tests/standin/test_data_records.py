"""Records of registered data sets, filtered and joined, and the loaders that a config gives them to."""

import copy
import logging
import pickle
import re
import sys

import numpy as np
import pytest
import torch

from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    load_proposals_into_dataset,
    print_instances_class_histogram,
)
from detectron2.data.build import filter_images_with_few_keypoints
from detectron2.data.detection_utils import get_fed_loss_cls_weights
from detectron2.structures import BoxMode
from tests.standin import raised


@pytest.fixture(autouse=True)
def _restored_catalogs():
    """Forgets what a test registers."""
    datasets, metadata = dict(DatasetCatalog), dict(MetadataCatalog)
    yield
    for catalog, before in ((DatasetCatalog, datasets), (MetadataCatalog, metadata)):
        for name in set(catalog) - set(before):
            catalog.remove(name)


@pytest.fixture(scope="module")
def behaviours(facts):
    return facts("golden_behaviours.json")


def objects(*categories_and_crowds):
    return [
        {"category_id": category, "iscrowd": crowd, "bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS}
        for category, crowd in categories_and_crowds
    ]


@pytest.fixture
def five_images():
    """Images 1, 4, 5 have an object, 2 has none, 3 a crowd only."""
    annotations = {1: [(0, 0)], 2: [], 3: [(1, 1)], 4: [(0, 0), (1, 1)], 5: [(0, 0)]}
    records = [{"image_id": i, "annotations": objects(*content)} for i, content in annotations.items()]
    DatasetCatalog.register("five", lambda: copy.deepcopy(records))
    MetadataCatalog.get("five").thing_classes = ["a", "b"]
    DatasetCatalog.register("nine", lambda: [{"image_id": 9, "annotations": objects((1, 0))}])
    MetadataCatalog.get("nine").thing_classes = ["a", "b"]
    DatasetCatalog.register("other", lambda: [{"image_id": 9, "annotations": objects((0, 0))}])
    MetadataCatalog.get("other").thing_classes = ["x"]


def image_ids(*args, **kwargs):
    return [record["image_id"] for record in get_detection_dataset_dicts(*args, **kwargs)]


def test_records_are_filtered_and_joined(behaviours, five_images, caplog):
    facts = behaviours["get_detection_dataset_dicts"]
    caplog.set_level(logging.INFO)
    assert image_ids("five") == facts["filter_true"]["value"]
    removed = [r for r in caplog.records if r.getMessage().startswith("Removed")]
    assert [[r.name, r.levelname, r.getMessage()] for r in removed] == facts["filter_log"]
    assert image_ids(["five"], filter_empty=False) == facts["filter_false"]["value"]
    assert image_ids(("five", "nine")) == facts["two_names"]["value"]
    unchecked = image_ids(["five", "other"], check_consistency=False)
    assert unchecked == facts["inconsistent_unchecked"]["value"]
    different = raised(get_detection_dataset_dicts, ["five", "other"])
    assert different == facts["inconsistent_classes"]["raises"]


def test_records_that_are_refused(behaviours, five_images):
    facts = behaviours["get_detection_dataset_dicts"]
    cases = {
        "empty_dataset": [],
        "nothing_left_after_filter": [{"image_id": 1, "annotations": []}],
        "category_out_of_range": [{"image_id": 1, "annotations": objects((2, 0))}],
    }
    for key, records in cases.items():
        DatasetCatalog.register(key, lambda records=records: records)
        MetadataCatalog.get(key).thing_classes = ["a", "b"]
        assert raised(get_detection_dataset_dicts, key) == facts[key]["raises"], key
    assert raised(get_detection_dataset_dicts, "nowhere") == facts["unregistered"]["raises"]
    assert raised(get_detection_dataset_dicts, []) == facts["empty_name_list"]["raises"]


def test_records_without_annotations_or_classes_pass(behaviours):
    facts = behaviours["get_detection_dataset_dicts"]
    DatasetCatalog.register("images", lambda: [{"image_id": 1}])
    assert image_ids("images") == facts["no_annotations_key_is_not_filtered"]["value"]
    DatasetCatalog.register("classless", lambda: [{"image_id": 1, "annotations": objects((7, 0))}])
    assert image_ids("classless") == facts["no_thing_classes_skips_check"]["value"]


def test_histogram(behaviours, monkeypatch):
    facts, logged = behaviours["get_detection_dataset_dicts"], []
    # Equal messages are logged once per process, and another test may have had it.
    home = sys.modules[print_instances_class_histogram.__module__]
    monkeypatch.setattr(home, "log_first_n", lambda level, text, **_: logged.append(text))
    records = [{"annotations": objects((0, 0), (1, 1))}, {"annotations": objects((0, 0), (0, 0))}]
    print_instances_class_histogram(records, ["a", "b"])
    assert (len(logged) == 1) is facts["histogram_logged"]
    assert re.sub(r"\x1b\[\d+m", "", logged[0]).startswith(facts["histogram_text"])
    print_instances_class_histogram(records, ["a" * 13, "b" * 14, *"cdefg"])
    header, _, first_row, second_row, _, total = logged[1].splitlines()[1:]
    assert header.count("category") == 3  # six columns at most
    assert "a" * 13 in first_row and "b" * 11 + ".." in first_row
    assert "| d " in re.sub(" +", " ", second_row)
    assert re.findall(r"\d+", total.split("total")[1])[0] == "3"


def test_torch_data_sets_are_joined():
    for name, numbers in (("first", [1, 2]), ("second", [3])):
        part = torch.utils.data.TensorDataset(torch.tensor(numbers))
        DatasetCatalog.register(name, lambda part=part: part)
    joined = get_detection_dataset_dicts(["first", "second"])
    assert [int(item[0]) for item in joined] == [1, 2, 3]
    assert type(get_detection_dataset_dicts("second")) is torch.utils.data.TensorDataset


def test_few_keypoints_are_filtered():
    records = [{"annotations": [{"keypoints": [1, 1, v1, 2, 2, v2]}, {}]} for v1, v2 in ((0, 0), (2, 0), (1, 2))]
    assert filter_images_with_few_keypoints(records, 1) == records[1:]
    assert filter_images_with_few_keypoints(records, 2) == records[2:]


def test_proposals_of_files(tmp_path):
    path = tmp_path / "proposals.pkl"
    boxes = np.array([[0.0, 0, 1, 1], [0, 0, 2, 2]])
    path.write_bytes(pickle.dumps({"indexes": [5], "boxes": [boxes], "scores": [np.array([0.1, 0.9])]}))
    (record,) = load_proposals_into_dataset([{"image_id": 5}], str(path))
    assert record["proposal_boxes"].tolist() == boxes[::-1].tolist()
    assert record["proposal_objectness_logits"].tolist() == [0.9, 0.1]
    assert record["proposal_bbox_mode"] == BoxMode.XYXY_ABS


@pytest.mark.standin_only("Detectron2 runs what the file names")
def test_proposals_that_would_run_something(tmp_path):
    class Touches:
        def __reduce__(self):
            return open, (str(tmp_path / "marker"), "w")

    path = tmp_path / "proposals.pkl"
    path.write_bytes(pickle.dumps({"ids": [5], "boxes": [Touches()], "bbox_mode": BoxMode.XYXY_ABS}))
    with pytest.raises(pickle.UnpicklingError, match=r"names .*open"):
        load_proposals_into_dataset([{"image_id": 5}], str(path))
    assert not (tmp_path / "marker").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "marker").exists(), "the attack is real"


def test_class_weights_of_image_counts():
    counts = [{"id": 2, "image_count": 9}, {"id": 1, "image_count": 4}]
    MetadataCatalog.get("counted").class_image_count = counts
    assert get_fed_loss_cls_weights("counted", 0.5).tolist() == [2, 3]


def train_config(**dataloader):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("five", "nine")
    cfg.DATASETS.TEST = ("five",)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    for key, value in dataloader.items():
        cfg.DATALOADER[key] = value
    return cfg


def sampler_of(loader):
    return loader.dataset.sampler


def test_loaders_from_config(behaviours, five_images):
    seeds, cfg = behaviours["seeds"], train_config()
    loader = build_detection_train_loader(cfg, mapper=lambda record: record)
    assert sampler_of(loader)._seed == seeds["cfg_loader_sampler_seed"]
    batch = next(iter(loader))
    assert len(batch) == 2 and {record["image_id"] for record in batch} <= {1, 4, 5, 9}
    cfg.SEED = 42
    seeded = build_detection_train_loader(cfg, mapper=lambda record: record)
    assert sampler_of(seeded)._seed == seeds["cfg_loader_sampler_seed_42"]
    test = build_detection_test_loader(cfg, "five", mapper=lambda record: record["image_id"])
    assert list(test) == [[1], [2], [3], [4], [5]]
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len(build_detection_train_loader(cfg, mapper=lambda record: record).dataset.dataset) == 6


def test_samplers_from_config(behaviours, five_images):
    seeds = behaviours["seeds"]

    def build(cfg):
        return build_detection_train_loader(cfg, mapper=lambda record: record)

    assert raised(build, train_config(SAMPLER_TRAIN="Other")) == seeds["unknown_sampler"]["raises"]
    subset = train_config(SAMPLER_TRAIN="RandomSubsetTrainingSampler")
    assert raised(build, subset) == seeds["RandomSubset_without_config_key"]["raises"]
    subset.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    order = iter(sampler_of(build(subset)))
    assert len({next(order) for _ in range(20)}) == 2
    assert (raised(build, train_config(SAMPLER_TRAIN="RepeatFactorTrainingSampler")) is None) is (
        seeds["RepeatFactor_ok"]
    )


def share_of_image_nine(cfg) -> float:
    order = iter(sampler_of(build_detection_train_loader(cfg, mapper=lambda record: record)))
    drawn = [next(order) for _ in range(3000)]
    return drawn.count(3) / len(drawn)  # behind images 1, 4, 5


def test_weighted_samplers(five_images):
    cfg = train_config(SAMPLER_TRAIN="WeightedTrainingSampler")
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [("nine", 2.5)]
    assert share_of_image_nine(cfg) == pytest.approx(2.5 / (3 + 2.5), abs=0.02)
    # Within "five", category 1 is in one image of three: factor sqrt(0.75 * 3) = 1.5 for image 4.
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedCategoryTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.75
    assert share_of_image_nine(cfg) == pytest.approx(2.5 / (2 + 1.5 + 2.5), abs=0.02)
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [("unknown", 2.0)]
    assert raised(share_of_image_nine, cfg) == "AssertionError"
