"""Average precision as COCO defines it, for boxes, masks and keypoints."""

import contextlib
import io
import itertools
import json
import logging
import math
import os
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

import detectron2.utils.comm as comm
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou  # noqa: F401  (public here too)
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from .evaluator import DatasetEvaluator
from .fast_eval_api import COCOeval_opt

# In the order of COCOeval.stats.
METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}
DEFAULT_MAX_DETS = 100  # an image


class COCOEvaluator(DatasetEvaluator):
    """AP of the "instances" that a model outputs. Metrics are 0..100, nan where undefined."""

    def __init__(
        self,
        dataset_name,
        tasks=None,
        distributed=True,
        output_dir=None,
        *,
        max_dets_per_image=None,
        use_fast_impl=True,
        kpt_oks_sigmas=(),
        allow_cached_coco=True,
    ):
        """
        Args:
            dataset_name: a registered data set, with a COCO file or converted to one in `output_dir`.
            tasks: of "bbox", "segm", "keypoints"; default is whatever the predictions have.
            distributed: gather the predictions of all workers.
            output_dir: optional folder for instances_predictions.pth and coco_instances_results.json.
            max_dets_per_image: detections an image that count; default 100. COCO sorts [1, 10, this], so less than 10
                acts like 10.
            use_fast_impl: log COCOeval's progress instead of printing it; the numbers are equal.
            kpt_oks_sigmas: one for each keypoint; default is those of COCO's persons.
            allow_cached_coco: use the file that an earlier conversion left in `output_dir`.

        Raises:
            ValueError: the data set has no COCO file and there is no `output_dir` to convert it into.
        """
        self._logger = logging.getLogger(__name__)
        if isinstance(tasks, CfgNode):
            self._logger.warning("COCOEvaluator(dataset, cfg, ...) is deprecated: pass `tasks`, or nothing")
            tasks = None
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._use_fast_impl = use_fast_impl
        self._max_dets_per_image = max_dets_per_image or DEFAULT_MAX_DETS
        self._kpt_oks_sigmas = kpt_oks_sigmas
        self._predictions: list[dict[str, Any]] = []

        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            if output_dir is None:
                raise ValueError(f"Data set {dataset_name} has no COCO file; give an output_dir to convert it into")
            self._metadata.json_file = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, self._metadata.json_file, allow_cached=allow_cached_coco)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = COCO(PathManager.get_local_path(self._metadata.json_file))
        self._do_evaluation = "annotations" in self._coco_api.dataset

    def reset(self):
        self._predictions = []

    def process(self, inputs, outputs):
        """
        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances": pred_boxes, scores, pred_classes, and maybe pred_masks, pred_keypoints.
        """
        for record, output in zip(inputs, outputs):
            if "instances" in output:
                instances = instances_to_coco_json(output["instances"].to("cpu"), record["image_id"])
                self._predictions.append({"image_id": record["image_id"], "instances": instances})

    def evaluate(self, img_ids=None):
        """
        Args:
            img_ids: evaluate on these images only; default is all.

        Returns:
            OrderedDict: task -> {metric: number, "AP-<class>": number}; {} on ranks above 0 and without predictions.

        Raises:
            AssertionError: a predicted class is outside the data set's.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            self._logger.warning("[COCOEvaluator] Did not receive valid predictions.")
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "instances_predictions.pth"), "wb") as f:
                torch.save(predictions, f)
        return self._evaluate_predictions(predictions, img_ids)

    def _evaluate_predictions(self, predictions: list[dict[str, Any]], img_ids) -> OrderedDict:
        self._logger.info("Preparing results for COCO format ...")
        # Copies: the caller may evaluate the same predictions again, on other images.
        results = [dict(result) for prediction in predictions for result in prediction["instances"]]
        self._use_dataset_ids(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info(f"Saving results to {path}")
            with PathManager.open(path, "w") as f:
                json.dump(results, f)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return OrderedDict()
        kind = "unofficial" if self._use_fast_impl else "official"
        self._logger.info(f"Evaluating predictions with {kind} COCO API...")
        metrics = OrderedDict()
        for task in sorted(self._tasks or _tasks_of(results)):
            coco_eval = self._run_coco(results, task, img_ids) if results else None
            metrics[task] = self._metrics(coco_eval, task)
        return metrics

    def _use_dataset_ids(self, results: list[dict[str, Any]]) -> None:
        """Replaces contiguous class ids by those of the file, in place."""
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_contiguous is None:
            return
        to_dataset = {contiguous: dataset for dataset, contiguous in to_contiguous.items()}
        assert set(to_dataset) == set(range(len(to_contiguous))), f"ids {to_contiguous} do not map to 0..n-1"
        for result in results:
            category = result["category_id"]
            assert category in to_dataset, (
                f"Predicted class {category}, but {self._metadata.name} has {len(to_dataset)} classes"
            )
            result["category_id"] = to_dataset[category]

    def _run_coco(self, results: list[dict[str, Any]], task: str, img_ids) -> COCOeval:
        assert task in METRICS, f"tasks: unknown task {task!r}; known: {', '.join(METRICS)}"
        # COCO writes into what it is given, and takes areas from boxes where there are any: masks must come alone.
        unwanted = "bbox" if task == "segm" else None
        results = [{key: value for key, value in result.items() if key != unwanted} for result in results]
        with contextlib.redirect_stdout(io.StringIO()):
            found = self._coco_api.loadRes(results)
        kind = COCOeval_opt if self._use_fast_impl else COCOeval
        if task != "keypoints" and self._max_dets_per_image != DEFAULT_MAX_DETS:
            kind = COCOevalMaxDets
        coco_eval = kind(self._coco_api, found, task)
        if task == "keypoints":
            self._set_sigmas(coco_eval, results)
        else:
            coco_eval.params.maxDets = [1, 10, self._max_dets_per_image]
        if img_ids is not None:
            coco_eval.params.imgIds = img_ids
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
        return coco_eval

    def _set_sigmas(self, coco_eval: COCOeval, results: list[dict[str, Any]]) -> None:
        if self._kpt_oks_sigmas:
            coco_eval.params.kpt_oks_sigmas = np.array(self._kpt_oks_sigmas)
        predicted, expected = len(results[0]["keypoints"]) // 3, len(coco_eval.params.kpt_oks_sigmas)
        assert predicted == expected, f"{predicted} keypoints predicted, but kpt_oks_sigmas has {expected}"

    def _metrics(self, coco_eval: COCOeval | None, task: str) -> dict[str, float]:
        """Overall metrics and, with two or more classes, the AP of each; both are logged."""
        if coco_eval is None:
            self._logger.warning("No predictions from the model!")
            return dict.fromkeys(METRICS[task], math.nan)
        metrics = {name: _percent(value) for name, value in zip(METRICS[task], coco_eval.stats)}
        self._logger.info(f"Evaluation results for {task}: \n" + create_small_table(metrics))
        if not all(map(math.isfinite, metrics.values())):
            self._logger.info("Some metrics cannot be computed and is shown as NaN.")
        names = self._metadata.get("thing_classes")
        if names is None or len(names) < 2:
            return metrics
        precision = coco_eval.eval["precision"]  # (IoU, recall, class, area, detections an image)
        assert len(names) == precision.shape[2], f"{len(names)} names for {precision.shape[2]} classes"
        by_class = {name: _mean_percent(precision[:, :, i, 0, -1]) for i, name in enumerate(names)}
        self._logger.info(f"Per-category {task} AP: \n" + _class_table(by_class))
        return {**metrics, **{f"AP-{name}": value for name, value in by_class.items()}}


class COCOevalMaxDets(COCOeval):
    """COCOeval whose summary looks at the largest of `params.maxDets`, where COCO's insists on 100."""

    def summarize(self):
        """Sets `stats` (12,) in COCO's order, and prints them.

        Raises:
            RuntimeError: `accumulate` was not called.
        """
        if not self.eval:
            raise RuntimeError("COCOevalMaxDets: call evaluate() and accumulate() before summarize()")
        if self.params.iouType == "keypoints":
            super().summarize()
            return
        areas = ("small", "medium", "large")
        rows = [("precision", None, "all", -1), ("precision", 0.5, "all", -1), ("precision", 0.75, "all", -1)]
        rows += [("precision", None, area, -1) for area in areas]
        rows += [("recall", None, "all", index) for index in range(3)]
        rows += [("recall", None, area, -1) for area in areas]
        self.stats = np.array([self._summarize_row(*row) for row in rows])

    def _summarize_row(self, kind: str, iou: float | None, area: str, dets: int) -> float:
        values = self.eval[kind][..., self.params.areaRngLbl.index(area), dets]
        if iou is not None:
            values = values[np.isclose(self.params.iouThrs, iou)]
        valid = values[values > -1]
        mean = float(valid.mean()) if valid.size else -1.0
        shown = "0.50:0.95" if iou is None else f"{iou:.2f}"
        title, most = f"Average {kind.capitalize()}", self.params.maxDets[dets]
        print(f" {title:<18} @[ IoU={shown:<9} | area={area:>6} | maxDets={most:>3} ] = {mean:.3f}")
        return mean


