"""A trained detector that looks at pictures: the front door of the package.

predictor = Predictor.load("output/demo/defcn/model_final.pth")
seen = predictor("street.jpg")
seen.without_nms.pred_boxes, seen.without_nms.scores, seen.without_nms.pred_classes
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from defcn_ext.checkpoint import load_weights
from defcn_ext.config import UserError
from defcn_ext.data import RobustMapper, UnreadableImageError
from defcn_ext.data.classes import weights_of_run, with_classes
from defcn_ext.data.pixels import pixels_of
from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import check_run, load_config
from defcn_ext.engine.stored_config import config_of
from defcn_ext.meta_arch import DeFCN
from defcn_ext.structures import DensePredictions, Points
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Instances

KINDS = {"without_nms": "without NMS", "with_nms": "with NMS"}
CONFIG_NAMES = ("{stem}.yaml", "config.yaml")  # where the config of a checkpoint may lie, in its folder

Picture = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class ScoreMap:
    """The scores of one level of one model's output.

    Attributes:
        level: name of the level.
        scores: (h, w) highest score over the classes at each point.
        cell: (height, width) of a cell in pixels of the picture.
    """

    level: str
    scores: Tensor
    cell: tuple[float, float]


@dataclass(frozen=True)
class Observation:
    """What a predictor says about one picture. All `Instances` are on the CPU, in pixels of the picture.

    Attributes:
        detections: `Instances` with `pred_boxes`, `scores`, `pred_classes`, by kind: "instances", what the config asks
            for; and from a `DeFCN`, "without_nms" and "with_nms".
        maps: (label, score maps by level) of each output; nothing for models other than `DeFCN`.
    """

    detections: dict[str, Instances]
    maps: list[tuple[str, list[ScoreMap]]]

    @property
    def instances(self) -> Instances:
        """What the config asks for."""
        return self.detections["instances"]

    @property
    def without_nms(self) -> Instances:
        return self.detections["without_nms"]

    @property
    def with_nms(self) -> Instances:
        return self.detections["with_nms"]


class Predictor:
    """A trained model, ready to look at pictures."""

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        label: str = "",
        mapper: RobustMapper | None = None,
        class_names: Sequence[str] = (),
    ):
        """
        Args:
            model: has its weights, and lies on the device where it is to run.
            label: what to call it in pictures.
            mapper: makes the model's input of a dataset dict; by default the one of the config.
            class_names: by class index, where they are known.
        """
        self.cfg, self.model, self.label = cfg, model.eval(), label
        self.mapper = mapper or RobustMapper(cfg, False)
        self.class_names = list(class_names)

    @classmethod
    def load(
        cls,
        source: str | Path,
        weights: str | Path = "",
        opts: Sequence[str] = (),
        *,
        label: str = "",
        dataset: str | None = None,
        output: str = "",
    ) -> Predictor:
        """Builds a detector from its checkpoint, or from a config and its checkpoint.

        Args:
            source: a checkpoint (.pth) with its config inside or beside it, or a config (.yaml).
            weights: the checkpoint, where `source` is a config; "" for the MODEL.WEIGHTS of `opts`.
            opts: KEY VALUE, one after the other: changes to the config.
            label: name in pictures; the name of `source` if "".
            dataset: None where no data set is looked at; else one that replaces DATASETS.TEST, "" for DATASETS.TEST
                itself, and data and config are checked as train_net.py checks an evaluation.
            output: where copies of repaired annotations go.

        Raises:
            UserError: config, weights or data are missing or do not fit.
        """
        source, weights = str(source), str(weights)
        changes = [*opts, "MODEL.DEFCN.COMPARE_NMS", "True"]
        changes += ["DATASETS.TEST", f"('{dataset}',)"] if dataset else []
        changes += ["OUTPUT_DIR", output] if output else []
        if not source.endswith((".yaml", ".yml")):
            cfg = config_of_checkpoint(source, changes)
        elif weights or "MODEL.WEIGHTS" in opts:
            cfg = load_config(source, [*changes, *(["MODEL.WEIGHTS", weights] if weights else [])])
        else:
            raise UserError(f"{source}: give its checkpoint too, such as output/model_final.pth")
        if dataset is not None:
            check_run(cfg, argparse.Namespace(num_gpus=1, num_machines=1, dist_url="", eval_only=True, resume=False))
        cfg = with_classes(cfg, () if dataset is None else cfg.DATASETS.TEST, weights_of_run(cfg, False), keep=True)
        try:
            model = Trainer.build_model(cfg)
        except (ValueError, KeyError) as error:
            raise UserError(f"{source}: {error}") from error
        load_weights(model, cfg.MODEL.WEIGHTS)
        return cls(cfg, model, label or Path(source).stem, class_names=cfg.DATASETS.CLASSES)

    @overload
    def __call__(self, picture: Picture) -> Observation: ...

    @overload
    def __call__(self, picture: Sequence[Picture]) -> list[Observation]: ...

    def __call__(self, picture: Picture | Sequence[Picture]) -> Observation | list[Observation]:
        """What the detector sees, with and without NMS in one pass.

        Args:
            picture: a file's path, a PIL image, or an array (H, W, 3), RGB, or (H, W), uint8; or a list of these.

        Raises:
            UnreadableImageError: a file cannot be read.
            UserError: an array of another shape or type.
            UnknownRangeError: an image of 32-bit integers, or of floats outside [0, 1].
        """
        if isinstance(picture, (list, tuple)):
            return [self(x) for x in picture]
        if isinstance(picture, (str, Path)):
            return self.observe({"file_name": str(picture)})
        return self._observe(self._inputs(picture))

    def observe(self, record: dict[str, Any]) -> Observation:
        """What the detector sees on the image of a Detectron2 dataset dict.

        Raises:
            UnreadableImageError: the image cannot be read.
        """
        inputs = self.mapper(record)
        if inputs.get("blank"):
            raise UnreadableImageError(f"{record['file_name']}: cannot be decoded")
        return self._observe(inputs)

    def _inputs(self, picture: Image.Image | np.ndarray) -> dict[str, Any]:
        """What the mapper would make of the same picture in a file."""
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)):
                raise UserError(
                    f"a picture of shape {picture.shape} and type {picture.dtype}: give (H, W, 3) RGB or (H, W), uint8"
                )
            picture = Image.fromarray(picture)
        pixels = pixels_of(picture, self.cfg.INPUT.FORMAT, "a picture")
        resized = T.AugInput(pixels)
        self.mapper.augmentations(resized)
        image = torch.from_numpy(np.array(resized.image.transpose(2, 0, 1), order="C"))
        return {"image": image, "height": pixels.shape[0], "width": pixels.shape[1]}

    @torch.no_grad()
    def _observe(self, inputs: dict[str, Any]) -> Observation:
        model = self.model
        if not isinstance(model, DeFCN):
            return Observation({"instances": model([inputs])[0]["instances"].to("cpu")}, [])
        images = model.preprocess_image([inputs])
        points, features = model.extract(images.tensor)
        predictions = model.predict(points, features, model.test_branch)
        found = model.forward_inference(points, predictions, images.image_sizes, [inputs])[0]
        height, width = images.image_sizes[0]
        ratio = (inputs["height"] / height, inputs["width"] / width)
        outputs = [(self.label, predictions)]
        if predictions.objectness is not None:
            outputs.insert(0, (f"{self.label}\nwithout filter", predictions.without_objectness()))
        maps = [(label, score_maps(model, points, output, ratio)) for label, output in outputs]
        return Observation({kind: found[kind].to("cpu") for kind in ("instances", *KINDS)}, maps)


def config_of_checkpoint(weights: str, opts: Sequence[str]) -> CfgNode:
    """The config that a checkpoint carries; of one that carries none, the config in its folder.

    Raises:
        UserError: the checkpoint is missing, or there is no config.
    """
    cfg = config_of(weights, opts)
    if cfg is not None:
        return cfg
    path = Path(weights)
    known = [path.with_name(name.format(stem=path.stem)) for name in CONFIG_NAMES]
    for config in known:
        if config.is_file():
            return load_config(str(config), [*opts, "MODEL.WEIGHTS", weights])
    places = " or ".join(map(str, known))
    raise UserError(f"{weights}: holds no config, and none lies beside it ({places}); give the config, then the file")


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
