"""What a comparison writes: a table (markdown, csv), all numbers (json), and two plots."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tabulate import tabulate

from defcn_ext._text import minutes, number, whole_file, without_nan, write_whole
from defcn_ext.study.jobs import Failure
from defcn_ext.study.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Labelled(Protocol):
    """An entry of the command line."""

    label: str
    config: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over the seeds that have a value; nan where there is none."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        values = [x for x in values if not math.isnan(x)]
        mean = statistics.fmean(values) if values else math.nan
        return cls(mean, statistics.stdev(values) if len(values) > 1 else math.nan)

    def show(self, form: str = ".1f") -> str:
        """ "20.3 ± 0.4", "20.3" where there is one value, "-" where there is none."""
        plain = form.lstrip("+")
        return number(self.mean, form) + ("" if math.isnan(self.std) else f" ± {self.std:{plain}}")


@dataclass(frozen=True)
class Summary:
    """One detector over its seeds.

    Attributes:
        curve: (iteration, mean AP without NMS) for the iterations that every run evaluated.
        duplicates: duplicates over found objects; missed: objects not found over objects; wrong: detections on no
            object, an image.
    """

    label: str
    seeds: tuple[int, ...]
    failed_seeds: tuple[int, ...]
    ap: Spread
    ap_with_nms: Spread
    nms_adds: Spread
    ap50: Spread
    duplicates: Spread
    missed: Spread
    wrong: Spread
    train_seconds: float
    curve: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, label: str, runs: Sequence[Run], failures: Sequence[Failure] = ()) -> Summary:
        """Of those runs and failures that carry this label."""
        runs = [run for run in runs if run.label == label]
        last = [run.curve[-1] for run in runs]
        common = set.intersection(*({x.iteration for x in run.curve} for run in runs)) if runs else set()
        at = {i: [x.ap for run in runs for x in run.curve if x.iteration == i] for i in sorted(common)}
        return cls(
            label=label,
            seeds=tuple(run.seed for run in runs),
            failed_seeds=tuple(x.seed for x in failures if x.label == label),
            ap=Spread.of([x.ap for x in last]),
            ap_with_nms=Spread.of([x.ap_with_nms for x in last]),
            nms_adds=Spread.of([x.ap_with_nms - x.ap for x in last]),
            ap50=Spread.of([x.ap50 for x in last]),
            duplicates=Spread.of([duplicates(run) for run in runs]),
            missed=Spread.of([_ratio(x.counts.objects - x.counts.found, x.counts.objects) for x in runs]),
            wrong=Spread.of([_ratio(run.counts.wrong, run.images) for run in runs]),
            train_seconds=Spread.of([run.train_seconds for run in runs]).mean,
            curve=tuple((i, Spread.of(values).mean) for i, values in at.items()),
        )

    def reaches(self, ap: float) -> int | None:
        """The first evaluated iteration whose mean AP without NMS is at least `ap`."""
        return next((iteration for iteration, value in self.curve if value >= ap), None)


def duplicates(run: Run) -> float:
    """Duplicates an object found; nan where none was found."""
    return _ratio(run.counts.duplicates, run.counts.found)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def target_ap(summaries: Sequence[Summary]) -> float:
    """Half of the best final AP without NMS, to one decimal; nan where there is none above 0."""
    best = max((x.ap.mean for x in summaries if not math.isnan(x.ap.mean)), default=0.0)
    return round(best / 2, 1) or math.nan


def rows(summaries: Sequence[Summary]) -> list[dict[str, str]]:
    """The cells of the table, by header."""
    target = target_ap(summaries)
    return [
        {
            "detector": x.label,
            "seeds": _seeds(x),
            "AP without NMS": x.ap.show(),
            "AP with NMS": x.ap_with_nms.show(),
            "NMS adds": x.nms_adds.show("+.1f"),
            "AP50 without NMS": x.ap50.show(),
            "duplicates an object": x.duplicates.show(".2f"),
            "training (min:s)": "-" if math.isnan(x.train_seconds) else minutes(x.train_seconds),
            f"iterations to AP {number(target)}": str(x.reaches(target) or "-"),
        }
        for x in summaries
    ]


def _seeds(summary: Summary) -> str:
    done = ", ".join(map(str, summary.seeds)) or "-"
    failed = ", ".join(map(str, summary.failed_seeds))
    return f"{done} (failed: {failed})" if failed else done


def markdown(summaries: Sequence[Summary]) -> str:
    cells = rows(summaries)
    align = ("left", "left", *["right"] * (len(cells[0]) - 2))
    return tabulate(cells, headers="keys", tablefmt="github", colalign=align, disable_numparse=True)


def comma_separated(summaries: Sequence[Summary]) -> str:
    """The numbers of the table in full, one line a detector; nothing in a cell that has no value."""
    target, text = target_ap(summaries), io.StringIO()
    lines = []
    for x in summaries:
        line = {"detector": x.label, "seeds": " ".join(map(str, x.seeds))}
        line["failed_seeds"] = " ".join(map(str, x.failed_seeds))
        for name in ("ap", "ap_with_nms", "nms_adds", "ap50", "duplicates", "missed", "wrong"):
            spread = getattr(x, name)
            line |= {name: _cell(spread.mean), f"{name}_std": _cell(spread.std)}
        line |= {"train_seconds": _cell(x.train_seconds), "target_ap": _cell(target)}
        lines.append(line | {"iterations_to_target": x.reaches(target) or ""})
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def results(
    entries: Sequence[Labelled], summaries: Sequence[Summary], runs: Sequence[Run], failures: Sequence[Failure]
) -> dict[str, Any]:
    """Everything, as JSON knows it (null where there was nothing to measure)."""
    target = target_ap(summaries)
    detectors = [
        {"config": entry.config, "changes": entry.changes, **asdict(x), "iterations_to_target": x.reaches(target)}
        for entry, x in zip(entries, summaries)
    ]
    content = {"target_ap": target, "detectors": detectors}
    content |= {"runs": [asdict(run) for run in runs], "failures": [asdict(x) for x in failures]}
    return without_nan(content)


def write_report(entries: Sequence[Labelled], runs: Sequence[Run], failures: Sequence[Failure], output: Path) -> str:
    """Writes all files into `output`. Returns the table."""
    from defcn_ext.study.plots import ap_figure, duplicates_figure

    summaries = [Summary.of(entry.label, runs, failures) for entry in entries]
    table = markdown(summaries)
    content = results(entries, summaries, runs, failures)
    write_whole(output / "table.md", table + "\n")
    write_whole(output / "table.csv", comma_separated(summaries))
    write_whole(output / "results.json", json.dumps(content, indent=2) + "\n")
    labels = [entry.label for entry in entries]
    _save(ap_figure(labels, runs), output / "ap.png")
    _save(duplicates_figure(labels, runs), output / "duplicates.png")
    return table


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=150)
