"""From another code base's weights to ours: renamed, checked entry by entry against the model they are for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from defcn_ext.config import UserError
from defcn_ext.engine.preflight import load_config
from defcn_ext.engine.preflight.model import build_without_weights
from defcn_ext.engine.stored_config import config_of
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

from .description import CLASSES, CONFIG
from .detect import ANCHORS_A_CELL, OPTIONS, RGB, Detected, detect, is_caffe, resnet_options
from .layouts import Renamed, rename, which_source
from .reading import Checkpoint

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHOWN = 40  # lines of what does not fit


class ConversionError(UserError):
    """Entries that do not fit; the message lists them, a line each."""


@dataclass
class Conversion:
    """Converted weights, and the config that they are for.

    `base` is the config file, `options` the keys it lacks; `backbone_only` says that the weights are a MODEL.WEIGHTS
    to train from, and no detector.
    """

    model: dict[str, Tensor]
    cfg: CfgNode
    source: str
    title: str
    base: str
    options: dict[str, Any]
    preprocessing: dict[str, Any]
    dropped: Counter[str]
    notes: list[str] = field(default_factory=list)
    backbone_only: bool = False
    # names of the classes, where the file says them
    classes: list[str] | None = None


def convert(
    checkpoint: Checkpoint,
    source: str = "auto",
    config: str = "",
    opts: Sequence[str] = (),
    inference: bool = False,
) -> Conversion:
    """
    Args:
        source: one of `layouts.SOURCES`, or "auto".
        config: file of the model that the weights shall fit; "" for the one that their names tell.
        opts: KEY, VALUE, ... that change it.
        inference: leave out the branches that only train.

    Raises:
        ConversionError: an entry is unknown, is missing, or has another shape than the model's.
        UserError: the weights are no model of this repository, or not of `source`.
    """
    known = which_source(checkpoint.path, checkpoint.state)
    if source == "auto":
        source = known
    elif source != known and {source, known} != {"timm", "torchvision"}:
        raise UserError(f"{checkpoint.path}: --from {source}, but its names are those of {known}")
    renamed = rename(source, checkpoint.state)
    if source in ("torchvision", "timm"):
        return _convert_backbone(checkpoint, source, renamed, opts)
    if source == "defcn_ext":
        return _convert_own(checkpoint, renamed, config, opts, inference)
    return _convert_detector(checkpoint, source, renamed, config, opts, inference)


def _convert_detector(
    checkpoint: Checkpoint, source: str, renamed: Renamed, config: str, opts: Sequence[str], inference: bool
) -> Conversion:
    found = _detect(checkpoint, source, renamed, config)
    options = {**found.options, **found.preprocessing}
    if inference:
        options[OPTIONS + "INFERENCE_ONLY"] = True
    base = config or str(CONFIGS / found.config)
    cfg = load_config(base, [*_pairs(options), *opts, "MODEL.DEVICE", "cpu"])
    notes = [*found.notes, *_changed_input(base, found, config)]
    main, *others = cfg.MODEL.DEFCN.BRANCHES
    first = main.lower()
    second = next((n.lower() for n in others if cfg.MODEL.DEFCN[n].TYPE != "auxiliary"), "one_to_many")
    state = {_branch_name(name, first, second): name for name in renamed.state}
    dropped = _dropped(checkpoint, renamed, cfg, notes)
    if inference:
        trained_only = [key for key in state if key.startswith(f"branches.{second}.")]
        dropped.update({f"branches.{second}": len(trained_only)} if trained_only else {})
        state = {key: name for key, name in state.items() if key not in trained_only}
    target = target_shapes(cfg)
    model = _fill({key: renamed.state[name] for key, name in state.items()}, target, notes)
    origin = {key: renamed.origin[name] for key, name in state.items()}
    _check(checkpoint, base, model, origin, renamed.unknown, target)
    if source == "cvpods" and model[f"branches.{first}.bbox_pred.weight"].shape[0] == 4 * ANCHORS_A_CELL:
        _reorder_anchors(model, f"branches.{first}.", cfg.MODEL.DEFCN[main].ANCHORS)
        notes.append("anchors reordered, from scale-major as in Detectron2 to ratio-major")
    ordered = {key: model[key] for key in target}
    return Conversion(
        *(ordered, cfg, source, found.title, base, options, found.preprocessing, dropped, notes),
        classes=_class_names(checkpoint, cfg.MODEL.DEFCN.NUM_CLASSES),
    )


def _convert_own(
    checkpoint: Checkpoint, renamed: Renamed, config: str, opts: Sequence[str], inference: bool
) -> Conversion:
    """This project's own weights, without what a training keeps beside them."""
    options: dict[str, Any] = {OPTIONS + "INFERENCE_ONLY": True} if inference else {}
    changes = [*_pairs(options), *opts, "MODEL.DEVICE", "cpu"]
    cfg = load_config(config, changes) if config else config_of(checkpoint, changes)
    if cfg is None:
        raise UserError(f"{checkpoint.path}: weights of this project, without their config: give it with --config")
    target = target_shapes(cfg)
    left = [key for key in renamed.state if inference and key.startswith("branches.") and key not in target]
    state = {key: value for key, value in renamed.state.items() if key not in left}
    base = config or f"the config in {checkpoint.path}"
    _check(checkpoint, base, state, renamed.origin, renamed.unknown, target)
    dropped = Counter(".".join(key.split(".")[:2]) for key in left)
    return Conversion(
        *({key: state[key] for key in target}, cfg, "defcn_ext", "a detector of this project", base, options, {}),
        *(dropped, [f"left out: {', '.join(sorted(set(checkpoint.extras) - {CONFIG, CLASSES}))}"]),
        classes=_class_names(checkpoint, cfg.MODEL.DEFCN.NUM_CLASSES),
    )


