import logging

import pytest


@pytest.fixture
def lines(caplog):
    """Messages of `detectron2` loggers since the test began, as (logger, level, message)."""
    logger = logging.getLogger("detectron2")
    propagate, logger.propagate = logger.propagate, True
    caplog.set_level(logging.INFO, logger="detectron2")
    yield lambda: [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    logger.propagate = propagate
