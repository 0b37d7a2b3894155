import json
import logging
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import pytest
import torch

import defcn_ext  # noqa: F401  (makes detectron2 importable)

FACTS = Path(__file__).parent / "data" / "detectron2"


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
