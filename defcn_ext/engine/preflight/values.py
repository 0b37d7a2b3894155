"""The type of every config key, and the values that Detectron2's keys and those of engine and data can have.

What a branch, a rule or a layer wants of its own keys it says itself, when the model is built.
"""

import math
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

from defcn_ext.config import add_defcn_config, flat_keys
from defcn_ext.data.augmentation import FLIPS
from defcn_ext.engine.data_order import SAMPLERS
from defcn_ext.engine.precision import AMP_DTYPES
from defcn_ext.engine.solver import CLIP_TYPES, OPTIMIZERS
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import BACKBONE_REGISTRY

MAY_BE_NONE = ("SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM", "SOLVER.BIAS_LR_FACTOR")
ELEMENTS = {  # of lists whose default is empty
    "DATASETS.TRAIN": str,
    "DATASETS.TEST": str,
    "DATASETS.CLASSES": str,
    "INPUT.SCALE_JITTER": float,
    "MODEL.FPN.IN_FEATURES": str,
    "MODEL.DEFCN.IMPORTS": str,
    "MODEL.DEFCN.TRAIN_ONLY": str,
    "MODEL.DEFCN.ONE_TO_MANY.ANCHORS.SIZES": float,
    "MODEL.DEFCN.ONE_TO_ONE.ANCHORS.SIZES": float,
}


class Allowed(NamedTuple):
    """What a value must fulfil, and how that is said behind "expected"."""

    test: Callable[[Any], bool]
    text: str | Callable[[], str]

    def __str__(self) -> str:
        return self.text if isinstance(self.text, str) else self.text()


def at_least(low: float) -> Allowed:
    return Allowed(lambda x: x >= low, f"at least {low}")


def above(low: float) -> Allowed:
    return Allowed(lambda x: x > low, f"a number above {low}")


def between(low: float, high: float, *, open_ends: str = "") -> Allowed:
    """In [low, high]; without the ends that `open_ends` names, "low", "high" or "both"."""
    first = "(" if open_ends in ("low", "both") else "["
    last = ")" if open_ends in ("high", "both") else "]"

    def test(x: float) -> bool:
        return (low < x if first == "(" else low <= x) and (x < high if last == ")" else x <= high)

    return Allowed(test, f"a number in {first}{low}, {high}{last}")


def one_of(*names: Any) -> Allowed:
    return Allowed(lambda x: x in names, " or ".join(map(repr, names)))


def registered(registry: Any) -> Allowed:
    """A name in one of Detectron2's registries, which fill up to the last moment."""
    return Allowed(lambda x: x in registry, lambda: f"one of {', '.join(sorted(name for name, _ in registry))}")


def each(inner: Allowed, least: int = 1) -> Allowed:
    return Allowed(lambda x: len(x) >= least and all(map(inner.test, x)), f"a list, each {inner}")


ROW = Allowed(
    lambda row: (
        isinstance(row, (list, tuple))
        and len(row) == 4
        and all(isinstance(x, str) for x in row[:2])
        and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in row[2:])
    ),
    "[task, metric, value, tolerance] such as ['bbox', 'AP', 40.5, 0.2]",
)
RISING = Allowed(lambda x: list(x) == sorted(set(x)) and all(i > 0 for i in x), "iterations above 0, rising")
RANGE = Allowed(lambda x: len(x) == 2 and 0 < x[0] <= x[1], "(lowest, highest), 0 < lowest <= highest")
NO_RANGE = Allowed(lambda x: not x or RANGE.test(x), f"(), or {RANGE}")

