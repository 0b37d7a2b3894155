"""Segmentation masks as bitmaps, as polygons, and as the small squares that a mask head predicts."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor

from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.layers.roi_align import ROIAlign

from .boxes import Boxes


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The pixels of one object: polygons x0, y0, x1, y1, ... in pixels -> (height, width) bool."""
    if len(polygons) == 0:
        return np.zeros((height, width), dtype=bool)
    codes = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return coco_mask.decode(codes).astype(bool)


def _rasterize_in_box(polygons: list[np.ndarray], box: np.ndarray, mask_size: int) -> np.ndarray:
    """(mask_size, mask_size) bool: the object seen through `box` (4,)."""
    # A box without extent would need an infinite zoom.
    scale = mask_size / np.maximum(box[2:] - box[:2], 0.1)
    zoomed = [((p.reshape(-1, 2) - box[:2]) * scale).reshape(-1) for p in polygons]
    return polygons_to_bitmask(zoomed, mask_size, mask_size)


class BitMasks:
    """(G, H, W) bool masks of the size of the image.

    Attributes:
        tensor: (G, H, W).
    """

    def __init__(self, tensor: Tensor | np.ndarray):
        tensor = torch.as_tensor(tensor).to(torch.bool)
        assert tensor.dim() == 3, f"BitMasks: expected (G, H, W), got {tuple(tensor.shape)}"
        self.image_size = tensor.shape[1:]
        self.tensor = tensor

    def to(self, *args: Any, **kwargs: Any) -> "BitMasks":
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> "BitMasks":
        """The chosen masks; an int keeps a length of 1."""
        masks = self.tensor[item][None] if isinstance(item, int) else self.tensor[item]
        assert masks.dim() == 3, f"BitMasks: index {item!r} does not select whole masks"
        return BitMasks(masks)

    def __iter__(self) -> Iterator[Tensor]:
        """Yields (H, W) tensors."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self.tensor)})"

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def nonempty(self) -> Tensor:
        """(G,) bool: has a pixel."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: "PolygonMasks | list[list[np.ndarray]]", height: int, width: int
    ) -> "BitMasks":
        polygons = polygon_masks.polygons if isinstance(polygon_masks, PolygonMasks) else polygon_masks
        masks = [polygons_to_bitmask(p, height, width) for p in polygons]
        return BitMasks(np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool))

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Each mask seen through its box, as training target of a mask head.

        Args:
            boxes: (G, 4).

        Returns:
            (G, mask_size, mask_size) bool.
        """
        assert len(boxes) == len(self), f"BitMasks.crop_and_resize: {len(boxes)} boxes for {len(self)} masks"
        index = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None]
        rois = torch.cat([index, boxes], dim=1).to(self.device)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        return align(self.tensor[:, None].float(), rois.float())[:, 0] >= 0.5

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes around the pixels, on the pixels' outer edges; 0, 0, 0, 0 for an empty mask."""
        low_high = []
        for occupied in (self.tensor.any(dim=1), self.tensor.any(dim=2)):
            position = torch.arange(occupied.shape[1], device=self.device)
            low = torch.where(occupied, position, occupied.shape[1]).amin(dim=1)
            high = torch.where(occupied, position + 1, 0).amax(dim=1)
            low_high.append((torch.minimum(low, high), high))
        (x1, x2), (y1, y2) = low_high
        return Boxes(torch.stack([x1, y1, x2, y2], dim=1))

    @staticmethod
    def cat(bitmasks_list: list["BitMasks"]) -> "BitMasks":
        assert len(bitmasks_list) > 0, "BitMasks.cat: nothing to concatenate"
        assert all(isinstance(m, BitMasks) for m in bitmasks_list), "BitMasks.cat: not all elements are BitMasks"
        return BitMasks(torch.cat([m.tensor for m in bitmasks_list]))


