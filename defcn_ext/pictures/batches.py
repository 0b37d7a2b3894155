"""What a training sees: the pictures of one of its batches, with the objects that it is told of."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline

from defcn_ext.config import UserError
from defcn_ext.data.classes import with_classes
from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import check_run, load_config
from defcn_ext.pictures.drawing import MAX_LEGEND, class_color, draw_objects, save
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import BitMasks, Instances, PolygonMasks

COLUMNS = 4
PANEL = 3.4  # inches, the width of a picture
GAP, TOP, BOTTOM = 0.3, 0.35, 0.4  # inches
MASK_ALPHA = 0.35
AS_TRAINED = argparse.Namespace(num_gpus=1, num_machines=1, dist_url="", eval_only=False, resume=True)


def draw_batch(config: str, opts: Sequence[str], iteration: int, output: Path) -> None:
    """Draws the batch that one process trains on at an iteration, counted from 0.

    Args:
        opts: KEY VALUE, one after the other: changes to the config.
        output: a .png file.

    Raises:
        UserError: config or data are missing or do not fit, or the training has no such iteration.
    """
    with tempfile.TemporaryDirectory(prefix="defcn-batch-") as folder:
        cfg = load_config(config, [*opts, "MODEL.WEIGHTS", "", "OUTPUT_DIR", folder])
        check_run(cfg, AS_TRAINED)
        if not 0 <= iteration < cfg.SOLVER.MAX_ITER:
            raise UserError(f"--iteration {iteration}: the training has 0 to {cfg.SOLVER.MAX_ITER - 1}")
        cfg = with_classes(cfg, cfg.DATASETS.TRAIN)
        batch = read_batch(cfg, iteration)
    share = 100 * iteration / cfg.SOLVER.MAX_ITER
    heading = f"{Path(config).stem}, batch of iteration {iteration} ({share:.0f} % of the training)"
    output.parent.mkdir(parents=True, exist_ok=True)
    save(batch_figure(batch, cfg.DATASETS.CLASSES, cfg.INPUT.FORMAT, heading), output)


def read_batch(cfg: CfgNode, iteration: int) -> list[dict[str, Any]]:
    """The samples of one batch, with the random numbers that the training has there."""
    loader = Trainer.build_train_loader(cfg)
    loader.num_workers = 0
    loader.start = iteration
    return next(iter(loader))


def batch_figure(
    batch: Sequence[dict[str, Any]], class_names: Sequence[str], input_format: str, heading: str = ""
) -> Figure:
    """A panel a sample, all of the same width.

    Args:
        batch: with `image` (C, H, W) and `instances`.
        input_format: order of the images' channels, as INPUT.FORMAT.
    """
    columns = min(COLUMNS, len(batch))
    rows = math.ceil(len(batch) / columns)
    heights = [PANEL * sample["image"].shape[1] / sample["image"].shape[2] for sample in batch]
    tallest = [max(heights[row * columns : (row + 1) * columns]) for row in range(rows)]
    width, height = columns * (PANEL + 0.1) + 0.1, sum(tallest) + GAP * rows + TOP + BOTTOM
    figure = Figure(figsize=(width, height))
    for index, (sample, tall) in enumerate(zip(batch, heights)):
        row, column = divmod(index, columns)
        x, y = 0.1 + column * (PANEL + 0.1), height - TOP - sum(tallest[:row]) - GAP * (row + 1) - tall
        axes = figure.add_axes((x / width, y / height, PANEL / width, tall / height))
        draw_sample(axes, sample, input_format)
    figure.text(0.1 / width, 1 - 0.2 / height, heading, ha="left", va="center", size=11, weight="bold")
    seen = sorted({label for sample in batch for label in sample["instances"].gt_classes.tolist()})[:MAX_LEGEND]
    names = [class_names[i] if i < len(class_names) else f"class {i}" for i in seen]
    handles = [Patch(color=class_color(i), label=name) for i, name in zip(seen, names)]
    if handles:
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.0), "ncol": len(handles), "frameon": False}
        figure.legend(handles=handles, fontsize=9, **place)
    return figure


def draw_sample(axes: Axes, sample: dict[str, Any], input_format: str) -> None:
    """The picture as the network gets it, its boxes, and its masks where it has any."""
    image = convert_image_to_rgb(sample["image"].permute(1, 2, 0), input_format)
    height, width = image.shape[:2]
    axes.imshow(image.squeeze().astype(np.uint8), extent=(0, width, height, 0), cmap="gray", vmin=0, vmax=255)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    instances = sample["instances"]
    _draw_masks(axes, instances)
    draw_objects(axes, instances, linewidth=1.3)
    count = f"{len(instances)} object{'s' if len(instances) != 1 else ''}"
    kinds = ", ".join(sample.get("mixed", ()))
    title = f"{Path(sample['file_name']).stem} · {count}" + (f" · {kinds}" if kinds else "")
    axes.set_title(title, fontsize=8.5, pad=3)


def _draw_masks(axes: Axes, instances: Instances) -> None:
    if not instances.has("gt_masks"):
        return
    height, width = instances.image_size
    for masks, label in zip(_each(instances.gt_masks), instances.gt_classes.tolist()):
        color = class_color(label)
        if isinstance(masks, np.ndarray):
            axes.contourf(
                np.arange(width) + 0.5,
                np.arange(height) + 0.5,
                masks,
                levels=[0.5, 2],
                colors=[color],
                alpha=MASK_ALPHA,
            )
            continue
        for polygon in masks:
            corners = polygon.reshape(-1, 2)
            outline = Outline(np.concatenate([corners, corners[:1]]), closed=True)
            axes.add_patch(PathPatch(outline, facecolor=color, edgecolor=color, alpha=MASK_ALPHA, linewidth=1))


def _each(masks: BitMasks | PolygonMasks) -> list[Any]:
    """For each object its (H, W) array of numbers, or its list of polygons."""
    return masks.polygons if isinstance(masks, PolygonMasks) else list(masks.tensor.numpy().astype(np.uint8))
