"""Boxes turned by an angle: centre x, y, width, height in pixels, degrees counterclockwise on the screen."""

import torch
from torch import Tensor

from detectron2.layers.rotated_boxes import pairwise_iou_rotated

from .boxes import Boxes, as_rows, enclose_rotated


class RotatedBoxes(Boxes):
    """(R, 5) float32 boxes. At angle 0 the width is horizontal; y points down.

    Whatever is given becomes float32; a float32 tensor is kept, not copied. An empty tensor of any shape is no boxes.

    Attributes:
        tensor: (R, 5).
    """

    def __init__(self, tensor: Tensor):
        self.tensor = as_rows(tensor, 5)

    def clone(self) -> "RotatedBoxes":
        return RotatedBoxes(self.tensor.clone())

    def to(self, device: torch.device, non_blocking: bool = False) -> "RotatedBoxes":
        return RotatedBoxes(self.tensor.to(device=device, non_blocking=non_blocking))

    def area(self) -> Tensor:
        """(R,), in square pixels."""
        return self.tensor[:, 2] * self.tensor[:, 3]

    def normalize_angles(self) -> None:
        """Brings the angles into [-180, 180), in place of `tensor`; the old one stays as it was."""
        self.tensor = torch.cat([self.tensor[:, :4], (self.tensor[:, 4:] + 180) % 360 - 180], dim=1)

    def clip(self, box_size: tuple[int, int], clip_angle_threshold: float = 1.0) -> None:
        """Limits (almost) upright boxes to the image (height, width), and normalises all angles.

        Boxes turned by more than `clip_angle_threshold` degrees stay as they are: their part in the image is no box.
        """
        self.normalize_angles()
        height, width = box_size
        upright = self.tensor[:, 4].abs() <= clip_angle_threshold
        center, size = self.tensor[:, :2], self.tensor[:, 2:4]
        limits = self.tensor.new_tensor([width, height])
        low, high = (torch.minimum(x.clamp(min=0), limits) for x in (center - size / 2, center + size / 2))
        # Rounding must not make a box larger.
        clipped = torch.cat([(low + high) / 2, torch.minimum(size, high - low), self.tensor[:, 4:]], dim=1)
        self.tensor = torch.where(upright[:, None], clipped, self.tensor)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """(R,) bool: both sides are longer than `threshold`."""
        return (self.tensor[:, 2:4] > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> Tensor:
        """(R,) bool: the upright boxes around them are inside the image, in the sense of `Boxes.inside_box`."""
        return Boxes(enclose_rotated(self.tensor)).inside_box(box_size, boundary_threshold)

    def get_centers(self) -> Tensor:
        """(R, 2), x and y."""
        return self.tensor[:, :2]

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Scales the image under the boxes, in place in `tensor`.

        Unequal factors shear a turned box: its width and height become the lengths of the scaled sides, its angle
        that of the scaled height.
        """
        angle = self.tensor[:, 4].deg2rad()
        cos, sin = angle.cos(), angle.sin()
        self.tensor[:, 0] *= scale_x
        self.tensor[:, 1] *= scale_y
        self.tensor[:, 2] *= torch.hypot(scale_x * cos, scale_y * sin)
        self.tensor[:, 3] *= torch.hypot(scale_x * sin, scale_y * cos)
        self.tensor[:, 4] = torch.atan2(scale_x * sin, scale_y * cos).rad2deg()

    def __getitem__(self, item) -> "RotatedBoxes":
        """The rows chosen by an int, a slice or a tensor; slices share memory. An int gives one box, not a tensor."""
        rows = self.tensor[item].view(1, -1) if isinstance(item, int) else self.tensor[item]
        assert rows.dim() == 2, f"RotatedBoxes: index {item} does not select whole rows"
        return RotatedBoxes(rows)

    @classmethod
    def cat(cls, boxes_list: list["RotatedBoxes"]) -> "RotatedBoxes":
        """All boxes of a list or tuple in one."""
        are_rotated = all(isinstance(boxes, RotatedBoxes) for boxes in boxes_list)
        assert are_rotated, "RotatedBoxes.cat: not all elements are RotatedBoxes"
        return super().cat(boxes_list)


def pairwise_iou(boxes1: RotatedBoxes, boxes2: RotatedBoxes) -> Tensor:
    """(R, 5), (G, 5) -> (R, G), intersection over union; 0 where nothing is in common."""
    return pairwise_iou_rotated(boxes1.tensor, boxes2.tensor)
