#!/usr/bin/env python3
"""Trains and evaluates any detector of this project.

    python train_net.py --config-file configs/Quick/poto_3dmf_aux.yaml
    python train_net.py --config-file CONFIG --eval-only MODEL.WEIGHTS FILE
    python train_net.py --config-file CONFIG --num-gpus 2 MODEL.DEVICE cpu      (two processes without a GPU)

Everything else is a config key: KEY VALUE pairs at the end of the line win over the file.
"""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

import torch

import defcn_ext  # makes detectron2 importable
from defcn_ext.config import UserError
from defcn_ext.data import register_from_config
from defcn_ext.data.classes import weights_of_run, with_classes
from defcn_ext.engine import Trainer
from defcn_ext.engine.checkpointer import DetectingCheckpointer
from defcn_ext.engine.endings import for_the_user
from defcn_ext.engine.preflight import before_training, check_run, load_config
from defcn_ext.engine.processes import run_in_processes
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger


def main(args: Namespace) -> dict:
    """One process of a run. Returns the results of the evaluation, by data set or task."""
    cfg = load_config(args.config_file, args.opts)
    if cfg.MODEL.DEVICE == "cpu" and comm.get_local_size() > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // comm.get_local_size()))
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="defcn_ext")
    try:
        if args.eval_only:
            return evaluate(cfg, args.resume)
        with before_training():
            trainer = Trainer(cfg)
        with download_told(cfg, args.resume):
            trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    except Exception as error:
        line = for_the_user(error)
        if line is None:
            raise
        sys.exit(f"error: {line}")


def evaluate(cfg: CfgNode, resume: bool) -> dict:
    """Results of MODEL.WEIGHTS, or with `resume` of the last checkpoint in OUTPUT_DIR, on DATASETS.TEST."""
    logging.getLogger("defcn_ext").info("detectron2: %s", defcn_ext.PLATFORM)
    register_from_config(cfg)
    cfg = with_classes(cfg, cfg.DATASETS.TEST, weights_of_run(cfg, resume), keep=True)
    model = Trainer.build_model(cfg)
    with download_told(cfg, resume):
        DetectingCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


@contextmanager
def download_told(cfg: CfgNode, resume: bool) -> Iterator[None]:
    """Inside, MODEL.WEIGHTS that cannot be fetched become a UserError."""
    resumed = resume and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    try:
        yield
    except OSError as error:
        if resumed or "://" not in cfg.MODEL.WEIGHTS:
            raise
        raise UserError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS}: cannot be downloaded ({error}); give a local file, or MODEL.WEIGHTS "
            '"" to start from random weights'
        ) from error


def prepare(args: Namespace) -> None:
    """Checks the command before any worker starts, and ends the program with one line if it cannot work."""
    try:
        cfg = load_config(args.config_file, args.opts)
        check_run(cfg, args)
    except UserError as error:
        sys.exit(f"{os.path.basename(sys.argv[0])}: error: {error}")
    if cfg.MODEL.DEVICE == "cpu":
        args.opts += ["MODEL.DEVICE", "cpu"]  # the workers need not find out, and warn, again
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else processes on the CPU would talk over NCCL


def parse(argv: list[str] | None = None) -> Namespace:
    parser = default_argument_parser(epilog=__doc__)
    parser.set_defaults(dist_url="auto")  # a free port, so that two runs can share a machine
    return parser.parse_args(argv)


if __name__ == "__main__":
    arguments = parse()
    prepare(arguments)
    run_in_processes(main, arguments)
