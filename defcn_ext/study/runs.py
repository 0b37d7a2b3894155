"""One training of a comparison, as a process of its own.

    python -m defcn_ext.study.runs FOLDER --threads 1

FOLDER holds `config.yaml` and `inputs.json`. The training goes on from the last checkpoint there and leaves `run.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext._text import without_nan, write_whole
from defcn_ext.config import UserError
from defcn_ext.data import UnreadableImageError
from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import check_run, load_config
from defcn_ext.evaluation.outcomes import Tally
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase, hooks
from detectron2.utils.env import seed_all_rng

REPAIRED = "datasets"  # what registration writes into OUTPUT_DIR
AS_RESUMED = argparse.Namespace(num_gpus=1, num_machines=1, dist_url="", eval_only=False, resume=True)


@dataclass(frozen=True)
class Evaluation:
    """Metrics in percent after `iteration` training steps; nan where there was nothing to measure."""

    iteration: int
    ap: float
    ap_with_nms: float
    ap50: float

    @classmethod
    def from_results(cls, iteration: int, results: dict[str, Any]) -> Evaluation:
        """Reads the results of an evaluation with MODEL.DEFCN.COMPARE_NMS."""
        plain = results.get("bbox_without_nms", results["bbox"])
        with_nms = results.get("bbox_with_nms", results["bbox"])
        return cls(iteration, float(plain["AP"]), float(with_nms["AP"]), float(plain.get("AP50", math.nan)))


@dataclass(frozen=True)
class Run:
    """What one training gave.

    Attributes:
        curve: the evaluations by iteration; the last one is of the finished model.
        counts: outcomes of the detections without NMS over the test images, `images` of them.
        train_seconds: of the training steps alone, whatever the number of interruptions.
        wall_seconds: of the whole process that finished the run.
        weights: the checkpoint of the finished model.
    """

    label: str  # "" in the folder of the run, which does not know what it is called
    seed: int
    curve: tuple[Evaluation, ...]
    counts: Tally
    images: int
    train_seconds: float
    wall_seconds: float
    weights: str

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Run:
        curve = (Evaluation(**{k: math.nan if v is None else v for k, v in x.items()}) for x in content["curve"])
        return cls(**{**content, "curve": tuple(curve), "counts": Tally(**content["counts"])})


class Record(HookBase):
    """Seconds of the training steps, and the evaluations so far. It travels in the checkpoints."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.curve: dict[int, Evaluation] = {}

    def before_step(self) -> None:
        self._start = time.perf_counter()

    def after_step(self) -> None:
        self.seconds += time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "curve": [asdict(x) for x in self.curve.values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds = state["seconds"]
        self.curve = {x["iteration"]: Evaluation(**x) for x in state["curve"]}


class RecordedTrainer(Trainer):
    """A trainer with a `Record` that keeps no checkpoint but the last one."""

    def build_hooks(self) -> list[HookBase | None]:
        """The checkpointer comes last: a checkpoint must know the evaluation after its own step."""
        self.record = Record()
        others = [x for x in super().build_hooks() if not isinstance(x, hooks.PeriodicCheckpointer)]
        saver = hooks.PeriodicCheckpointer(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD, max_to_keep=1)
        return [self.record, *others, saver]

    def evaluate(self) -> dict[str, Any]:
        results = super().evaluate()
        iteration = min(self.iter + 1, self.max_iter)  # `iter` is `max_iter` after the last step
        self.record.curve[iteration] = Evaluation.from_results(iteration, results)
        return results


def inputs_of(cfg: CfgNode) -> dict[str, str]:
    """All that a run depends on: its config, wherever the results go, and the data."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = ""
    return {"config": cfg.dump(), "data": data_fingerprint((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))}


@cache
def data_fingerprint(names: tuple[str, ...]) -> str:
    """Digest of the annotations of data sets, and of the names and sizes of their images."""
    digest = hashlib.sha256()
    for name in names:
        json_file = MetadataCatalog.get(name).get("json_file")
        records = DatasetCatalog.get(name)
        digest.update(Path(json_file).read_bytes() if json_file else json.dumps(records, default=str).encode())
        for path in sorted(record["file_name"] for record in records):
            size = os.path.getsize(path) if os.path.isfile(path) else None
            digest.update(f"{os.path.basename(path)} {size}\n".encode())
    return digest.hexdigest()


def read_run(folder: Path, inputs: dict[str, str]) -> Run | None:
    """The finished run of a folder, if it is one of these inputs."""
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return Run.from_json(content["run"]) if content["inputs"] == inputs else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prepare_folder(folder: Path, cfg: CfgNode, inputs: dict[str, str]) -> None:
    """Makes a folder ready for a run: empty, or with the beginning of the same run.

    Raises:
        UserError: it holds something else, which is never removed.
    """
    known = folder / "inputs.json"
    begun = any((folder / name).exists() for name in ("run.json", "last_checkpoint"))
    if begun or known.exists():
        before = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
        if begun and before != inputs:
            what = _difference(before, inputs)
            raise UserError(f"{folder} holds a run {what}: remove it, or choose another --output")
    elif folder.exists() and any(path.name != REPAIRED for path in folder.iterdir()):
        raise UserError(f"{folder} holds files that are of no comparison: remove it, or choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.yaml", cfg.dump())
    write_whole(known, json.dumps(inputs))


def _difference(before: dict[str, str], now: dict[str, str]) -> str:
    if "config" not in before:
        return "of something else"
    if before["config"] == now["config"]:
        return "on other data (its files have changed)"
    old, new = before["config"].splitlines(), now["config"].splitlines()
    changed = [line.strip() for line in old if line not in new] or ["fewer keys"]
    return f"with another config ({'; '.join(changed[:3])}{'; ...' if len(changed) > 3 else ''})"


def train(folder: Path) -> Run:
    """Trains from the last checkpoint or from the beginning, evaluates, and counts what becomes of the detections."""
    from defcn_ext.study.training import count_outcomes, load_trained  # draws in matplotlib

    start = time.perf_counter()
    cfg = load_config(str(folder / "config.yaml"), [])
    check_run(cfg, AS_RESUMED)
    _forget_lost_checkpoint(folder)
    seed_all_rng(cfg.SEED)
    trainer = RecordedTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    weights = str(folder / "model_final.pth")
    counts = count_outcomes(load_trained(folder.parent.name, cfg, weights))
    for path in folder.glob("model_[0-9]*.pth"):
        path.unlink()
    return Run(
        label="",
        seed=cfg.SEED,
        curve=tuple(trainer.record.curve[i] for i in sorted(trainer.record.curve)),
        counts=counts,
        images=len(DatasetCatalog.get(cfg.DATASETS.TEST[0])),
        train_seconds=trainer.record.seconds,
        wall_seconds=time.perf_counter() - start,
        weights=weights,
    )


def _forget_lost_checkpoint(folder: Path) -> None:
    """A process that dies while `last_checkpoint` is written leaves it empty; the run then starts again."""
    pointer = folder / "last_checkpoint"
    if pointer.exists() and not (folder / (pointer.read_text().strip() or "lost")).is_file():
        pointer.unlink()


def end_with_parent() -> None:
    """Ends this process when standard input closes, as it does when the process that started it dies."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # sys.stdin itself would be locked when the interpreter ends
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="compare_runs", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args(arguments)
    end_with_parent()
    torch.set_num_threads(args.threads)
    form = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format=form, datefmt="%m/%d %H:%M:%S")
    try:
        run = train(args.folder)
    except (UserError, UnreadableImageError) as error:
        sys.exit(f"error: {error}")
    inputs = json.loads((args.folder / "inputs.json").read_text(encoding="utf-8"))
    content = {"run": without_nan(asdict(run)), "inputs": inputs}
    write_whole(args.folder / "run.json", json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
