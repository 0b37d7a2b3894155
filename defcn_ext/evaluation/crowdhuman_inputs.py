"""What `crowdhuman_metrics` takes, of the lines of CrowdHuman's files."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from defcn_ext.data.crowdhuman_files import AnnotationLine, ResultLine

from .crowdhuman_overlaps import Detections, GroundTruth


def to_truth(lines: Iterable[AnnotationLine]) -> dict[str, GroundTruth]:
    """The full bodies of annotations, by image."""
    truth = {}
    for line in lines:
        boxes = np.array([x.fbox for x in line.boxes], dtype=np.float64).reshape(-1, 4)
        truth[line.id] = GroundTruth(boxes, np.array([x.ignored for x in line.boxes], dtype=bool), line.size)
    return truth


def to_detections(lines: Iterable[ResultLine]) -> dict[str, Detections]:
    """The detections of result lines, by image."""
    return {line.id: Detections(line.boxes, line.scores, line.size) for line in lines}