def instances_to_coco_json(instances, img_id):
    """Instances on the CPU as COCO results, with boxes XYWH, masks as RLE, and contiguous classes."""
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    columns = {"category_id": instances.pred_classes.tolist(), "bbox": boxes, "score": instances.scores.tolist()}
    if instances.has("pred_masks"):
        columns["segmentation"] = [_encode(mask) for mask in instances.pred_masks]
    if instances.has("pred_keypoints"):
        # COCO's keypoints are pixel indices, ours are coordinates of pixel centres.
        shifted = instances.pred_keypoints - torch.tensor([0.5, 0.5, 0])
        columns["keypoints"] = shifted.flatten(1).tolist()
    return [{"image_id": img_id, **dict(zip(columns, row))} for row in zip(*columns.values())]


def _encode(mask: torch.Tensor) -> dict[str, Any]:
    """(H, W) bool -> RLE with counts that fit into JSON."""
    rle = mask_util.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode("utf-8")}


def _tasks_of(results: list[dict[str, Any]]) -> set[str]:
    keys = set().union(*results)
    return {"bbox"} | {task for key, task in (("segmentation", "segm"), ("keypoints", "keypoints")) if key in keys}


def _percent(value: float) -> float:
    """COCO's fractions use -1 for undefined."""
    return float(value * 100) if value >= 0 else math.nan


def _mean_percent(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean() * 100) if valid.size else math.nan


def _class_table(by_class: dict[str, float]) -> str:
    """Names and values in up to three pairs of columns."""
    cells = list(itertools.chain(*by_class.items()))
    width = min(6, len(cells))
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    return tabulate(rows, headers=["category", "AP"] * (width // 2), tablefmt="pipe", floatfmt=".3f", numalign="left")
