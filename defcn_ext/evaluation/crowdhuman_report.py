"""CrowdHuman's metrics of a result file, as a table."""

from __future__ import annotations

import os
from collections.abc import Iterable

from defcn_ext._text import number
from defcn_ext.data.crowdhuman_files import read_annotations, read_results, with_sizes
from defcn_ext.data.headers import probe_headers

from .crowdhuman_inputs import to_detections, to_truth
from .crowdhuman_metrics import CrowdHumanMetrics, crowdhuman_metrics


def image_sizes(folder: str, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(height, width) of ID.jpg for each ID, from the files' headers.

    Raises:
        ValueError: an image is missing or cannot be read.
    """
    paths = {name: os.path.join(folder, f"{name}.jpg") for name in names}
    headers = probe_headers(paths.values())
    for name, path in paths.items():
        if isinstance(headers[path], str):
            raise ValueError(f"image {name!r}: no size from {path} ({headers[path]})")
    return {name: headers[path] for name, path in paths.items()}


def evaluate_files(
    gt: str, dt: str, *, sizes: str | None = None, round_like_crowddet: bool = False
) -> CrowdHumanMetrics:
    """The metrics of a result file; `sizes` is a folder of images.

    Raises:
        OSError: a file cannot be read.
        ValueError: a line is bad, an ID unknown, a size missing.
    """
    lines, results = read_annotations(gt), read_results(dt)
    known = {line.id for line in [*lines, *results] if line.height is not None and line.width is not None}
    unknown = [line.id for line in lines if line.id not in known]
    if sizes is not None:
        lines = with_sizes(lines, image_sizes(sizes, unknown))
    elif unknown:
        raise ValueError(
            f"{len(unknown)} of {len(lines)} images, such as {unknown[0]!r}, have no height and width in {gt} or {dt}: "
            "give the folder of the images with --sizes"
        )
    return crowdhuman_metrics(to_truth(lines), to_detections(results), round_like_crowddet=round_like_crowddet)


def table(m: CrowdHumanMetrics) -> str:
    """Markdown, metrics in percent."""
    percent = " | ".join(number(100 * value, ".2f") for value in (m.ap, m.mr, m.recall, m.ji))
    return "\n".join(
        [
            "| AP | MR^-2 | recall | JI | images | persons | detections |",
            "|---|---|---|---|---|---|---|",
            f"| {percent} | {m.num_images} | {m.num_objects} | {m.num_detections} |",
        ]
    )