def _class_names(checkpoint: Checkpoint, count: int) -> list[str] | None:
    """By this project's entry, or by that of mmdetection 2 or 3, where they are as many as the model's."""
    meta = checkpoint.extras.get("meta")
    places = [checkpoint.extras, *([meta, meta.get("dataset_meta")] if isinstance(meta, dict) else [])]
    for place in (x for x in places if isinstance(x, dict)):
        for key in (CLASSES, "CLASSES", "classes"):
            names = place.get(key)
            if isinstance(names, (list, tuple)) and len(names) == count and all(isinstance(x, str) for x in names):
                return list(names)
    return None


def _detect(checkpoint: Checkpoint, source: str, renamed: Renamed, config: str) -> Detected:
    """What the names tell; with a config of the user's own, only the input's keys of it."""
    try:
        found = detect(checkpoint.path, source, renamed, checkpoint.extras)
    except UserError:
        if not config:
            raise
        note = f"WARNING: no model known by its names, so nothing says that the input is what {config} has"
        return Detected("as the config says", config, {}, {}, [note])
    return Detected(found.title, config, found.preprocessing, {}, []) if config else found


def _changed_input(base: str, found: Detected, config: str) -> list[str]:
    if not config:
        return []
    own = load_config(base, ["MODEL.DEVICE", "cpu"])
    notes = []
    for key, value in found.preprocessing.items():
        before = value_of(own, key)
        if before != value:
            notes.append(f"{key} {before} of {config} became {value}, with which these weights were released")
    return notes


def _branch_name(key: str, first: str, second: str) -> str:
    for placeholder, name in (("first.", first), ("second.", second)):
        if key.startswith(placeholder):
            return f"branches.{name}.{key.removeprefix(placeholder)}"
    return key


def target_shapes(cfg: CfgNode) -> dict[str, tuple[int, ...]]:
    """Name and shape of each entry of the model's state dict.

    Raises:
        UserError: the config does not fit itself.
    """
    try:
        model = build_without_weights(cfg)
    except ValueError as error:
        raise UserError(f"the config builds no model: {error}") from error
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _fill(state: dict[str, Tensor], target: Mapping[str, Any], notes: list[str]) -> dict[str, Tensor]:
    """Level factors of shape () become (1,); towers without any bias get zeros where the model's have biases."""
    state = {k: v.reshape(1) if v.dim() == 0 and target.get(k) == (1,) else v for k, v in state.items()}
    subnets = ("head.cls_subnet.", "head.bbox_subnet.")
    biases = [k for k in target if k.startswith(subnets) and k.endswith(".bias") and _is_conv(k, target)]
    if biases and not any(key in state for key in biases):
        state |= {key: torch.zeros(target[key]) for key in biases if key.removesuffix("bias") + "weight" in state}
        notes.append(f"{len(biases)} biases of the towers' convs, which the file lacks, are zero: the same model")
    return state


def _is_conv(bias: str, target: Mapping[str, tuple[int, ...]]) -> bool:
    return len(target[bias.removesuffix("bias") + "weight"]) == 4


