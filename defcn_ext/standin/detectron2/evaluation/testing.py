"""Printing and checking of evaluation results: nested dicts of task -> metric -> number."""

import logging
import math
import pprint
import sys
from collections.abc import Mapping


def print_csv_format(results):
    """Logs, a task, its metrics as lines that paste into a spreadsheet. Metrics of single classes are left out."""
    assert isinstance(results, Mapping) or not results, results
    logger = logging.getLogger(__name__)
    for task, metrics in (results or {}).items():
        if not isinstance(metrics, Mapping):
            logger.info(f"copypaste: {task}={metrics}")
            continue
        shown = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(shown))
        logger.info("copypaste: " + ",".join(f"{value:.4f}" for value in shown.values()))


def verify_results(cfg, results):
    """Compares results with TEST.EXPECTED_RESULTS, a list of (task, metric, expected value, tolerance).

    Returns:
        True. Ends the process with exit code 1 if a metric is missing, nan, or off by more than its tolerance.

    Raises:
        KeyError: a task is missing.
    """
    expected = cfg.TEST.EXPECTED_RESULTS
    if not expected:
        return True
    wrong = []
    for task, metric, value, tolerance in expected:
        found = results[task].get(metric, math.nan)
        if not abs(found - value) <= tolerance:  # also true of nan
            wrong.append(f"{task} {metric}: {found}, expected {value} +- {tolerance}")
    logger = logging.getLogger(__name__)
    if wrong:
        logger.error("Results verification failed!\n" + "\n".join(wrong))
        logger.error("Actual results: " + pprint.pformat(results))
        sys.exit(1)
    logger.info("Results verification passed.")
    return True


def flatten_results_dict(results):
    """{"bbox": {"AP": 1}} -> {"bbox/AP": 1}, at any depth."""
    flat = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{inner}": number for inner, number in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat
