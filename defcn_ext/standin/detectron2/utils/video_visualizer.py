"""Drawing on videos, which is not here; Detectron2's demo imports it for pictures too."""

from detectron2.utils.left_out import left_out

VideoVisualizer = left_out("VideoVisualizer", __name__, "videos are not drawn here, pictures are: see Visualizer")

__all__ = ["VideoVisualizer"]