VALUES = {
    "DATALOADER.NUM_WORKERS": at_least(0),
    "DATALOADER.RANDOM_SUBSET_RATIO": between(0, 1, open_ends="low"),
    "DATALOADER.REPEAT_THRESHOLD": at_least(0),
    "DATALOADER.SAMPLER_TRAIN": one_of(*SAMPLERS),
    "DATASETS.CLASSES": Allowed(lambda x: len(set(x)) == len(x), "names of which none comes twice"),
    "DATASETS.CHECK_FILES": one_of("header", "none"),
    "FLOAT32_PRECISION": one_of("", "highest", "high", "medium"),
    "INPUT.COLOR_JITTER": between(0, 1, open_ends="high"),
    "INPUT.CROP.SIZE": Allowed(lambda x: len(x) == 2 and min(x) > 0, "two numbers above 0"),
    "INPUT.CROP.TYPE": one_of("relative", "relative_range", "absolute", "absolute_range"),
    "INPUT.DETR_CROP.CROP": RANGE,
    "INPUT.DETR_CROP.SIZES": each(at_least(1)),
    "INPUT.FORMAT": one_of("BGR", "RGB", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": one_of("polygon", "bitmask"),
    "INPUT.MAX_SIZE_TEST": at_least(1),
    "INPUT.MAX_SIZE_TRAIN": at_least(1),
    "INPUT.MIN_SIZE_TEST": at_least(0),
    "INPUT.MIN_SIZE_TRAIN": each(at_least(0)),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of("choice", "range"),
    "INPUT.MIX.BLEND": Allowed(
        lambda x: len(x) == 2 and 0 < x[0] <= x[1] < 1, "(lowest, highest), 0 < lowest <= highest < 1"
    ),
    "INPUT.MIX.COPIES": at_least(1),
    "INPUT.MIX.COPY_BLEND": between(0, 1),
    "INPUT.MIX.MIN_AREA": at_least(0),
    "INPUT.MIX.MIXUP": between(0, 1),
    "INPUT.MIX.MOSAIC": between(0, 1),
    "INPUT.MIX.SHARES": Allowed(
        lambda x: len(x) == 2 and 0 <= x[0] < x[1] <= 1, "(start, stop), 0 <= start < stop <= 1"
    ),
    "INPUT.RANDOM_FLIP": one_of(*FLIPS, "both"),
    "INPUT.SCALE_JITTER": NO_RANGE,
    "INPUT.SCALE_JITTER_SIZE": at_least(0),
    "MODEL.BACKBONE.FREEZE_AT": between(0, 5),
    "MODEL.BACKBONE.NAME": registered(BACKBONE_REGISTRY),
    "MODEL.DEFCN.POINTS.OFFSET": between(0, 1, open_ends="high"),
    "MODEL.FPN.FUSE_TYPE": one_of("sum", "avg"),
    "MODEL.FPN.OUT_CHANNELS": at_least(1),
    "MODEL.META_ARCHITECTURE": registered(META_ARCH_REGISTRY),
    "MODEL.PIXEL_STD": each(above(0)),
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": at_least(1),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": Allowed(lambda x: len(x) == 4, "True or False for each of four stages"),
    "MODEL.RESNETS.DEPTH": one_of(18, 34, 50, 101, 152),
    "MODEL.RESNETS.NUM_GROUPS": at_least(1),
    "MODEL.RESNETS.OUT_FEATURES": each(one_of("stem", "res2", "res3", "res4", "res5", "linear")),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": at_least(1),
    "MODEL.RESNETS.RES5_DILATION": one_of(1, 2),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": at_least(1),
    "MODEL.RESNETS.WIDTH_PER_GROUP": at_least(1),
    "OUTPUT_DIR": Allowed(lambda x: x.strip() != "", "a folder"),
    "SEED": between(-1, 2**31 - 1),
    "SOLVER.ACCUMULATE": at_least(1),
    "SOLVER.AMP.DTYPE": one_of("auto", *AMP_DTYPES),
    "SOLVER.BACKBONE_MULTIPLIER": at_least(0),
    "SOLVER.BASE_LR": above(0),
    "SOLVER.BASE_LR_END": at_least(0),
    "SOLVER.BIAS_LR_FACTOR": at_least(0),
    "SOLVER.CHECKPOINT_PERIOD": at_least(1),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of(*CLIP_TYPES),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": above(0),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": above(0),
    "SOLVER.EMA.DECAY": between(0, 1, open_ends="high"),
    "SOLVER.GAMMA": above(0),
    "SOLVER.IMS_PER_BATCH": at_least(1),
    "SOLVER.MAX_ITER": at_least(1),
    "SOLVER.MOMENTUM": between(0, 1, open_ends="high"),
    "SOLVER.NUM_DECAYS": at_least(1),
    "SOLVER.ONE_CYCLE.END_FACTOR": between(0, 1),
    "SOLVER.ONE_CYCLE.PEAK": between(0, 1, open_ends="both"),
    "SOLVER.ONE_CYCLE.START_FACTOR": between(0, 1),
    "SOLVER.OPTIMIZER": one_of(*OPTIMIZERS),
    "SOLVER.REFERENCE_WORLD_SIZE": at_least(0),
    "SOLVER.STEPS": RISING,
    "SOLVER.WARMUP_FACTOR": between(0, 1),
    "SOLVER.WARMUP_ITERS": at_least(0),
    "SOLVER.WARMUP_METHOD": one_of("linear", "constant"),
    "SOLVER.WEIGHT_DECAY": at_least(0),
    "SOLVER.WEIGHT_DECAY_BIAS": at_least(0),
    "SOLVER.WEIGHT_DECAY_NORM": at_least(0),
    "TEST.DETECTIONS_PER_IMAGE": at_least(1),
    "TEST.EVAL_PERIOD": at_least(0),
    "TEST.EXPECTED_RESULTS": each(ROW, least=0),
    "TEST.PRECISE_BN.NUM_ITER": at_least(1),
    "VIS_PERIOD": at_least(0),
    # in any branch
    "MODEL.DEFCN.*_WEIGHT": Allowed(lambda x: all(weight >= 0 for weight in _leaves(x)), "at least 0"),
    "MODEL.DEFCN.*.ANCHORS.OFFSET": between(0, 1, open_ends="high"),
    "MODEL.DEFCN.*.ANCHORS.SIZES": Allowed(
        lambda x: all(isinstance(level, (list, tuple)) for level in x), "(), or a list of sides for each level"
    ),
}


def check_types(cfg: CfgNode) -> None:
    """What yacs lets pass: None, lists of other things, numbers that are not finite. Unknown keys are left alone.

    Raises:
        ValueError: with the key.
    """
    expected, given = _defaults(), flat_keys(cfg)
    for key, default in expected.items():
        if key not in given or isinstance(default, CfgNode):
            continue
        value = given[key]
        if value is None or default is None:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if key not in MAY_BE_NONE or not (value is None or number):
                wanted = "a number or None" if key in MAY_BE_NONE else _name(type(default))
                raise ValueError(f"{key}: expected {wanted}, got {value!r}")
        elif isinstance(value, (list, tuple)):
            _check_elements(key, value, default)
        if any(isinstance(x, float) and not math.isfinite(x) for x in _leaves(value)):
            raise ValueError(f"{key}: expected finite numbers, got {value!r}")


def check_values(cfg: CfgNode) -> None:
    """
    Raises:
        ValueError: a key has a value that it cannot have; with both, and with what it can have.
    """
    given = flat_keys(cfg)
    for pattern, allowed in VALUES.items():
        for key in [pattern] if pattern in given else [k for k in given if fnmatchcase(k, pattern)]:
            if given[key] is not None and not allowed.test(given[key]):
                raise ValueError(f"{key}: expected {allowed}, got {given[key]!r}")


@cache
def _defaults() -> dict[str, Any]:
    cfg = get_cfg()
    add_defcn_config(cfg)
    return flat_keys(cfg)


def _check_elements(key: str, values: list | tuple, default: Any) -> None:
    kinds = {type(x) for x in _leaves(default)} or {ELEMENTS.get(key, object)}
    if isinstance(default, list) and any(isinstance(x, list) for x in default):  # anchors, whose sides may be fractions
        kinds.add(float)
    wanted = (*kinds, int) if float in kinds else tuple(kinds)
    if object in kinds or all(
        isinstance(x, wanted) and isinstance(x, bool) <= (bool in kinds) for x in _leaves(values)
    ):
        return
    raise ValueError(f"{key}: expected a list of {' or '.join(sorted(map(_name, kinds)))}, got {values!r}")


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _name(kind: type) -> str:
    return {str: "words", int: "whole numbers", float: "numbers", bool: "True or False"}.get(kind, kind.__name__)
