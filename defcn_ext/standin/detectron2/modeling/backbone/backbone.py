from abc import ABCMeta, abstractmethod

from torch import Tensor, nn

from detectron2.layers import ShapeSpec


class Backbone(nn.Module, metaclass=ABCMeta):
    """Images to named feature maps.

    A subclass either sets `_out_features` (names), `_out_feature_channels` and `_out_feature_strides` (by name), or
    overrides `output_shape`.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> the maps, by name."""

    @property
    def size_divisibility(self) -> int:
        """Height and width of the input must be multiples of this, in pixels; 0 is no constraint."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What `ImageList.from_tensors` should know when it pads the input."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
