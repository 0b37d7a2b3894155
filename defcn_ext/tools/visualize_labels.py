"""Shows how a rule labels points while a detector trains: the picture of one-to-few's Figure 6, for every rule.

    python -m defcn_ext.tools.visualize_labels --config-file configs/Quick/o2f.yaml \\
        --weights output/o2f/model_0000099.pth output/o2f/model_final.pth --output output/labels

Each file of weights gives one row: a training image with the points that train each object, and its scores. The rule
runs on the model's own predictions, at the share of the training that the checkpoint's iteration is of SOLVER.MAX_ITER
or that --progress says. With several --config-file each has one file of weights.

KEY VALUE pairs at the end of the line change the configs of all detectors.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext.assignment.expression import parse_call
from defcn_ext.assignment.progress import Progress
from defcn_ext.branches import Branch
from defcn_ext.branches.weighted import DualWeightingBranch, soft_label
from defcn_ext.config import UserError
from defcn_ext.data import UnreadableImageError
from defcn_ext.engine.preflight import load_config
from defcn_ext.meta_arch import DeFCN
from defcn_ext.pictures.drawing import Scene, save
from defcn_ext.pictures.labels import Moment, Shade, highest_of_levels, label_figure
from defcn_ext.structures import Objects, Pairs
from defcn_ext.tools.visualize import Detector, load_detector, load_scene, most_crowded, score_maps, spread
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances

CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+|OUTPUT_DIR|SEED")  # ends the lists of files and numbers


@torch.no_grad()
def observe_labels(
    detector: Detector, record: dict[str, Any], scene: Scene, progress: float, branch_name: str = ""
) -> Moment:
    """Assigns the objects of a scene to a detector's points, as the training would at that progress.

    Args:
        record: the dataset dict that the scene was read from.
        progress: share of the training that is over.
        branch_name: branch whose rule is shown; the one that predicts if "".
    """
    model, inputs = detector.model, detector.mapper(record)
    name = branch_name.lower() or model.test_branch
    images = model.preprocess_image([inputs])
    points, features = model.extract(images.tensor)
    branch, predictions = model.branches[name], model.predict(points, features, name)
    height, width = images.image_sizes[0]
    ratio = (scene.image.shape[0] / height, scene.image.shape[1] / width)
    pairs = branch.assign(points, predictions, _resized(scene.objects, (height, width), ratio, model), progress)
    xy = branch.places(points).xy[pairs.point].cpu() * torch.tensor([ratio[1], ratio[0]])
    shown = predictions if name == model.test_branch else model.predict(points, features, model.test_branch)
    scores = highest_of_levels(score_maps(model, points, shown, ratio))
    shades = tuple(
        Shade(label, xy, pairs.object.cpu(), value.float().cpu(), stars)
        for label, value, stars in shades_of(branch, pairs)
    )
    return Moment(_title(detector, name, shades, progress), shades, scores)


def _resized(objects: Instances, size: tuple[int, int], ratio: tuple[float, float], model: DeFCN) -> Objects:
    """Objects in the pixels of the network's input."""
    instances = Instances(size)
    instances.gt_boxes = Boxes(objects.gt_boxes.tensor / torch.tensor([ratio[1], ratio[0]] * 2))
    instances.gt_classes = objects.gt_classes
    return Objects.from_instances([instances.to(model.device)])


def shades_of(branch: Branch, pairs: Pairs) -> list[tuple[str, torch.Tensor, bool]]:
    """What the branch's losses make of each pair: (name, (P,) values, whether 1 is a full positive)."""
    if isinstance(branch, DualWeightingBranch):
        return [("positive weight", pairs.positive, False), ("P, probability of a negative", pairs.negative, False)]
    if branch.weighted:
        return [("label", soft_label(pairs), True)]
    return [("label", torch.ones(len(pairs)), True)]


def _title(detector: Detector, name: str, shades: Sequence[Shade], progress: float) -> str:
    """Model, progress and, for one-to-few, T: the label of the ambiguous point with the highest score."""
    title = f"{detector.label}, {100 * progress:.0f}% of the training"
    ambiguous = shades[0].value[~shades[0].certain]
    rule = parse_call(detector.cfg.MODEL.DEFCN[name.upper()].RULE)[0]
    return f"{title}, T = {float(ambiguous.max()):.2f}" if rule == "O2F" and len(ambiguous) else title


