"""Programs of torch.export, for torch without this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from defcn_ext.deploy.metadata import KEY

from .formats import Format, Run
from .prepare import Prepared


@Format.registered("torch")
class TorchFormat(Format):
    """`torch.export.load(path).module()`; the description lies in the extra file "defcn_ext"."""

    suffix = ".pt2"
    preprocesses = suppresses = False

    def write(self, prepared: Prepared, path: Path) -> None:
        from .recording import recorded

        torch.export.save(recorded(prepared), path, extra_files={KEY: prepared.metadata.to_json()})

    def open(self, path: Path) -> Run:
        module = torch.export.load(path).module()

        def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            with torch.no_grad():
                boxes, scores, labels = module(torch.from_numpy(pixels))
            return boxes.numpy(), scores.numpy(), labels.numpy()

        return run
