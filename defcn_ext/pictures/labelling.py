"""Which points train which object: a rule at work on a trained model's own predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from defcn_ext.assignment.expression import parse_call
from defcn_ext.assignment.progress import Progress
from defcn_ext.branches import Branch
from defcn_ext.branches.dual import DualWeightingBranch
from defcn_ext.checkpoint import read_checkpoint
from defcn_ext.config import UserError
from defcn_ext.data.loaders import dicts_to_look_at
from defcn_ext.engine.preflight import load_config
from defcn_ext.losses import soft_label
from defcn_ext.meta_arch import DeFCN
from defcn_ext.pictures.drawing import save
from defcn_ext.pictures.labels import Moment, Shade, highest_of_levels, label_figure
from defcn_ext.pictures.scenes import Scene, load_scene, most_crowded, spread
from defcn_ext.predictor import Predictor, score_maps
from defcn_ext.structures import Objects, Pairs
from detectron2.structures import Boxes, Instances


@torch.no_grad()
def observe_labels(
    predictor: Predictor, record: dict[str, Any], scene: Scene, progress: float, branch_name: str = ""
) -> Moment:
    """Assigns the objects of a scene to a detector's points, as the training would at that progress.

    Args:
        record: the dataset dict that the scene was read from.
        progress: share of the training that is over.
        branch_name: branch whose rule is shown; the one that predicts if "".
    """
    model, inputs = predictor.model, predictor.mapper(record)
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
    return Moment(_title(predictor, name, shades, progress), shades, scores)


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
        return [("label", soft_label(*pairs.weights), True)]
    return [("label", torch.ones(len(pairs)), True)]


def _title(predictor: Predictor, name: str, shades: Sequence[Shade], progress: float) -> str:
    """Model, progress and, for one-to-few, T: the label of the ambiguous point with the highest score."""
    title = f"{predictor.label}, {100 * progress:.0f}% of the training"
    ambiguous = shades[0].value[~shades[0].certain]
    rule = parse_call(predictor.cfg.MODEL.DEFCN[name.upper()].RULE)[0]
    return f"{title}, T = {float(ambiguous.max()):.2f}" if rule == "O2F" and len(ambiguous) else title


def progress_of(predictor: Predictor, weights: str) -> float:
    """Share of the training after which a checkpoint was written.

    Raises:
        UserError: the file does not say its iteration.
    """
    iteration = read_checkpoint(weights).extras.get("iteration")
    if not isinstance(iteration, int):
        raise UserError(f"--weights {weights}: says no iteration; give --progress, such as --progress 0.5")
    return Progress(iteration, predictor.cfg.SOLVER.MAX_ITER)


def choose_records(
    records: Sequence[dict[str, Any]], count: int, *, name: str = "", crowded: bool = False
) -> list[dict[str, Any]]:
    """The records to draw: the image of a name, or `count` of the most crowded, or of an even spread.

    Raises:
        UserError: no image has the name.
    """
    if not name:
        return (most_crowded if crowded else spread)(records, count)
    named = [record for record in records if Path(record["file_name"]).stem == Path(name).stem]
    if not named:
        raise UserError(f"--image {name}: no image of that name in the data set; see --dataset")
    return named[:1]


def load_predictors(
    configs: Sequence[str], weights: Sequence[str], opts: Sequence[str], *, dataset: str, branch: str, output: str
) -> list[Predictor]:
    """One predictor a file of weights.

    Args:
        configs: one, or one for each file of weights.
        dataset: where the images come from; "" for the first of DATASETS.TRAIN.
        branch: a branch that all must have; "" for none.

    Raises:
        UserError: something is missing or does not fit.
    """
    files = list(configs) * (len(weights) if len(configs) == 1 else 1)
    dataset = dataset or load_config(files[0], list(opts)).DATASETS.TRAIN[0]
    predictors = [Predictor.load(f, w, opts, dataset=dataset, output=output) for f, w in zip(files, weights)]
    for predictor in predictors:
        if not isinstance(predictor.model, DeFCN):
            raise UserError(f"{predictor.label}: only for MODEL.META_ARCHITECTURE DeFCN")
        if branch and branch.lower() not in predictor.model.branches:
            known = ", ".join(predictor.model.branches).upper()
            raise UserError(f"--branch {branch}: {predictor.label} has {known}")
    return predictors


def write_label_pictures(
    predictors: Sequence[Predictor],
    progress: Sequence[float],
    records: Sequence[dict[str, Any]],
    output: Path,
    branch: str = "",
) -> list[Path]:
    """Writes `labels_NAME.png` for each record, a row a predictor. Returns the paths.

    Args:
        progress: share of the training that is over, for each predictor.

    Raises:
        UserError: rules whose labels mean different things.
    """
    written = []
    output.mkdir(parents=True, exist_ok=True)
    for record in records:
        scene = load_scene(record)
        moments = [observe_labels(x, record, scene, p, branch) for x, p in zip(predictors, progress)]
        if len({tuple(shade.name for shade in moment.shades) for moment in moments}) > 1:
            raise UserError("--config-file: dual weighting and other rules do not fit in one picture")
        written.append(output / f"labels_{scene.name}.png")
        save(label_figure(scene, moments), written[-1])
    return written


def draw_labels(
    configs: Sequence[str],
    weights: Sequence[str],
    opts: Sequence[str],
    output: Path,
    *,
    progress: Sequence[float] = (),
    dataset: str = "",
    branch: str = "",
    image: str = "",
    images: int = 1,
    crowded: bool = False,
) -> list[Path]:
    """Loads detectors, and writes how their rules label the points of training images. Returns the paths.

    Args:
        configs, weights, opts, dataset, branch: as of `load_predictors`.
        progress: share of the training that is over, for each file of weights; of none, as the files say.
        image, images, crowded: as of `choose_records`.

    Raises:
        UserError: something is missing or does not fit.
    """
    predictors = load_predictors(configs, weights, opts, dataset=dataset, branch=branch, output=str(output))
    shares = list(progress) or [progress_of(p, w) for p, w in zip(predictors, weights)]
    cfg = predictors[0].cfg
    records = choose_records(dicts_to_look_at(cfg, cfg.DATASETS.TEST[0]), images, name=image, crowded=crowded)
    return write_label_pictures(predictors, shares, records, output, branch)
