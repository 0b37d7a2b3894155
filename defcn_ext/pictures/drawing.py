"""Figures that compare detectors: boxes beside ground truth, and score maps level by level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from defcn_ext.evaluation.outcomes import Outcome, Tally, judge, tally
from defcn_ext.pictures.scenes import Scene
from defcn_ext.predictor import ScoreMap
from detectron2.structures import Instances

# Dark enough for pale ground, told apart with most kinds of colour vision (after Okabe and Ito 2008), and none is red.
CLASS_COLORS = ("#0072B2", "#D98E00", "#009E73", "#A8418F", "#333333", "#56B4E9", "#7F5539", "#8A8A00")
REPEAT_COLOR = "#E4002B"
MAX_LEGEND = 12
FINDS = {"linestyle": "-", "linewidth": 2.0}
REPEATS = {"linestyle": "-", "linewidth": 0.9, "color": REPEAT_COLOR}
MISTAKES = {"linestyle": (0, (1.2, 1.4)), "linewidth": 1.4}
STYLES = {Outcome.FOUND: FINDS, Outcome.DUPLICATE: REPEATS, Outcome.WRONG: MISTAKES}
SCORE_COLORS = "magma"
DPI = 110
SCORE_PANEL = 2.3  # inches


def contact_sheet(
    scenes: Sequence[Scene],
    columns: Sequence[tuple[str, Sequence[Instances]]],
    class_names: Sequence[str],
    *,
    panel: float = 3.0,
) -> Figure:
    """One row a scene: ground truth at the left, then one column for each named list of detections.

    Args:
        columns: heading, and the detections on each scene.
        panel: width of a panel in inches; small images are enlarged to it.
    """
    headings = ["Ground truth", *(heading for heading, _ in columns)]
    heights = [panel * scene.image.shape[0] / scene.image.shape[1] for scene in scenes]
    margin, gap, top, bottom = 0.12, 0.42, 0.4, 0.75
    width = len(headings) * (panel + margin) + margin
    height = sum(heights) + gap * len(scenes) + top + bottom
    figure = Figure(figsize=(width, height))
    y = height - top
    for row, (scene, panel_height) in enumerate(zip(scenes, heights)):
        y -= gap + panel_height
        for column, heading in enumerate(headings):
            x = margin + column * (panel + margin)
            axes = figure.add_axes((x / width, y / height, panel / width, panel_height / height))
            show_image(axes, scene.image)
            if column == 0:
                draw_objects(axes, scene.objects)
                caption = _plural(len(scene.objects), "object")
            else:
                caption = describe(draw_detections(axes, columns[column - 1][1][row], scene.objects))
            axes.set_title(caption, fontsize=8.5, pad=4)
            if row == 0:
                place = ((x + panel / 2) / width, 1 - (top - 0.1) / height)
                figure.text(*place, heading, ha="center", va="center", size=_fit(heading, panel, 13), weight="bold")
    add_legend(figure, class_names, scenes, columns, y=0.12 / height)
    return figure


def _fit(text: str, inches: float, largest: float) -> float:
    """Size in points at which the longest line of a bold text takes no more than so many inches."""
    return min(largest, inches * 72 / (0.66 * max(map(len, text.splitlines()))))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('x') else 's'}"


def save(figure: Figure, path: Path, *, colors: int | None = None) -> None:
    """Writes a PNG.

    Args:
        colors: reduce it to so many. 256 divide the size by three, and spare the lines while images are few.
    """
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    if colors:
        pixels = pixels.quantize(colors, dither=Image.Dither.NONE)
    pixels.save(path, optimize=colors is not None)  # costs ten seconds for a large sheet of 16 million colours


def describe(count: Tally) -> str:
    """The caption of a panel: "23 boxes · 9/9 found · 12 duplicates · 2 wrong"."""
    words = [_plural(count.detections, "box"), f"{count.found}/{count.objects} found"]
    words += [_plural(count.duplicates, "duplicate")] + ([f"{count.wrong} wrong"] if count.wrong else [])
    return " · ".join(words)


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Shows an image paler than it is, so that the boxes on it stand out."""
    height, width = image.shape[:2]
    grey = image.mean(-1, keepdims=True)
    pale = 255 - (255 - (0.5 * image + 0.5 * grey)) * 0.6
    axes.imshow(pale.astype(np.uint8), extent=(0, width, height, 0), interpolation="bilinear")
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def draw_objects(axes: Axes, objects: Instances, **style: Any) -> None:
    for box, label in zip(objects.gt_boxes.tensor.tolist(), objects.gt_classes.tolist()):
        draw_box(axes, box, **{"color": class_color(label), **FINDS, **style})


