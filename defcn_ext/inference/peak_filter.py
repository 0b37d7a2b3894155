"""Detections as the peaks of the score maps, over space and levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from defcn_ext.layers import max_over_neighbours
from defcn_ext.structures import Points


@dataclass(frozen=True)
class PeakFilter:
    """3D Max Filtering of the final scores instead of NMS (DeFCN, Table 5): only the peaks of each class stay.

    >>> points = Points.from_sizes([(1, 4)], strides=[8])
    >>> PeakFilter()(torch.tensor([[0.5], [0.9], [0.2], [0.3]]), points).flatten().tolist()
    [False, True, False, True]

    The paper leaves open what the scores are; here they are the final ones, with the filter and with centerness.

    Attributes:
        tau: number of neighbouring levels taken in, half of them on each side; even.
        kernel: side of the window, in cells of the level of the point; odd.

    Raises:
        ValueError: `tau` is odd or negative, `kernel` even or below 1.
    """

    tau: int = 2
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.tau < 0 or self.tau % 2:
            raise ValueError(f"MODEL.DEFCN.PEAK_FILTER.TAU must be even and not negative, got {self.tau}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"MODEL.DEFCN.PEAK_FILTER.KERNEL must be odd and positive, got {self.kernel}")

    def __call__(self, scores: Tensor, points: Points) -> Tensor:
        """Which scores equal the maximum over the window and the neighbouring levels, resized bilinearly.

        Of several anchors a cell, each is compared with all that the window holds, those of its own cell too. Equal
        maxima all stay. At a border, of the map or of the pyramid, the window holds what exists; points in the
        padding of an image are points like all others. A score that is NaN never stays and counts as 0 for the rest.

        Args:
            scores: (R, K) final scores of one image, those below the threshold too.

        Returns:
            (R, K) bool.
        """
        known = scores.float().nan_to_num(nan=0.0)
        of_cells = known.unflatten(0, (-1, points.per_cell))  # (cells, A, K)
        levels = zip(of_cells.amax(1).split([h * w for h, w in points.sizes]), points.sizes)
        maps = [x.T.reshape(1, -1, height, width) for x, (height, width) in levels]
        highest = max_over_neighbours(maps, self.tau, self.kernel)
        everywhere = torch.cat([x.flatten(2)[0].T for x in highest])
        kept: Tensor = (of_cells == everywhere[:, None]).flatten(0, 1) & ~scores.isnan()
        return kept
