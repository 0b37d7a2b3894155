"""Helpers for tests of models: random boxes, a real image, models without weights, comparison of instances."""

import io
import os
import tempfile
import unittest

import numpy as np
import torch

from detectron2 import model_zoo
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.export import STABLE_ONNX_OPSET_VERSION
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import TORCH_VERSION
from detectron2.utils.left_out import left_out

_REASON = "scripted models and custom operators of ONNX are not here"
convert_scripted_instances = left_out("convert_scripted_instances", __name__, _REASON)
register_custom_op_onnx_export = left_out("register_custom_op_onnx_export", __name__, _REASON)
unregister_custom_op_onnx_export = left_out("unregister_custom_op_onnx_export", __name__, _REASON)


def get_model_no_weights(config_path) -> torch.nn.Module:
    """A stock model with random weights, on the CPU where CUDA is missing."""
    cfg = model_zoo.get_config(config_path)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def get_sample_coco_image(tensor: bool = True) -> torch.Tensor | np.ndarray:
    """The first image of coco_2017_val_100: (3, H, W) uint8 in BGR, or (H, W, 3) as an array.

    Raises:
        unittest.SkipTest: the data set is not there.
    """
    try:
        image = read_image(DatasetCatalog.get("coco_2017_val_100")[0]["file_name"], format="BGR").copy()
    except FileNotFoundError as error:
        raise unittest.SkipTest(f"needs a part of COCO: {error}") from error
    return torch.from_numpy(image).permute(2, 0, 1).contiguous() if tensor else image


def skipIfOnCPUCI(test_item):
    """Decorates tests that are too slow for a continuous integration ($CI is set) without a GPU."""
    slow = bool(os.environ.get("CI")) and not torch.cuda.is_available()
    return unittest.skipIf(slow, "too slow on the CPU of a continuous integration")(test_item)


def random_boxes(num_boxes, max_coord=100, device="cpu") -> torch.Tensor:
    """Boxes (N, 4), x1 y1 x2 y2, inside [0, max_coord + 1], with sides of at least 1."""
    near = torch.rand(num_boxes, 2, device=device) * (max_coord * 0.5)
    far = near.clamp(max=max_coord - 1) + 1 + torch.rand(num_boxes, 2, device=device) * (max_coord * 0.5)
    return torch.cat([near, far], dim=1)


def assert_instances_allclose(input, other, *, rtol=1e-5, msg="", size_as_tensor=False) -> None:
    """Two Instances have the same size, the same fields, and values within `rtol` of the largest one.

    Raises:
        AssertionError: they differ; names the field, after `msg`.
    """
    assert isinstance(input, Instances) and isinstance(other, Instances), f"{msg} both must be Instances"
    sizes = [torch.as_tensor(x.image_size).tolist() if size_as_tensor else x.image_size for x in (input, other)]
    assert sizes[0] == sizes[1], f"{msg} image_size differs: {sizes[0]} and {sizes[1]}"
    names = [sorted(x.get_fields()) for x in (input, other)]
    assert names[0] == names[1], f"{msg} fields differ: {names[0]} and {names[1]}"
    for name in names[0]:
        assert _close(input.get(name), other.get(name), rtol), f"{msg} field {name} differs"


def reload_script_model(module) -> torch.jit.ScriptModule:
    """A scripted module after a round trip through a file."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def reload_lazy_config(cfg):
    """A lazy config after a round trip through a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config.yaml")
        LazyConfig.save(cfg, path)
        return LazyConfig.load(path)


def has_dynamic_axes(onnx_model) -> bool:
    """Whether all dimensions of all inputs of an ONNX model have names instead of sizes."""
    inputs = onnx_model.graph.input
    return all(not dim.dim_param.isnumeric() for x in inputs for dim in x.type.tensor_type.shape.dim)


def skipIfUnsupportedMinTorchVersion(min_version: str):
    """Decorates tests that need at least this version of torch."""
    return unittest.skipUnless(min_torch_version(min_version), f"needs torch {min_version} or newer")


def skipIfUnsupportedMinOpsetVersion(min_opset_version: int, current_opset_version: int | None = None):
    """Decorates tests that need at least this version of ONNX's operators."""
    current = STABLE_ONNX_OPSET_VERSION if current_opset_version is None else current_opset_version
    return unittest.skipIf(current < min_opset_version, f"needs ONNX opset {min_opset_version} or newer")


def min_torch_version(min_version: str) -> bool:
    """Whether torch is at least "major.minor"."""
    return tuple(int(part) for part in min_version.split(".")[:2]) <= TORCH_VERSION


def _close(first, second, rtol: float) -> bool:
    if isinstance(first, Boxes):
        first, second = first.tensor, second.tensor
    if not isinstance(first, torch.Tensor):
        return first == second
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if not first.is_floating_point():
        return torch.equal(first, second)
    largest = first.abs().max().item() if first.numel() else 0.0
    return torch.allclose(first, second, rtol=rtol, atol=rtol * largest)
