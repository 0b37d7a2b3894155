"""CrowdHuman's metrics of a result file.

    python -m defcn_ext.tools.evaluate_crowdhuman --gt annotation_val.odgt --dt crowdhuman_results.json

AP, MR^-2 (lower is better), recall and JI by the data set's protocol. Image sizes come from the lines of --gt, else
from those of --dt, else from the images ID.jpg in the folder --sizes. --json prints one line with the fractions AP, MR,
recall and JI; null stands for a metric that is undefined, as AP without ground truth. A bad line is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext._text import number, without_nan
from defcn_ext.data.crowdhuman_files import read_annotations, read_results, with_sizes
from defcn_ext.data.headers import probe_headers
from defcn_ext.evaluation.crowdhuman_inputs import to_detections, to_truth
from defcn_ext.evaluation.crowdhuman_metrics import CrowdHumanMetrics, crowdhuman_metrics


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
    if sizes is not None:
        lines = with_sizes(lines, image_sizes(sizes, [line.id for line in lines if line.id not in known]))
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


def explained(error: OSError | ValueError) -> str:
    """One line for the user."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def main(arguments: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="evaluate_crowdhuman", description=__doc__, formatter_class=raw)
    parser.add_argument("--gt", required=True, metavar="FILE", help="annotations, .odgt")
    parser.add_argument("--dt", required=True, metavar="FILE", help="results, one JSON object a line")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--sizes", metavar="DIR", help="the images, for sizes that neither file has")
    parser.add_argument(
        "--round-like-crowddet", action="store_true", help="round boxes to 0.1 pixels and scores to 5 decimals first"
    )
    args = parser.parse_args(arguments)
    try:
        m = evaluate_files(args.gt, args.dt, sizes=args.sizes, round_like_crowddet=args.round_like_crowddet)
    except (OSError, ValueError) as error:
        sys.exit(f"evaluate_crowdhuman: error: {explained(error)}")
    fractions = {"AP": m.ap, "MR": m.mr, "recall": m.recall, "JI": m.ji}
    print(json.dumps(without_nan(fractions)) if args.json else table(m))


if __name__ == "__main__":
    main()
