"""Files of annotations, changed at random: each is read, counted or refused in one line, from the reader to the AP."""

import copy
import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from defcn_ext.config import UserError
from defcn_ext.data import add_data_config, clean_dataset_dicts, probe_headers, register_from_config
from defcn_ext.data.dirt import Dirt
from defcn_ext.evaluation.own_terms import OwnTermsEvaluator
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

NAME = "mutated"
NESTED = json.loads("[" * 90 + "]" * 90)
NASTY = [
    *(None, True, False, 0, -1, 1, 2, 1.0, 0.5, 1e300, -1e300, 5e-324, 2**31, 2**53 + 1, 2**63, 2**64, -(2**70)),
    *(10**400, -(10**400), "", "1", "1.0", "x", "\ud800", "\0", "a" * 5000, "1e999", "nan", "٣", "../../a.png"),
    *([], {}, [[]], [{}], [1], [1, 2, 3, 4], ["1", "2", "3", "4"], {"a": 1}, {"size": [1, 1], "counts": [1]}),
    *({"size": [2**40, 2**40], "counts": [2**80]}, {"size": [40, 60], "counts": "a"}, NESTED, {"b": NESTED}),
    *(float("nan"), float("inf"), -float("inf")),
]
TEXTS = [b"", b"{", b"}", b"]", b"[" * 2000, b"{" * 99999, b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"\xff", b"\0"]
TEXTS += [b'"', b"\\", b"\xef\xbb\xbf", b"-", b'{"a":' * 500, b"null", b"\\ud800"]


def valid() -> dict:
    """Five images of 40 x 60, boxes, a polygon, run lengths, a crowd, and CVAT's attributes."""
    polygon = {"segmentation": [[5, 6, 25, 6, 25, 16, 5, 16]], "keypoints": [6, 7, 2, 9, 9, 1], "num_keypoints": 2}
    runs = {"segmentation": {"size": [40, 60], "counts": [100, 2300]}}
    more = [polygon, {}, runs, {"attributes": {"rotation": 30.0, "occluded": False}}, {"iscrowd": 1}, {"ignore": 0}]
    box = {"bbox": [5, 6, 20, 10], "area": 200.0, "iscrowd": 0}
    return {
        "info": {"year": 2026},
        "images": [{"id": n, "file_name": f"{n % 2}.png", "height": 40, "width": 60} for n in range(1, 6)],
        "annotations": [
            {"id": n + 1, "image_id": n % 5 + 1, "category_id": (2, 7)[n % 2], **box, **more[n % 6]} for n in range(8)
        ],
        "categories": [{"id": 2, "name": "cat", "supercategory": "animal"}, {"id": 7, "name": "dog"}],
    }


def mutate(content: dict, draw: random.Random) -> bytes:
    """One to four changes of values anywhere in it, or of bytes of its text."""
    content = copy.deepcopy(content)
    for _ in range(draw.randint(1, 4)):
        _change_value(content, draw)
    text = json.dumps(content).encode()
    if draw.random() < 0.3:
        start = draw.randrange(len(text) + 1)
        text = text[:start] + draw.choice(TEXTS) + text[start + draw.choice((0, 1, 10, len(text))) :]
    return text


def _change_value(content: dict, draw: random.Random) -> None:
    node, depth = content, draw.choice((1, 2, 2, 3, 3, 3, 4, 5))
    for _ in range(depth):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        where = draw.choice(keys)
        if depth == 1 or not isinstance(node[where], (list, dict)) or draw.random() < 0.15:
            break
        node = node[where]
    else:
        return
    if draw.random() < 0.15:
        del node[where]
    elif draw.random() < 0.1 and isinstance(node, list):
        node.append(copy.deepcopy(node[where]))
    else:
        node[where] = copy.deepcopy(draw.choice(NASTY))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mutated")
    for n in (0, 1):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path / f"{n}.png")
    return path


def go_through(text: bytes, folder) -> str:
    """Reader, cleaning, evaluator. "refused" or "evaluated"; any error that is none for users comes through."""
    (folder / "mutated.json").write_bytes(text)
    cfg = get_cfg()
    add_data_config(cfg)
    cfg.OUTPUT_DIR = str(folder / "out")
    cfg.DATASETS.REGISTER = (f"{NAME}={folder}/mutated.json:{folder}",)
    try:
        register_from_config(cfg)
        records = DatasetCatalog.get(NAME)
        headers = probe_headers(record["file_name"] for record in records)
        cleaned = clean_dataset_dicts(records, headers=headers, dirt=Dirt())
        check_boxes(cleaned)
        evaluator = OwnTermsEvaluator(NAME, output_dir=str(folder / "out"))
        evaluator.reset()
        for record in cleaned:
            evaluator.process([record], [{"instances": as_found(record)}])
        evaluator.evaluate()
        json.dumps(json.loads((folder / "out" / "coco_instances_results.json").read_text()))
    except (UserError, FileNotFoundError) as error:
        assert str(error) and "\n" not in str(error)
        return "refused"
    finally:
        if NAME in DatasetCatalog:
            DatasetCatalog.remove(NAME)
        MetadataCatalog.pop(NAME, None)
    return "evaluated"


def check_boxes(records: list[dict]) -> None:
    for record in records:
        for annotation in record["annotations"]:
            x, y, w, h = annotation["bbox"]
            assert 0 <= x and 0 <= y and 0 < w and 0 < h and x + w <= 60.001 and y + h <= 40.001


def as_found(record: dict) -> Instances:
    found = Instances((record["height"], record["width"]))
    objects = record["annotations"]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores = torch.full((len(boxes),), 0.5)
    found.pred_classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.long)
    return found


def test_the_valid_file_passes(folder):
    assert go_through(json.dumps(valid()).encode(), folder) == "evaluated"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_mutated_files(folder, seed):
    go_through(mutate(valid(), random.Random(seed)), folder)


@pytest.mark.slow
def test_1800_mutated_files(folder):
    ends = [go_through(mutate(valid(), random.Random(f"{seed}")), folder) for seed in range(1800)]
    print(f"{ends.count('evaluated')} evaluated, {ends.count('refused')} refused")  # the rest would have raised
    assert len(ends) == 1800 and min(ends.count("evaluated"), ends.count("refused")) > 300
