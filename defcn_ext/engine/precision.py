"""The number type of mixed-precision training."""

import logging

import torch

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The number type of autocast, None for float32.

    Raises:
        ValueError: unknown SOLVER.AMP.DTYPE.
    """
    name = cfg.SOLVER.AMP.DTYPE
    if name not in ("auto", *AMP_DTYPES):
        raise ValueError(f"SOLVER.AMP.DTYPE: unknown type {name!r}; known: {', '.join(AMP_DTYPES)}, auto")
    if not (cfg.SOLVER.AMP.ENABLED or cfg.SOLVER.AMP.ANY_DEVICE):
        return None
    if name != "auto":
        return AMP_DTYPES[name]
    chosen = fastest_dtype(cfg.MODEL.DEVICE)
    logger.info("SOLVER.AMP.DTYPE auto: %s on this %s", str(chosen or torch.float32), cfg.MODEL.DEVICE)
    return chosen


def fastest_dtype(device: str) -> torch.dtype | None:
    """bfloat16 where the hardware computes in it, float16 on other GPUs, None (float32) on other CPUs.

    A CPU without bfloat16 instructions emulates them, which is slower than float32.
    """
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    native = any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if native else None
