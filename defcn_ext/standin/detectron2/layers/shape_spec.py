from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """What a module tells about a feature map before it has seen one; None is unknown.

    Attributes:
        stride: pixels of the network input per cell.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
