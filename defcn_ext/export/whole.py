"""One export from the start to the file under its final name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from defcn_ext._text import partial_of
from defcn_ext.config import UserError
from defcn_ext.deploy.metadata import ModelMetadata

from .formats import build_format
from .options import ExportOptions, Origin
from .parity import Parity, compare_file, limits_of
from .prepare import prepare

NOISE = 4  # pictures, where there are no others


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it compares.

    Attributes:
        path: of the file, or of the first of several.
        megabytes: of all its files.
        metadata: what the file says of itself.
        parity: the file beside the model.
    """

    path: Path
    megabytes: float
    metadata: ModelMetadata
    parity: Parity


def export_detector(
    model: nn.Module,
    output: str | Path,
    options: ExportOptions | None = None,
    *,
    origin: Origin | None = None,
    pictures: Sequence[np.ndarray] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Writes a detector as a file that takes pixels and gives boxes, and compares the two.

    Nothing appears under the name of the file unless it equals the model.

    Args:
        model: a `DeFCN` with its weights; it is left as it is.
        output: the file; its suffix is the format's.
        origin: class names, resize rule and config, for the description in the file.
        pictures: (H, W, 3) uint8 RGB, to compare on; seeded noise if there are none.
        tell: is called with a line now and then.

    Raises:
        UserError: what is asked for cannot be done; before anything is written.
        ParityError: the file differs from the model.
    """
    output, options, origin = Path(output), options or ExportOptions(), origin or Origin()
    asked = {"preprocess": options.preprocess, "with_nms": options.with_nms}
    format = build_format(options.format, asked, output)
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: no folder {output.parent}")
    prepared = prepare(model, options, origin)
    workshop = partial_of(output)
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir()
    try:
        tell(f"writing {output} ({options.format})")
        format.write(prepared, workshop / output.name)
        if not pictures:
            tell("no pictures to compare on: noise, on which a trained detector finds little. Give --images DIR")
        parity = compare_file(model, prepared, format.open(workshop / output.name), pictures or _noise())
        tell(f"eager against the file: {parity}")
        parity.check(limits_of(options))
        files = sorted(workshop.iterdir(), key=lambda file: file.suffix == output.suffix)  # the main one last
        size = sum(file.stat().st_size for file in files) / 1e6
        for file in files:
            os.replace(file, output.with_name(file.name))
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return Exported(output, size, prepared.metadata, parity)


def _noise() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(120, 400, size=(NOISE, 2))
    return [rng.integers(0, 256, size=(*size, 3), dtype=np.uint8) for size in sizes]
