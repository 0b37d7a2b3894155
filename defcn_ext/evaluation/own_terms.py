"""COCO's evaluation of detections in the terms of the annotations that a user has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from defcn_ext._text import write_whole
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm

RESULT_FILE = "coco_instances_results.json"

Ids = Mapping[Any, Any]


class OwnTermsEvaluator(COCOEvaluator):
    """COCOEvaluator whose result file speaks of images and categories as the user's json does.

    A json whose ids had to be replaced to be read (see `defcn_ext.data.ids`) keeps them in the metadata's
    `original_ids`; the file of results gets them back after the evaluation.
    """

    def __init__(self, dataset_name: str, *, output_dir: str | None = None, **kwargs: Any):
        super().__init__(dataset_name, output_dir=output_dir, **kwargs)
        self._results_in = output_dir
        self._original: Mapping[str, Ids] = MetadataCatalog.get(dataset_name).get("original_ids") or {}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict:
        """As COCOEvaluator's."""
        results = super().evaluate(*args, **kwargs)
        if self._results_in and comm.is_main_process() and any(self._original.values()):
            put_back(Path(self._results_in) / RESULT_FILE, self._original)
        return results


def put_back(path: Path, original: Mapping[str, Ids]) -> None:
    """Replaces ids in a file of COCO results.

    Args:
        original: for "image_id" and "category_id" what to write in place of an id that is not the user's.
    """
    if not path.is_file():
        return
    results = json.loads(path.read_text(encoding="utf-8"))
    for result in results:
        result.update({key: ids.get(result[key], result[key]) for key, ids in original.items()})
    write_whole(path, json.dumps(results))
