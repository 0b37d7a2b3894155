"""Keys of Detectron2's own heads, which a DeFCN does not have."""

import logging

from defcn_ext.config import flat_keys
from detectron2.config import CfgNode, get_cfg
from detectron2.utils.logger import log_first_n

HEADS = (
    *("MODEL.RETINANET.", "MODEL.ROI_HEADS.", "MODEL.ROI_BOX_HEAD.", "MODEL.RPN.", "MODEL.ANCHOR_GENERATOR."),
    *("TEST.AUG.", "MODEL.LOAD_PROPOSALS"),  # test-time augmentation, and proposals, of two-stage heads
)
# What the demos of Detectron2 set together, to one --confidence-threshold
THRESHOLDS = (
    "MODEL.RETINANET.SCORE_THRESH_TEST",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH",
)
OURS = "MODEL.DEFCN.SCORE_THRESH_TEST"


def score_threshold(cfg: CfgNode) -> float:
    """MODEL.DEFCN.SCORE_THRESH_TEST, unless a script has set the thresholds of all other heads to one value."""
    shared = _shared_threshold(cfg)
    if shared is None:
        return float(cfg.MODEL.DEFCN.SCORE_THRESH_TEST)
    message = f"{OURS} is taken to be {shared}, to which {', '.join(THRESHOLDS)} are set together"
    log_first_n(logging.INFO, message, name=__name__, key="message")
    return shared


def tell_idle_keys(cfg: CfgNode) -> None:
    """Warns, once, of keys of other heads that are set, and names the key that a DeFCN reads."""
    given, defaults = flat_keys(cfg), flat_keys(get_cfg())
    used = THRESHOLDS if _shared_threshold(cfg) is not None else ()
    for key, default in defaults.items():
        head = next((head for head in (*HEADS, THRESHOLDS[2]) if key.startswith(head)), None)
        if head is None or key in used or given.get(key, default) == default:
            continue
        twin = OURS if key in THRESHOLDS else "MODEL.DEFCN." + key.removeprefix(head)
        advice = f"; set {twin}" if twin in given else ""
        message = f"{key} {given[key]!r} has no effect on the meta-architecture DeFCN{advice}"
        log_first_n(logging.WARNING, message, name=__name__, key="message")


def _shared_threshold(cfg: CfgNode) -> float | None:
    given, defaults = flat_keys(cfg), flat_keys(get_cfg())
    values = {given.get(key) for key in THRESHOLDS}
    value = next(iter(values))
    return value if len(values) == 1 and value is not None and value != defaults[THRESHOLDS[0]] else None
