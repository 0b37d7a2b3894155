"""Through every door, files that would run something run nothing."""

import argparse
import itertools
import json
import os
import pickle
import sys

import pytest
import torch
from torch import nn

import train_net
from defcn_ext.checkpoint import classes_of, load_weights, read_checkpoint
from defcn_ext.config import UserError
from defcn_ext.engine import Trainer
from defcn_ext.engine.checkpointer import Checkpointer, DetectingCheckpointer
from defcn_ext.engine.stored_config import config_of
from defcn_ext.pictures.labelling import progress_of
from defcn_ext.predictor import Predictor
from defcn_ext.tools import convert_checkpoint
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultPredictor, DefaultTrainer
from tests.checkpoint.malice import FORMATS, LAYOUTS, PREPARE, attacks, ran, write
from tests.engine.conftest import tiny_entry  # noqa: F401  (a fixture)
from tests.engine.tiny import NAME, tiny_cfg

STATE = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def pointed(path):
    """The folder of a run whose last checkpoint is `path`, wherever that lies."""
    folder = path.parent / "run"
    folder.mkdir(exist_ok=True)
    (folder / "last_checkpoint").write_text(str(path))
    return str(folder)


DOORS = {
    "read_checkpoint": lambda path: read_checkpoint(path),
    "DetectionCheckpointer": lambda path: DetectionCheckpointer(nn.Linear(2, 2)).load(str(path)),
    "heuristics": lambda path: DetectionCheckpointer(nn.Linear(2, 2)).load(f"{path}?matching_heuristics=True"),
    "its resume": lambda path: DetectionCheckpointer(nn.Linear(2, 2), pointed(path)).resume_or_load(""),
    "Checkpointer": lambda path: Checkpointer(nn.Linear(2, 2)).load(str(path)),
    "our resume": lambda path: Checkpointer(nn.Linear(2, 2), pointed(path)).resume_or_load(""),
    "load_weights": lambda path: load_weights(nn.Linear(2, 2), path),
    "classes_of": lambda path: classes_of(path),
    "config_of": lambda path: config_of(path),
}


def try_all(files, doors, marker):
    """(door, file) that ran something, and how many loads there were."""
    executed, loads = [], 0
    for path, (name, door) in itertools.product(files, doors.items()):
        loads += 1
        try:
            door(path)
        except (Exception, SystemExit):  # whatever is raised: what counts is what has run
            pass
        if ran(marker):
            executed.append((name, path.name))
    return executed, loads


def written(folder, marker, layouts=LAYOUTS, formats=FORMATS):
    files = []
    for name, layout, format_ in itertools.product(attacks(marker), layouts, formats):
        try:
            files.append(write(folder, name, STATE, layout, format_, marker))
        except (TypeError, AttributeError, pickle.PicklingError):  # an old protocol has no such thing
            continue
    return files


def test_the_attacks_are_real(marker, tmp_path):
    files = written(tmp_path, marker, ["beside the weights"], ["pickle 5 .pkl"])
    assert len(files) == len(attacks(marker))
    for path in files:
        try:
            pickle.loads(path.read_bytes())
        except Exception:  # some break only after they have run
            pass
        assert ran(marker) != (path.name.split("_")[0] in PREPARE), path.name


def test_nothing_runs_where_detectron2_loads_weights(marker, tmp_path):
    formats = ["zip .pth", "legacy .pth", "pickle 0 .pkl", "pickle 5 .pkl"]
    files = written(tmp_path, marker, ["beside the weights"], formats)
    executed, loads = try_all(files, {"DetectionCheckpointer": DOORS["DetectionCheckpointer"]}, marker)
    assert executed == [] and loads > 70


@pytest.mark.slow
def test_nothing_runs_through_any_door(marker, tmp_path):
    files = written(tmp_path, marker)
    executed, loads = try_all(files, DOORS, marker)
    print(f"\n{loads} loads of {len(files)} files, {len(executed)} ran something")
    assert executed == [] and loads > 8000


@pytest.fixture
def whole_programs(tiny_entry, tmp_path):  # noqa: F811
    """Doors that build a model, a trainer or a command, by name."""
    config, out = tmp_path / "tiny.yaml", tmp_path / "out"
    cfg = tiny_cfg(tiny_entry, out, "DATASETS.TEST", (NAME,))
    config.write_text(cfg.dump())
    name, (json_file, images) = NAME, tiny_entry.partition("=")[2].split(":")
    assert json.loads(open(json_file).read())
    register_coco_instances(name, {}, json_file, images)

    def with_weights(path, **changes):
        own = cfg.clone()
        own.merge_from_list(["MODEL.WEIGHTS", str(path), *itertools.chain(*changes.items())])
        return own

    def command(*argv):
        args = train_net.parse(["--config-file", str(config), *map(str, argv), "OUTPUT_DIR", str(out)])
        train_net.prepare(args)
        return train_net.main(args)

    def resumed(path, trainer):
        own = with_weights("", OUTPUT_DIR=pointed(path))
        trainer(own).resume_or_load(resume=True)

    return {
        "DefaultPredictor": lambda path: DefaultPredictor(with_weights(path)),
        "Trainer": lambda path: Trainer(with_weights(path)).resume_or_load(resume=False),
        "Trainer --resume": lambda path: resumed(path, Trainer),
        "DefaultTrainer": lambda path: DefaultTrainer(with_weights(path)).resume_or_load(resume=False),
        "DefaultTrainer --resume": lambda path: resumed(path, DefaultTrainer),
        "train_net --eval-only": lambda path: command("--eval-only", "MODEL.WEIGHTS", path),
        "train_net MODEL.WEIGHTS": lambda path: command("MODEL.WEIGHTS", path),
        "train_net --eval-only --resume": lambda path: command("--eval-only", "--resume", "OUTPUT_DIR", pointed(path)),
        "Predictor, config": lambda path: Predictor.load(config, path),
        "Predictor": lambda path: Predictor.load(path),
        "progress": lambda path: progress_of(argparse.Namespace(cfg=cfg), str(path)),
        "convert": lambda path: convert_checkpoint.main([str(path), str(path.parent / "out.pth")]),
        "DetectingCheckpointer": lambda path: DetectingCheckpointer(nn.Linear(2, 2)).load(str(path)),
    }


@pytest.mark.slow
def test_nothing_runs_in_whole_programs(marker, tmp_path, whole_programs, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["train_net.py"])
    formats = ["zip .pth", "legacy .pth", "pickle 2 .pkl", "pickle 0 .pth"]
    files = written(tmp_path, marker, ["beside the weights"], formats)
    executed, loads = try_all(files, whole_programs, marker)
    print(f"\n{loads} loads of {len(files)} files, {len(executed)} ran something")
    assert executed == [] and loads > 800


def test_the_message_of_a_refusal_is_one_line(marker, tmp_path):
    path = write(tmp_path, "eval", STATE, "beside the weights", "pickle 2 .pkl", marker)
    with pytest.raises(UserError, match="refused, as it names builtins.eval") as caught:
        DetectionCheckpointer(nn.Linear(2, 2)).load(str(path))
    assert "\n" not in str(caught.value)
