"""A prepared graph as torch.export records it."""

from __future__ import annotations

import torch

from .prepare import Prepared

# Of images of any size. Below the first a level is one cell, a constant to torch; with a most, its proofs about sizes
# are much shorter.
SIDES = {"min": 129, "max": 8192}
BATCHES = {"min": 1, "max": 1024}


def recorded(prepared: Prepared) -> torch.export.ExportedProgram:
    """The program, for the sizes and batches that are asked for."""
    options, sizes = prepared.options, {}
    if options.batch is None:
        sizes[0] = torch.export.Dim("batch", **BATCHES)
    if options.size is None:
        sizes[2] = torch.export.Dim("height", **SIDES)
        sizes[3] = torch.export.Dim("width", **SIDES)
    shapes = {"images": sizes or None}
    with torch.no_grad():
        return torch.export.export(prepared.graph, (prepared.example,), dynamic_shapes=shapes, strict=False)