def progress_of(detector: Detector, weights: str) -> float:
    """Share of the training after which a checkpoint was written.

    Raises:
        UserError: the file does not say its iteration.
    """
    state = torch.load(weights, map_location="cpu", weights_only=False)
    if not isinstance(state, dict) or "iteration" not in state:
        raise UserError(f"--weights {weights}: says no iteration; give --progress, such as --progress 0.5")
    return Progress(state["iteration"], detector.cfg.SOLVER.MAX_ITER)


def choose_records(records: Sequence[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """
    Raises:
        UserError: no image has the name of `--image`.
    """
    if not args.image:
        return (most_crowded if args.crowded else spread)(records, args.images)
    named = [record for record in records if Path(record["file_name"]).stem == Path(args.image).stem]
    if not named:
        raise UserError(f"--image {args.image}: no image of that name in the data set; see --dataset")
    return named[:1]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="visualize_labels", description=__doc__, formatter_class=raw)
    parser.add_argument("--config-file", required=True, nargs="+", metavar="FILE", help="one, or one for each weights")
    parser.add_argument("--weights", required=True, nargs="+", metavar="FILE", help="checkpoints, one a row")
    parser.add_argument("--progress", type=float, nargs="+", metavar="P", help="share of the training, one a row")
    parser.add_argument("--branch", default="", metavar="NAME", help="whose rule (default: the one that predicts)")
    parser.add_argument("--dataset", default="", metavar="NAME", help="default: the first of DATASETS.TRAIN")
    parser.add_argument("--image", default="", metavar="NAME", help="the image of that file name")
    parser.add_argument("--images", type=int, default=1, metavar="N", help="how many images (default: %(default)s)")
    parser.add_argument("--crowded", action="store_true", help="the most crowded images, not an even spread")
    parser.add_argument("--output", default="output/labels", metavar="DIR", help="default: %(default)s")
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = next((i for i, word in enumerate(words) if CONFIG_KEY.fullmatch(word)), len(words))
    args = parser.parse_args(words[:end])
    args.opts = words[end:]
    if len(args.config_file) not in (1, len(args.weights)):
        parser.error("give one --config-file, or one for each of --weights")
    if args.progress and len(args.weights) == 1:
        args.weights = args.weights * len(args.progress)
        args.config_file = args.config_file * len(args.progress)
    if args.progress and (len(args.progress) != len(args.weights) or not all(0 <= p <= 1 for p in args.progress)):
        parser.error("give one --progress in [0, 1] for each of --weights")
    if args.images < 1:
        parser.error("--images must be at least 1")
    return args


def load_detectors(args: argparse.Namespace) -> list[Detector]:
    """
    Raises:
        UserError: something is missing or does not fit.
    """
    files = args.config_file * (len(args.weights) if len(args.config_file) == 1 else 1)
    dataset = args.dataset or load_config(files[0], args.opts).DATASETS.TRAIN[0]
    detectors = [
        load_detector(file, weights, args.opts, dataset=dataset, output=args.output)
        for file, weights in zip(files, args.weights)
    ]
    for detector in detectors:
        if not isinstance(detector.model, DeFCN):
            raise UserError(f"{detector.label}: only for MODEL.META_ARCHITECTURE DeFCN")
        if args.branch and args.branch.lower() not in detector.model.branches:
            known = ", ".join(detector.model.branches).upper()
            raise UserError(f"--branch {args.branch}: {detector.label} has {known}")
    return detectors


def run(args: argparse.Namespace) -> list[Path]:
    """Writes `labels_NAME.png` for each image. Returns the paths.

    Raises:
        UserError: something is missing or does not fit.
    """
    detectors = load_detectors(args)
    progress = args.progress or [progress_of(d, w) for d, w in zip(detectors, args.weights)]
    records = choose_records(DatasetCatalog.get(detectors[0].cfg.DATASETS.TEST[0]), args)
    output, written = Path(args.output), []
    output.mkdir(parents=True, exist_ok=True)
    for record in records:
        scene = load_scene(record)
        moments = [observe_labels(d, record, scene, p, args.branch) for d, p in zip(detectors, progress)]
        if len({tuple(shade.name for shade in moment.shades) for moment in moments}) > 1:
            raise UserError("--config-file: dual weighting and other rules do not fit in one picture")
        written.append(output / f"labels_{scene.name}.png")
        save(label_figure(scene, moments), written[-1])
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        for path in run(parse_arguments(arguments)):
            print(path)
    except (UserError, UnreadableImageError) as error:
        sys.exit(f"visualize_labels: error: {error}")


if __name__ == "__main__":
    main()