class PolygonMasks:
    """Each object as a list of polygons, each of them x0, y0, x1, y1, ... in pixels (float64 arrays).

    Raises:
        ValueError: not a list of lists, or a polygon that is odd in length or has fewer than three corners.

    Attributes:
        polygons: G lists of arrays.
    """

    def __init__(self, polygons: list[list[Tensor | np.ndarray]]):
        if not isinstance(polygons, list):
            raise ValueError(f"PolygonMasks: expected a list of lists of polygons, got {type(polygons).__name__}")
        self.polygons = [_checked(of_object) for of_object in polygons]

    def to(self, *args: Any, **kwargs: Any) -> "PolygonMasks":
        """Itself: polygons stay on the CPU."""
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes; for an object without polygons from infinity to 0, which has no extent."""
        boxes = torch.tensor([np.inf, np.inf, 0.0, 0.0]).repeat(len(self), 1)
        for box, of_object in zip(boxes, self.polygons):
            for polygon in of_object:
                corners = torch.from_numpy(polygon).float().view(-1, 2)
                box[:2] = torch.minimum(box[:2], corners.amin(dim=0))
                box[2:] = torch.maximum(box[2:], corners.amax(dim=0))
        return Boxes(boxes)

    def nonempty(self) -> Tensor:
        """(G,) bool: has a polygon, however small."""
        return torch.tensor([len(of_object) > 0 for of_object in self.polygons], dtype=torch.bool)

    def __getitem__(self, item: int | slice | list[int] | Tensor) -> "PolygonMasks":
        """The chosen objects, by position or by a bool mask; an int keeps a length of 1."""
        if isinstance(item, (int, slice)):
            chosen = self.polygons[item]
            return PolygonMasks([chosen] if isinstance(item, int) else chosen)
        if isinstance(item, (Tensor, np.ndarray)):
            positions = torch.as_tensor(item)
            assert positions.dim() == 1, f"PolygonMasks: index must have 1 dimension, got {positions.dim()}"
            item = (positions.nonzero()[:, 0] if positions.dtype == torch.bool else positions).tolist()
        return PolygonMasks([self.polygons[i] for i in item])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self.polygons)})"

    def __len__(self) -> int:
        return len(self.polygons)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """As `BitMasks.crop_and_resize`; the result lies on the device of `boxes`."""
        assert len(boxes) == len(self), f"PolygonMasks.crop_and_resize: {len(boxes)} boxes for {len(self)} masks"
        windows = boxes.detach().cpu().double().numpy()
        masks = [_rasterize_in_box(p, w, mask_size) for p, w in zip(self.polygons, windows)]
        stacked = np.stack(masks) if masks else np.zeros((0, mask_size, mask_size), dtype=bool)
        return torch.from_numpy(stacked).to(boxes.device)

    def area(self) -> Tensor:
        """(G,) float64 in square pixels, by the shoelace formula; overlaps of polygons count twice."""
        return torch.tensor([sum(_area(p) for p in of_object) for of_object in self.polygons], dtype=torch.float64)

    @staticmethod
    def cat(polymasks_list: list["PolygonMasks"]) -> "PolygonMasks":
        assert len(polymasks_list) > 0, "PolygonMasks.cat: nothing to concatenate"
        assert all(isinstance(m, PolygonMasks) for m in polymasks_list), "PolygonMasks.cat: not all are PolygonMasks"
        return PolygonMasks([of_object for masks in polymasks_list for of_object in masks.polygons])


def _checked(of_object: list[Tensor | np.ndarray]) -> list[np.ndarray]:
    if not isinstance(of_object, list):
        raise ValueError(f"PolygonMasks: an object is a list of polygons, got {type(of_object).__name__}")
    # A list's points may still be tensors, on whichever device.
    polygons = [np.asarray(p.cpu() if isinstance(p, Tensor) else p).astype("float64") for p in of_object]
    for polygon in polygons:
        if polygon.ndim != 1 or len(polygon) % 2 or len(polygon) < 6:
            raise ValueError(f"PolygonMasks: a polygon is x0, y0, x1, y1, x2, y2, ..., got shape {polygon.shape}")
    return polygons


def _area(polygon: np.ndarray) -> float:
    x, y = polygon[0::2], polygon[1::2]
    return 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))


class ROIMasks:
    """(R, M, M) mask probabilities, each within the box of its object.

    Attributes:
        tensor: (R, M, M).
    """

    def __init__(self, tensor: Tensor):
        if tensor.dim() != 3:
            raise ValueError(f"ROIMasks: expected (R, M, M), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def to(self, device: torch.device) -> "ROIMasks":
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item: int | slice | Tensor | Sequence[int]) -> "ROIMasks":
        masks = self.tensor[item]
        if masks.dim() != 3:
            raise ValueError(f"ROIMasks: index {item!r} does not select whole masks")
        return ROIMasks(masks)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self.tensor)})"

    def to_bitmasks(self, boxes: Tensor, height: int, width: int, threshold: float = 0.5) -> BitMasks:
        """Pastes the masks into the image, each over its box (R, 4)."""
        return BitMasks(paste_masks_in_image(self.tensor, boxes, (height, width), threshold))
