"""From the coordinates of the network input back to those of the image the user asked about."""

import torch
from torch.nn import functional as F

from detectron2.structures import Instances, ROIMasks


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Maps detections to an output size: scales and clips boxes, drops empty ones, pastes masks, scales keypoints.

    Args:
        results: detections in pixels of `results.image_size`, with `pred_boxes` or `proposal_boxes`. These boxes are
            scaled in place.
        mask_threshold: `pred_masks` (P, 1, S, S) are probabilities; above this a pixel belongs to the object.

    Returns:
        New instances of image size (output_height, output_width); masks (P, output_height, output_width) of bool.
    """
    if not torch.jit.is_tracing():  # where sizes are tensors that a graph goes on with
        output_height, output_width = int(output_height), int(output_width)
    scale_y = output_height / results.image_size[0]
    scale_x = output_width / results.image_size[1]
    results = Instances((output_height, output_width), **results.get_fields())

    boxes = next((results.get(name) for name in ("pred_boxes", "proposal_boxes") if results.has(name)), None)
    assert boxes is not None, "detections to postprocess need pred_boxes or proposal_boxes"
    boxes.scale(scale_x, scale_y)
    boxes.clip(results.image_size)
    results = results[boxes.nonempty()]

    if results.has("pred_masks"):
        masks = results.pred_masks
        masks = masks if isinstance(masks, ROIMasks) else ROIMasks(masks[:, 0])
        bitmasks = masks.to_bitmasks(results.pred_boxes, output_height, output_width, mask_threshold)
        results.pred_masks = bitmasks.tensor
    if results.has("pred_keypoints"):
        results.pred_keypoints = results.pred_keypoints * results.pred_keypoints.new_tensor([scale_x, scale_y, 1.0])
    return results


def sem_seg_postprocess(
    result: torch.Tensor, img_size: tuple[int, int], output_height: int, output_width: int
) -> torch.Tensor:
    """(C, output_height, output_width) scores of an image, from padded scores (C, H, W) of its `img_size` (h, w)."""
    unpadded = result[None, :, : img_size[0], : img_size[1]]
    return F.interpolate(unpadded, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]
