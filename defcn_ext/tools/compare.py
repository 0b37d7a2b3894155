"""Trains several configs on the same data, seeds and budget, and compares them with and without NMS.

    compare configs/Quick/fcos.yaml configs/Quick/poto.yaml --seeds 0 1 2 --iterations 600 --eval-period 100
    compare "alpha 1=configs/Quick/poto.yaml:MODEL.DEFCN.ONE_TO_ONE.RULE=POTO(alpha=1.0)" configs/Quick/poto.yaml

An entry is [LABEL=]CONFIG[:KEY=VALUE;KEY=VALUE...]. KEY VALUE pairs at the end of the line change all configs, before
those of the entries. The same command goes on where an interrupted one stopped, and takes over finished runs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext._text import say
from defcn_ext.config import UserError
from defcn_ext.engine.preflight import check_run, load_config
from defcn_ext.study.jobs import Plan, locked, run_all
from defcn_ext.study.report import write_report
from defcn_ext.study.runs import AS_RESUMED, inputs_of, prepare_folder, read_run
from detectron2.config import CfgNode

ENTRY = re.compile(r"(?:(?P<label>[^=:/\\]+)=)?(?P<config>.+?\.ya?ml)(?::(?P<changes>.*))?", re.DOTALL)
FORM = "[LABEL=]CONFIG.yaml[:KEY=VALUE;KEY=VALUE...]"
PAIR_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)+")  # the first one ends the options
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
class Entry:
    """A detector to compare: a config file and changes to it, KEY VALUE one after the other."""

    label: str
    config: str
    changes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.+-]+", "_", self.label.casefold())


def parse_entry(text: str) -> Entry:
    """Reads an entry of the command line. A VALUE may hold anything but a semicolon.

    Raises:
        UserError: it is none.
    """
    match = ENTRY.fullmatch(text)
    if match is None:
        raise UserError(f"{text}: expected {FORM}")
    changes = []
    for pair in filter(None, (match["changes"] or "").split(";")):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{text}: {pair!r} is not KEY=VALUE; expected {FORM}")
        changes += [key.strip(), value.strip()]
    label = (match["label"] or Path(match["config"]).stem).strip()
    return Entry(label, match["config"], tuple(changes))


def parse_entries(texts: Sequence[str], labels: Sequence[str] | None = None) -> list[Entry]:
    """
    Args:
        labels: replace those of the entries.

    Raises:
        UserError: an entry is none, or two have the same label.
    """
    entries = [parse_entry(text) for text in texts]
    if labels:
        if len(labels) != len(entries):
            raise UserError(f"--labels: {len(labels)} for {len(entries)} configs")
        entries = [Entry(label, x.config, x.changes) for label, x in zip(labels, entries)]
    taken: dict[str, Entry] = {}
    for entry in entries:
        other = taken.setdefault(entry.folder, entry)
        if other is not entry:
            same = "the same label" if other.label == entry.label else f"too similar labels, {other.label!r} and"
            raise UserError(f"two configs have {same} {entry.label!r}: give others with LABEL=CONFIG or --labels")
    return entries


def run_config(entry: Entry, args: argparse.Namespace, seed: int) -> CfgNode:
    """The frozen config of one run.

    Raises:
        UserError: it cannot be loaded, or changes what this tool sets.
    """
    opts = [*args.opts, *entry.changes]
    for key in opts[::2]:
        if key in SET_HERE:
            raise UserError(f"{entry.label}: {key} is set by this tool; {SET_HERE[key]}")
    device = [] if torch.cuda.is_available() else ["MODEL.DEVICE", "cpu"]
    fixed = ["SEED", str(seed), "MODEL.DEFCN.COMPARE_NMS", "True"]
    fixed += ["OUTPUT_DIR", str(Path(args.output) / "runs" / entry.folder / f"seed_{seed}")]
    fixed += ["SOLVER.MAX_ITER", str(args.iterations)] if args.iterations else []
    fixed += ["TEST.EVAL_PERIOD", str(args.eval_period)] if args.eval_period else []
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


def make_plans(entries: Sequence[Entry], args: argparse.Namespace) -> list[Plan]:
    """All runs, checked and with their folders, one seed of every entry after the other.

    Raises:
        UserError: one of them cannot start.
    """
    configs = {(x.label, seed): run_config(x, args, seed) for seed in args.seeds for x in entries}
    check_budget({x.label: configs[x.label, args.seeds[0]] for x in entries})
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


def compare(args: argparse.Namespace) -> int:
    """Returns how many runs failed.

    Raises:
        UserError: a config is wrong, or something is in the way.
    """
    entries, output = parse_entries(args.configs, args.labels), Path(args.output)
    threads = args.threads or max(1, torch.get_num_threads() // args.jobs)
    with locked(output) as lock:
        plans = make_plans(entries, args)
        say(f"Runs: {len(plans)}, at a time: {args.jobs}, CPU threads of each: {threads}; logs in {output}/runs")
        runs, failures = run_all(plans, args.jobs, threads, lock)
        table = write_report(entries, runs, failures, output)
    say(f"\n{table}\n\nIn {output}: table.md, table.csv, ap.png, duplicates.png, results.json")
    return len(failures)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, with the KEY VALUE pairs as `opts`."""
    end = next((i for i, word in enumerate(argv) if PAIR_KEY.fullmatch(word)), len(argv))
    raw = argparse.RawDescriptionHelpFormatter
    usage = "compare CONFIG [CONFIG ...] [options] [KEY VALUE ...]"
    parser = argparse.ArgumentParser(prog="compare", usage=usage, description=__doc__, formatter_class=raw)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help=FORM)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="default: 0")
    parser.add_argument("--iterations", type=int, metavar="N", help="SOLVER.MAX_ITER of all")
    parser.add_argument(
        "--eval-period", type=int, metavar="N", help="TEST.EVAL_PERIOD of all; default: a tenth of a run"
    )
    parser.add_argument("--output", default="output/compare", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="names of the configs; default: of the files")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; default: 1")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of a run; default: all cores / jobs")
    args = parser.parse_args(argv[:end])
    args.opts = list(argv[end:])
    for name in ("iterations", "eval_period", "jobs", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        parser.error("--seeds must be different numbers from 0 on")
    if len(args.opts) % 2:
        parser.error(f"{args.opts[-1]}: KEY VALUE pairs at the end of the line need a value for each key")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        failed = compare(args)
    except UserError as error:
        sys.exit(f"compare: error: {error}")
    except KeyboardInterrupt:
        print("\ncompare: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
