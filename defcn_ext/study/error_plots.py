"""The picture of what each kind of error costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from defcn_ext.evaluation.errors import KINDS
from defcn_ext.evaluation.image_results import SUBSETS
from defcn_ext.study.errors import Analysis

COLORS = {
    "missed": "#333333",
    "duplicate": "#E4002B",
    "place": "#0072B2",
    "class": "#D98E00",
    "both": "#A8418F",
    "background": "#009E73",
    "rank": "#C8C8C8",
    "order": "#7F7F7F",
}
BAR, THIN = 0.5, 0.2  # heights of the two bars of a detector, of 1
WIDTH, ROW, AROUND = 11.5, 0.42, 0.75  # inches: of the figure, of a detector, of title and axis of a panel
COLUMNS = 2


def error_figure(analyses: Sequence[Analysis]) -> Figure:
    """Panels for all objects at two strictnesses, and for each subset; a pair of bars a detector.

    The upper bar stacks what the errors of detections and missed objects cost, the lower one what the ranking costs,
    and darker in it the order among right detections.
    """
    panels = [("all", True), ("all", False), *((x, True) for x in SUBSETS if x != "all")]
    panels = [(x, strict) for x, strict in panels if any(a.objects(x) for a in analyses)]
    lines = math.ceil(len(panels) / COLUMNS)
    height = lines * (ROW * len(analyses) + AROUND) + 0.6
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, COLUMNS, squeeze=False)
    for axes, (subset, strict) in zip(grid.flat, panels):
        _draw(axes, analyses, subset, strict)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for row in grid[:, 1:]:
        for axes in row:
            axes.set_yticklabels([])
    handles = [Patch(color=COLORS[kind], label=kind) for kind in KINDS]
    figure.legend(handles=handles, loc="outside lower center", ncol=len(KINDS), frameon=False)
    figure.suptitle("AP that mending one kind of error alone would add (the kinds do not add up)", x=0.01, ha="left")
    return figure


def _draw(axes: Axes, analyses: Sequence[Analysis], subset: str, strict: bool) -> None:
    for row, analysis in enumerate(analyses):
        end = 0.0
        for kind in KINDS[:-2]:
            won = analysis.won(subset, kind, strict)
            if not math.isnan(won):
                axes.barh(row, won, BAR, left=end, color=COLORS[kind])
                end += won
        y = row + (BAR + THIN) / 2
        for kind in KINDS[-2:]:
            won = analysis.won(subset, kind, strict)
            axes.barh(y, 0 if math.isnan(won) else won, THIN, color=COLORS[kind])
            end = max(end, 0 if math.isnan(won) else won)
        axes.annotate(
            f"AP {analysis.ap(subset, strict).show()}", (end, row), (4, 0), textcoords="offset points", va="center",
            fontsize=8.5,
        )  # fmt: skip
    axes.set_yticks(range(len(analyses)), [x.name for x in analyses])
    axes.set_ylim(len(analyses) - 0.35, -0.5)
    axes.margins(x=0.2)
    axes.set_xlim(0, None)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    objects = max(x.objects(subset) for x in analyses)
    axes.set_title(f"{objects} objects: {subset}, IoU {'.5 to .95' if strict else '.5'}", loc="left", fontsize=10.5)
