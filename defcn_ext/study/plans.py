"""The runs of a comparison: their configs, checked for one budget, and their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from defcn_ext._text import say
from defcn_ext.config import UserError
from defcn_ext.engine.preflight import check_run, load_config
from defcn_ext.study.entries import Entry, parse_entries
from defcn_ext.study.jobs import Plan, locked, run_all
from defcn_ext.study.report import write_report
from defcn_ext.study.runs import AS_RESUMED, inputs_of, prepare_folder, read_run
from detectron2.config import CfgNode

SET_HERE = {"SEED": "use --seeds", "OUTPUT_DIR": "use --output", "MODEL.DEFCN.COMPARE_NMS": "it is always True"}
BUDGET = (
    "SOLVER.MAX_ITER",
    "SOLVER.IMS_PER_BATCH",
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "INPUT.MIN_SIZE_TRAIN",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "TEST.EVAL_PERIOD",
)
OPTIONS = {"SOLVER.MAX_ITER": "--iterations", "TEST.EVAL_PERIOD": "--eval-period"}
CHECKPOINTS = 10  # of a run, of which the last is kept
MAX_CHECKPOINT_PERIOD = 500


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    Attributes:
        configs: an entry a detector, [LABEL=]CONFIG[:KEY=VALUE;KEY=VALUE...].
        labels: names of the entries, or None for those of their files.
        opts: KEY VALUE, one after the other: changes to the configs of all, before those of the entries.
        seeds: a run of every detector for each.
        iterations, eval_period: SOLVER.MAX_ITER and TEST.EVAL_PERIOD of all; None for what the configs say.
        output: the folder of the runs and of the report.
        jobs: runs at a time.
        threads: CPU threads of a run; None for all cores / jobs.
    """

    configs: Sequence[str]
    labels: Sequence[str] | None = None
    opts: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    iterations: int | None = None
    eval_period: int | None = None
    output: str = "output/compare"
    jobs: int = 1
    threads: int | None = None


def run_config(entry: Entry, asked: Comparison, seed: int) -> CfgNode:
    """The frozen config of one run.

    Raises:
        UserError: it cannot be loaded, or changes what this tool sets.
    """
    opts = [*asked.opts, *entry.changes]
    for key in opts[::2]:
        if key in SET_HERE:
            raise UserError(f"{entry.label}: {key} is set by this tool; {SET_HERE[key]}")
    device = [] if torch.cuda.is_available() else ["MODEL.DEVICE", "cpu"]
    fixed = ["SEED", str(seed), "MODEL.DEFCN.COMPARE_NMS", "True"]
    fixed += ["OUTPUT_DIR", str(Path(asked.output) / "runs" / entry.folder / f"seed_{seed}")]
    fixed += ["SOLVER.MAX_ITER", str(asked.iterations)] if asked.iterations else []
    fixed += ["TEST.EVAL_PERIOD", str(asked.eval_period)] if asked.eval_period else []
    if not Path(entry.config).is_file():
        raise UserError(f"{entry.label}: {entry.config}: no such file")
    try:
        cfg = load_config(entry.config, [*device, *opts, *fixed])
    except UserError as error:
        raise UserError(f"{entry.label}: {error}") from error
    cfg.defrost()
    period = max(1, cfg.SOLVER.MAX_ITER // CHECKPOINTS)
    cfg.TEST.EVAL_PERIOD = cfg.TEST.EVAL_PERIOD or period
    cfg.SOLVER.CHECKPOINT_PERIOD = min(cfg.SOLVER.CHECKPOINT_PERIOD, period, MAX_CHECKPOINT_PERIOD)
    cfg.freeze()
    return cfg


def check_budget(configs: dict[str, CfgNode]) -> None:
    """
    Args:
        configs: by label.

    Raises:
        UserError: two differ in a key of `BUDGET`, or one cannot be compared.
    """
    (first, base), *others = configs.items()
    for label, cfg in configs.items():
        if cfg.MODEL.META_ARCHITECTURE != "DeFCN":
            raise UserError(f"{label}: MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}: only DeFCN is compared")
        if len(cfg.DATASETS.TEST) != 1:
            raise UserError(f"{label}: DATASETS.TEST {tuple(cfg.DATASETS.TEST)}: give exactly one")
    for label, cfg in others:
        for path in BUDGET:
            values = [_value(x, path) for x in (base, cfg)]
            if values[0] != values[1]:
                fix = OPTIONS.get(path, "both the same")
                raise UserError(f"{path}: {first} has {values[0]}, {label} has {values[1]}; give {fix}")


def _value(cfg: CfgNode, path: str) -> object:
    section, name = path.split(".")
    value = cfg[section][name]
    return tuple(value) if isinstance(value, list) else value


def make_plans(entries: Sequence[Entry], asked: Comparison) -> list[Plan]:
    """All runs, checked and with their folders, one seed of every entry after the other.

    Raises:
        UserError: one of them cannot start.
    """
    configs = {(x.label, seed): run_config(x, asked, seed) for seed in asked.seeds for x in entries}
    check_budget({x.label: configs[x.label, asked.seeds[0]] for x in entries})
    for (label, _), cfg in configs.items():
        try:
            check_run(cfg, AS_RESUMED)
        except UserError as error:
            raise UserError(f"{label}: {error}") from error
    plans = []
    for (label, seed), cfg in configs.items():
        folder, inputs = Path(cfg.OUTPUT_DIR), inputs_of(cfg)
        finished = read_run(folder, inputs)
        if finished is None:
            prepare_folder(folder, cfg, inputs)
        plans.append(Plan(label, seed, folder, inputs, finished))
    return plans


def compare(asked: Comparison) -> int:
    """Returns how many runs failed.

    Raises:
        UserError: a config is wrong, or something is in the way.
    """
    entries, output = parse_entries(asked.configs, asked.labels), Path(asked.output)
    threads = asked.threads or max(1, torch.get_num_threads() // asked.jobs)
    with locked(output) as lock:
        plans = make_plans(entries, asked)
        say(f"Runs: {len(plans)}, at a time: {asked.jobs}, CPU threads of each: {threads}; logs in {output}/runs")
        runs, failures = run_all(plans, asked.jobs, threads, lock)
        table = write_report(entries, runs, failures, output)
    say(f"\n{table}\n\nIn {output}: table.md, table.csv, ap.png, duplicates.png, results.json")
    return len(failures)
