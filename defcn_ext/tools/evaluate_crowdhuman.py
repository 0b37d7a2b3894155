"""CrowdHuman's metrics of a result file.

    python -m defcn_ext.tools.evaluate_crowdhuman --gt annotation_val.odgt --dt crowdhuman_results.json

AP, MR^-2 (lower is better), recall and JI by the data set's protocol. Image sizes come from the lines of --gt, else
from those of --dt, else from the images ID.jpg in the folder --sizes. --json prints one line with the fractions AP, MR,
recall and JI; null stands for a metric that is undefined, as AP without ground truth. A bad line is an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext._text import explained, without_nan
from defcn_ext.evaluation.crowdhuman_report import evaluate_files, table


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