def draw_detections(axes: Axes, detections: Instances, objects: Instances) -> Tally:
    """Draws every detection in the style of its outcome, duplicates on top of the boxes that they repeat."""
    outcomes = judge(detections, objects)
    boxes, labels = detections.pred_boxes.tensor.tolist(), detections.pred_classes.tolist()
    for box, label, outcome in zip(boxes, labels, map(Outcome, outcomes.tolist())):
        layer = 4 if outcome is Outcome.DUPLICATE else 3
        draw_box(axes, box, **{"color": class_color(label), "zorder": layer, **STYLES[outcome]})
    return tally(outcomes, len(objects))


def draw_box(axes: Axes, box: Sequence[float], *, color: str, linewidth: float, **style: Any) -> None:
    """A box (x1, y1, x2, y2) with a white rim, so that it shows on any image."""
    x1, y1, x2, y2 = box
    rim = [withStroke(linewidth=linewidth + 1.2, foreground="white", alpha=0.7)]
    patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=linewidth, **style)
    patch.set_path_effects(rim)
    axes.add_patch(patch)


def class_color(label: int) -> str:
    return CLASS_COLORS[label % len(CLASS_COLORS)]


def add_legend(
    figure: Figure,
    class_names: Sequence[str],
    scenes: Sequence[Scene],
    columns: Sequence[tuple[str, Sequence[Instances]]],
    *,
    y: float,
) -> None:
    """Class colours (those that appear), and what the lines of the boxes mean."""
    seen = {label for scene in scenes for label in scene.objects.gt_classes.tolist()}
    seen |= {label for _, found in columns for x in found for label in x.pred_classes.tolist()}
    names = {i: class_names[i] if i < len(class_names) else f"class {i}" for i in sorted(seen)[:MAX_LEGEND]}
    handles: list[Any] = [Patch(color=class_color(i), label=name) for i, name in names.items()]
    meaning = ("found an object", "duplicate: its object is found already", "wrong: no such object there")
    lines = [Line2D([], [], label=text, **{"color": "black", **style}) for text, style in zip(meaning, STYLES.values())]
    options = {"frameon": False, "fontsize": 9, "handlelength": 2.4, "columnspacing": 1.4}
    figure.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, y), ncol=len(lines), **options)
    above = y + 0.22 / figure.get_figheight()
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, above), ncol=MAX_LEGEND // 2, **options)


