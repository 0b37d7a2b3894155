"""A model file in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from defcn_ext.deploy.metadata import KEY, ModelFileError, ModelMetadata


class Session:
    """A file as a function of its input.

    Args:
        path: of the .onnx file.
        threads: of the CPU; 0 for as many as there are cores.
        providers: of ONNX Runtime, the first that is there; the CPU's alone by default.

    Raises:
        ModelFileError: no such file, no model, or one without the description that `defcn_ext.tools.export` writes; or
            ONNX Runtime is missing.
    """

    def __init__(self, path: str | Path, *, threads: int = 0, providers: Sequence[str] = ("CPUExecutionProvider",)):
        if not Path(path).is_file():
            raise ModelFileError(f"{path}: no such file")
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ModelFileError(f"{path}: needs onnxruntime: pip install 'defcn_ext[export]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # what an optimizer leaves as it is needs no warning
        there = [name for name in providers if name in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=there)
        except Exception as error:  # the classes of what it raises have no common name
            reason = " ".join(str(error).split())[:200]
            raise ModelFileError(f"{path}: no model that ONNX Runtime can read ({reason})") from error
        content = self._session.get_modelmeta().custom_metadata_map
        self.metadata = ModelMetadata.from_json(content.get(KEY), str(path))
        self._input = self._session.get_inputs()[0].name

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (N, k, 4), scores (N, k), labels (N, k) of what `metadata.input` says."""
        boxes, scores, labels = self._session.run(["boxes", "scores", "labels"], {self._input: pixels})
        return boxes, scores, labels
