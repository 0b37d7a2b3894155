"""Starts worker processes."""

import socket
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from detectron2.utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func,
    num_gpus_per_machine,
    num_machines=1,
    machine_rank=0,
    dist_url=None,
    args=(),
    timeout=DEFAULT_TIMEOUT,
):
    """Calls `main_func(*args)` in every worker of a world; with a world of one, right here.

    Args:
        main_func: a function that a fresh interpreter can import.
        num_gpus_per_machine: workers on each machine: GPUs, or plain processes where there is no CUDA.
        num_machines: machines, each of which calls `launch`.
        machine_rank: number of this machine.
        dist_url: where workers meet, "tcp://host:port"; "auto" picks a free port of this machine.
        args: arguments, which must be picklable.
        timeout: for operations between workers.

    Raises:
        AssertionError: "auto" with several machines.
        torch.multiprocessing.ProcessRaisedException: a worker failed; carries its traceback.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url 'auto' works on one machine only"
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    mp.start_processes(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        daemon=False,
        start_method="spawn",
    )


def _worker(local_rank, main_func, world_size, num_local, machine_rank, dist_url, args, timeout) -> None:
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        assert num_local <= torch.cuda.device_count(), (
            f"{num_local} workers asked for, but there are {torch.cuda.device_count()} GPUs"
        )
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        backend="NCCL" if on_gpus else "GLOO",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_local + local_rank,
        timeout=timeout,
    )
    comm.create_local_process_group(num_local)
    comm.synchronize()  # a worker that starts late would otherwise run into timeouts of the others
    main_func(*args)
    dist.destroy_process_group()  # its threads would abort an interpreter that ends while they still run


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
