from torch import Tensor, nn
from torchvision.ops import roi_align


class ROIAlign(nn.Module):
    """Averages of bilinear samples in a grid over each region: (N, C, H, W), (B, 5) -> (B, C, *output_size).

    Args:
        output_size: (height, width) of the grid.
        spatial_scale: cells per unit of the regions.
        sampling_ratio: samples per bin and side; 0 chooses by the size of the region.
        aligned: shift by half a cell, so that regions are in continuous coordinates.
    """

    def __init__(self, output_size, spatial_scale: float, sampling_ratio: int, aligned: bool = True):
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """`rois` are rows of image index, x1, y1, x2, y2."""
        assert rois.dim() == 2 and rois.shape[1] == 5, f"ROIAlign: rois must be (B, 5), got {tuple(rois.shape)}"
        rois = rois.to(input.dtype)
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        names = ["output_size", "spatial_scale", "sampling_ratio", "aligned"]
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
