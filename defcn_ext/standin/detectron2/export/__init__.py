"""Models as recorded graphs."""

from detectron2.utils.left_out import left_out

from .flatten import TracingAdapter
from .torchscript import dump_torchscript_IR

_REASON = "scripting of whole detectors is not here; record them with TracingAdapter and torch.jit.trace"
scripting_with_instances = left_out("scripting_with_instances", __name__, _REASON)
STABLE_ONNX_OPSET_VERSION = 16

__all__ = ["STABLE_ONNX_OPSET_VERSION", "TracingAdapter", "dump_torchscript_IR", "scripting_with_instances"]
