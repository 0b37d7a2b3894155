"""What can be known to go wrong is told before a run starts, in one line, with the fix."""

import difflib
import functools
import logging
import os
import re
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import torch
import yaml
from torch import nn

from defcn_ext.branches import build_branches
from defcn_ext.config import UserError, add_defcn_config
from defcn_ext.data.augmentation import build_train_augmentation
from defcn_ext.data.classes import weights_of_run, with_classes
from defcn_ext.data.register import FORM, KEY, check_num_classes, register_from_config
from defcn_ext.engine import solver as solvers
from defcn_ext.engine.precision import amp_dtype
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)

UNKNOWN_KEY = re.compile(r"Non-existent (?:config )?key: ([\w.]+)")


def load_config(config_file: str | dict[str, Any], opts: Sequence[str], name: str = "") -> CfgNode:
    """The frozen config of this project's keys, a file and overrides ("KEY value ...").

    Without a GPU, MODEL.DEVICE "cuda" becomes "cpu", with one warning a process.

    Args:
        config_file: path, or what such a file says, as nested dicts; "" for none.
        name: what to call the dicts in errors.

    Raises:
        UserError: the file is missing, or a key is unknown or has a value of another type.
    """
    cfg = get_cfg()
    add_defcn_config(cfg)
    if isinstance(config_file, str) and config_file and not PathManager.isfile(config_file):
        raise UserError(f"--config-file {config_file}: no such file")
    late = [word for word in opts if word.startswith("--")]
    if late:
        raise UserError(f"{late[0]} stands behind KEY VALUE pairs: put all options before the first pair")
    if isinstance(config_file, dict):
        _merge(cfg, lambda: cfg.merge_from_other_cfg(CfgNode(config_file)), f"{name}: ")
    elif config_file:
        _merge(cfg, lambda: cfg.merge_from_file(config_file), f"{config_file}: ")
    _merge(cfg, lambda: cfg.merge_from_list(_with_lists(opts)))
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        _tell_once(f"MODEL.DEVICE {cfg.MODEL.DEVICE}: no GPU is available, using the CPU")
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg


@functools.cache
def _tell_once(message: str) -> None:
    logger.warning(message)


def _merge(cfg: CfgNode, merge: Callable[[], None], source: str = "") -> None:
    try:
        merge()
    except (KeyError, AssertionError, ValueError, OSError, yaml.YAMLError) as error:
        raise UserError(source + _explain(error, cfg)) from error
    except (TypeError, AttributeError) as error:  # what comes of a file, or a node, that holds no KEY: VALUE pairs
        raise UserError(f"{source}expected KEY: VALUE pairs ({_explain(error, cfg)})") from error


def _with_lists(opts: Sequence[str]) -> list:
    """Lets DATASETS.REGISTER be given as one bare entry."""
    bare = [key == KEY and isinstance(opt, str) and opt[:1] not in ("[", "(") for key, opt in zip(["", *opts], opts)]
    return [[opt] if alone else opt for opt, alone in zip(opts, bare)]


def _explain(error: Exception, cfg: CfgNode) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    message = " ".join(str(text).split())
    unknown = UNKNOWN_KEY.search(message)
    if not unknown:
        return f"{message}; expected a list of {FORM}" if KEY in message else message
    key, known = unknown.group(1), _flat_keys(cfg)
    return f"unknown config key {key}{_suggest(key, known)}"


def _flat_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        keys += [prefix + name] + (_flat_keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [])
    return keys


