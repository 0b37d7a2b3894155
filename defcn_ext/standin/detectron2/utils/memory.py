"""Surviving a lack of GPU memory."""

import functools
import logging
from contextlib import contextmanager

import torch

__all__ = ["retry_if_cuda_oom"]


def retry_if_cuda_oom(func):
    """Wraps a stateless function: out of GPU memory, it is called again after emptying the cache, then on the CPU.

    On the CPU, tensors among the direct arguments are moved; results stay there. Other errors pass through.
    """

    @functools.wraps(func)
    def wrapped(*args, **kwargs):
        with _ignore_out_of_memory():
            return func(*args, **kwargs)
        torch.cuda.empty_cache()
        with _ignore_out_of_memory():
            return func(*args, **kwargs)
        logging.getLogger(__name__).info(f"Out of GPU memory: calling {func} on the CPU")
        return func(*map(_to_cpu, args), **{name: _to_cpu(value) for name, value in kwargs.items()})

    return wrapped


@contextmanager
def _ignore_out_of_memory():
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "CUDA out of memory. " not in str(error):
            raise


def _to_cpu(value):
    device = getattr(value, "device", None)
    return value.to(device="cpu") if getattr(device, "type", None) == "cuda" and hasattr(value, "to") else value
