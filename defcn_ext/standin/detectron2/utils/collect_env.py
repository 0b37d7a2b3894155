"""A table of versions and devices, for logs and bug reports: `python -m detectron2.utils.collect_env`."""

import importlib
import os
import shutil
import subprocess
import sys

import numpy as np
import PIL
import torch
import torch.version
from tabulate import tabulate

__all__ = ["collect_env_info"]


def collect_env_info() -> str:
    """The environment as a two-column table, followed by torch's build options."""
    import detectron2

    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("numpy", np.__version__),
        ("detectron2", f"{detectron2.__version__} @{os.path.dirname(detectron2.__file__)} (pure Python, no _C)"),
        get_env_module(),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("PyTorch debug build", torch.version.debug),
        *_gpu_rows(),
        ("Pillow", PIL.__version__),
        *[(name, _version(name)) for name in ("torchvision", "fvcore", "iopath", "pycocotools", "cv2")],
    ]
    return tabulate(rows) + "\n" + collect_torch_env()


def collect_torch_env() -> str:
    """torch's own description of how it was built."""
    return torch.__config__.show()


def get_env_module() -> tuple[str, str]:
    """The name and value of the variable that names a custom environment module."""
    return "DETECTRON2_ENV_MODULE", os.environ.get("DETECTRON2_ENV_MODULE", "<not set>")


def detect_compute_compatibility(CUDA_HOME, so_file) -> str:
    """The GPU architectures that a compiled library holds code for, or a line that says why they are unknown."""
    cuobjdump = os.path.join(CUDA_HOME, "bin", "cuobjdump")
    if not os.path.isfile(cuobjdump):
        return f"{so_file}; cannot find cuobjdump"
    listing = subprocess.run([cuobjdump, "--list-elf", so_file], capture_output=True, text=True).stdout
    architectures = {line.split(".sm_")[1].split(".")[0] for line in listing.splitlines() if ".sm_" in line}
    return ", ".join(sorted(architectures)) or f"{so_file}; no GPU code"


def test_nccl_ops() -> None:
    """Runs one reduction over all GPUs of this machine with NCCL, which fails where drivers and NCCL disagree."""
    count = torch.cuda.device_count()
    if os.access("/tmp", os.W_OK) and count > 0:
        from detectron2.engine.launch import launch

        launch(_all_reduce_once, count, dist_url="auto")
        print("NCCL succeeded.")


def main() -> None:
    print(collect_env_info())
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            try:
                torch.ones(1, device=f"cuda:{index}").sum().item()
            except RuntimeError as error:
                print(f"cuda:{index} cannot run a kernel: {error}")
        if torch.cuda.device_count() > 1:
            test_nccl_ops()


def _gpu_rows() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU available", "No: torch.cuda.is_available() == False")]
    rows = [("GPU available", "Yes")]
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        rows.append((f"GPU {index}", f"{torch.cuda.get_device_name(index)} (arch={major}.{minor})"))
    driver = "nvidia-smi not found"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        lines = subprocess.run(query, capture_output=True, text=True).stdout.split()
        driver = lines[0] if lines else "unknown"
    return [*rows, ("Driver version", driver)]


def _version(module: str) -> str:
    try:
        return str(getattr(importlib.import_module(module), "__version__", "unknown"))
    except ImportError:
        return "Not found"


def _all_reduce_once() -> None:
    torch.distributed.all_reduce(torch.ones(1, device="cuda"))
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
