"""Talk between worker processes. Every function also works in a single process without a process group."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def get_world_size() -> int:
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    return dist.get_rank() if _is_distributed() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Groups the workers of each machine, for `get_local_rank`. Every worker must call it once, with equal arguments.

    Raises:
        AssertionError: the world is not a whole number of machines, or the group exists.
    """
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None, "the local process group exists already"
    world_size = get_world_size()
    assert world_size % num_workers_per_machine == 0, (world_size, num_workers_per_machine)
    for first in range(0, world_size, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> dist.ProcessGroup:
    """The group of the workers of this machine.

    Raises:
        AssertionError: `create_local_process_group` was not called.
    """
    assert _LOCAL_PROCESS_GROUP is not None, (
        "No local process group: start workers with detectron2.engine.launch, or call "
        "comm.create_local_process_group after torch.distributed.init_process_group"
    )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Rank among the workers of this machine."""
    return dist.get_rank(group=get_local_process_group()) if _is_distributed() else 0


def get_local_size() -> int:
    """Number of workers on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _is_distributed() else 1


def is_main_process() -> bool:
    return get_rank() == 0


def synchronize():
    """Waits until every worker gets here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        # NCCL's barrier guesses the device unless it is told.
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


def all_gather(data, group=None) -> list[Any]:
    """The picklable `data` of every worker, by rank, on every worker. `group`: a CPU group; default all workers."""
    if get_world_size() == 1:
        return [data]
    group = group or _cpu_group()
    size = dist.get_world_size(group)
    if size == 1:
        return [data]
    gathered = [None] * size
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data, dst=0, group=None) -> list[Any]:
    """Like `all_gather`, but workers other than `dst` get []."""
    if get_world_size() == 1:
        return [data]
    group = group or _cpu_group()
    size = dist.get_world_size(group)
    if size == 1:
        return [data]
    gathered = [None] * size if get_rank() == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def shared_random_seed():
    """A draw of rank 0's global numpy generator, equal on all workers. All of them must call it."""
    return all_gather(np.random.randint(2**31))[0]


def reduce_dict(input_dict, average=True):
    """Sum or mean over workers of a dict of scalar tensors; the result is right on rank 0 only."""
    world_size = get_world_size()
    if world_size < 2:
        return input_dict
    names = sorted(input_dict)  # workers may have filled their dicts in different order
    with torch.no_grad():
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and get_rank() == 0:
            values /= world_size
    return dict(zip(names, values))


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _cpu_group() -> dist.ProcessGroup:
    """Objects are pickled on the CPU, so gathering them goes around NCCL."""
    return _gloo_group() if dist.get_backend() == dist.Backend.NCCL else dist.group.WORLD


@functools.lru_cache
def _gloo_group() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")