def _suggest(word: str, known: list[str]) -> str:
    """What to append to an error about `word`: "; did you mean ...?", or nothing where nothing is near."""
    misplaced = [k for k in known if "." in k and k.rpartition(".")[2] == word.rpartition(".")[2]]
    near = misplaced[:3] or difflib.get_close_matches(word, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def check_run(cfg: CfgNode, args: Namespace) -> None:
    """Whether everything is there that a run needs; registers one's own data sets.

    Args:
        args: the command line, as of `default_argument_parser`.

    Raises:
        UserError: something is missing, does not fit, or would be overwritten.
    """
    try:
        _check_values(cfg, args.eval_only)
        _check_processes(cfg, args)
        _check_output(cfg, args)
        register_from_config(cfg)
        _check_datasets(cfg, args.eval_only)
        _check_weights(cfg, args)
        _check_classes(cfg, args)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def _check_values(cfg: CfgNode, eval_only: bool) -> None:
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        raise ValueError(f"MODEL.DEVICE: unknown device {cfg.MODEL.DEVICE!r}; known: cpu, cuda, cuda:N") from None
    if cfg.MODEL.META_ARCHITECTURE == "DeFCN":
        build_branches(cfg, in_channels=256)
    if eval_only:
        return
    solver = cfg.SOLVER
    for key in ("IMS_PER_BATCH", "ACCUMULATE", "MAX_ITER"):
        if solver[key] < 1:
            raise ValueError(f"SOLVER.{key} {solver[key]}: must be at least 1")
    # Built for a stand-in of the model, these find the unknown names in their own words.
    solvers.build_lr_scheduler(cfg, solvers.build_optimizer(cfg, nn.Linear(1, 1)))
    amp_dtype(cfg)
    build_train_augmentation(cfg)


def _check_processes(cfg: CfgNode, args: Namespace) -> None:
    if args.num_gpus < 1:
        raise ValueError(f"--num-gpus {args.num_gpus}: needs at least 1, which means one process on the CPU")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("--num-machines: give --dist-url tcp://HOST:PORT of the machine with --machine-rank 0")
    if cfg.MODEL.DEVICE.startswith("cuda") and args.num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus {args.num_gpus}: this machine has {torch.cuda.device_count()}")
    solver, processes = cfg.SOLVER, args.num_gpus * args.num_machines
    fixed_batch = not args.eval_only and not solver.REFERENCE_WORLD_SIZE
    if fixed_batch and solver.IMS_PER_BATCH % (processes * solver.ACCUMULATE):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} is no multiple of "
            f"{processes} (processes) x {solver.ACCUMULATE} (SOLVER.ACCUMULATE)"
        )


def _check_output(cfg: CfgNode, args: Namespace) -> None:
    folder = cfg.OUTPUT_DIR
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"OUTPUT_DIR {folder}: cannot be written to ({error.strerror})") from error
    if os.path.exists(os.path.join(folder, "last_checkpoint")) and not (args.resume or args.eval_only):
        raise ValueError(
            f"OUTPUT_DIR {folder} already holds a run: continue it with --resume (a larger SOLVER.MAX_ITER prolongs a "
            "finished one), or choose another OUTPUT_DIR"
        )


def _check_datasets(cfg: CfgNode, eval_only: bool) -> None:
    if not (cfg.DATASETS.TEST if eval_only else cfg.DATASETS.TRAIN):
        raise ValueError(f"{'DATASETS.TEST' if eval_only else 'DATASETS.TRAIN'} names no data set")
    train = () if eval_only else cfg.DATASETS.TRAIN
    for key, names in (("DATASETS.TRAIN", train), ("DATASETS.TEST", cfg.DATASETS.TEST)):
        for name in names:
            if name not in DatasetCatalog:
                raise ValueError(f"{key}: unknown data set {name}{_suggest(name, DatasetCatalog.list())}")
            _check_files(key, name)
        if cfg.MODEL.META_ARCHITECTURE == "DeFCN":
            check_num_classes(cfg, names)


def _check_files(key: str, name: str) -> None:
    metadata = MetadataCatalog.get(name)
    for path in map(metadata.get, ("json_file", "odgt_file", "image_root")):
        if path and not PathManager.exists(path):
            root = os.path.abspath(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
            raise FileNotFoundError(
                f"{key}: {name}: {path} does not exist. Data sets are looked for under DETECTRON2_DATASETS "
                f"(now {root}); datasets/README.md tells the layout"
            )


def _check_weights(cfg: CfgNode, args: Namespace) -> None:
    weights = cfg.MODEL.WEIGHTS.partition("?")[0]
    found = args.resume and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    if args.eval_only and not weights and not found:
        raise ValueError("--eval-only: give MODEL.WEIGHTS, or --resume for the last checkpoint of OUTPUT_DIR")
    if weights and not found and "://" not in weights and not PathManager.isfile(weights):
        raise FileNotFoundError(f"MODEL.WEIGHTS {weights}: no such file")


def _check_classes(cfg: CfgNode, args: Namespace) -> None:
    names = cfg.DATASETS.TEST if args.eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    with_classes(cfg, names, weights_of_run(cfg, args.resume), keep=args.eval_only or args.resume)
