"""Masks of objects, as squares over boxes and as bitmaps of the whole image."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def paste_masks_in_image(masks: Tensor, boxes: Tensor, image_shape: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Stretches each mask over its box on an empty image.

    Args:
        masks: (R, M, M), probabilities of the square masks.
        boxes: (R, 4) or `Boxes`, in pixels of the image.
        image_shape: (height, width).
        threshold: pixels at or above it are set; if negative, the result keeps the probabilities.

    Returns:
        (R, height, width), bool; with a negative threshold uint8, 0 to 255.
    """
    assert masks.shape[-1] == masks.shape[-2], f"paste_masks_in_image: masks must be square, got {masks.shape}"
    if not isinstance(boxes, Tensor):
        boxes = boxes.tensor
    assert len(boxes) == len(masks), f"paste_masks_in_image: {len(masks)} masks but {len(boxes)} boxes"
    height, width = image_shape
    pasted = torch.zeros(
        len(masks), height, width, dtype=torch.bool if threshold >= 0 else torch.uint8, device=masks.device
    )
    chunk = _masks_per_chunk(height, width)
    for start in range(0, len(masks), chunk):
        end = start + chunk
        values = _paste(masks[start:end], boxes[start:end], height, width)
        pasted[start:end] = values >= threshold if threshold >= 0 else (values * 255).to(torch.uint8)
    return pasted


def _masks_per_chunk(height: int, width: int) -> int:
    """Bounds the sampling grid of one chunk, which has as many float pairs as the pasted masks have pixels."""
    return max(1, (1 << 26) // max(1, height * width))


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


def pad_masks(masks: Tensor, padding: int) -> tuple[Tensor, float]:
    """(R, M, M) -> (R, M + 2 * padding, M + 2 * padding) with zeros around, and how many times longer the sides are."""
    padded = F.pad(masks, (padding,) * 4)
    return padded, padded.shape[-1] / masks.shape[-1]


def scale_boxes(boxes: Tensor, scale: float) -> Tensor:
    """(R, 4) x1, y1, x2, y2 -> (R, 4), `scale` times longer sides around the same centres."""
    center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    return torch.cat([center - half * scale, center + half * scale], dim=1)


def paste_mask_in_image_old(mask: Tensor, box: Tensor, img_h: int, img_w: int, threshold: float) -> Tensor:
    """As `paste_masks_in_image`, in the coarse way of older models: the box is rounded to whole pixels.

    Args:
        mask: (M, M), probabilities.
        box: (4,) x1, y1, x2, y2; truncated to integers, of which the last belong to the box.
        threshold: pixels above it are set; if negative, the result keeps the probabilities.

    Returns:
        (img_h, img_w) uint8: 0 and 1; with a negative threshold 0 to 255.
    """
    x1, y1, x2, y2 = box.int().tolist()
    size = (max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1))
    values = np.asarray(Image.fromarray(mask.cpu().float().numpy()).resize(size, Image.Resampling.BILINEAR))
    values = values > threshold if threshold >= 0 else values * 255
    left, top = max(x1, 0), max(y1, 0)
    rows, columns = slice(top - y1, max(img_h - y1, 0)), slice(left - x1, max(img_w - x1, 0))
    inside = torch.from_numpy(values.astype(np.uint8))[rows, columns]
    pasted = torch.zeros(img_h, img_w, dtype=torch.uint8)
    pasted[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return pasted
