"""A trained one-to-many detector becomes one that needs no NMS: everything stands still, and a selector is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from defcn_ext._text import minutes, number, say, without_nan, write_whole
from defcn_ext.config import UserError
from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import before_training
from defcn_ext.evaluation.outcome_counts import OutcomeCounter
from defcn_ext.meta_arch import DeFCN
from defcn_ext.study.nms_free_config import base_config, load_base, selector_config
from defcn_ext.study.training import Stopwatch, run_log
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils.env import seed_all_rng
from detectron2.utils.file_io import PathManager

RECORD, CONFIG, WEIGHTS, LOG = "nms_free.json", "config.yaml", "model_final.pth", "log.txt"
PROGRESS = "detectron2.evaluation.evaluator"  # the logger that tells how far an evaluation is
ITERATIONS = 300


@dataclass(frozen=True)
class Measures:
    """What an evaluation on one data set gave.

    Attributes:
        without_nms, with_nms: AP in percent; nan where there was nothing to measure.
        duplicates: of the detections without NMS that score above 0.3, those on an object that is found already, over
            the objects that are found.
    """

    without_nms: float
    with_nms: float
    duplicates: float

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> Measures:
        ap = [results.get(f"bbox_{kind}", results["bbox"])["AP"] for kind in ("without_nms", "with_nms")]
        return cls(*ap, results["outcomes"]["duplicates_per_object"])


@dataclass(frozen=True)
class Outcome:
    """What the training of a selector gave.

    Attributes:
        before, after: by data set.
        seconds: of the steps, without the evaluations; of a training that was interrupted, those since.
        trained, total: numbers of parameters.
    """

    before: dict[str, Measures]
    after: dict[str, Measures]
    iterations: int
    seconds: float
    trained: int
    total: int


class SelectorTrainer(Trainer):
    """A trainer that starts from a detector in memory, and whose evaluations also count duplicates."""

    def resume_or_start(self, base: DeFCN) -> None:
        """Goes on from the newest checkpoint in OUTPUT_DIR, or where there is none from the weights of the base."""
        if self.checkpointer.has_checkpoint():
            self.resume_or_load(resume=True)
        else:
            self.model.load_state_dict(base.state_dict(), strict=False)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        metrics = super().build_evaluator(cfg, dataset_name, output_folder)
        return DatasetEvaluators([metrics, OutcomeCounter(cfg, dataset_name)])


def make_nms_free(
    config: str, weights: str, out: Path, iterations: int = ITERATIONS, opts: Sequence[str] = ()
) -> Outcome:
    """Trains a selector on a trained detector that stands still, and measures both.

    `out` then holds `config.yaml` and `model_final.pth`, for train_net.py, `Predictor` and all tools. A call that was
    interrupted goes on where it was, and one that came to its end is taken over.

    Args:
        config: yaml of the detector; "" for the config that its checkpoint carries.
        weights: checkpoint of the detector.
        opts: KEY, VALUE, ... that change the config: of the data, of the schedule, or of the node SELECTOR.

    Raises:
        UserError: config, weights or data are missing or do not fit; the detector needs no NMS as it is; or `out` holds
            another run.
    """
    base = base_config(config, weights, out, opts)
    model = load_base(base)
    cfg = selector_config(base, model, iterations, opts)
    record = _Record(out / RECORD, cfg)
    if "before" not in record.content:
        say(f"{weights}: as it is, on {', '.join(cfg.DATASETS.TEST)}")
        with run_log(out / LOG, also=(PROGRESS,)):
            record.put(before=_measures(cfg, SelectorTrainer.test(base, model)))
    if "after" in record.content and (out / WEIGHTS).is_file():
        say(f"already done, taken from {out} (remove it to train again)")
    else:
        say(f"training the selector for {cfg.SOLVER.MAX_ITER} iterations on {cfg.MODEL.DEVICE}, log in {out / LOG}")
        with run_log(out / LOG, also=(PROGRESS,)):
            record.put(**_train(cfg, model))
        _write_config(cfg, out)
    return record.outcome()


def _train(cfg: CfgNode, base: DeFCN) -> dict[str, Any]:
    seed_all_rng(cfg.SEED if cfg.SEED >= 0 else None)
    stopwatch = Stopwatch()
    with before_training():
        trainer = SelectorTrainer(cfg)
    trainer.register_hooks([stopwatch])
    trainer.resume_or_start(base)
    parameters = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    results = trainer.train()
    return {
        "after": _measures(cfg, results),
        "iterations": cfg.SOLVER.MAX_ITER,
        "seconds": stopwatch.seconds,
        "trained": sum(n for n, learns in parameters if learns),
        "total": sum(n for n, _ in parameters),
    }


def _measures(cfg: CfgNode, results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By data set; of a single one the results come without its name."""
    names = cfg.DATASETS.TEST
    return {name: asdict(Measures.of(results if len(names) == 1 else results[name])) for name in names}


class _Record:
    """What calls for one folder have measured so far, in a file there."""

    def __init__(self, path: Path, cfg: CfgNode):
        """
        Raises:
            UserError: the folder holds another run, or something else.
        """
        self.path = path
        weights = Path(PathManager.get_local_path(cfg.MODEL.WEIGHTS)).read_bytes()
        inputs = {"config": cfg.dump(), "weights": hashlib.sha256(weights).hexdigest()}
        try:
            self.content = json.loads(path.read_text())
            same = self.content["inputs"] == inputs
        except FileNotFoundError:
            self.content, same = {"inputs": inputs}, not (path.parent / "last_checkpoint").exists()
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise UserError(f"{path.parent}: holds another run; remove it, or choose another folder")

    def put(self, **measured: Any) -> None:
        self.content |= measured
        write_whole(self.path, json.dumps(without_nan(self.content), indent=2) + "\n")

    def outcome(self) -> Outcome:
        content = {key: value for key, value in self.content.items() if key != "inputs"}
        for key in ("before", "after"):
            content[key] = {name: Measures(**_with_nan(values)) for name, values in content[key].items()}
        return Outcome(**content)


def _with_nan(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: float("nan") if value is None else value for key, value in values.items()}


def _write_config(cfg: CfgNode, out: Path) -> None:
    own = cfg.clone()
    own.defrost()
    own.MODEL.WEIGHTS = str((out / WEIGHTS).resolve())
    own.MODEL.pop("DEVICE")  # of this machine
    write_whole(out / CONFIG, own.dump())


def report(outcome: Outcome, out: Path) -> str:
    """The results in markdown, and how to use the files."""
    several = len(outcome.before) > 1
    rows = [
        [
            f"{title}, {name}" if several else title,
            number(found[name].without_nms),
            number(found[name].with_nms),
            number(found[name].with_nms - found[name].without_nms, "+.1f"),
            f"{found[name].duplicates:.2f}",
        ]
        for name in outcome.before
        for title, found in (("before", outcome.before), ("with the selector", outcome.after))
    ]
    headers = ["detector", "AP without NMS", "AP with NMS", "NMS adds", "duplicates an object"]
    table = tabulate(rows, headers, tablefmt="github", colalign=("left", *["right"] * 4), disable_numparse=True)
    return "\n".join(
        [
            table,
            "",
            f"{outcome.iterations} iterations in {minutes(outcome.seconds)} (min:s); trained {outcome.trained:,} of "
            f"{outcome.total:,} parameters.",
            f"use       python train_net.py --config-file {out / CONFIG} --eval-only",
            f"weights   {out / WEIGHTS}, which carry their config",
        ]
    )
