"""The picture that an annotation was drawn on, where it is not the one that is read: turned, mirrored, or resized."""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from defcn_ext.data.headers import TURNED
from defcn_ext.data.numbers import as_box
from detectron2.structures import BoxMode

# EXIF orientation -> x and y as it is seen, from x, y, width w and height h as it is stored
SEEN = {
    1: lambda x, y, w, h: (x, y),
    2: lambda x, y, w, h: (w - x, y),
    3: lambda x, y, w, h: (w - x, h - y),
    4: lambda x, y, w, h: (x, h - y),
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}
TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INVERSE = {**{n: n for n in SEEN}, 6: 8, 8: 6}


class Frame(NamedTuple):
    """A picture that annotations lie in, and how it becomes the image that is read.

    Attributes:
        size: (height, width) of the picture.
        orientation: EXIF's number of the turn that comes first.
        image: (height, width) of the image, to which the turned picture is resized.
    """

    size: tuple[int, int]
    orientation: int
    image: tuple[int, int]

    def inverse(self) -> "Frame":
        """From the image back to the picture."""
        return Frame(self.image, INVERSE[self.orientation], self.size)

    def points(self, xy: np.ndarray) -> np.ndarray:
        """(..., 2) positions in the picture -> in the image."""
        height, width = self.size
        x, y = SEEN[self.orientation](xy[..., 0], xy[..., 1], width, height)
        height, width = self.size[::-1] if self.orientation in TURNED else self.size
        return np.stack([x * (self.image[1] / width), y * (self.image[0] / height)], axis=-1)

    def boxes(self, corners: np.ndarray) -> np.ndarray:
        """(..., 4) x1, y1, x2, y2 in the picture -> in the image."""
        ends = self.points(np.asarray(corners, dtype=np.float64).reshape(*np.shape(corners)[:-1], 2, 2))
        return np.concatenate([ends.min(-2), ends.max(-2)], axis=-1)

    def mask(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) of the picture -> (H, W) of the image, uint8."""
        picture = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
        if self.orientation != 1:
            picture = picture.transpose(TRANSPOSED[self.orientation])
        return np.asarray(picture.resize(self.image[::-1], Image.Resampling.NEAREST))

    def annotation(self, annotation: Any) -> Any:
        """A copy of a Detectron2 annotation, of the picture, for the image; a rotated box is lost where it turns."""
        if not isinstance(annotation, dict):
            return annotation
        moved = dict(annotation)
        moved["bbox"] = self._bbox(annotation.get("bbox"), annotation.get("bbox_mode"))
        segmentation, keypoints = annotation.get("segmentation"), annotation.get("keypoints")
        if isinstance(segmentation, dict):
            listed = isinstance(segmentation["counts"], list)
            runs = mask_api.frPyObjects(segmentation, *segmentation["size"]) if listed else segmentation
            moved["segmentation"] = mask_api.encode(np.asfortranarray(self.mask(mask_api.decode(runs))))
        elif segmentation:
            polygons = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]
            moved["segmentation"] = [self.points(polygon).reshape(-1).tolist() for polygon in polygons]
        if keypoints:
            triples = np.asarray(keypoints, dtype=np.float64).reshape(-1, 3)
            moved["keypoints"] = np.concatenate([self.points(triples[:, :2]), triples[:, 2:]], 1).reshape(-1).tolist()
        return moved

    def _bbox(self, box: Any, mode: Any) -> list[float] | None:
        values = as_box(box, 5 if mode == BoxMode.XYWHA_ABS else 4)
        if values is None:
            return box
        if mode == BoxMode.XYWHA_ABS:
            x, y = (new / old for new, old in zip(self.image[::-1], self.size[::-1]))
            return (
                [values[0] * x, values[1] * y, values[2] * x, values[3] * y, values[4]]
                if self.orientation == 1
                else None
            )
        if mode == BoxMode.XYWH_ABS:
            x1, y1, x2, y2 = self.boxes(np.array([*values[:2], values[0] + values[2], values[1] + values[3]])).tolist()
            return [x1, y1, x2 - x1, y2 - y1]
        return self.boxes(np.array(values)).tolist()
