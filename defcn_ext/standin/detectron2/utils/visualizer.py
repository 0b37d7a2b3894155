"""Draws annotations and predictions on images. Coordinates are pixels, colours anything that matplotlib knows."""

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, BoxMode, Instances, Keypoints

from ._drawing import Color, Drawing, VisImage, color_of
from ._generic_mask import GenericMask, to_generic_masks

__all__ = ["ColorMode", "VisImage", "Visualizer"]

KEYPOINT_THRESHOLD = 0.05
KEYPOINT_COLOR = (1.0, 0.3, 0.3)
OFF_WHITE = (1.0, 1.0, 240.0 / 255)


@enum.unique
class ColorMode(enum.Enum):
    """How instances are coloured."""

    IMAGE = 0
    """Every instance in a colour of its own."""
    SEGMENTATION = 1
    """Instances of a class in shades of the class's colour, `thing_colors` of the metadata."""
    IMAGE_BW = 2
    """As IMAGE, on a picture that is grey where there is no mask."""


class Visualizer(Drawing):
    """Draws on a copy of an image; `get_output()` is the result so far.

    Args:
        img_rgb: (H, W, 3), 0 to 255.
        metadata: of the data set; `thing_classes`, `thing_colors`, `stuff_classes`, `stuff_colors`,
            `keypoint_names` and `keypoint_connection_rules` are used if there.
        scale: the result is this many times larger, at unchanged coordinates.
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Metadata | None = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = Metadata() if metadata is None else metadata
        self._instance_mode = instance_mode
        super().__init__(self.img, scale, font_size_scale)

    def draw_instance_predictions(self, predictions: Instances, jittering: bool = True) -> VisImage:
        """Draws what there is of `pred_boxes`, `pred_classes`, `scores`, `pred_masks`, `pred_keypoints`.

        Args:
            jittering: in SEGMENTATION mode, vary the class's colour from instance to instance.
        """
        fields = predictions.get_fields()
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        scores = fields["scores"].tolist() if "scores" in fields else None
        masks = fields.get("pred_masks")
        if masks is not None:
            masks = to_generic_masks(masks, *self.img.shape[:2])
        if self._instance_mode == ColorMode.IMAGE_BW:
            self.output.reset_image(self._grey_outside(masks or []))
        return self.overlay_instances(
            boxes=fields.get("pred_boxes"),
            labels=_labels(classes, scores, self.metadata.get("thing_classes", None)),
            masks=masks,
            keypoints=fields.get("pred_keypoints"),
            assigned_colors=self._class_colors(classes, jittering),
            alpha=0.3 if self._instance_mode == ColorMode.IMAGE_BW else 0.5,
        )

    def draw_dataset_dict(self, dic: dict) -> VisImage:
        """Draws the `annotations` of a record in Detectron2's format, and its `sem_seg` array if there is one."""
        annotations = dic.get("annotations", [])
        if annotations:
            classes = [a["category_id"] for a in annotations]
            crowd = [a.get("iscrowd", 0) for a in annotations]
            self.overlay_instances(
                boxes=[_absolute_box(a) for a in annotations] if all("bbox" in a for a in annotations) else None,
                labels=_labels(classes, None, self.metadata.get("thing_classes", None), crowd),
                masks=[a.get("segmentation", []) for a in annotations],
                keypoints=[np.reshape(a["keypoints"], (-1, 3)) for a in annotations if "keypoints" in a],
                assigned_colors=self._class_colors(classes, jittering=True),
            )
        if "sem_seg" in dic:
            self.draw_sem_seg(dic["sem_seg"], area_threshold=0, alpha=0.5)
        return self.output

    def draw_sem_seg(
        self,
        sem_seg: np.ndarray | torch.Tensor,
        area_threshold: float | None = None,
        alpha: float = 0.8,
        draw_text: bool = True,
        edge_color: Color = OFF_WHITE,
    ) -> VisImage:
        """Draws a map (H, W) of stuff classes, large ones first; ids without a name are left out if names are known."""
        sem_seg = np.asarray(sem_seg)
        names = self.metadata.get("stuff_classes", None)
        colors = self.metadata.get("stuff_colors", None)
        classes, areas = np.unique(sem_seg, return_counts=True)
        for label in classes[np.argsort(-areas)].tolist():
            if names is not None and not 0 <= label < len(names):
                continue
            self.draw_binary_mask(
                sem_seg == label,
                color=color_of(label) if colors is None else np.asarray(colors[label]) / 255,
                edge_color=edge_color,
                text=(str(label) if names is None else names[label]) if draw_text else None,
                alpha=alpha,
                area_threshold=area_threshold,
            )
        return self.output

    def overlay_instances(
        self,
        *,
        boxes: Boxes | np.ndarray | torch.Tensor | None = None,
        labels: list[str] | None = None,
        masks: Any = None,
        keypoints: Keypoints | np.ndarray | torch.Tensor | None = None,
        assigned_colors: Sequence[Color] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draws P instances, large ones first.

        Args:
            boxes: (P, 4) x1, y1, x2, y2, or (P, 5) rotated boxes.
            masks: BitMasks, PolygonMasks, an array (P, H, W), or a list of bitmaps, polygons, RLEs, GenericMasks.
            keypoints: (P, keypoints, 3) x, y, visibility.
            alpha: opacity of the masks.
        """
        boxes = None if boxes is None else _as_array(boxes)
        if boxes is not None and boxes.shape[1:] == (5,):
            return self.overlay_rotated_instances(boxes, labels, assigned_colors)
        masks = None if masks is None else to_generic_masks(masks, *self.img.shape[:2])
        counts = {len(x) for x in (boxes, masks, labels, assigned_colors) if x is not None}
        assert len(counts) <= 1, f"boxes, labels, masks and colors differ in number: {sorted(counts)}"

        for i in _large_first(boxes, masks, counts.pop() if counts else 0):
            color = color_of(i) if assigned_colors is None else assigned_colors[i]
            if boxes is not None:
                self.draw_box(boxes[i], edge_color=color)
            if masks is not None:
                self._fill_mask(masks[i], color, edge_color=None, alpha=alpha)
            if labels is not None and (boxes is not None or masks is not None):
                self._draw_label(labels[i], boxes[i] if boxes is not None else masks[i].bbox(), color)
        for points in _as_array(keypoints) if keypoints is not None else ():
            self.draw_and_connect_keypoints(points)
        return self.output

    def overlay_rotated_instances(
        self, boxes: Any = None, labels: list[str] | None = None, assigned_colors: Sequence[Color] | None = None
    ) -> VisImage:
        """Draws boxes (P, 5): centre x, y, width, height, degrees counterclockwise."""
        boxes = _as_array(boxes) if boxes is not None else np.zeros((0, 5))
        for i in np.argsort(-boxes[:, 2] * boxes[:, 3]).tolist():
            color = color_of(i) if assigned_colors is None else assigned_colors[i]
            self.draw_rotated_box_with_label(boxes[i], edge_color=color, label=labels[i] if labels else None)
        return self.output

    def draw_and_connect_keypoints(self, keypoints: np.ndarray) -> VisImage:
        """Draws visible points (keypoints, 3) of x, y, visibility, and the lines that the metadata connects them by."""
        visible = {}
        names = self.metadata.get("keypoint_names", None) or range(len(keypoints))
        for name, (x, y, visibility) in zip(names, np.asarray(keypoints).tolist()):
            if visibility > KEYPOINT_THRESHOLD:
                visible[name] = (x, y)
                self.draw_circle((x, y), color=KEYPOINT_COLOR)
        for start, end, color in self.metadata.get("keypoint_connection_rules", None) or ():
            if start in visible and end in visible:
                self.draw_line(*zip(visible[start], visible[end]), color=np.asarray(color) / 255)
        return self.output

    def _draw_label(self, text: str, box: np.ndarray, color: Color) -> None:
        """Writes into the top left corner of a box; under or beside a box that the text would cover."""
        x1, y1, x2, y2 = box
        height = self.img.shape[0]
        font_size = self._default_font_size * np.clip(0.6 + 4 * (y2 - y1) / height, 0.6, 1)
        position = (x1, y1)
        if y2 - y1 < 3 * font_size:
            position = (x1, y2) if y2 + 2 * font_size <= height else (x2, y1)
        self.draw_text(text, position, font_size=font_size, color=color, horizontal_alignment="left")

    def _class_colors(self, classes: list[int] | None, jittering: bool) -> list[np.ndarray] | None:
        colors = self.metadata.get("thing_colors", None)
        if self._instance_mode != ColorMode.SEGMENTATION or classes is None or not colors:
            return None
        chosen = [np.asarray(colors[c]) / 255 for c in classes]
        if not jittering:
            return chosen
        # Generators of their own, so that drawing during training leaves numpy's global one alone.
        return [(c + np.random.default_rng(i).uniform(-0.15, 0.15, 3)).clip(0, 1) for i, c in enumerate(chosen)]

    def _grey_outside(self, masks: list[GenericMask]) -> np.ndarray:
        grey = np.repeat(self.img.mean(axis=2, keepdims=True), 3, axis=2)
        inside = np.zeros(self.img.shape[:2], dtype=bool)
        for mask in masks:
            inside |= mask.mask > 0
        return np.where(inside[..., None], self.img, grey).astype(np.uint8)


def _labels(
    classes: list[int] | None,
    scores: list[float] | None,
    names: Sequence[str] | None,
    crowd: list[int] | None = None,
) -> list[str] | None:
    """One text an instance: class, score in percent, mark of a crowd; None if there is nothing to say."""
    if classes is None and scores is None:
        return None
    texts = [] if classes is None else [[names[c] if names else str(c) for c in classes]]
    texts += [] if scores is None else [[f"{score:.0%}" for score in scores]]
    joined = [" ".join(parts) for parts in zip(*texts)]
    return joined if crowd is None else [f"{text}|crowd" if flag else text for text, flag in zip(joined, crowd)]


def _as_array(values: Any) -> np.ndarray:
    """From Boxes, Keypoints, tensors on any device, lists."""
    values = getattr(values, "tensor", values)
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _absolute_box(annotation: dict) -> list[float]:
    box, mode = annotation["bbox"], BoxMode(annotation["bbox_mode"])
    return box if mode == BoxMode.XYWHA_ABS else BoxMode.convert(box, mode, BoxMode.XYXY_ABS)


def _large_first(boxes: np.ndarray | None, masks: list[GenericMask] | None, count: int) -> list[int]:
    if count == 0:
        return []
    if boxes is not None:
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    elif masks is not None:
        areas = np.array([mask.area() for mask in masks])
    else:
        areas = np.zeros(count)
    return np.argsort(-areas, kind="stable").tolist()
