from typing import Any

import torch
from torch import Tensor, device
from torch.nn import functional as F

from detectron2.layers.wrappers import shapes_to_tensor


class ImageList:
    """Images of different sizes in one padded tensor. It can be scripted, and traced for images of any size.

    Attributes:
        tensor: (N, H, W) or (N, C, H, W), each image at the top left.
        image_sizes: the N (height, width) before padding; each one a tensor (2,) while a graph is traced.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """The image without its padding, as a view."""
        size = self.image_sizes[idx]
        return self.tensor[idx, ..., : size[0], : size[1]]

    @torch.jit.unused
    def to(self, *args: Any, **kwargs: Any) -> "ImageList":
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[Tensor],
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
        assert isinstance(tensors, (list, tuple)), f"ImageList: expected a list, got {type(tensors)}"
        assert len(tensors) > 0, "ImageList: no images"
        for tensor in tensors:
            assert isinstance(tensor, Tensor), f"ImageList: expected tensors, got {type(tensor)}"
            assert tensor.shape[:-2] == tensors[0].shape[:-2], "ImageList: images differ in their channels"
        divisor, square = size_divisibility, 0
        if padding_constraints is not None:
            divisor = padding_constraints.get("size_divisibility", size_divisibility)
            square = padding_constraints.get("square_size", 0)
        if not torch.jit.is_scripting():
            if torch.jit.is_tracing():
                return _traced(tensors, divisor, square, pad_value)
        height = square if square > 0 else max([tensor.shape[-2] for tensor in tensors])
        width = square if square > 0 else max([tensor.shape[-1] for tensor in tensors])
        if divisor > 1:
            height, width = -(-height // divisor) * divisor, -(-width // divisor) * divisor
        sizes = [(tensor.shape[-2], tensor.shape[-1]) for tensor in tensors]
        if len(tensors) == 1:
            padding = [0, width - sizes[0][1], 0, height - sizes[0][0]]
            return ImageList(F.pad(tensors[0], padding, value=pad_value)[None].contiguous(), sizes)
        shape = [len(tensors)] + list(tensors[0].shape[:-2]) + [height, width]
        return ImageList(_filled(tensors, tensors[0].new_full(shape, pad_value)), sizes)


def _filled(tensors: list[Tensor], batch: Tensor) -> Tensor:
    for i, tensor in enumerate(tensors):
        batch[i, ..., : tensor.shape[-2], : tensor.shape[-1]].copy_(tensor)
    return batch


def _traced(tensors: list[Tensor], divisor: int, square: int, pad_value: float) -> ImageList:
    """The same with sizes that stay tensors: what the graph does follows the images that it is given."""
    sizes = [shapes_to_tensor(tensor.shape[-2:]) for tensor in tensors]
    size = torch.tensor([square, square]) if square > 0 else torch.stack(sizes).amax(dim=0)
    if divisor > 1:
        size = (size + divisor - 1).div(divisor, rounding_mode="floor") * divisor
    height, width = size[0], size[1]
    if len(tensors) == 1:
        padding = (0, width - sizes[0][1], 0, height - sizes[0][0])
        return ImageList(F.pad(tensors[0], padding, value=pad_value)[None], sizes)
    batch = tensors[0].new_full((len(tensors), *tensors[0].shape[:-2], height, width), pad_value)
    return ImageList(_filled(tensors, batch), sizes)
