"""Predictions -> detections: top-k, peak filter, NMS on request."""

from .detections import Inference
from .nms import greedy_nms
from .peak_filter import PeakFilter

__all__ = ["Inference", "PeakFilter", "greedy_nms"]
