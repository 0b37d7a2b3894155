"""What an export is asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import nn

from defcn_ext.config import UserError

LEAST_SIDE = 32  # pixels of an image


@dataclass(frozen=True)
class ExportOptions:
    """
    Attributes:
        format: name of an entry of `FORMATS`.
        size: (height, width) of the images, or None for any.
        batch: number of images, or None for any.
        top_k: detections of an image; None for as many as the detector's own inference gives.
        one_class: let a point name its best class alone.
        with_nms: end in NMS, which detectors that are trained one-to-many need.
        preprocess: take one uint8 RGB image of any size, and resize it in the graph.
        exporter: "auto", or the one of torch that must be taken: "export" (torch.export) or "script" (TorchScript).

    Raises:
        UserError: values that make no sense, or none together.
    """

    format: str = "onnx"
    size: tuple[int, int] | None = None
    batch: int | None = None
    top_k: int | None = None
    one_class: bool = False
    with_nms: bool = False
    preprocess: bool = False
    exporter: str = "auto"

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < LEAST_SIDE:
            raise UserError(f"--size must be at least {LEAST_SIDE} pixels a side, got {self.size[0]} {self.size[1]}")
        if self.batch is not None and self.batch < 1:
            raise UserError(f"--batch must be at least 1, got {self.batch}")
        if self.exporter not in ("auto", "export", "script"):
            raise UserError(f"--exporter: unknown value {self.exporter!r}; known: auto, export, script")
        if self.preprocess and (self.size is not None or self.batch is not None):
            raise UserError("--preprocess takes one image of any size: leave --size and --batch out")
        if self.with_nms and self.exporter == "script":
            raise UserError("--with-nms needs torch.export: leave --exporter script out")


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, as far as its file should tell.

    Attributes:
        class_names: by label.
        resize: lengths of the shorter side and most of the longer, as INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST.
        config: the text of the config, for its digest.
        category_ids: of the classes in the data set's json, by label; () where nobody knows them.
    """

    class_names: tuple[str, ...] = ()
    resize: tuple[int, int] = (800, 1333)
    config: str = ""
    category_ids: tuple[int | str, ...] = ()

    @property
    def config_digest(self) -> str:
        return hashlib.sha256(self.config.encode()).hexdigest() if self.config else ""


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of names, types and bytes of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()
