"""Files for OpenVINO, made from the ONNX model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from defcn_ext.deploy.metadata import KEY

from .formats import Format, Run
from .prepare import Prepared


@Format.registered("openvino")
class OpenVinoFormat(Format):
    """Two files, .xml and .bin; the description lies in the runtime information, under "defcn_ext"."""

    suffix = ".xml"
    packages = ("openvino", "onnx", "onnxscript")

    def write(self, prepared: Prepared, path: Path) -> None:
        import openvino

        from .onnx_file import onnx_file

        source = path.with_suffix(".onnx")
        source.write_bytes(onnx_file(prepared).SerializeToString())
        model = openvino.convert_model(source)
        source.unlink()
        model.set_rt_info(prepared.metadata.to_json(), KEY)
        openvino.save_model(model, path, compress_to_fp16=False)

    def open(self, path: Path) -> Run:
        import openvino

        # without these, 16-bit arithmetic where the processor has it
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.compile_model(path, "CPU", exact)

        def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            found = compiled([pixels])
            boxes, scores, labels = (np.array(found[name]) for name in ("boxes", "scores", "labels"))
            return boxes, scores, labels

        return run
