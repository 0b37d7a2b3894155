import torch
from torch import Tensor
from torch.nn import functional as F

# Bounds the sampling grid of one chunk, which has as many float pairs as the pasted masks have pixels.
PIXELS_PER_CHUNK = 2**26


def paste_masks_in_image(
    masks: Tensor, boxes: Tensor, image_shape: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Stretches each mask over its box on an empty image.

    Args:
        masks: (R, M, M), probabilities of the square masks.
        boxes: (R, 4) or `Boxes`, in pixels of the image.
        image_shape: (height, width).
        threshold: pixels at or above it are set; if negative, the result keeps the probabilities.

    Returns:
        (R, height, width), bool; with a negative threshold uint8, 0 to 255.
    """
    assert masks.shape[-1] == masks.shape[-2], f"paste_masks_in_image: masks must be square, got {tuple(masks.shape)}"
    boxes = getattr(boxes, "tensor", boxes)
    assert len(boxes) == len(masks), f"paste_masks_in_image: {len(masks)} masks but {len(boxes)} boxes"
    height, width = image_shape
    pasted = masks.new_zeros((len(masks), height, width), dtype=torch.bool if threshold >= 0 else torch.uint8)
    chunk = max(1, PIXELS_PER_CHUNK // max(1, height * width))
    for start in range(0, len(masks), chunk):
        part = slice(start, start + chunk)
        values = _paste(masks[part], boxes[part], height, width)
        pasted[part] = values >= threshold if threshold >= 0 else (values * 255).to(torch.uint8)
    return pasted


def _paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """(R, M, M) masks, (R, 4) boxes -> (R, height, width) values, sampled at pixel centres; 0 outside the box."""
    masks = masks if masks.is_floating_point() else masks.float()
    x1, y1, x2, y2 = boxes.to(masks.dtype).unbind(dim=1)
    xs = torch.arange(width, device=boxes.device, dtype=masks.dtype) + 0.5
    ys = torch.arange(height, device=boxes.device, dtype=masks.dtype) + 0.5
    # -1 and 1 are the outer edges of the mask's border pixels.
    xs = (xs - x1[:, None]) / (x2 - x1)[:, None] * 2 - 1
    ys = (ys - y1[:, None]) / (y2 - y1)[:, None] * 2 - 1
    grid = torch.stack([xs[:, None, :].expand(-1, height, -1), ys[:, :, None].expand(-1, -1, width)], dim=-1)
    grid = grid.nan_to_num(nan=-2.0, posinf=2.0, neginf=-2.0)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
