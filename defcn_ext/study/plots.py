"""The plots of a comparison: AP against iterations, and duplicates an object."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from defcn_ext.evaluation.outcomes import SCORE
from defcn_ext.pictures.drawing import CLASS_COLORS
from defcn_ext.study.report import Spread, duplicates
from defcn_ext.study.runs import Run

MARKERS = "osD^vPX*"  # beside the colours, for those who cannot tell these apart
KINDS = {"ap": ("without NMS", "-", 4), "ap_with_nms": ("with NMS", "--", 3)}  # name, line, order
WIDTH, HEIGHT, BAR_WIDTH = 7.6, 4.4, 1.15  # inches
LABEL_CHARACTERS = 22  # of a line of the legend
GREY = "#555555"
MAX_MARKERS = 12  # of a line


def ap_figure(labels: Sequence[str], runs: Sequence[Run]) -> Figure:
    """A line a detector and kind: the mean over the seeds, in a band from the lowest to the highest."""
    figure, axes = _figure()
    for index, label in enumerate(labels):
        own = [run for run in runs if run.label == label]
        for kind, (_, style, order) in KINDS.items():
            points = mean_and_range(own, kind)
            x, mean, low, high = zip(*points) if points else ((), (), (), ())
            every = max(1, math.ceil(len(x) / MAX_MARKERS))
            axes.plot(x, mean, style, linewidth=1.6, markevery=every, zorder=order, **_marks(index, kind))
            if len(own) > 1:
                axes.fill_between(x, low, high, color=_color(index), alpha=0.13, linewidth=0)
    several = any(run.seed != runs[0].seed for run in runs)
    axes.set_title("AP with and without NMS" + (" (mean and range over seeds)" if several else ""), loc="left")
    axes.set(xlabel="training iterations", ylabel="AP (%)", xlim=(0, None), ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    _legend(axes, labels)
    return figure


def mean_and_range(runs: Sequence[Run], kind: str) -> list[tuple[int, float, float, float]]:
    """(iteration, mean, lowest, highest) over those runs that have a value there."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for evaluation in run.curve:
            value = getattr(evaluation, kind)
            if not math.isnan(value):
                values.setdefault(evaluation.iteration, []).append(value)
    return [(i, statistics.fmean(v), min(v), max(v)) for i, v in sorted(values.items())]


def duplicates_figure(labels: Sequence[str], runs: Sequence[Run]) -> Figure:
    """A bar a detector: the mean over the seeds, which are points."""
    figure, axes = _figure(max(WIDTH, BAR_WIDTH * len(labels)))
    names, top = [], 0.0
    for index, label in enumerate(labels):
        values = [x for x in (duplicates(run) for run in runs if run.label == label) if not math.isnan(x)]
        mean = statistics.fmean(values) if values else 0.0
        axes.bar(index, mean, width=0.6, color=_color(index), alpha=0.75)
        if len(values) > 1:
            x = [index + 0.16 * (2 * i / (len(values) - 1) - 1) for i in range(len(values))]
            axes.plot(x, values, "o", markersize=5, color="white", markeredgecolor="black", clip_on=False, zorder=5)
        names.append(f"{textwrap.fill(label, max(12, 66 // len(labels)))}\n{Spread.of(values).show('.2f')}")
        top = max([top, *values])
    several = any(run.seed != runs[0].seed for run in runs)
    axes.set_title("Duplicates without NMS" + (" (points: seeds)" if several else ""), loc="left")
    axes.set_xticks(range(len(labels)), names)
    axes.set(xlim=(-0.6, len(labels) - 0.4), ylim=(0, 1.08 * top or 1))
    axes.set_ylabel(f"duplicates an object found\n(detections scored above {SCORE:g})")
    axes.grid(False, axis="x")
    return figure


def _color(index: int) -> str:
    return CLASS_COLORS[index % len(CLASS_COLORS)]


def _marks(index: int, kind: str) -> dict[str, Any]:
    """Without NMS the markers are small and full; those with NMS look out below where both are equal."""
    color, full = _color(index), kind == "ap"
    look = {"markersize": 4, "markerfacecolor": color} if full else {"markersize": 7, "markerfacecolor": "white"}
    return {"color": color, "marker": MARKERS[index % len(MARKERS)], **look}


def _figure(width: float = WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes, labels: Sequence[str]) -> None:
    """Beside the plot, where it hides nothing: colours for the detectors, line styles for the kinds."""
    handles = [Line2D([], [], **_marks(i, "ap")) for i in range(len(labels))]
    names = [textwrap.fill(label, LABEL_CHARACTERS) for label in labels]
    for kind, (name, style, _) in KINDS.items():
        handles.append(Line2D([], [], **{**_marks(0, kind), "color": GREY, "marker": "o"}, linestyle=style))
        handles[-1].set_markerfacecolor(GREY if kind == "ap" else "white")
        names.append(name)
    axes.legend(handles, names, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False)
