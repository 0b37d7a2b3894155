from typing import Any

import numpy as np
import torch
from torch import Tensor


class Keypoints:
    """(G, P, 3) float32: x, y in pixels and visibility of the P keypoints of each object.

    Visibility is COCO's: 0 not labelled, 1 labelled and hidden, 2 visible.

    Attributes:
        tensor: (G, P, 3).
    """

    def __init__(self, keypoints: Tensor | np.ndarray | list[list[float]]):
        keypoints = torch.as_tensor(keypoints, dtype=torch.float32)
        assert keypoints.dim() == 3 and keypoints.shape[2] == 3, f"Keypoints: expected (G, P, 3), got {keypoints.shape}"
        self.tensor = keypoints

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def to(self, *args: Any, **kwargs: Any) -> "Keypoints":
        return type(self)(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item: int | slice | Tensor) -> "Keypoints":
        """The chosen objects; an int keeps a length of 1."""
        return Keypoints(self.tensor[[item]] if isinstance(item, int) else self.tensor[item])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self.tensor)})"

    @staticmethod
    def cat(keypoints_list: list["Keypoints"]) -> "Keypoints":
        assert len(keypoints_list) > 0, "Keypoints.cat: nothing to concatenate"
        assert all(isinstance(k, Keypoints) for k in keypoints_list), "Keypoints.cat: not all elements are Keypoints"
        return Keypoints(torch.cat([k.tensor for k in keypoints_list]))
