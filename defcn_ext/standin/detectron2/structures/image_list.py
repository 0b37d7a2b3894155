from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detectron2.layers.wrappers import shapes_to_tensor


class ImageList:
    """Images of different sizes in one padded tensor.

    Attributes:
        tensor: (N, H, W) or (N, C, H, W), each image at the top left.
        image_sizes: the N (height, width) before padding.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = [tuple(size) for size in image_sizes]

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """The image without its padding, as a view."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pads images at the right and bottom to a common size; never shares their memory.

        Args:
            tensors: N of (H, W) or (C, H, W), equal but for H and W (AssertionError).
            size_divisibility: height and width become multiples of it; 0 and 1 are no constraint.
            padding_constraints: what a backbone asks for. `size_divisibility` overrides the argument, and
                `square_size` above 0 makes all images squares of that side.

        Raises:
            RuntimeError: `square_size` is below the size of one of several images. A single image is cropped to it.
        """
        assert isinstance(tensors, (list, tuple)), f"ImageList: expected a list, got {type(tensors).__name__}"
        assert len(tensors) > 0, "ImageList: no images"
        for tensor in tensors:
            assert isinstance(tensor, Tensor), f"ImageList: expected tensors, got {type(tensor).__name__}"
            assert tensor.shape[:-2] == tensors[0].shape[:-2], "ImageList: images differ in their channels"
        constraints = padding_constraints or {}
        divisor = constraints.get("size_divisibility", size_divisibility)
        sizes = [(tensor.shape[-2], tensor.shape[-1]) for tensor in tensors]
        height, width = _padded_size(sizes, divisor, constraints.get("square_size", 0))
        if len(tensors) == 1:
            # One call that can be traced for any size, where slices below would freeze it.
            padding = (0, width - sizes[0][1], 0, height - sizes[0][0])
            return ImageList(F.pad(tensors[0], padding, value=pad_value)[None], sizes)
        batch = tensors[0].new_full((len(tensors), *tensors[0].shape[:-2], height, width), pad_value)
        for image, tensor, (h, w) in zip(batch, tensors, sizes):
            image[..., :h, :w].copy_(tensor)
        return ImageList(batch.contiguous(), sizes)


def _padded_size(sizes: list[tuple[int, int]], divisor: int, square: int) -> tuple[int, int]:
    if square > 0:
        size = torch.tensor([square, square])
    else:
        size = torch.stack([shapes_to_tensor(s) for s in sizes]).amax(dim=0)
    if divisor > 1:
        size = (size + divisor - 1).div(divisor, rounding_mode="floor") * divisor
    return tuple(size) if torch.jit.is_tracing() else tuple(size.tolist())
