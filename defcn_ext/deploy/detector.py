"""A model file that looks at pictures, with numpy, Pillow and ONNX Runtime alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from .detections import Detections, fitted
from .images import as_input, read_rgb, resized, size_for
from .metadata import ModelMetadata
from .session import Session
from .tiles import Tiling, merged, tiles_of

Picture = str | Path | Image.Image | np.ndarray


class Detector:
    """A detector from a file that `defcn_ext.tools.export` wrote.

        detector = Detector("defcn.onnx")
        for found in detector(["street.jpg", "crowd.jpg"]):
            found.boxes, found.scores, found.names

    Args:
        path: of the .onnx file.
        threads: of the CPU; 0 for as many as there are cores.
        providers: of ONNX Runtime, those of them that are there; the CPU's alone by default.

    Raises:
        ModelFileError: no such file, or none that can be used.
    """

    def __init__(self, path: str | Path, *, threads: int = 0, providers: Sequence[str] = ("CPUExecutionProvider",)):
        self.session = Session(path, threads=threads, providers=providers)

    @property
    def metadata(self) -> ModelMetadata:
        """What the file says of itself."""
        return self.session.metadata

    @overload
    def __call__(self, pictures: Picture) -> Detections: ...

    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Detections]: ...

    def __call__(self, pictures: Picture | Sequence[Picture]) -> Detections | list[Detections]:
        """What is in a picture, or in each of a list, which goes through the file as one batch.

        Pictures of a batch may differ in size: smaller ones are padded, as in training. GroupNorm sees the padding, so
        that scores differ a little from those of the picture alone.

        Args:
            pictures: a file's path, a Pillow image, or an array (H, W, 3), RGB, uint8; or a list of these.

        Raises:
            ModelFileError: a picture cannot be read, or an array has another shape or type.
        """
        if isinstance(pictures, (list, tuple)):
            return self._batch([read_rgb(x) for x in pictures])
        return self._batch([read_rgb(pictures)])[0]

    def tiled(self, picture: Picture, tiling: Tiling | None = None) -> Detections:
        """What is in a large picture, tile by tile and as a whole, merged as `deploy/tiles.py` says."""
        pixels, tiling = read_rgb(picture), tiling or Tiling()
        found = [(tile, self(tile.cut(pixels))) for tile in tiles_of(pixels.shape[:2], tiling)]
        return merged(found, pixels.shape[:2], tiling, self.metadata.top_k)

    def _batch(self, pictures: list[np.ndarray]) -> list[Detections]:
        if self.metadata.input == "image":
            return [self._whole(x) for x in pictures]
        number = self.metadata.batch or max(1, len(pictures))
        return [x for part in _parts(pictures, number) for x in self._resized(part, number)]

    def _whole(self, picture: np.ndarray) -> Detections:
        size = picture.shape[:2]
        (row,) = zip(*self.session.run(np.ascontiguousarray(picture)))
        return fitted(*row, size, size, self.metadata.class_names)

    def _resized(self, pictures: list[np.ndarray], number: int) -> list[Detections]:
        metadata = self.metadata
        seen = [resized(x, size_for(*x.shape[:2], metadata)) for x in pictures]
        inputs = as_input(seen, metadata)
        if metadata.batch:  # a file of a fixed batch gets what is lacking
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], number - len(inputs), axis=0)])
        rows = zip(*self.session.run(inputs))
        return [
            fitted(*row, small.shape[:2], picture.shape[:2], metadata.class_names)
            for row, small, picture in zip(rows, seen, pictures)
        ]


def _parts(items: Iterable[np.ndarray], number: int) -> Iterator[list[np.ndarray]]:
    part: list[np.ndarray] = []
    for item in items:
        part.append(item)
        if len(part) == number:
            yield part
            part = []
    if part:
        yield part
