"""From another code base's weights to ours: renamed, checked entry by entry against the model they are for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from defcn_ext.branches.nodes import import_modules
from defcn_ext.config import UserError
from defcn_ext.engine.preflight import load_config
from defcn_ext.engine.stored_config import config_of
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone

from .description import CLASSES, CONFIG
from .detect import detect
from .fitting import ConversionError, check, dropped_entries, fill, target_shapes, value_of
from .reading import Checkpoint
from .resnets import resnet_options
from .sources import SOURCES, Detected, Renamed, Source, is_classifier, rename, which_source
from .sources.registry import OPTIONS, Rule
from .sources.shared import COUNTERS, RGB, is_caffe, resnet_rules

__all__ = ["CONFIGS", "Conversion", "ConversionError", "convert", "known_sources", "target_shapes", "value_of"]

# Sources that write the same names.
ALIKE = ({"timm", "torchvision"}, {"cvpods", "detectron2"})
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


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
        source: one of `known_sources()`, or "auto".
        config: file of the model that the weights shall fit; "" for the one that their names tell.
        opts: KEY, VALUE, ... that change it. Modules that MODEL.DEFCN.IMPORTS names may register further sources.
        inference: leave out the branches that only train.

    Raises:
        ConversionError: an entry is unknown, is missing, or has another shape than the model's.
        UserError: the weights are no model of this repository, or not of `source`.
    """
    _import(opts)
    known = which_source(checkpoint.path, checkpoint.state)
    if source == "auto":
        source = known
    elif source not in known_sources():
        raise UserError(f"--from {source}: no such source; known: {', '.join(known_sources())}")
    elif source != known and {source, known} not in ALIKE:
        raise UserError(f"{checkpoint.path}: --from {source}, but its names are those of {known}")
    if is_classifier(checkpoint.state):
        return _convert_backbone(checkpoint, source, opts)
    if source == "defcn_ext":
        return _convert_own(checkpoint, config, opts, inference)
    if source not in SOURCES:
        raise UserError(f"{checkpoint.path}: a detector of {known}, not of {source}; leave --from out")
    return _convert_detector(checkpoint, SOURCES[source], config, opts, inference)


def known_sources() -> list[str]:
    """What `convert` takes for a source beside "auto"."""
    return [*SOURCES, "timm", "defcn_ext"]


def _import(opts: Sequence[str]) -> None:
    for key, value in zip(opts[::2], opts[1::2]):
        if key == OPTIONS + "IMPORTS":
            import_modules(CfgNode._decode_cfg_value(value))


def _convert_detector(
    checkpoint: Checkpoint, source: Source, config: str, opts: Sequence[str], inference: bool
) -> Conversion:
    renamed = rename(source.rules(checkpoint.state), checkpoint.state)
    found = _detect(checkpoint, source, renamed, config)
    options = {**found.options, **found.preprocessing}
    if inference:
        options[OPTIONS + "INFERENCE_ONLY"] = True
    base = config or str(CONFIGS / found.config)
    cfg = load_config(base, [*_pairs(options), *opts, "MODEL.DEVICE", "cpu"])
    notes = [*found.notes, *_changed_input(base, found, config)]
    main, *others = cfg.MODEL.DEFCN.BRANCHES
    second = next((n.lower() for n in others if cfg.MODEL.DEFCN[n].TYPE != "auxiliary"), "one_to_many")
    state = {_branch_name(name, main.lower(), second): name for name in renamed.state}
    dropped = dropped_entries(checkpoint, renamed, cfg, notes)
    if inference:
        trained_only = [key for key in state if key.startswith(f"branches.{second}.")]
        dropped.update({f"branches.{second}": len(trained_only)} if trained_only else {})
        state = {key: name for key, name in state.items() if key not in trained_only}
    target = target_shapes(cfg)
    model = fill({key: renamed.state[name] for key, name in state.items()}, target, notes)
    source.adapt(model, renamed, cfg, main, notes)
    origin = {key: renamed.origin[name] for key, name in state.items()}
    check(checkpoint, base, model, origin, renamed.unknown, target)
    ordered = {key: model[key] for key in target}
    return Conversion(
        *(ordered, cfg, source.name, found.title, base, options, found.preprocessing, dropped, notes),
        classes=_class_names(checkpoint, cfg.MODEL.DEFCN.NUM_CLASSES),
    )


def _convert_own(checkpoint: Checkpoint, config: str, opts: Sequence[str], inference: bool) -> Conversion:
    """This project's own weights, without what a training keeps beside them."""
    options: dict[str, Any] = {OPTIONS + "INFERENCE_ONLY": True} if inference else {}
    changes = [*_pairs(options), *opts, "MODEL.DEVICE", "cpu"]
    cfg = load_config(config, changes) if config else config_of(checkpoint, changes)
    if cfg is None:
        raise UserError(f"{checkpoint.path}: weights of this project, without their config: give it with --config")
    target = target_shapes(cfg)
    left = [key for key in checkpoint.state if inference and key.startswith("branches.") and key not in target]
    state = {key: value for key, value in checkpoint.state.items() if key not in left}
    base = config or f"the config in {checkpoint.path}"
    check(checkpoint, base, state, {key: key for key in state}, [], target)
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


def _detect(checkpoint: Checkpoint, source: Source, renamed: Renamed, config: str) -> Detected:
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


def _convert_backbone(checkpoint: Checkpoint, source: str, opts: Sequence[str]) -> Conversion:
    """A classifier's ResNet, without its last layer, under the names that Detectron2's model zoo uses."""
    rules: list[Rule] = [COUNTERS, (r"fc\.(?:weight|bias)", ""), *resnet_rules("", "")]
    renamed = rename(rules, checkpoint.state)
    depth = {} if renamed.unknown else resnet_options(checkpoint.path, renamed.state, "")
    options = {**depth, **RGB}
    cfg = load_config("", [*_pairs(options), "MODEL.RESNETS.OUT_FEATURES", "['res5']", *opts, "MODEL.DEVICE", "cpu"])
    with torch.device("meta"):
        resnet = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    target = {key: tuple(value.shape) for key, value in resnet.state_dict().items()}
    check(checkpoint, "Detectron2's ResNet", renamed.state, renamed.origin, renamed.unknown, target)
    notes = []
    if is_caffe(renamed.state, ""):
        notes.append("WARNING: the stem's statistics look like caffe's, whose input is BGR and whose stride is in 1x1")
    dropped = Counter(key.split(".")[0] if key.startswith("fc.") else key.split(".")[-1] for key in renamed.dropped)
    title = f"ResNet-{cfg.MODEL.RESNETS.DEPTH}"
    model = {key: renamed.state[key] for key in target}
    return Conversion(model, cfg, source, title, "", options, dict(RGB), dropped, notes, backbone_only=True)


def _pairs(options: Mapping[str, Any]) -> list[str]:
    return [text for key, value in options.items() for text in (key, value if isinstance(value, str) else repr(value))]
