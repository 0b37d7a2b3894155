"""Boxes on the image plane, in continuous coordinates: x1, y1, x2, y2 in pixels, no pixel added."""

from enum import IntEnum, unique

import numpy as np
import torch
from torch import Tensor

RawBox = list[float] | tuple[float, ...] | Tensor | np.ndarray


@unique
class BoxMode(IntEnum):
    """How four or five numbers make a box. ABS is in pixels, REL in fractions of the image, A an angle in degrees."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: RawBox, from_mode: "BoxMode", to_mode: "BoxMode") -> RawBox:
        """Another notation of the same boxes, as the same type; the input is never changed.

        Lists and tuples hold one box and pass through float32; integers stay integers. Arrays and tensors are
        (R, 4) or (R, 5). With equal modes the very same object comes back.

        Raises:
            AssertionError: a relative mode, or a wrong number of columns.
            NotImplementedError: no rule leads from one mode to the other.
        """
        if from_mode == to_mode:
            return box
        if isinstance(box, (list, tuple)):
            assert len(box) in (4, 5), f"BoxMode.convert: a box has 4 or 5 numbers, got {len(box)}"
            return type(box)(_convert(torch.tensor([box]), from_mode, to_mode)[0].tolist())
        if isinstance(box, np.ndarray):
            return _convert(torch.from_numpy(box), from_mode, to_mode).numpy()
        return _convert(box, from_mode, to_mode)


def _convert(box: Tensor, from_mode: BoxMode, to_mode: BoxMode) -> Tensor:
    relative = (BoxMode.XYXY_REL, BoxMode.XYWH_REL)
    assert from_mode not in relative and to_mode not in relative, "BoxMode.convert: relative boxes are not supported"
    modes = (from_mode, to_mode)
    columns = 5 if from_mode == BoxMode.XYWHA_ABS else 4
    if modes == (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS) or columns == 4:
        assert box.shape[-1] == columns, f"BoxMode.convert: expected {columns} columns, got {box.shape[-1]}"
    if modes == (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        return torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], dim=1)
    if modes == (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        return torch.cat([box[:, :2], box[:, 2:] - box[:, :2]], dim=1)
    if modes == (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS):
        center = box[:, :2] + box[:, 2:] / 2
        return torch.cat([center, box[:, 2:], torch.zeros_like(box[:, :1])], dim=1).to(box.dtype)
    if modes == (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS):
        return enclose_rotated(box.double()).to(box.dtype)
    raise NotImplementedError(f"BoxMode.convert: no conversion from {BoxMode(from_mode)!r} to {BoxMode(to_mode)!r}")


def enclose_rotated(box: Tensor) -> Tensor:
    """(R, 5) x, y, w, h, angle -> (R, 4), the upright boxes around them."""
    angle = torch.deg2rad(box[:, 4:])
    cos, sin = angle.cos().abs(), angle.sin().abs()
    width, height = box[:, 2:3], box[:, 3:4]
    half = torch.cat([cos * width + sin * height, sin * width + cos * height], dim=1) / 2
    return torch.cat([box[:, :2] - half, box[:, :2] + half], dim=1)


def as_rows(tensor: Tensor, columns: int) -> Tensor:
    """(R, columns) float32, from anything; (0, columns) from an empty tensor of any shape."""
    if not isinstance(tensor, Tensor):
        tensor = torch.as_tensor(tensor, dtype=torch.float32, device=torch.device("cpu"))
    tensor = tensor.to(torch.float32)
    if tensor.numel() == 0:
        # A reshape, unlike a new tensor, keeps the graph and the device.
        tensor = tensor.reshape((-1, columns))
    assert tensor.dim() == 2 and tensor.size(-1) == columns, f"boxes: expected (R, {columns}), got {tensor.size()}"
    return tensor


class Boxes:
    """(R, 4) float32 boxes, x1, y1, x2, y2 in pixels. Sizes are (height, width).

    Whatever is given becomes float32; a float32 tensor is kept, not copied. An empty tensor of any shape is no boxes.
    Works in TorchScript too, but for `cat` and iteration.

    Attributes:
        tensor: (R, 4).
    """

    def __init__(self, tensor: Tensor):
        self.tensor = as_rows(tensor, 4)

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device) -> "Boxes":
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        """(R,), in square pixels."""
        return (self.tensor[:, 2] - self.tensor[:, 0]) * (self.tensor[:, 3] - self.tensor[:, 1])

    def clip(self, box_size: tuple[int, int]) -> None:
        """Limits all coordinates to the image. Replaces `tensor`; the old one stays as it was.

        Raises:
            AssertionError: a coordinate is nan or infinite.
        """
        assert torch.isfinite(self.tensor).all(), "Boxes.clip: a coordinate is nan or infinite"
        height, width = box_size
        x1, y1, x2, y2 = self.tensor.unbind(dim=1)
        sides = [x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)]
        self.tensor = torch.stack(sides, dim=1)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """(R,) bool: both sides are longer than `threshold`."""
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return (sides > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """(R,) bool: no side sticks out of the image by `boundary_threshold` or more (to the left and top: by more)."""
        height, width = box_size
        inside_low = (self.tensor[:, :2] >= -boundary_threshold).all(dim=1)
        inside_x = self.tensor[:, 2] < width + boundary_threshold
        return inside_low & inside_x & (self.tensor[:, 3] < height + boundary_threshold)

    def get_centers(self) -> Tensor:
        """(R, 2), x and y."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiplies the coordinates, in place in `tensor`."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    def __getitem__(self, item) -> "Boxes":
        """The rows chosen by an int, a slice or a tensor; slices share memory. An int gives one box, not a tensor."""
        if isinstance(item, int):
            return Boxes(self.tensor[item].view(1, -1))
        rows = self.tensor[item]
        assert rows.dim() == 2, f"Boxes: index {item} does not select whole rows"
        return Boxes(rows)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    @torch.jit.unused
    def __iter__(self):
        """Yields (4,) tensors."""
        yield from self.tensor

    @torch.jit.unused
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tensor})"

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @classmethod
    def cat(cls, boxes_list: list["Boxes"]) -> "Boxes":
        """All boxes of a list or tuple in one."""
        assert isinstance(boxes_list, (list, tuple)), f"Boxes.cat: expected a list of Boxes, got {boxes_list}"
        assert all([isinstance(boxes, Boxes) for boxes in boxes_list]), "Boxes.cat: not all elements are Boxes"
        if len(boxes_list) == 0:
            return cls(torch.empty(0))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]))


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(R, 4), (G, 4) -> (R, G), the areas in common."""
    first, second = boxes1.tensor[:, None], boxes2.tensor[None]
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    return sides.clamp(min=0).prod(dim=2)


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(R, 4), (G, 4) -> (R, G), intersection over union; 0 where nothing is in common."""
    common = pairwise_intersection(boxes1, boxes2)
    union = boxes1.area()[:, None] + boxes2.area() - common
    return torch.where(common > 0, common / union, 0.0)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(R, 4), (G, 4) -> (R, G), intersection over the area of the second box."""
    common = pairwise_intersection(boxes1, boxes2)
    return torch.where(common > 0, common / boxes2.area(), 0.0)


def pairwise_point_box_distance(points: Tensor, boxes: Boxes) -> Tensor:
    """(R, 2), (G, 4) -> (R, G, 4): how far left, top, right and bottom are; all positive inside the box."""
    offset = points[:, None] - boxes.tensor[None, :, :2]
    return torch.cat([offset, boxes.tensor[None, :, 2:] - points[:, None]], dim=2)


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> Tensor:
    """(R, 4), (R, 4) -> (R,), the IoU of each row with the same row of the other."""
    assert len(boxes1) == len(boxes2), f"matched_pairwise_iou: {len(boxes1)} and {len(boxes2)} boxes"
    first, second = boxes1.tensor, boxes2.tensor
    sides = torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])
    common = sides.clamp(min=0).prod(dim=1)
    return torch.where(common > 0, common / (boxes1.area() + boxes2.area() - common), 0.0)
