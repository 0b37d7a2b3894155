"""Figures of label assignment: which points an object trains, how much, and what the scores look like meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from defcn_ext.pictures.drawing import SCORE_COLORS, Scene, ScoreMap, class_color, draw_box, show_image

SHADE_COLORS = "viridis_r"
PANEL = 4.2  # inches
LARGEST, SMALLEST = 110.0, 5.0  # square points
CROWDED = 50.0  # in place of LARGEST where every point of a box is a pair
STAR = 150.0
NEARLY_ONE = 1 - 1e-6


@dataclass(frozen=True)
class Shade:
    """What a rule says of its pairs, one number each.

    Attributes:
        name: "label", or one of DW's weights.
        xy: (P, 2) the points, pixels of the scene's image.
        object: (P,) the object of each pair.
        value: (P,) at least 0.
        stars: whether a value of 1 means a full positive, which is drawn as a star.
    """

    name: str
    xy: Tensor
    object: Tensor
    value: Tensor
    stars: bool = True

    @property
    def certain(self) -> Tensor:
        """(P,) whether the pair is a full positive."""
        return (self.value >= NEARLY_ONE) & self.stars


@dataclass(frozen=True)
class Moment:
    """One row: a model at one time of its training.

    Attributes:
        title: model and progress.
        shades: what the rule says; the same names in all rows of a figure.
        scores: highest score over classes and levels, at the finest level.
    """

    title: str
    shades: tuple[Shade, ...]
    scores: ScoreMap


def highest_of_levels(maps: Sequence[ScoreMap]) -> ScoreMap:
    """One map of the finest level's size: at each place the highest score of any level."""
    finest = maps[0]
    best = finest.scores
    for level in maps[1:]:
        times = [round(level.cell[i] / finest.cell[i]) for i in range(2)]
        wide = level.scores.repeat_interleave(times[0], 0).repeat_interleave(times[1], 1)
        rows, columns = (max(0, n - m) for n, m in zip(best.shape, wide.shape))
        wide = F.pad(wide, (0, columns, 0, rows))  # a coarse level may end before the finest one
        best = best.maximum(wide[: best.shape[0], : best.shape[1]])
    return ScoreMap("all levels", best, finest.cell)


def label_figure(scene: Scene, moments: Sequence[Moment]) -> Figure:
    """One row a moment: a panel for each shade of its pairs, and the scores. Equal scales over the rows."""
    tall = PANEL * scene.image.shape[0] / scene.image.shape[1]
    left, gap_x, gap_y, top, bottom = 0.15, 0.85, 0.62, 0.4, 0.62
    shades = [shade.name for shade in moments[0].shades]
    width = left + (len(shades) + 1) * (PANEL + gap_x)
    height = top + bottom + len(moments) * (tall + gap_y)
    figure = Figure(figsize=(width, height))
    heights = [_ceiling([m.shades[i].value for m in moments]) for i in range(len(shades))]
    brightest = _ceiling([m.scores.scores for m in moments])
    for row, moment in enumerate(moments):
        y = height - top - row * (tall + gap_y) - gap_y - tall
        figure.text(left / width, (y + tall + 0.3) / height, moment.title, ha="left", size=12.5, weight="bold")
        for column in range(len(shades) + 1):
            x = left + column * (PANEL + gap_x)
            axes = figure.add_axes((x / width, y / height, PANEL / width, tall / height))
            bar = figure.add_axes(((x + PANEL + 0.07) / width, y / height, 0.14 / width, tall / height))
            if column < len(shades):
                _draw_shade(axes, scene, moment.shades[column], heights[column])
                _add_bar(figure, bar, SHADE_COLORS, heights[column], shades[column])
            else:
                _draw_scores(axes, scene, moment.scores, brightest)
                _add_bar(figure, bar, SCORE_COLORS, brightest, "score")
    figure.text(left / width, 1 - 0.28 / height, _headline(scene), ha="left", va="center", size=13)
    _add_legend(figure, moments, y=0.1 / height)
    return figure


def _headline(scene: Scene) -> str:
    return f"{scene.name}: which points train which object" if scene.name else "Which points train which object"