def _dropped(checkpoint: Checkpoint, renamed: Renamed, cfg: CfgNode, notes: list[str]) -> Counter[str]:
    """Counts what is not needed, by the last part of its name, after a look at what it says."""
    for key in renamed.dropped:
        value = checkpoint.state[key].float()
        if key in ("pixel_mean", "pixel_std"):
            stated = list(value_of(cfg, f"MODEL.{key.upper()}"))
            if not torch.allclose(value.flatten(), torch.tensor(stated), atol=1e-3):
                notes.append(f"WARNING: {key} is {value.flatten().tolist()} in the file, {stated} in the config")
    kinds = [".".join(key.split(".")[-2:]) if "prior" in key else key.split(".")[-1] for key in renamed.dropped]
    return Counter("cell_anchors" if kind.isdigit() else kind for kind in kinds)


def _check(
    checkpoint: Checkpoint,
    base: str,
    state: Mapping[str, Tensor],
    origin: Mapping[str, str],
    unknown: Sequence[str],
    target: Mapping[str, tuple[int, ...]],
) -> None:
    lines = [f"unknown: {key} {tuple(checkpoint.state[key].shape)}" for key in unknown]
    for key in state:
        if key not in target:
            lines.append(f"without a place in the model: {origin[key]}, as {key}{_hint(key)}")
        elif tuple(state[key].shape) != target[key]:
            shapes = f"{tuple(state[key].shape)} in the file, {target[key]} in the model"
            lines.append(f"of another shape: {origin.get(key, key)}, as {key}: {shapes}{_hint(key)}")
    lines += [f"not above 0: {origin[k]}" for k in state if k.endswith("prior.sigma") and not (state[k] > 0).all()]
    lines += [f"missing: {key} {target[key]}" for key in target if key not in state]
    if lines:
        more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        head = f"{checkpoint.path}: {len(lines)} entries do not fit {base}"
        raise ConversionError("\n  ".join([head, *lines[:SHOWN], *more]))


def _hint(key: str) -> str:
    if ".center_prior." in key:
        return "; set CLASS_PRIOR of the branch to True"
    if ".cls_score." in key:
        return "; set MODEL.DEFCN.NUM_CLASSES"
    return "; set MODEL.DEFCN.P6_FEATURE" if ".top_block.p6." in key else ""


def _reorder_anchors(state: dict[str, Tensor], branch: str, anchors: CfgNode) -> None:
    scales, ratios = len(anchors.SCALES), len(anchors.RATIOS)
    for name in ("cls_score", "bbox_pred"):
        for part in ("weight", "bias"):
            key = f"{branch}{name}.{part}"
            state[key] = to_ratio_major(state[key], scales, ratios)


def to_ratio_major(value: Tensor, scales: int, ratios: int) -> Tensor:
    """Channels (scale, ratio, class or side), as Detectron2 and cvpods have them, to (ratio, scale, ...) as here."""
    return value.unflatten(0, (scales, ratios, -1)).transpose(0, 1).flatten(0, 2)


def _convert_backbone(checkpoint: Checkpoint, source: str, renamed: Renamed, opts: Sequence[str]) -> Conversion:
    """A classifier's ResNet, without its last layer, under the names that Detectron2's model zoo uses."""
    depth = {} if renamed.unknown else resnet_options(checkpoint.path, renamed.state, "")
    options = {**depth, **RGB}
    cfg = load_config("", [*_pairs(options), "MODEL.RESNETS.OUT_FEATURES", "['res5']", *opts, "MODEL.DEVICE", "cpu"])
    with torch.device("meta"):
        resnet = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    target = {key: tuple(value.shape) for key, value in resnet.state_dict().items()}
    _check(checkpoint, "Detectron2's ResNet", renamed.state, renamed.origin, renamed.unknown, target)
    notes = []
    if is_caffe(renamed.state, ""):
        notes.append("WARNING: the stem's statistics look like caffe's, whose input is BGR and whose stride is in 1x1")
    dropped = Counter(key.split(".")[0] if key.startswith("fc.") else key.split(".")[-1] for key in renamed.dropped)
    title = f"ResNet-{cfg.MODEL.RESNETS.DEPTH}"
    model = {key: renamed.state[key] for key in target}
    return Conversion(model, cfg, source, title, "", options, dict(RGB), dropped, notes, backbone_only=True)


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _pairs(options: Mapping[str, Any]) -> list[str]:
    return [text for key, value in options.items() for text in (key, value if isinstance(value, str) else repr(value))]
