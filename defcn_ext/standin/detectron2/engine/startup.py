"""What a training script does first: arguments, folders, loggers, seeds, writers and the data-parallel model."""

import argparse
import os
import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger


def create_ddp_model(model, *, fp16_compression=False, **kwargs):
    """The model itself with one worker, else wrapped in DistributedDataParallel.

    Args:
        model: on the device to train on.
        fp16_compression: exchange gradients in half precision.
        kwargs: for DistributedDataParallel. `device_ids` is this worker's GPU by default; a model on the CPU needs
            `device_ids=None`.
    """
    if comm.get_world_size() == 1:
        return model
    wrapped = DistributedDataParallel(model, **{"device_ids": [comm.get_local_rank()], **kwargs})
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        wrapped.register_comm_hook(state=None, hook=fp16_compress_hook)
    return wrapped


def default_argument_parser(epilog=None):
    """The command line of training scripts.

    Args:
        epilog: text below the help; default shows how to train, resume and override the config.

    Returns:
        argparse.ArgumentParser
    """
    examples = f"""
Examples:
    {sys.argv[0]} --config-file cfg.yaml --num-gpus 8
    {sys.argv[0]} --config-file cfg.yaml --resume
    {sys.argv[0]} --config-file cfg.yaml --eval-only MODEL.WEIGHTS model.pth
    {sys.argv[0]} --config-file cfg.yaml --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
"""
    parser = argparse.ArgumentParser(epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="yaml config")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs on each machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # Users of one machine get different ports, and one user always the same.
    user = os.getuid() if hasattr(os, "getuid") else 1
    port = 2**15 + 2**14 + hash(user) % 2**14
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the workers meet, or 'auto'")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="config overrides at the end: SOLVER.BASE_LR 0.001 MODEL.DEVICE cpu"
    )
    return parser


def default_setup(cfg, args):
    """Makes OUTPUT_DIR, sets up loggers, saves the config as config.yaml, and seeds random generators.

    Args:
        cfg: the whole config.
        args: parsed arguments, to log; `config_file` and `eval_only` are looked at if there.
    """
    rank = comm.get_rank()
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        PathManager.mkdirs(cfg.OUTPUT_DIR)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)

    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    config_file = getattr(args, "config_file", "")
    if config_file:
        with PathManager.open(config_file, "r") as f:
            logger.info(f"Contents of args.config_file={config_file}:\n{f.read()}")
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        logger.info("Running with full config:\n" + cfg.dump())
        with PathManager.open(path, "w") as f:
            f.write(cfg.dump())
        logger.info(f"Full config saved to {path}")

    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    # Searching for fast kernels is not worth it for images of ever new sizes.
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def default_writers(output_dir: str, max_iter: int | None = None):
    """Writers for the log, for metrics.json and for TensorBoard, both in `output_dir`, which is made."""
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
