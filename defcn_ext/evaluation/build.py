"""The evaluator that belongs to a data set."""

from __future__ import annotations

import os

from defcn_ext.data.classes import class_order
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from .crowdhuman import CrowdHumanEvaluator
from .nms_gap import NMSGapEvaluator
from .own_terms import OwnTermsEvaluator


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Picks the evaluator by the data set's `evaluator_type`, with and without NMS if `MODEL.DEFCN.COMPARE_NMS`.

    Args:
        output_folder: where result files go; `OUTPUT_DIR/inference` if None.

    Raises:
        UserError: the data set has classes of other names than the model.
        ValueError: it has an evaluator type that is not supported.
    """
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", None)
    if kind not in ("coco", "crowdhuman"):
        raise ValueError(
            f"DATASETS.TEST: {dataset_name!r} has evaluator_type {kind!r}; known: 'coco', 'crowdhuman'. "
            "Register the data set in COCO format (DATASETS.REGISTER)."
        )

    classes = class_order(cfg, dataset_name)

    def make(subfolder: str) -> DatasetEvaluator:
        output_dir = os.path.join(folder, subfolder)
        if kind == "crowdhuman":
            return CrowdHumanEvaluator(dataset_name, output_dir=output_dir)
        max_dets = cfg.TEST.DETECTIONS_PER_IMAGE
        return OwnTermsEvaluator(dataset_name, classes=classes, output_dir=output_dir, max_dets_per_image=max_dets)

    if cfg.MODEL.META_ARCHITECTURE == "DeFCN" and cfg.MODEL.DEFCN.COMPARE_NMS:
        return NMSGapEvaluator(make, nms=cfg.MODEL.DEFCN.NMS)
    return make("")
