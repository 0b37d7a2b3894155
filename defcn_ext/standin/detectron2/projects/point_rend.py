"""PointRend, which is not here; Detectron2's export tool imports it for other models too."""

from detectron2.utils.left_out import left_out

add_pointrend_config = left_out("add_pointrend_config", __name__, "PointRend is not here")

__all__ = ["add_pointrend_config"]
