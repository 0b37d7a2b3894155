"""Old config versions: key names that changed, and how to go from one version to the other.

Version 1 to 2 renamed keys and gave anchors a node of their own. Version 0 is older still and differs in the name
of the proposal head. A converter leaves alone what a partial config does not have.
"""

import logging
from copy import deepcopy
from typing import Any

from .config import CfgNode

__all__ = ["upgrade_config", "downgrade_config"]

LATEST = 2

# new version -> {old key: new key}
RENAMED = {
    1: {"MODEL.RPN_HEAD.NAME": "MODEL.RPN.HEAD_NAME"},
    2: {
        "MODEL.WEIGHT": "MODEL.WEIGHTS",
        "MODEL.PANOPTIC_FPN.SEMANTIC_LOSS_SCALE": "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
        "MODEL.PANOPTIC_FPN.RPN_LOSS_SCALE": "MODEL.RPN.LOSS_WEIGHT",
        "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_SCALE": "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT",
        "MODEL.PANOPTIC_FPN.COMBINE_ON": "MODEL.PANOPTIC_FPN.COMBINE.ENABLED",
        "MODEL.PANOPTIC_FPN.COMBINE_OVERLAP_THRESHOLD": "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH",
        "MODEL.PANOPTIC_FPN.COMBINE_STUFF_AREA_LIMIT": "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT",
        "MODEL.PANOPTIC_FPN.COMBINE_INSTANCES_CONFIDENCE_THRESHOLD": (
            "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH"
        ),
        "MODEL.ROI_HEADS.SCORE_THRESH": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "MODEL.ROI_HEADS.NMS": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
        "MODEL.RETINANET.INFERENCE_SCORE_THRESHOLD": "MODEL.RETINANET.SCORE_THRESH_TEST",
        "MODEL.RETINANET.INFERENCE_TOPK_CANDIDATES": "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
        "MODEL.RETINANET.INFERENCE_NMS_THRESHOLD": "MODEL.RETINANET.NMS_THRESH_TEST",
        "TEST.DETECTIONS_PER_IMG": "TEST.DETECTIONS_PER_IMAGE",
        "TEST.AUG_ON": "TEST.AUG.ENABLED",
        "TEST.AUG_MIN_SIZES": "TEST.AUG.MIN_SIZES",
        "TEST.AUG_MAX_SIZE": "TEST.AUG.MAX_SIZE",
        "TEST.AUG_FLIP": "TEST.AUG.FLIP",
    },
}
ANCHOR_KEYS = ("SIZES", "ASPECT_RATIOS")


def upgrade_config(cfg: CfgNode, to_version: int | None = None) -> CfgNode:
    """A copy of `cfg` with the key names of a newer version (default: the latest)."""
    cfg = cfg.clone()
    for version in range(cfg.VERSION + 1, (LATEST if to_version is None else to_version) + 1):
        _rename(cfg, RENAMED[version])
        if version == 2:
            _anchors_to_generator(cfg)
        cfg.VERSION = version
    return cfg


def downgrade_config(cfg: CfgNode, to_version: int) -> CfgNode:
    """A copy of `cfg` with the key names of an older version; upgrading it again gives `cfg`."""
    cfg = cfg.clone()
    for version in range(cfg.VERSION, to_version, -1):
        _rename(cfg, {new: old for old, new in RENAMED[version].items()})
        if version == 2:
            _anchors_to_heads(cfg)
        cfg.VERSION = version - 1
    return cfg


def guess_version(cfg: CfgNode, filename: str) -> int:
    """The version of a config that does not say it: 1 if it has a key that only version 1 has, else the latest."""
    logger = logging.getLogger(__name__)
    if _has(cfg, "MODEL.WEIGHT") or _has(cfg, "TEST.AUG_ON"):
        logger.warning(f"Config '{filename}' has no VERSION. Assuming it to be v1.")
        return 1
    logger.warning(f"Config '{filename}' has no VERSION. Assuming it to be compatible with latest v{LATEST}.")
    return LATEST


def _anchors_to_generator(cfg: CfgNode) -> None:
    # Each head had its own anchors; those of the head that the model does not use are dropped.
    model = cfg.get("MODEL", CfgNode())
    heads = ["RPN", "RETINANET"] if model.get("META_ARCHITECTURE") == "RetinaNet" else ["RETINANET", "RPN"]
    for head in heads:
        for key in ANCHOR_KEYS:
            value = _pop(cfg, f"MODEL.{head}.ANCHOR_{key}")
            if value is not None:
                _set(cfg, f"MODEL.ANCHOR_GENERATOR.{key}", value)
    _pop(cfg, "MODEL.RETINANET.ANCHOR_STRIDES")


def _anchors_to_heads(cfg: CfgNode) -> None:
    for key in ANCHOR_KEYS:
        if _has(cfg, f"MODEL.ANCHOR_GENERATOR.{key}"):
            value = _pop(cfg, f"MODEL.ANCHOR_GENERATOR.{key}")
            for head in ("RPN", "RETINANET"):
                _set(cfg, f"MODEL.{head}.ANCHOR_{key}", deepcopy(value))
            _set(cfg, "MODEL.RETINANET.ANCHOR_STRIDES", [])


def _rename(cfg: CfgNode, names: dict[str, str]) -> None:
    for old, new in names.items():
        if _has(cfg, old):
            _set(cfg, new, _pop(cfg, old))


def _has(cfg: CfgNode, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(cfg, CfgNode) or part not in cfg:
            return False
        cfg = cfg[part]
    return True


def _pop(cfg: CfgNode, key: str) -> Any:
    """Removes a key, and the nodes above that it leaves empty; None if there is no such key."""
    if not _has(cfg, key):
        return None
    *path, name = key.split(".")
    nodes = [cfg]
    for part in path:
        nodes.append(nodes[-1][part])
    value = nodes[-1].pop(name)
    for parent, part in reversed(list(zip(nodes, path))):
        if not parent[part]:
            del parent[part]
    return value


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *path, name = key.split(".")
    for part in path:
        cfg = cfg.setdefault(part, CfgNode())
    cfg[name] = value
