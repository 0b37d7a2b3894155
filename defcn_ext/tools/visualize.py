"""Shows what a detector sees: boxes beside ground truth, and which points of the pyramid fire.

    python -m defcn_ext.tools.visualize --config-file configs/Quick/poto_3dmf_aux.yaml --weights output/model_final.pth
    python -m defcn_ext.tools.visualize --config-file A.yaml --weights a.pth --compare-config B.yaml \\
        --compare-weights b.pth --score-maps --output output/compare

KEY VALUE pairs at the end of the line change the configs of all detectors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.config import UserError
from defcn_ext.data import RobustMapper, UnreadableImageError
from defcn_ext.data.headers import UNREADABLE
from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import check_run, load_config
from defcn_ext.meta_arch import DeFCN
from defcn_ext.pictures.drawing import Scene, ScoreMap, contact_sheet, save, score_map_figure
from defcn_ext.structures import DensePredictions, Points
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.structures.boxes import pairwise_intersection

SCORE_MAP_IMAGES = 3
MAX_IMAGES = 64  # of one sheet
CROWDED_IOU = 0.2
KINDS = {"without_nms": "without NMS", "with_nms": "with NMS"}


@dataclass(frozen=True)
class Detector:
    """A trained model, ready to look at images."""

    label: str
    cfg: CfgNode
    model: nn.Module
    mapper: RobustMapper


@dataclass(frozen=True)
class Observation:
    """What a detector says about one image.

    Attributes:
        detections: by kind: "without_nms" and "with_nms", or "instances" for a model that knows only one.
        maps: (label, score maps by level) of each output; nothing for models other than `DeFCN`.
    """

    detections: dict[str, Instances]
    maps: list[tuple[str, list[ScoreMap]]]


def load_detector(
    config_file: str, weights: str, opts: Sequence[str] = (), *, dataset: str = "", label: str = "", output: str = ""
) -> Detector:
    """Builds a detector, checked as train_net.py checks an evaluation.

    Args:
        weights: a checkpoint; "" for the MODEL.WEIGHTS of `opts`.
        dataset: replaces DATASETS.TEST.
        label: name in the pictures; the name of the config file if "".
        output: where copies of repaired annotations go.

    Raises:
        UserError: config, weights or data are missing or do not fit.
    """
    if not weights and "MODEL.WEIGHTS" not in opts:
        raise UserError(f"--config-file {config_file}: give its checkpoint, such as --weights output/model_final.pth")
    changes = [*opts, "MODEL.DEFCN.COMPARE_NMS", "True"]
    changes += ["MODEL.WEIGHTS", weights] if weights else []
    changes += ["DATASETS.TEST", f"('{dataset}',)"] if dataset else []
    changes += ["OUTPUT_DIR", output] if output else []
    cfg = load_config(config_file, changes)
    check_run(cfg, argparse.Namespace(num_gpus=1, num_machines=1, dist_url="", eval_only=True, resume=False))
    model = Trainer.build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return Detector(label or Path(config_file).stem, cfg, model, RobustMapper(cfg, False))


@torch.no_grad()
def observe(detector: Detector, record: dict[str, Any]) -> Observation:
    """Runs a detector on one dataset dict."""
    inputs, model = detector.mapper(record), detector.model
    if not isinstance(model, DeFCN):
        return Observation({"instances": model([inputs])[0]["instances"].to("cpu")}, [])
    images = model.preprocess_image([inputs])
    points, features = model.extract(images.tensor)
    predictions = model.predict(points, features, model.test_branch)
    found = model.forward_inference(points, predictions, images.image_sizes, [inputs])[0]
    height, width = images.image_sizes[0]
    ratio = (inputs["height"] / height, inputs["width"] / width)
    outputs = [(detector.label, predictions)]
    if predictions.filter is not None:
        outputs.insert(0, (f"{detector.label}\nwithout filter", predictions.without_filter()))
    maps = [(label, score_maps(model, points, output, ratio)) for label, output in outputs]
    return Observation({kind: found[kind].to("cpu") for kind in KINDS}, maps)


def score_maps(
    model: DeFCN, points: Points, predictions: DensePredictions, ratio: tuple[float, float]
) -> list[ScoreMap]:
    """The final scores of the first image of a batch, highest over classes and anchors, as one map a level.

    Args:
        ratio: (vertical, horizontal) size of a pixel of the network input in pixels of the image to draw on.
    """
    scores = predictions.score_logits()[0].sigmoid().amax(-1)
    if predictions.centerness is not None:
        scores = model.branches[model.test_branch].final_scores(scores, predictions.centerness[0, :, 0])
    scores = scores.unflatten(0, (-1, model.branches[model.test_branch].per_cell)).amax(-1)
    levels = zip(model.in_features, scores.cpu().split(points.counts), points.sizes, points.strides)
    return [
        ScoreMap(f"{name.upper()} (stride {stride})", part.reshape(size), (stride * ratio[0], stride * ratio[1]))
        for name, part, size, stride in levels
    ]


def load_scene(record: dict[str, Any]) -> Scene:
    """The image of a dataset dict, and its objects without the crowd regions.

    Raises:
        UnreadableImageError: the image cannot be read.
    """
    try:
        image = utils.read_image(record["file_name"], format="RGB")
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}"
        raise UnreadableImageError(f"{record['file_name']}: cannot be read ({reason})") from error
    annotations = [a for a in record.get("annotations", []) if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    objects = Instances(image.shape[:2])
    objects.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    objects.gt_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.long)
    return Scene(image, objects, Path(record["file_name"]).stem)


def spread(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Records with objects, evenly spread over the data set."""
    filled = [r for r in records if r.get("annotations")] or list(records)
    count = min(count, len(filled))
    return [filled[(2 * i + 1) * len(filled) // (2 * count)] for i in range(count)]


def most_crowded(
    records: Sequence[dict[str, Any]], count: int, *, max_objects: int | None = None
) -> list[dict[str, Any]]:
    """Records with the most visible overlap of objects of one class, the most crowded first, unreadable ones left out.

    Args:
        max_objects: images with more objects, which are hard to read, come after all others.

    Raises:
        UnreadableImageError: no image can be read.
    """
    ranks, broken = [], None
    for index, record in enumerate(records):
        try:
            crowd = crowding(load_scene(record))
        except UnreadableImageError as error:
            broken = error
            continue
        few = max_objects is None or len(record.get("annotations", [])) <= max_objects
        ranks.append((few, crowd, -index))
    if broken and not ranks:
        raise broken
    return [records[-index] for _, _, index in sorted(ranks, reverse=True)[:count]]


def crowding(scene: Scene) -> float:
    """Sides of the intersections of all pairs of one class that overlap, relative to the image, added up."""
    boxes, classes = scene.objects.gt_boxes, scene.objects.gt_classes
    pairs = (pairwise_iou(boxes, boxes) > CROWDED_IOU) & (classes[:, None] == classes[None])
    area = scene.image.shape[0] * scene.image.shape[1]
    return float((pairwise_intersection(boxes, boxes)[pairs.triu(1)] / area).sqrt().sum())


def above(detections: Instances, score: float) -> Instances:
    return detections[detections.scores > score]


def detection_columns(
    detectors: Sequence[Detector],
    observations: Sequence[Sequence[Observation]],
    score: float,
    kinds: Sequence[str] = ("without_nms", "with_nms", "instances"),
) -> list[tuple[str, list[Instances]]]:
    """The columns of a contact sheet: every kind of detections of every detector, those above `score`.

    Args:
        observations: for each detector, one an image.
    """
    columns = []
    for detector, seen in zip(detectors, observations):
        for kind in kinds:
            if seen and kind in seen[0].detections:
                heading = f"{detector.label} {KINDS.get(kind, '')}".strip()
                columns.append((heading, [above(x.detections[kind], score) for x in seen]))
    return columns


def write_pictures(
    detectors: Sequence[Detector],
    dataset: str,
    output: Path,
    *,
    records: Sequence[dict[str, Any]],
    score: float,
    with_score_maps: bool,
) -> list[Path]:
    """Writes `contact_sheet.png` and, if wanted, `score_maps_NAME.png` for the first few images. Returns the paths."""
    output.mkdir(parents=True, exist_ok=True)
    scenes = [load_scene(record) for record in records]
    observations = [[observe(detector, record) for record in records] for detector in detectors]
    names = MetadataCatalog.get(dataset).get("thing_classes", [])
    sheet = contact_sheet(scenes, detection_columns(detectors, observations, score), names)
    written = [output / "contact_sheet.png"]
    save(sheet, written[0])
    for index, scene in enumerate(scenes[:SCORE_MAP_IMAGES] if with_score_maps else []):
        rows = [row for seen in observations for row in seen[index].maps]
        written.append(output / f"score_maps_{scene.name}.png")
        save(score_map_figure(scene, rows, score), written[-1])
    return written


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="visualize", description=__doc__, formatter_class=raw)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", default="", metavar="FILE", help="its checkpoint (or MODEL.WEIGHTS FILE)")
    parser.add_argument(
        "--compare-config", action="append", default=[], metavar="FILE", help="another detector; may be repeated"
    )
    parser.add_argument(
        "--compare-weights", action="append", default=[], metavar="FILE", help="one for each --compare-config"
    )
    parser.add_argument("--dataset", default="", metavar="NAME", help="data set (default: the first of DATASETS.TEST)")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many images (default: %(default)s)")
    parser.add_argument("--crowded", action="store_true", help="the most crowded images, not an even spread")
    parser.add_argument("--score", type=float, default=0.3, help="show what scores more (default: %(default)s)")
    parser.add_argument(
        "--score-maps", action="store_true", help=f"also the score maps of the first {SCORE_MAP_IMAGES} images"
    )
    parser.add_argument("--output", default="output/visualize", metavar="DIR", help="default: %(default)s")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the configs")
    args = parser.parse_args(arguments)
    if len(args.compare_config) != len(args.compare_weights):
        parser.error("give one --compare-weights for each --compare-config")
    if not 1 <= args.images <= MAX_IMAGES or not 0 <= args.score < 1:
        parser.error(f"--images must be in [1, {MAX_IMAGES}], --score in [0, 1)")
    return args


def run(args: argparse.Namespace) -> list[Path]:
    """
    Raises:
        UserError: something is missing or does not fit.
    """
    first = load_detector(args.config_file, args.weights, args.opts, dataset=args.dataset, output=args.output)
    dataset = first.cfg.DATASETS.TEST[0]
    others = zip(args.compare_config, args.compare_weights)
    detectors = [first, *(load_detector(c, w, args.opts, dataset=dataset, output=args.output) for c, w in others)]
    if args.score_maps and not all(isinstance(d.model, DeFCN) for d in detectors):
        raise UserError("--score-maps: only for MODEL.META_ARCHITECTURE DeFCN")
    choose = most_crowded if args.crowded else spread
    records = choose(DatasetCatalog.get(dataset), args.images)
    return write_pictures(
        detectors, dataset, Path(args.output), records=records, score=args.score, with_score_maps=args.score_maps
    )


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        for path in run(parse_arguments(arguments)):
            print(path)
    except (UserError, UnreadableImageError) as error:
        sys.exit(f"visualize: error: {error}")


if __name__ == "__main__":
    main()
