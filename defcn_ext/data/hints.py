"""What data and config together make unlikely to work, though nothing stands against it."""

import logging

from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n


def tell_more_objects(cfg: CfgNode, source: str, records: list[dict]) -> None:
    """Warns, once, where images have more objects than the detector may give.

    Args:
        source: key and name of the data, for the message.
        records: Detectron2's dataset dicts; crowds do not count.
    """
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    lists = [record.get("annotations") or () for record in records]
    counts = [sum(isinstance(a, dict) and not a.get("iscrowd") for a in annotations) for annotations in lists]
    over = [count for count in counts if count > limit]
    if over:
        message = (
            f"{source}: {len(over)} of {len(records)} images have more objects, up to {max(over)}, than "
            f"TEST.DETECTIONS_PER_IMAGE {limit} lets the detector find: set TEST.DETECTIONS_PER_IMAGE {max(over)}"
        )
        log_first_n(logging.WARNING, message, name=__name__, key="message")


def tell_no_object(source: str, records: list[dict]) -> None:
    """Warns, once, where an evaluation has nothing to find, as in a test set whose annotations are not public.

    Args:
        source: key and name of the data, for the message.
        records: Detectron2's dataset dicts; crowds do not count.
    """
    lists = [record.get("annotations") for record in records]
    if not records or any(
        x is None or not all(isinstance(a, dict) and a.get("iscrowd") == 1 for a in x) for x in lists
    ):
        return
    message = f"{source}: none of its {len(records)} images has an object: results are written, and metrics are nan"
    log_first_n(logging.WARNING, message, name=__name__, key="message")
