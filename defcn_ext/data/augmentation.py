"""Training augmentations from the config."""

from defcn_ext.config import tell_new_key
from detectron2.config import CfgNode
from detectron2.data import transforms as T

FLIPS = {"none": (), "horizontal": (True,), "vertical": (False,)}  # one flag a flip: horizontal?
BOTH = (True, False)


def build_train_augmentation(cfg: CfgNode) -> list[T.Augmentation]:
    """Crop, resize (or scale jitter), flip, colours; the first three as Detectron2 has them unless a key says more.

    Raises:
        ValueError: INPUT.RANDOM_FLIP, INPUT.SCALE_JITTER, INPUT.DETR_CROP or INPUT.COLOR_JITTER has a value outside its
            range, or two of them exclude each other.
    """
    augmentations: list[T.Augmentation] = []
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    augmentations += _detr_crop(cfg) + _resize(cfg)
    for horizontal in _flips(cfg):
        augmentations.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    return augmentations + _colors(cfg.INPUT.COLOR_JITTER, gray=cfg.INPUT.FORMAT == "L")


def _flips(cfg: CfgNode) -> tuple[bool, ...]:
    flip = cfg.INPUT.RANDOM_FLIP
    if flip == "both":
        tell_new_key("INPUT.RANDOM_FLIP both", "INPUT.FLIP_BOTH True")
    elif flip not in FLIPS:
        raise ValueError(f"INPUT.RANDOM_FLIP: unknown value {flip!r}; known: {', '.join(FLIPS)}")
    return BOTH if cfg.INPUT.FLIP_BOTH or flip == "both" else FLIPS[flip]


def _detr_crop(cfg: CfgNode) -> list[T.Augmentation]:
    crop = cfg.INPUT.DETR_CROP
    if not crop.ENABLED:
        return []
    if cfg.INPUT.SCALE_JITTER:
        raise ValueError("INPUT.DETR_CROP.ENABLED and INPUT.SCALE_JITTER: both set the size of images; use one of them")
    if not crop.SIZES or min(crop.SIZES) < 1:
        raise ValueError(f"INPUT.DETR_CROP.SIZES: {tuple(crop.SIZES)}: expected short sides in pixels")
    if len(crop.CROP) != 2 or not 0 < crop.CROP[0] <= crop.CROP[1]:
        raise ValueError(f"INPUT.DETR_CROP.CROP: {tuple(crop.CROP)}: expected (lowest, highest), 0 < lowest <= highest")
    resize = T.ResizeShortestEdge(crop.SIZES, cfg.INPUT.MAX_SIZE_TRAIN, "choice")
    return [T.RandomApply(T.AugmentationList([resize, T.RandomCrop("absolute_range", crop.CROP)]), prob=0.5)]


def _resize(cfg: CfgNode) -> list[T.Augmentation]:
    jitter = cfg.INPUT.SCALE_JITTER
    if not jitter:
        sizes = cfg.INPUT.MIN_SIZE_TRAIN
        return [T.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)]
    if len(jitter) != 2 or not 0 < jitter[0] <= jitter[1]:
        raise ValueError(f"INPUT.SCALE_JITTER: {tuple(jitter)}: expected (lowest, highest) with 0 < lowest <= highest")
    side = cfg.INPUT.SCALE_JITTER_SIZE or max(cfg.INPUT.MIN_SIZE_TRAIN)
    return [T.ResizeScale(jitter[0], jitter[1], side, side), T.FixedSizeCrop((side, side))]


def _colors(strength: float, gray: bool) -> list[T.Augmentation]:
    if not 0 <= strength < 1:
        raise ValueError(f"INPUT.COLOR_JITTER: {strength}: expected 0 <= x < 1")
    kinds = (T.RandomBrightness, T.RandomContrast) + (() if gray else (T.RandomSaturation,))  # gray has no saturation
    return [kind(1 - strength, 1 + strength) for kind in kinds] if strength else []
