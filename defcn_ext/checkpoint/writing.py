"""What a conversion leaves behind: the weights, a config beside them, and what the user should read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from defcn_ext._text import whole_file, write_whole
from defcn_ext.config import UserError, add_defcn_config
from detectron2.config import CfgNode, get_cfg

from .convert import CONFIGS, Conversion, value_of
from .description import CLASSES, describe

AUTHOR = "defcn_ext, from "
MADE_BY = "written by defcn_ext.tools.convert_checkpoint"
OF_THIS_MACHINE = ("MODEL.DEVICE", "OUTPUT_DIR")


def write(conversion: Conversion, out: Path) -> Path:
    """Writes the weights in Detectron2's format, and beside them their config, which stands alone. Returns its path.

    A detector's weights also carry the config and the names of the classes. A backbone's names lack the model's
    prefix, so only there Detectron2 is asked to match names by their ends.

    Raises:
        UserError: a config that is not of this command's making lies where this one belongs.
    """
    config = config_path(out)
    if config.is_file() and MADE_BY not in config.read_text(encoding="utf-8", errors="replace").partition("\n")[0]:
        raise UserError(f"{config}: is there, and would be replaced by the config of {out.name}; give OUT another name")
    weights = {
        "model": conversion.model,
        "__author__": AUTHOR + conversion.source,
        "matching_heuristics": conversion.backbone_only,
    }
    if not conversion.backbone_only:
        weights |= describe(conversion.cfg)
        weights |= {} if conversion.classes is None else {CLASSES: conversion.classes}
    with whole_file(out) as file:
        torch.save(weights, file)
    write_whole(config, config_text(conversion, out))
    return config


def config_path(out: Path) -> Path:
    """NAME.yaml for NAME.pth."""
    return out.with_suffix(".yaml")


def config_text(conversion: Conversion, out: Path) -> str:
    """Every key that is not Detectron2's or this project's default, and all that say how the input must look."""
    start = get_cfg()
    add_defcn_config(start)
    keys = _differences(conversion.cfg, start)
    if conversion.backbone_only:
        keys = {}
        for key, value in conversion.options.items():
            _put(keys, key, value)
    for key in _always(conversion):
        _put(keys, key, value_of(conversion.cfg, key))
    _put(keys, "MODEL.WEIGHTS", str(out.resolve()))
    head = f"# {conversion.title}, weights from {conversion.source}, {MADE_BY}.\n"
    return head + yaml.safe_dump(keys, sort_keys=False, default_flow_style=None, width=110)


def report(conversion: Conversion, path: str, entries: int, out: Path, config: Path) -> str:
    """What was found, what was made of it, and how it is used, a line each."""
    cfg, defcn = conversion.cfg, conversion.cfg.MODEL.DEFCN
    lines = [
        f"read      {path}: {conversion.source}, {entries} entries",
        f"model     {conversion.title}" + ("" if conversion.backbone_only else f", {defcn.NUM_CLASSES} classes"),
    ]
    if conversion.backbone_only:
        lines.append(f"keys      {_as_pairs(conversion.options)}")
    else:
        lines.append(f"config    {_shown(conversion.base)}")
        lines.append(f"keys      {_as_pairs(conversion.options)}")
    mean, std = list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)
    stride = cfg.MODEL.RESNETS.STRIDE_IN_1X1
    lines.append(f"input     {cfg.INPUT.FORMAT}, PIXEL_MEAN {mean}, PIXEL_STD {std}, STRIDE_IN_1X1 {stride}")
    if not conversion.backbone_only:
        nms = f"NMS above IoU {defcn.NMS_THRESH_TEST}" if defcn.NMS else "no NMS"
        lines.append(f"          short side {cfg.INPUT.MIN_SIZE_TEST}, long side up to {cfg.INPUT.MAX_SIZE_TEST}")
        lines.append(f"pyramid   P6 from {defcn.P6_FEATURE}")
        lines.append(
            f"output    {cfg.TEST.DETECTIONS_PER_IMAGE} detections an image, scores above {defcn.SCORE_THRESH_TEST}, "
            f"{defcn.TOPK_CANDIDATES_TEST} candidates a level, {nms}"
        )
    if conversion.dropped:
        lines.append("dropped   " + ", ".join(f"{n} {kind}" for kind, n in sorted(conversion.dropped.items())))
    lines += [f"note      {note}" for note in conversion.notes]
    numbers = sum(value.numel() for value in conversion.model.values())
    lines.append(f"written   {out}: {len(conversion.model)} entries, {numbers:,} numbers")
    lines.append(f"          {config}")
    if conversion.backbone_only:
        lines.append(f"use       python train_net.py --config-file CONFIG MODEL.WEIGHTS {out} and the keys above")
    else:
        data = "" if "DATASETS.TEST" in conversion.options else " DATASETS.TEST \"('NAME',)\""
        lines.append(f"use       python train_net.py --config-file {config} --eval-only{data}")
    return "\n".join(lines)


def _always(conversion: Conversion) -> list[str]:
    if conversion.backbone_only:
        return list(conversion.preprocessing)
    keys = ["INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"]
    keys += ["MODEL.RESNETS.DEPTH", "MODEL.RESNETS.STRIDE_IN_1X1", "TEST.DETECTIONS_PER_IMAGE"]
    return keys + [f"MODEL.DEFCN.{key}" for key in ("NUM_CLASSES", "P6_FEATURE", "NMS", "NMS_THRESH_TEST")]


def _differences(cfg: CfgNode, start: CfgNode | None, prefix: str = "") -> dict[str, Any]:
    out = {}
    for key, value in cfg.items():
        name, before = prefix + key, None if start is None else start.get(key)
        if isinstance(value, CfgNode):
            inner = _differences(value, before if isinstance(before, CfgNode) else None, f"{name}.")
            if inner:
                out[key] = inner
        elif name not in OF_THIS_MACHINE and (start is None or key not in start or value != before):
            out[key] = _plain(value)
    return out


def _put(keys: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    for part in parents:
        keys = keys.setdefault(part, {})
    keys[last] = _plain(value)


def _plain(value: Any) -> Any:
    return [_plain(x) for x in value] if isinstance(value, (list, tuple)) else value


def _as_pairs(options: dict[str, Any]) -> str:
    texts = {key: f'"{value}"' if isinstance(value, list) else repr(value) for key, value in options.items()}
    return " ".join(f"{key} {text}" for key, text in texts.items())


def _shown(base: str) -> str:
    path = Path(base)
    return f"configs/{path.relative_to(CONFIGS)}" if path.is_relative_to(CONFIGS) else base
