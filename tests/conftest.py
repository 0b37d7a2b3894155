import json
import logging
import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # not what the process that started it has set
os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import pytest
import torch

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext._platform import ensure_detectron2

FACTS = Path(__file__).parent / "data" / "detectron2"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `standin_only` where Detectron2 is installed and in use."""
    if ensure_detectron2() == "standin":
        return
    for item in items:
        mark = item.get_closest_marker("standin_only")
        if mark is not None:
            item.add_marker(pytest.mark.skip(reason=f"of the stand-in alone: {mark.args[0]}"))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _fresh_loggers():
    """Takes back what `setup_logger` did: it stops propagation, and then `caplog` sees nothing in later tests."""
    yield
    for name in ("detectron2", "defcn_ext", "fvcore"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logger.handlers.clear()


@pytest.fixture(scope="session")
def facts():
    """Loads one of the fact files read off Detectron2: a dict for .json, an open archive for .npz."""

    def load(name: str):
        path = FACTS / name
        return json.loads(path.read_text()) if path.suffix == ".json" else np.load(path)

    return load