def score_map_figure(scene: Scene, rows: Sequence[tuple[str, Sequence[ScoreMap]]], threshold: float) -> Figure:
    """Which points fire: one row a model output, one column a level, as Figure 4 of the DeFCN paper.

    Args:
        rows: label, and the maps of its levels, finest first.
        threshold: a point fires if its score is above.
    """
    scale = scene.image.shape[0] / scene.image.shape[1]
    panel, num_columns = SCORE_PANEL, 1 + max(len(maps) for _, maps in rows)
    left, right, top, bottom, gap_x, gap_y = 0.6, 0.75, 0.8, 0.62, 0.1, 0.36
    width = left + right + num_columns * (panel + gap_x)
    height = top + bottom + len(rows) * (panel * scale + gap_y)
    figure = Figure(figsize=(width, height))
    for row, (label, maps) in enumerate(rows):
        y = height - top - row * (panel * scale + gap_y) - panel * scale - gap_y
        for column in range(len(maps) + 1):
            x = left + column * (panel + gap_x)
            axes = figure.add_axes((x / width, y / height, panel / width, panel * scale / height))
            if column == 0:
                _draw_firing(axes, scene, maps, threshold)
                axes.set_ylabel(label, fontsize=_fit(label, panel * scale, 11), weight="bold", labelpad=6)
            else:
                _draw_score_map(axes, scene, maps[column - 1], threshold)
            if row == 0:
                heading = "Image" if column == 0 else maps[column - 1].level
                figure.text((x + panel / 2) / width, 1 - 0.85 / height, heading, ha="center", size=12, weight="bold")
    _add_score_bar(figure, width, height, right, top, bottom)
    name = f"{scene.name}: which points fire" if scene.name else "Which points fire"
    figure.text(left / width, 1 - 0.35 / height, name, ha="left", va="center", size=13)
    figure.text(left / width, 0.2 / height, _explain_score_maps(threshold), ha="left", va="center", size=9.5)
    return figure


def _explain_score_maps(threshold: float) -> str:
    return (
        "Left: the objects, and all points that fire. Right: every cell is one point of that pyramid level, its colour "
        f"the highest class score there.\nRings mark points that fire (score above {threshold:g}); each gives one box. "
        "Without NMS an object needs exactly one."
    )


def _draw_firing(axes: Axes, scene: Scene, maps: Sequence[ScoreMap], threshold: float) -> None:
    show_image(axes, scene.image)
    draw_objects(axes, scene.objects, linewidth=1.2)
    total = 0
    for level in maps:
        x, y = _firing(level, threshold)
        total += len(x)
        axes.plot(x, y, "o", markersize=4.5, color="white", markeredgecolor="black", markeredgewidth=1.0, zorder=5)
    points = "1 point fires" if total == 1 else f"{total} points fire"
    axes.set_title(f"{_plural(len(scene.objects), 'object')}, {points}", fontsize=9, pad=3)


def _draw_score_map(axes: Axes, scene: Scene, level: ScoreMap, threshold: float) -> None:
    (h, w), (cell_h, cell_w) = level.scores.shape, level.cell
    height, width = scene.image.shape[:2]
    options = {"cmap": SCORE_COLORS, "vmin": 0.0, "vmax": 1.0, "interpolation": "nearest"}
    axes.imshow(level.scores.numpy(), extent=(0, w * cell_w, h * cell_h, 0), **options)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    for x1, y1, x2, y2 in scene.objects.gt_boxes.tensor.tolist():
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="#999999", linewidth=0.6))
    x, y = _firing(level, threshold)
    size = min(12.0, max(3.5, 0.75 * cell_w / width * 72 * SCORE_PANEL))
    axes.plot(x, y, "o", markersize=size, markerfacecolor="none", markeredgecolor="white", markeredgewidth=1.2)
    axes.set_title(f"{len(x)} of {h * w} fire" if len(x) else f"none of {h * w}", fontsize=9, pad=3)


def _firing(level: ScoreMap, threshold: float) -> tuple[list[float], list[float]]:
    """x and y of the points above the threshold, pixels of the image."""
    rows, columns = (level.scores > threshold).nonzero(as_tuple=True)
    return ((columns + 0.5) * level.cell[1]).tolist(), ((rows + 0.5) * level.cell[0]).tolist()


def _add_score_bar(figure: Figure, width: float, height: float, right: float, top: float, bottom: float) -> None:
    x, inner = width - right + 0.08, height - top - bottom
    axes = figure.add_axes((x / width, bottom / height, 0.16 / width, (inner - 0.36) / height))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), SCORE_COLORS), cax=axes)
    bar.set_label("score", fontsize=9)
    bar.ax.tick_params(labelsize=8)
