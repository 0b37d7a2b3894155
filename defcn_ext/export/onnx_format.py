"""Files for ONNX Runtime, and for all that read ONNX."""

from __future__ import annotations

from pathlib import Path

from defcn_ext._text import whole_file

from .formats import Format, Run
from .prepare import Prepared


@Format.registered("onnx")
class OnnxFormat(Format):
    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, prepared: Prepared, path: Path) -> None:
        from .onnx_file import onnx_file

        proto = onnx_file(prepared)
        with whole_file(path) as file:
            file.write(proto.SerializeToString())

    def open(self, path: Path) -> Run:
        from defcn_ext.deploy.session import Session

        return Session(path).run