def _ceiling(values: Sequence[Tensor]) -> float:
    """The highest value, rounded up to a tenth; 1 for labels that reach it."""
    highest = max((float(v.max()) for v in values if v.numel()), default=1.0)
    return max(0.1, math.ceil(highest * 10 - 1e-4) / 10)


def _draw_shade(axes: Axes, scene: Scene, shade: Shade, highest: float) -> None:
    show_image(axes, scene.image)
    for index, box in enumerate(scene.objects.gt_boxes.tensor.tolist()):
        draw_box(axes, box, color=class_color(index), linewidth=1.8)
    if shade.stars:
        _join_pairs(axes, shade)
    order = shade.value.argsort()  # the largest on top
    largest = LARGEST if shade.stars else CROWDED
    for stars in (False, True):
        chosen = order[shade.certain[order] == stars]
        x, y = shade.xy[chosen].T.tolist() if len(chosen) else ([], [])
        value = shade.value[chosen]
        size = [STAR] * len(value) if stars else (SMALLEST + (largest - SMALLEST) * value / highest).tolist()
        style = {"cmap": SHADE_COLORS, "vmin": 0.0, "vmax": highest, "edgecolors": "black", "linewidths": 0.7}
        axes.scatter(x, y, s=size, c=value.tolist(), marker="*" if stars else "o", zorder=6 if stars else 5, **style)
    axes.set_title(_count(shade, len(scene.objects)), fontsize=9.5, pad=4)


def _join_pairs(axes: Axes, shade: Shade) -> None:
    """A line in the object's colour from its strongest point to each of its others."""
    for index in shade.object.unique().tolist():
        mine = shade.object == index
        x, y = shade.xy[mine][shade.value[mine].argmax()].tolist()
        for other_x, other_y in shade.xy[mine].tolist():
            axes.plot([x, other_x], [y, other_y], color=class_color(index), linewidth=1.3, zorder=4)


def _count(shade: Shade, objects: int) -> str:
    certain = int(shade.certain.sum())
    parts = [f"{objects} objects" if objects != 1 else "1 object"]
    if not shade.stars:
        return f"{shade.name}: {parts[0]}, {len(shade.value)} pairs"
    parts.append(f"{certain} certain")
    if certain < len(shade.value):
        rest = shade.value[~shade.certain]
        parts.append(f"{len(rest)} ambiguous, {shade.name} {float(rest.min()):.2f} to {float(rest.max()):.2f}")
    return ", ".join(parts)


def _draw_scores(axes: Axes, scene: Scene, level: ScoreMap, brightest: float) -> None:
    (h, w), (cell_h, cell_w) = level.scores.shape, level.cell
    height, width = scene.image.shape[:2]
    style = {"cmap": SCORE_COLORS, "vmin": 0.0, "vmax": brightest, "interpolation": "nearest"}
    axes.imshow(level.scores.numpy(), extent=(0, w * cell_w, h * cell_h, 0), **style)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    for box in scene.objects.gt_boxes.tensor.tolist():
        draw_box(axes, box, color="#BBBBBB", linewidth=0.7)
    axes.set_title("highest score of each place, all classes and levels", fontsize=9.5, pad=4)


def _add_bar(figure: Figure, axes: Axes, colors: str, highest: float, name: str) -> None:
    bar = figure.colorbar(ScalarMappable(Normalize(0, highest), colors), cax=axes)
    bar.set_label(name, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _add_legend(figure: Figure, moments: Sequence[Moment], *, y: float) -> None:
    """What stars and circles mean, for those that appear."""
    shades = [shade for moment in moments for shade in moment.shades]
    black = {"color": "none", "markerfacecolor": "#999999", "markeredgecolor": "black", "markeredgewidth": 0.7}
    handles = []
    if any(shade.certain.any() for shade in shades):
        handles.append(Line2D([], [], marker="*", markersize=12, label="full positive (label 1)", **black))
    if any((~shade.certain).any() for shade in shades):
        ambiguous = "ambiguous: a positive to the degree of its label, joined to its object's strongest point"
        text = ambiguous if shades[0].stars else "larger and darker: more weight"
        handles.append(Line2D([], [], marker="o", markersize=8, label=text, **black))
    if handles:
        place = {"loc": "lower left", "bbox_to_anchor": (0.01, y), "ncol": 2, "frameon": False, "fontsize": 10}
        figure.legend(handles=handles, **place)
