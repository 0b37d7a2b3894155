"""The trainings behind the demo: done once, recorded in OUTPUT_DIR/run.json, and taken over by later calls."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from defcn_ext._text import minutes, number, say, write_whole
from defcn_ext.config import UserError
from defcn_ext.data.loaders import dicts_to_look_at
from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import check_run
from defcn_ext.evaluation.outcomes import SCORE, Tally, judge, tally
from defcn_ext.pictures.scenes import load_scene
from defcn_ext.pictures.sheets import above
from defcn_ext.predictor import Predictor
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng

LOGGERS = ("defcn_ext", "detectron2", "fvcore")
PROGRESS_LOGGER = "defcn_ext.engine.console"


@dataclass(frozen=True)
class Run:
    """What one training gave.

    Attributes:
        ap: COCO AP in percent, by "without_nms" and "with_nms"; nan where there was nothing to measure.
        counts: outcomes of the detections without NMS that score above `SCORE`, over the validation images.
    """

    detector: str
    weights: str
    iterations: int
    train_seconds: float
    ap: dict[str, float]
    counts: Tally

    @property
    def gap(self) -> float:
        """What NMS adds to the AP."""
        return self.ap["with_nms"] - self.ap["without_nms"]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Run:
        return cls(**{**content, "counts": Tally(**content["counts"])})


def train_or_reuse(detector: str, cfg: CfgNode, data: Path) -> Run:
    """Trains and evaluates as train_net.py does, or takes over what an earlier call left in OUTPUT_DIR.

    Raises:
        UserError: OUTPUT_DIR holds files that are not of an earlier call.
    """
    folder = Path(cfg.OUTPUT_DIR)
    inputs = {"config": cfg.dump(), "data": json.loads((data / "meta.json").read_text())["sha256"]}
    record = folder / "run.json"
    run = read_run(record, inputs)
    if run is not None:
        say(f"{detector}: already trained, taken from {folder} (remove it to train again)")
        return run
    clear(folder)
    run = train(detector, cfg)
    write_whole(record, json.dumps({"run": asdict(run), "inputs": inputs}, indent=2) + "\n")
    return run


def read_run(record: Path, inputs: dict[str, str]) -> Run | None:
    """The run that a file records, if it is of these inputs, can be read, and its weights are there."""
    try:
        content = json.loads(record.read_text())
        run = Run.from_json(content["run"])
        return run if content["inputs"] == inputs and Path(run.weights).is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def clear(folder: Path) -> None:
    """Removes an earlier run.

    Raises:
        UserError: it holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} holds no run of the demo: remove it, or choose another --output")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def train(detector: str, cfg: CfgNode) -> Run:
    """Trains as train_net.py does, evaluates with and without NMS, and counts what becomes of the detections."""
    folder, iterations = Path(cfg.OUTPUT_DIR), cfg.SOLVER.MAX_ITER
    check_run(cfg, argparse.Namespace(num_gpus=1, num_machines=1, dist_url="", eval_only=False, resume=False))
    write_whole(folder / "config.yaml", cfg.dump())
    say(f"{detector}: training for {iterations} iterations on {cfg.MODEL.DEVICE}, log in {folder / 'log.txt'}")
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)
    stopwatch = Stopwatch()
    with run_log(folder / "log.txt"):
        trainer = Trainer(cfg)
        trainer.register_hooks([stopwatch])
        trainer.resume_or_load(resume=False)
        results = trainer.train()
    weights = str(folder / "model_final.pth")
    ap = {
        "without_nms": results.get("bbox_without_nms", results["bbox"])["AP"],
        "with_nms": results.get("bbox_with_nms", results["bbox"])["AP"],
    }
    counts = count_outcomes(load_trained(detector, cfg, weights))
    say(f"{detector}: trained in {minutes(stopwatch.seconds)}, AP without NMS {number(ap['without_nms'])}")
    return Run(detector, weights, iterations, stopwatch.seconds, ap, counts)


class Stopwatch(HookBase):
    """Seconds from the first step to the end of the last, without the evaluation."""

    seconds = 0.0

    def before_train(self) -> None:
        self._start = time.perf_counter()

    def after_step(self) -> None:
        self.seconds = time.perf_counter() - self._start


@contextmanager
def run_log(path: Path, also: Sequence[str] = ()) -> Iterator[None]:
    """Inside, everything that is logged or printed goes to a file; warnings and progress also to the console.

    Args:
        also: loggers that go to the console too.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(x.level, x.propagate) for x in loggers]
    console = logging.StreamHandler(sys.stdout)
    console.addFilter(lambda r: r.levelno >= logging.WARNING or r.name in (PROGRESS_LOGGER, *also))
    with open(path, "a", encoding="utf-8") as file, redirect_stdout(file):
        written = logging.StreamHandler(file)
        written.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
        for logger in loggers:
            logger.setLevel(logging.INFO)
            logger.propagate = False
            logger.addHandler(console)
            logger.addHandler(written)
        try:
            yield
        finally:
            for logger, (level, propagate) in zip(loggers, before):
                logger.setLevel(level)
                logger.propagate = propagate
                logger.removeHandler(console)
                logger.removeHandler(written)


def load_trained(name: str, cfg: CfgNode, weights: str) -> Predictor:
    changes = ["MODEL.DEVICE", cfg.MODEL.DEVICE]
    return Predictor.load(str(Path(cfg.OUTPUT_DIR) / "config.yaml"), weights, changes, label=name, dataset="")


def count_outcomes(predictor: Predictor) -> Tally:
    """Outcomes of all detections without NMS on the validation images."""
    total = Tally()
    for record in dicts_to_look_at(predictor.cfg, predictor.cfg.DATASETS.TEST[0]):
        objects = load_scene(record).objects
        found = above(predictor.observe(record).detections["without_nms"], SCORE)
        total += tally(judge(found, objects), len(objects))
    return total
