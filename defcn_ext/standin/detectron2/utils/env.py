"""Seeds and the process environment."""

import importlib
import importlib.util
import logging
import os
import random
import sys
from datetime import datetime

import numpy as np
import torch

__all__ = ["seed_all_rng"]

TORCH_VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])

_environment_is_set_up = False


def seed_all_rng(seed=None) -> None:
    """Seeds torch, numpy and random; `None` draws a seed from the time and the process id, and logs it."""
    if seed is None:
        seed = (os.getpid() + int(datetime.now().strftime("%S%f")) + int.from_bytes(os.urandom(2), "big")) % 2**32
        logging.getLogger(__name__).info(f"Using a random seed: {seed}")
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)


def setup_environment() -> None:
    """Runs the user's module named by $DETECTRON2_ENV_MODULE (a path or an import name), once per process."""
    global _environment_is_set_up
    if _environment_is_set_up:
        return
    _environment_is_set_up = True
    custom = os.environ.get("DETECTRON2_ENV_MODULE")
    if custom:
        setup_custom_environment(custom)


def setup_custom_environment(custom_module) -> None:
    """Imports a module and calls its `setup_environment()`.

    Raises:
        AssertionError: the module has no callable of that name.
    """
    if custom_module.endswith(".py"):
        module = _import_file("detectron2.utils.env.custom_module", custom_module)
    else:
        module = importlib.import_module(custom_module)
    assert callable(getattr(module, "setup_environment", None)), (
        f"{custom_module}, named by DETECTRON2_ENV_MODULE, has no function setup_environment"
    )
    module.setup_environment()


def fixup_module_metadata(module_name, namespace, keys=None) -> None:
    """Makes the public functions and classes of a namespace claim `module_name` as their home."""
    for key in list(namespace) if keys is None else keys:
        value = namespace[key]
        if not key.startswith("_") and str(getattr(value, "__module__", "")).startswith("detectron2."):
            value.__module__ = module_name


def _import_file(module_name: str, path: str):
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module
