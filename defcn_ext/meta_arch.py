"""The detector: backbone, shared towers, and branches of which the first one predicts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from defcn_ext.assignment.progress import Progress
from defcn_ext.branches import Branch, build_branches, build_towers
from defcn_ext.checkpoint.strict import check_fit
from defcn_ext.config import changed_trainer_keys
from defcn_ext.inference import Inference
from defcn_ext.inference.other_heads import tell_idle_keys
from defcn_ext.pictures.training import truth_and_detections
from defcn_ext.structures import DensePredictions, HeadFeatures, Objects, Pairs, Points, recording
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, detector_postprocess
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class DeFCN(nn.Module):
    """A fully convolutional detector that learns to give one box an object (DeFCN, and all its relatives).

        images -> backbone + FPN -> shared towers -> branches -> predictions
        training:   predictions + objects -> assignment -> losses, for every branch
        inference:  one branch -> top-k -> boxes; NMS only if asked for

    `forward` goes this way from top to bottom: `preprocess_image`, `extract`, `predict` for each branch, and then
    `forward_training` or `forward_inference`. What a branch is stands in `defcn_ext/branches/base.py`.

    In the docstrings, `N` images, `R` points over all levels of one image, `K` classes, `G` objects of the batch.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        branches: dict[str, Branch],
        inference: Inference,
        in_features: list[str],
        num_classes: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        test_branch: str = "",
        nms: bool = False,
        compare_nms: bool = False,
        input_format: str = "BGR",
        vis_period: int = 0,
        inference_only: bool = False,
        train_only: Sequence[str] = (),
        max_iter: int = 1,
        trainer_keys: Sequence[str] = (),
        point_offset: float = 0.5,
        points_fill: bool = False,
    ):
        """
        Args:
            backbone: gives the pyramid.
            head: the towers; turns a list of (N, C, H_l, W_l) into `HeadFeatures`.
            branches: by name; the first is used at inference.
            inference: how detections are read off the predictions.
            in_features: names of the pyramid levels that predict, finest first.
            num_classes: K.
            pixel_mean, pixel_std: one number a channel, in the channel order of the input.
            test_branch: name of another branch to use at inference.
            nms: whether inference ends in NMS.
            compare_nms: give the detections with and without NMS, beside those that `nms` asks for.
            input_format: order of the channels of the input, for pictures.
            vis_period: iterations between two pictures of the training in the event storage; 0 for none.
            inference_only: the branches that only train are missing; refuse to train.
            train_only: names of the branches that are trained; where there are any, all the rest stands still, the
                statistics of norms too, costs no backward pass and has no loss.
            max_iter: iterations of the whole training, for rules that change with its progress.
            trainer_keys: config keys that are set for `defcn_ext.engine.Trainer`, which empties the list; another
                trainer is told at its first step that it passes over them.
            point_offset: where in its cell a point lies, as a share of the cell.
            points_fill: the cells of each level fill the image, instead of being one stride wide (`Points.from_sizes`).
        """
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.branches = nn.ModuleDict(branches)
        self.inference = inference
        self.in_features = list(in_features)
        self.num_classes = num_classes
        self.test_branch = test_branch or next(iter(branches))
        self.nms, self.compare_nms = nms, compare_nms
        self.input_format, self.vis_period = input_format, vis_period
        self.inference_only, self.max_iter = inference_only, max_iter
        self.train_only = [name.lower() for name in train_only]
        self.trainer_keys = list(trainer_keys)
        self.point_offset, self.points_fill = point_offset, points_fill
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        shapes = backbone.output_shape()
        self.strides = [shapes[name].stride for name in self.in_features]
        self._points: Points | None = None
        self._freeze()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Reads the config once, as do the `from_config` of branches and inference.

        Every key is described in `defcn_ext/config.py`, those of branches in their files.
        """
        options = cfg.MODEL.DEFCN
        tell_idle_keys(cfg)
        backbone = build_backbone(cfg)
        channels = _common_channels(backbone.output_shape(), options.IN_FEATURES)
        branches = build_branches(cfg, channels)
        return {
            "backbone": backbone,
            "head": build_towers(cfg, channels, level_scales=options.LEVEL_SCALES),
            "branches": branches,
            "inference": Inference.from_config(cfg),
            "in_features": options.IN_FEATURES,
            "num_classes": options.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "test_branch": _test_branch(options.TEST_BRANCH, branches),
            "nms": options.NMS,
            "compare_nms": options.COMPARE_NMS,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "inference_only": options.INFERENCE_ONLY,
            "train_only": options.TRAIN_ONLY,
            "max_iter": cfg.SOLVER.MAX_ITER,
            "trainer_keys": changed_trainer_keys(cfg),
            "point_offset": options.POINTS.OFFSET,
            "points_fill": options.POINTS.FILL,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _freeze(self) -> None:
        """
        Raises:
            ValueError: `train_only` names no branch.
        """
        unknown = [name for name in self.train_only if name not in self.branches]
        if unknown:
            known = ", ".join(self.branches)
            raise ValueError(f"MODEL.DEFCN.TRAIN_ONLY: {unknown[0]!r} is none of the branches: {known}")
        for part in self._frozen_parts():
            part.requires_grad_(False)
        self.train(self.training)

    def _frozen_parts(self) -> list[nn.Module]:
        others = [branch for name, branch in self.branches.items() if not self._learns(name)]
        return [self.backbone, self.head, *others] if self.train_only else []

    def _learns(self, name: str) -> bool:
        return self.branches[name].trains and (not self.train_only or name in self.train_only)

    def train(self, mode: bool = True) -> DeFCN:
        """Train or evaluation mode, the latter always of what stands still: norms would go on to follow the data."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def needs_to_detect(self, name: str) -> bool:
        """Whether detections depend on an entry of the state dict; those of branches that only train do not matter."""
        whole, _, rest = name.partition(".")
        used = [self.test_branch]
        for branch in used:  # and those that these lean on
            used += filter(None, (self.branches[branch].features_of, self.branches[branch].base))
        return whole != "branches" or rest.partition(".")[0] in used

    def parameters_apart(self) -> list[list[nn.Parameter]]:
        """Of each branch that stands apart its parameters: clipping must not let it slow down the others."""
        return [list(branch.parameters()) for branch in self.branches.values() if branch.stands_apart]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """A model in evaluation mode takes no weights that leave a part of its detections to chance.

        Raises:
            UserError: entries that detections depend on are missing, and the model is in evaluation mode.
        """
        found = super().load_state_dict(state_dict, strict, assign)
        if not self.training:
            check_fit(self, found.missing_keys)
        return found

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: one dict an image, as Detectron2's `DatasetMapper` makes them: `image` (C, H, W); in
                training `instances` with `gt_boxes` and `gt_classes`; optionally `height`, `width` of the output.

        Returns:
            in training a dict of scalar losses; else for each image a dict with "instances" (`pred_boxes`, `scores`,
            `pred_classes`), and "with_nms" and "without_nms" where `compare_nms` is set.

        Raises:
            ValueError: in training an image comes without "instances", or the model is made for inference only.
        """
        if self.training and self.trainer_keys and has_event_storage():
            self._tell_trainer()
        if self.training and self.inference_only:
            raise ValueError("MODEL.DEFCN.INFERENCE_ONLY is set, so this model has no branches to train with")
        images = self.preprocess_image(batched_inputs)
        points, features = self.extract(images.tensor)
        if self.training:
            losses = self.forward_training(points, features, self.ground_truth(batched_inputs))
            if self.vis_period > 0 and has_event_storage() and get_event_storage().iter % self.vis_period == 0:
                self.visualize_training(points, features, images.image_sizes, batched_inputs)
            return losses
        predictions = self.predict(points, features, self.test_branch)
        return self.forward_inference(points, predictions, images.image_sizes, batched_inputs)

    def _tell_trainer(self) -> None:
        logger.warning(
            "This trainer does not read %s: they have no effect; defcn_ext.engine.Trainer does (train_net.py)",
            ", ".join(self.trainer_keys),
        )
        self.trainer_keys = []

    @property
    def progress(self) -> float:
        """Share of the training that is over, from 0 to 1, by the event storage's iteration; 0 outside a training."""
        if not has_event_storage():
            return 0.0
        return Progress(get_event_storage().iter, self.max_iter)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalises the images, then pads them at the right and bottom to one size.

        Raises:
            ValueError: an image is not (C, H, W) with as many channels as MODEL.PIXEL_MEAN has numbers.
        """
        for x in [] if recording() else batched_inputs:
            if x["image"].dim() != 3 or len(x["image"]) != len(self.pixel_mean):
                raise ValueError(
                    f"{x.get('file_name', 'an image')}: the model takes images of {len(self.pixel_mean)} channels "
                    f"(MODEL.PIXEL_MEAN), (C, H, W), and got the shape {tuple(x['image'].shape)}"
                )
        images = [x["image"].to(self.device, non_blocking=True) for x in batched_inputs]
        images = [(x - self.pixel_mean) / self.pixel_std for x in images]
        constraints = self.backbone.padding_constraints
        return ImageList.from_tensors(images, self.backbone.size_divisibility, padding_constraints=constraints)

    def extract(self, images: Tensor) -> tuple[Points, HeadFeatures]:
        """From normalised images (N, C, H, W) to the points and the features of the towers."""
        pyramid = self.backbone(images)
        features = [pyramid[name] for name in self.in_features]
        sizes = tuple(tuple(x.shape[-2:]) for x in features)
        if recording():
            return self._lay_points(sizes, images.device), self.head(features)
        if self._points is None or self._points.sizes != sizes or self._points.xy.device != images.device:
            with torch.inference_mode(False):  # they outlive this call, and training may use them
                self._points = self._lay_points(sizes, images.device)
        return self._points, self.head(features)

    def _lay_points(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> Points:
        offset, fill = self.point_offset, self.points_fill
        return Points.from_sizes(sizes, self.strides, offset=offset, fill=fill, device=device)

    def predict(
        self, points: Points, features: HeadFeatures, name: str, said: dict[str, DensePredictions] | None = None
    ) -> DensePredictions:
        """What one branch says at every point, after those that it leans on.

        Args:
            said: what branches have said in this pass already; the new ones are added.
        """
        said = {} if said is None else said
        branch = self.branches[name]
        for other in (branch.features_of, branch.base):
            if other and other not in said:
                self.predict(points, features, other, said)
        seen = said[branch.features_of].features if branch.features_of else features
        said[name] = branch(points, seen, said.get(branch.base))
        return said[name]

    def ground_truth(self, batched_inputs: list[dict[str, Any]]) -> Objects:
        """The objects of the batch in one list.

        Raises:
            ValueError: an image has no "instances", or one of an unknown class.
        """
        for x in batched_inputs:
            if "instances" not in x:
                raise ValueError(f"{x.get('file_name', 'an image')}: no annotations, and training needs them")
            classes = x["instances"].gt_classes
            if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < self.num_classes:
                raise ValueError(
                    f"{x.get('file_name', 'an image')}: classes {sorted(set(classes.tolist()))}, but the model has "
                    f"{self.num_classes}, counted from 0; set MODEL.DEFCN.NUM_CLASSES"
                )
        return Objects.from_instances([x["instances"].to(self.device) for x in batched_inputs])

    def forward_training(self, points: Points, features: HeadFeatures, objects: Objects) -> dict[str, Tensor]:
        """The losses of all branches: "loss_cls" and so on for the first, "loss_cls_NAME" for the others."""
        losses: dict[str, Tensor] = {}
        said: dict[str, DensePredictions] = {}
        for index, (name, branch) in enumerate(self.branches.items()):
            if not self._learns(name):
                continue
            suffix = f"_{name}" if index else ""
            predictions = self.predict(points, features, name, said)
            pairs = branch.assign(points, predictions, objects, self.progress)
            for term, value in branch.losses(points, predictions, objects, pairs, self.progress).items():
                losses[f"loss_{term}{suffix}"] = value
            self._record(name, predictions, pairs, objects)
        return losses

    def _record(self, name: str, predictions: DensePredictions, pairs: Pairs, objects: Objects) -> None:
        if not has_event_storage():
            return
        uncovered, nonfinite = torch.stack([(~pairs.covered).sum(), predictions.num_nonfinite()]).tolist()
        get_event_storage().put_scalars(
            **{
                f"{name}/objects": len(objects),
                f"{name}/positives_per_object": len(pairs) / max(1, len(objects)),
                f"{name}/uncovered_objects": uncovered,
                f"{name}/nonfinite_predictions": nonfinite,
            },
            smoothing_hint=False,
        )

    @torch.no_grad()
    def visualize_training(
        self,
        points: Points,
        features: HeadFeatures,
        image_sizes: list[tuple[int, int]],
        batched_inputs: list[dict[str, Any]],
    ) -> None:
        """Puts the first image into the event storage, with its objects and with what is detected now."""
        predictions = self.predict(points, features, self.test_branch)
        branch = self.branches[self.test_branch]
        (candidates,) = self.inference.candidates(branch, branch.places(points), predictions, image_sizes[:1])
        found = self.inference.finalize(candidates, nms=self.nms)
        picture = truth_and_detections(batched_inputs[0], found, self.input_format)
        get_event_storage().put_image("Left: objects; Right: detections", picture)

    def forward_inference(
        self,
        points: Points,
        predictions: DensePredictions,
        image_sizes: list[tuple[int, int]],
        batched_inputs: list[dict[str, Any]],
    ) -> list[dict[str, Instances]]:
        """Detections in the coordinates of each input's `height` and `width`, or of the image as it came."""
        branch = self.branches[self.test_branch]
        candidates = self.inference.candidates(branch, branch.places(points), predictions, image_sizes)
        results = []
        for found, size, x in zip(candidates, image_sizes, batched_inputs):
            height, width = x.get("height", size[0]), x.get("width", size[1])

            def finish(nms: bool, found=found, height=height, width=width) -> Instances:
                kept = self.inference.finalize(found, nms=nms)
                kept.remove("points")
                return detector_postprocess(kept, height, width)

            result = {"instances": finish(self.nms)}
            if self.compare_nms:
                other = finish(not self.nms)
                result["with_nms"] = result["instances"] if self.nms else other
                result["without_nms"] = other if self.nms else result["instances"]
            results.append(result)
        return results


def _common_channels(shapes: dict[str, ShapeSpec], names: list[str]) -> int:
    missing = [name for name in names if name not in shapes]
    if missing:
        raise ValueError(f"MODEL.DEFCN.IN_FEATURES: the backbone has no {missing[0]!r}; it has {', '.join(shapes)}")
    strides = [shapes[name].stride for name in names]
    if not names or strides != sorted(set(strides)):
        raise ValueError(f"MODEL.DEFCN.IN_FEATURES: list levels, the finest first and none twice, got {list(names)}")
    channels = {shapes[name].channels for name in names}
    if len(channels) != 1:
        raise ValueError(f"MODEL.DEFCN.IN_FEATURES: the levels need equal channels, got {sorted(channels)}")
    return channels.pop()


def _test_branch(name: str, branches: dict[str, Branch]) -> str:
    able = [key for key, branch in branches.items() if branch.predicts]
    if name and name.lower() not in able:
        raise ValueError(f"MODEL.DEFCN.TEST_BRANCH: {name!r} is not among the branches that predict: {able}")
    return name.lower()
