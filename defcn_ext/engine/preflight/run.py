"""The command and its config as a whole: what does not fit together, and what is missing."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from defcn_ext.config import UserError
from defcn_ext.data.augmentation import build_train_augmentation
from defcn_ext.data.register import register_from_config
from defcn_ext.engine import solver as solvers
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from .model import check_model
from .paths import check_classes, check_datasets, check_output, check_weights
from .values import check_types, check_values


@contextmanager
def before_training() -> Iterator[None]:
    """Inside, an error becomes a UserError, as far as it is one that a config or the data can cause.

    What only the data tell, such as that no object is left, is found when they are read, after `check_run`.
    """
    try:
        yield
    except (AssertionError, OSError, ValueError) as error:
        if isinstance(error, UserError) or not str(error):
            raise
        raise UserError(" ".join(str(error).split())) from error


def check_run(cfg: CfgNode, args: Namespace) -> None:
    """Whether everything is there that a run needs; registers one's own data sets.

    Args:
        args: the command line, as of `default_argument_parser`.

    Raises:
        UserError: something is missing, does not fit, or would be overwritten.
    """
    try:
        check_types(cfg)
        check_values(cfg)
        _check_device(cfg)
        cfg = _check_processes(cfg, args)
        check_model(cfg, train=not args.eval_only, processes=args.num_gpus * args.num_machines)
        if not args.eval_only:
            _check_solver(cfg)
            _check_pictures(cfg)
        check_output(cfg, args)
        register_from_config(cfg)
        check_datasets(cfg, args.eval_only)
        check_weights(cfg, args)
        check_classes(cfg, args)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def _check_device(cfg: CfgNode) -> None:
    name = cfg.MODEL.DEVICE
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"MODEL.DEVICE: unknown device {name!r}; known: cpu, cuda, cuda:N") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"MODEL.DEVICE: {name!r} cannot be used here ({reason})") from None
    if device.type == "meta":
        raise ValueError("MODEL.DEVICE: 'meta' holds no numbers; known: cpu, cuda, cuda:N")


def _check_solver(cfg: CfgNode) -> None:
    """Optimizer and schedule, built for a stand-in of the model, find what does not fit together in their own words."""
    solver = cfg.SOLVER
    if cfg.TEST.EXPECTED_RESULTS and not cfg.DATASETS.TEST:
        raise ValueError("TEST.EXPECTED_RESULTS: there will be no results, as DATASETS.TEST names no data set")
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and not solver.ONE_CYCLE.ENABLED:
        if solver.BASE_LR_END > solver.BASE_LR:
            raise ValueError(f"SOLVER.BASE_LR_END {solver.BASE_LR_END} is above SOLVER.BASE_LR {solver.BASE_LR}")
    if solver.MAX_ITER in solver.STEPS:
        raise ValueError(f"SOLVER.STEPS {tuple(solver.STEPS)}: a step at SOLVER.MAX_ITER itself; leave it out")
    if solver.NESTEROV and not solver.MOMENTUM:
        raise ValueError("SOLVER.NESTEROV: needs a SOLVER.MOMENTUM above 0")
    solvers.build_lr_scheduler(cfg, solvers.build_optimizer(cfg, nn.Linear(1, 1)))


def _check_pictures(cfg: CfgNode) -> None:
    if cfg.INPUT.FORMAT == "L" and cfg.INPUT.COLOR_JITTER:
        raise ValueError("INPUT.COLOR_JITTER: gray images (INPUT.FORMAT L) have no colours to change; set it to 0")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2:
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN {tuple(cfg.INPUT.MIN_SIZE_TRAIN)}: expected (lowest, highest), as "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING is range"
        )
    _check_crop(cfg.INPUT.CROP)
    build_train_augmentation(cfg)


def _check_crop(crop: CfgNode) -> None:
    if not crop.ENABLED:
        return
    if crop.TYPE.startswith("relative") and max(crop.SIZE) > 1:
        raise ValueError(f"INPUT.CROP.SIZE {list(crop.SIZE)}: shares of the image, as INPUT.CROP.TYPE is {crop.TYPE}")
    if crop.TYPE.startswith("absolute") and not all(isinstance(x, int) and x >= 1 for x in crop.SIZE):
        raise ValueError(f"INPUT.CROP.SIZE {list(crop.SIZE)}: whole pixels, as INPUT.CROP.TYPE is {crop.TYPE}")


def _check_processes(cfg: CfgNode, args: Namespace) -> CfgNode:
    """Returns the config as a run of so many processes will have it."""
    if args.num_gpus < 1:
        raise ValueError(f"--num-gpus {args.num_gpus}: needs at least 1, which means one process on the CPU")
    rank = getattr(args, "machine_rank", 0)
    if args.num_machines < 1 or not 0 <= rank < args.num_machines:
        raise ValueError(f"--machine-rank {rank}: not one of 0 to --num-machines {args.num_machines} - 1")
    if args.num_machines > 1 and not args.dist_url.startswith(("tcp://", "file://", "env://")):
        raise ValueError("--num-machines: give --dist-url tcp://HOST:PORT of the machine with --machine-rank 0")
    if cfg.MODEL.DEVICE.startswith("cuda") and args.num_gpus > torch.cuda.device_count():
        raise ValueError(f"--num-gpus {args.num_gpus}: this machine has {torch.cuda.device_count()}")
    if args.eval_only:
        return cfg
    solver, processes = cfg.SOLVER, args.num_gpus * args.num_machines
    scaled = ""
    if solver.REFERENCE_WORLD_SIZE not in (0, processes):
        if solver.IMS_PER_BATCH % solver.REFERENCE_WORLD_SIZE:
            raise ValueError(
                f"SOLVER.REFERENCE_WORLD_SIZE {solver.REFERENCE_WORLD_SIZE} does not divide SOLVER.IMS_PER_BATCH "
                f"{solver.IMS_PER_BATCH}"
            )
        scaled = f" (scaled from SOLVER.REFERENCE_WORLD_SIZE {solver.REFERENCE_WORLD_SIZE})"
        cfg = DefaultTrainer.auto_scale_workers(cfg, processes)
        solver = cfg.SOLVER
    if solver.IMS_PER_BATCH % (processes * solver.ACCUMULATE):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH}{scaled} is no multiple of "
            f"{processes} (processes) x {solver.ACCUMULATE} (SOLVER.ACCUMULATE)"
        )
    if solver.MAX_ITER < 1:
        raise ValueError(f"SOLVER.MAX_ITER {solver.MAX_ITER}{scaled}: no iteration is left")
    return cfg
