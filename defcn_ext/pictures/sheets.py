"""What several predictors see on the same images, side by side, written as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from defcn_ext.config import UserError
from defcn_ext.data.loaders import dicts_to_look_at
from defcn_ext.meta_arch import DeFCN
from defcn_ext.predictor import KINDS, Observation, Predictor
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances

from .drawing import contact_sheet, save, score_map_figure
from .scenes import load_scene, most_crowded, spread

SCORE_MAP_IMAGES = 3


def above(detections: Instances, score: float) -> Instances:
    return detections[detections.scores > score]


def detection_columns(
    predictors: Sequence[Predictor],
    observations: Sequence[Sequence[Observation]],
    score: float,
    kinds: Sequence[str] = tuple(KINDS),
) -> list[tuple[str, list[Instances]]]:
    """The columns of a contact sheet: the detections of every predictor above `score`, without and with NMS.

    Args:
        observations: for each predictor, one an image.
        kinds: which detections; models that know only one kind show that.
    """
    columns = []
    for predictor, seen in zip(predictors, observations):
        known = seen[0].detections if seen else {}
        for kind in [kind for kind in kinds if kind in known] or [kind for kind in known if kind not in KINDS]:
            heading = f"{predictor.label} {KINDS.get(kind, '')}".strip()
            columns.append((heading, [above(x.detections[kind], score) for x in seen]))
    return columns


def write_sheet(
    predictors: Sequence[Predictor],
    dataset: str,
    output: Path,
    *,
    records: Sequence[dict[str, Any]],
    score: float,
    with_score_maps: bool,
) -> list[Path]:
    """Writes `contact_sheet.png` and, if wanted, `score_maps_NAME.png` for the first few images. Returns the paths.

    Raises:
        UserError: score maps of a model that has none.
    """
    if with_score_maps and not all(isinstance(x.model, DeFCN) for x in predictors):
        raise UserError("--score-maps: only for MODEL.META_ARCHITECTURE DeFCN")
    output.mkdir(parents=True, exist_ok=True)
    scenes = [load_scene(record) for record in records]
    observations = [[predictor.observe(record) for record in records] for predictor in predictors]
    names = predictors[0].class_names or MetadataCatalog.get(dataset).get("thing_classes", [])
    sheet = contact_sheet(scenes, detection_columns(predictors, observations, score), names)
    written = [output / "contact_sheet.png"]
    save(sheet, written[0])
    for index, scene in enumerate(scenes[:SCORE_MAP_IMAGES] if with_score_maps else []):
        rows = [row for seen in observations for row in seen[index].maps]
        written.append(output / f"score_maps_{scene.name}.png")
        save(score_map_figure(scene, rows, score), written[-1])
    return written


def draw_detections(
    sources: Sequence[tuple[str, str]],
    opts: Sequence[str],
    output: Path,
    *,
    dataset: str = "",
    images: int,
    crowded: bool,
    score: float,
    with_score_maps: bool,
) -> list[Path]:
    """Loads detectors, and writes what they see on the same images. Returns the paths.

    Args:
        sources: for each detector what `Predictor.load` takes first: a config and its weights, or weights and "".
        opts: KEY VALUE, one after the other: changes to the configs of all.
        dataset: where the images come from; "" for the first of DATASETS.TEST of the first detector.
        images: how many.
        crowded: the most crowded ones, not an even spread.
        score: what is shown scores more.

    Raises:
        UserError: something is missing or does not fit.
    """
    predictors: list[Predictor] = []
    for source, weights in sources:
        predictors.append(Predictor.load(source, weights, opts, dataset=dataset, output=str(output)))
        dataset = dataset or predictors[0].cfg.DATASETS.TEST[0]
    records = (most_crowded if crowded else spread)(dicts_to_look_at(predictors[0].cfg, dataset), images)
    return write_sheet(predictors, dataset, output, records=records, score=score, with_score_maps=with_score_maps)
