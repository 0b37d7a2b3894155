"""What one-stage detectors share: preprocessing, the two ways through the model, decoding of dense predictions.

Letters in shapes: `N` images, `K` classes, `A` anchors a cell, `R` anchors of all levels.
"""

import numpy as np
import torch
from torch import nn

from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage

# How many predictions to draw beside the ground truth in pictures of the training.
DRAWN_PREDICTIONS = 20


class DenseDetector(nn.Module):
    """A backbone, and a head that predicts on every cell of its feature maps.

    Subclasses write `forward_training` and `forward_inference`; both get what `head(features)` returned.

    Args:
        head: maps a list of features to a list of kinds of predictions, each a list over levels.
        head_in_features: names of the backbone's outputs, finest first; None takes all by stride.
        pixel_mean, pixel_std: of the C channels of the input; images are normalised by them.
    """

    vis_period: int = 0
    input_format: str = "BGR"

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str] | None = None,
        *,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        if head_in_features is None:
            shapes = backbone.output_shape()
            head_in_features = sorted(shapes, key=lambda name: shapes[name].stride)
        self.head_in_features = head_in_features
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean, dtype=torch.float32).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std, dtype=torch.float32).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """Losses by name in train mode, detections in eval mode.

        Args:
            batched_inputs: one dict an image: `image` (C, H, W); for training `instances` with `gt_boxes` and
                `gt_classes`; for inference optionally `height`, `width` of the image to report boxes in.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        features = [features[name] for name in self.head_in_features]
        predictions = self.head(features)
        if self.training:
            assert "instances" in batched_inputs[0], "training needs 'instances' in the inputs"
            gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
            if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
                with torch.no_grad():
                    self.visualize_training(batched_inputs, self.forward_inference(images, features, predictions))
            return self.forward_training(images, features, predictions, gt_instances)
        results = self.forward_inference(images, features, predictions)
        return [
            {"instances": detector_postprocess(result, x.get("height", size[0]), x.get("width", size[1]))}
            for result, x, size in zip(results, batched_inputs, images.image_sizes)
        ]

    def forward_training(
        self,
        images: ImageList,
        features: list[torch.Tensor],
        predictions: list[list[torch.Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, torch.Tensor]:
        """Losses by name."""
        raise NotImplementedError

    def forward_inference(
        self, images: ImageList, features: list[torch.Tensor], predictions: list[list[torch.Tensor]]
    ) -> list[Instances]:
        """Detections of each image, in pixels of the network input."""
        raise NotImplementedError

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalises, then pads with 0, so that the padding has the mean colour."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )

    def visualize_training(self, batched_inputs: list[dict], results: list[Instances]) -> None:
        """Puts the first image into the event storage: ground truth on the left, best predictions on the right."""
        # Only training with pictures should need matplotlib.
        from detectron2.utils.visualizer import Visualizer

        assert len(batched_inputs) == len(results), f"{len(batched_inputs)} inputs, {len(results)} results"
        image = convert_image_to_rgb(batched_inputs[0]["image"].permute(1, 2, 0), self.input_format)
        truth = Visualizer(image).overlay_instances(boxes=batched_inputs[0]["instances"].gt_boxes)
        detections = detector_postprocess(results[0], *image.shape[:2]).pred_boxes.tensor.detach().cpu().numpy()
        predicted = Visualizer(image).overlay_instances(boxes=detections[:DRAWN_PREDICTIONS])
        picture = np.hstack([truth.get_image(), predicted.get_image()]).transpose(2, 0, 1)
        get_event_storage().put_image("Left: GT bounding boxes; Right: predicted boxes", picture)

    def _transpose_dense_predictions(
        self, predictions: list[list[torch.Tensor]], dims_per_anchor: list[int]
    ) -> list[list[torch.Tensor]]:
        """Every kind of prediction, on every level, from (N, A * K, H, W) to (N, HWA, K), with its own K."""
        assert len(predictions) == len(dims_per_anchor), f"{len(predictions)} predictions, dims {dims_per_anchor}"
        return [[permute_to_N_HWA_K(x, dim) for x in levels] for levels, dim in zip(predictions, dims_per_anchor)]

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9) -> float:
        """Moves the average kept as attribute `name` towards `value`; it starts from `initial_value`."""
        average = getattr(self, name, initial_value) * momentum + value * (1 - momentum)
        setattr(self, name, average)
        return average

    def _decode_per_level_predictions(
        self,
        anchors: Boxes,
        pred_scores: torch.Tensor,
        pred_deltas: torch.Tensor,
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """The best `topk_candidates` (anchor, class) pairs of a level that score above the threshold, as boxes.

        Args:
            pred_scores: (HWA, K).
            pred_deltas: (HWA, 4), in the code of `self.box2box_transform`.
        """
        above = pred_scores > score_thresh
        scores = pred_scores[above]
        scores, order = scores.topk(min(topk_candidates, len(scores)))
        anchor, classes = above.nonzero()[order].unbind(dim=1)
        boxes = self.box2box_transform.apply_deltas(pred_deltas[anchor], anchors.tensor[anchor])
        return Instances(image_size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)

    def _decode_multi_level_predictions(
        self,
        anchors: list[Boxes],
        pred_scores: list[torch.Tensor],
        pred_deltas: list[torch.Tensor],
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """Decodes each level by itself; the result holds up to `topk_candidates` of each, level by level."""
        return Instances.cat(
            [
                self._decode_per_level_predictions(*level, score_thresh, topk_candidates, image_size)
                for level in zip(anchors, pred_scores, pred_deltas)
            ]
        )


def permute_to_N_HWA_K(tensor: torch.Tensor, K: int) -> torch.Tensor:
    """(N, A * K, H, W) to (N, H * W * A, K): the order in which anchors are generated."""
    assert tensor.dim() == 4, f"expected (N, A * K, H, W), got {tuple(tensor.shape)}"
    return tensor.unflatten(1, (-1, K)).permute(0, 3, 4, 1, 2).flatten(1, 3)
