"""What lies outside: the folder of the output, the data sets and the weights."""

import os
import tempfile
from argparse import Namespace

from defcn_ext.checkpoint import check_kind
from defcn_ext.config import UserError
from defcn_ext.data.classes import weights_of_run, with_classes
from defcn_ext.data.register import check_num_classes
from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from .config_file import suggest

DOWNLOADED = ("http", "https", "ftp", "detectron2")  # schemes that PathManager fetches a file for


def check_output(cfg: CfgNode, args: Namespace) -> None:
    """Whether OUTPUT_DIR can be written to, and is that of this run. Makes it.

    Raises:
        ValueError: it cannot, or holds another run.
    """
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


def check_datasets(cfg: CfgNode, eval_only: bool) -> None:
    """Whether the data sets that the run needs are known, there, and of the model's classes.

    Raises:
        ValueError, FileNotFoundError: one is not.
    """
    if not (cfg.DATASETS.TEST if eval_only else cfg.DATASETS.TRAIN):
        raise ValueError(f"{'DATASETS.TEST' if eval_only else 'DATASETS.TRAIN'} names no data set")
    train = () if eval_only else cfg.DATASETS.TRAIN
    for key, names in (("DATASETS.TRAIN", train), ("DATASETS.TEST", cfg.DATASETS.TEST)):
        for name in names:
            if name not in DatasetCatalog:
                raise ValueError(f"{key}: unknown data set {name}{suggest(name, DatasetCatalog.list())}")
            _check_files(key, name)
    if cfg.MODEL.META_ARCHITECTURE == "DeFCN":
        check_num_classes(cfg, (*train, *cfg.DATASETS.TEST))


def _check_files(key: str, name: str) -> None:
    metadata = MetadataCatalog.get(name)
    for path in map(metadata.get, ("json_file", "odgt_file", "image_root")):
        if path and not PathManager.exists(path):
            root = os.path.abspath(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
            raise FileNotFoundError(
                f"{key}: {name}: {path} does not exist. Data sets are looked for under DETECTRON2_DATASETS "
                f"(now {root}); datasets/README.md tells the layout"
            )


def check_weights(cfg: CfgNode, args: Namespace) -> None:
    """Whether MODEL.WEIGHTS can be there, and be weights. What is to be downloaded is not asked for.

    Raises:
        ValueError, FileNotFoundError: it cannot.
    """
    weights, _, query = cfg.MODEL.WEIGHTS.partition("?")
    if args.resume and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")):
        return
    if args.eval_only and not weights:
        raise ValueError("--eval-only: give MODEL.WEIGHTS, or --resume for the last checkpoint of OUTPUT_DIR")
    scheme = weights.partition("://")[0] if "://" in weights else ""
    if query not in ("", "matching_heuristics=True") and scheme not in DOWNLOADED[:3]:
        raise ValueError(f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}: behind ? only matching_heuristics=True is known")
    if scheme == "catalog":
        _check_catalog(weights)
    elif scheme and scheme not in DOWNLOADED and not PathManager.isfile(weights):
        known = ", ".join(DOWNLOADED)
        raise FileNotFoundError(f"MODEL.WEIGHTS {weights}: no such file; known schemes: {known}, catalog")
    elif weights and not scheme:
        try:
            check_kind(weights)
        except UserError as error:
            raise ValueError(f"MODEL.WEIGHTS {error}") from error


def _check_catalog(weights: str) -> None:
    try:
        ModelCatalog.get(weights.partition("://")[2])
    except RuntimeError as error:
        raise ValueError(f"MODEL.WEIGHTS {weights}: not in Detectron2's catalog ({error})") from error


def check_classes(cfg: CfgNode, args: Namespace) -> None:
    """Whether the data sets, and the checkpoint of an evaluation, agree on the classes.

    Raises:
        ValueError: they do not.
    """
    names = cfg.DATASETS.TEST if args.eval_only else (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    with_classes(cfg, names, weights_of_run(cfg, args.resume), keep=args.eval_only or args.resume)
