"""Tests of the stand-in, which an installed Detectron2 passes too, but for those marked `standin_only`."""

from defcn_ext._platform import ensure_detectron2


def says(pattern: str) -> str:
    """What the text of an error must match: the stand-in's names the culprit, Detectron2's need not."""
    return pattern if ensure_detectron2() == "standin" else ""
