"""What NMS costs even a perfect detector: the recall of the ground truth itself after NMS, and how crowded the data is.

    python -m defcn_ext.tools.nms_bound annotation_val.odgt
    python -m defcn_ext.tools.nms_bound coco_2017_val --thresholds 0.5 0.6

The boxes of the objects go through NMS, class by class, as detections of equal score: of two that overlap by more than
the threshold the first of the file stays. DeFCN reports 95.1 at IoU 0.6 for CrowdHuman's validation images. SOURCE is a
data set by its registered name, a COCO-format .json or an .odgt. What is marked to be ignored, or as a crowd, takes no
part. Boxes of an .odgt are clipped to the image where its size is known: by its line, or from ID.jpg in --sizes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import defcn_ext.data  # noqa: F401  (registers the data sets)
from defcn_ext._text import explained
from defcn_ext.evaluation.nms_bound import load_objects, nms_bound, report


def _threshold(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: an IoU lies between 0 and 1")
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="nms_bound", description=__doc__, formatter_class=raw)
    parser.add_argument("source", metavar="SOURCE", help="registered data set, .json or .odgt")
    parser.add_argument("--thresholds", type=_threshold, nargs="+", default=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    parser.add_argument("--sizes", metavar="DIR", help="the images, for sizes that an .odgt lacks")
    args = parser.parse_args(arguments)
    try:
        bound = nms_bound(load_objects(args.source, args.sizes), args.thresholds)
    except (OSError, ValueError) as error:
        sys.exit(f"nms_bound: error: {explained(error)}")
    print(report(bound))


if __name__ == "__main__":
    main()
