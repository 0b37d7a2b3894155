"""The errors of several detectors: tables, numbers and a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from defcn_ext._text import number, whole_file, without_nan, write_whole
from defcn_ext.evaluation.errors import KINDS, THRESHOLDS, Errors, count_errors, find_errors
from defcn_ext.evaluation.image_results import SUBSETS, ImageResult
from defcn_ext.evaluation.outcomes import SCORE
from defcn_ext.study.error_sources import KINDS as NMS
from defcn_ext.study.error_sources import find_sources
from defcn_ext.study.report import Spread

NOTE = (
    "What mending one kind of error alone would add to the AP; the kinds do not add up. missed: objects not found,\n"
    "nor the aim of an error of place or class; place: right class, too little IoU; class: enough IoU, wrong class;\n"
    "both: wrong class, too little IoU; background: near no object; rank: all right detections before all others;\n"
    "order: those that are right at IoU .5 exchange their scores, so that better placed ones come first."
)


@dataclass(frozen=True)
class Analysis:
    """One detector, with or without NMS, over its trainings.

    Attributes:
        errors: for each subset of the objects, one a training.
        counts: of detections that score above `SCORE`, at IoU .5, one a training.
    """

    label: str
    nms: str  # of `NMS`
    errors: dict[str, list[Errors]]
    counts: list[dict[str, int]]

    @classmethod
    def of(cls, label: str, nms: str, trainings: Sequence[list[ImageResult]]) -> Analysis:
        errors = {name: [find_errors(images, subset) for images in trainings] for name, subset in SUBSETS.items()}
        return cls(label, nms, errors, [count_errors(images, SCORE) for images in trainings])

    @property
    def name(self) -> str:
        return f"{self.label} {NMS[self.nms]}".strip()

    def objects(self, subset: str) -> int:
        return self.errors[subset][0].objects

    def ap(self, subset: str, strict: bool) -> Spread:
        """In percent over the trainings: at IoU .5 if not `strict`, else the mean of .5 to .95."""
        return Spread.of([_percent(x.ap, strict) for x in self.errors[subset]])

    def won(self, subset: str, kind: str, strict: bool) -> float:
        return Spread.of([_percent(x.won[kind], strict) for x in self.errors[subset]]).mean

    def to_json(self) -> dict[str, Any]:
        subsets = {
            name: [
                {"objects": x.objects, "ap": x.ap.tolist(), "won": {k: v.tolist() for k, v in x.won.items()}}
                for x in trainings
            ]
            for name, trainings in self.errors.items()
        }
        return {"label": self.label, "nms": self.nms or None, "subsets": subsets, "counts": self.counts}


def _percent(values: np.ndarray, strict: bool) -> float:
    return 100 * float(values.mean() if strict else values[0])


def analyse_errors(
    entries: Sequence[str],
    opts: Sequence[str] = (),
    *,
    output: str = "output/errors",
    annotations: str = "",
    max_detections: int = 100,
) -> str:
    """Writes errors.json, errors.md and errors.png into `output`. Returns the tables.

    Args:
        entries, opts, annotations, max_detections: as of `find_sources`.

    Raises:
        UserError: something is missing or does not fit.
    """
    from defcn_ext.study.error_plots import error_figure

    folder = Path(output)
    analyses = []
    for source in find_sources(entries, opts, folder, annotations, max_detections):
        trainings = [read() for read in source.runs]
        for nms in (kind for kind in NMS if all(kind in x for x in trainings)):
            analyses.append(Analysis.of(source.label, nms, [x[nms] for x in trainings]))
    text = tables(analyses)
    content = {"thresholds": THRESHOLDS.tolist(), "score": SCORE, "detectors": [x.to_json() for x in analyses]}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "errors.json", json.dumps(without_nan(content), indent=2) + "\n")
    write_whole(folder / "errors.md", text + "\n")
    with whole_file(folder / "errors.png") as file:
        error_figure(analyses).savefig(file, format="png", dpi=130)
    return text


def tables(analyses: Sequence[Analysis]) -> str:
    """Markdown: all objects at IoU .5 to .95 and at .5, counts, and the subsets of the objects."""
    parts = [NOTE]
    for heading, strict in (("IoU .5 to .95", True), ("IoU .5", False)):
        parts.append(_table(heading, [{"detector": x.name, **_row(x, "all", strict)} for x in analyses]))
    counts = [{"detector": x.name, **_mean_counts(x)} for x in analyses]
    parts.append(_table(f"Detections that score above {SCORE:g}, IoU .5", counts))
    rows = []
    for subset in [name for name in SUBSETS if name != "all"]:
        kept = [x for x in analyses if x.objects(subset)]
        objects = {"objects": f"{kept[0].objects(subset)} {subset}"} if kept else {}
        rows += [{**objects, "detector": x.name, **_row(x, subset, True)} for x in kept]
    return "\n\n".join([*parts, *([_table("By size and crowding, IoU .5 to .95", rows)] if rows else [])])


def _row(analysis: Analysis, subset: str, strict: bool) -> dict[str, str]:
    won = {kind: number(analysis.won(subset, kind, strict)) for kind in KINDS}
    return {"AP": analysis.ap(subset, strict).show(), **won}


def _mean_counts(analysis: Analysis) -> dict[str, str]:
    names = analysis.counts[0]
    return {name: f"{Spread.of([x[name] for x in analysis.counts]).mean:.0f}" for name in names}


def _table(heading: str, rows: list[dict[str, str]]) -> str:
    align = ["left" if key in ("detector", "objects") and "found" not in rows[0] else "right" for key in rows[0]]
    align[0] = "left"
    return f"### {heading}\n\n" + tabulate(
        rows, headers="keys", tablefmt="github", colalign=align, disable_numparse=True
    )
