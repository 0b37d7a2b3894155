"""The branch of anchors: DeFCN's Anchor rule, and RetinaNet beside DATE's one-to-one branch or alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from defcn_ext.assignment import Rule
from defcn_ext.assignment.anchors import padded
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points, recording
from detectron2.config import CfgNode, configurable
from detectron2.modeling.box_regression import Box2BoxTransform

from .point import PointBranch
from .registry import BRANCH_REGISTRY

DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


@BRANCH_REGISTRY.register("anchor")
class AnchorBranch(PointBranch):
    """Predicts A boxes a cell as deltas (dx, dy, dw, dh) from anchors.

    Each anchor is a point of its own, with one box, to everything behind the predictor: assignment, losses, top-k, NMS
    and its range, the peak filter. 3D Max Filtering, the score map and the centerness, that of the anchor's middle
    (ATSS), have one channel an anchor. What anchors cannot
    do, all of it refused with the reason:

    - REFINE, which moves the sides of a point's box;
    - the losses of the types "weighted" and "dual", whose rules weight points;
    - with several a cell: the rules that choose points by place or level (FCOS, ATSS, POTO's priors and others; what
      they say names one that fits), and an auxiliary branch on top.

    Args:
        scales: sides of the anchors at ratio 1, in strides.
        sizes: the same in pixels, a list a level, finest first; given, they count instead of `scales`.
        whole_pixels: round the corners of anchors, as seen from their centre, to whole pixels (torchvision).
        ratios: their ratios of height to width; the anchors of a cell are ordered by ratio, then by scale.
        offset: where in the cell the anchors are centred, as a share of the stride.
        ignore_padding: leave cells out of the class loss that lie behind an image's own size, padded to 32 (DATE).
        options: those of `PointBranch`; `box_loss` may also be "delta_l1", the L1 distance of the deltas (RetinaNet).

    Raises:
        ValueError: an option is none of those named, or has no meaning with anchors.
    """

    box_forms = ("delta",)
    box_losses = ("giou", "iou", "delta_l1")

    @configurable
    def __init__(
        self,
        *,
        rule: Rule | str = "RetinaNet",
        scales: Sequence[float] = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)),
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        sizes: Sequence[Sequence[float]] = (),
        whole_pixels: bool = False,
        offset: float = 0.0,
        ignore_padding: bool = False,
        box_form: str = "delta",
        **options: Any,
    ):
        if not scales or not ratios or min(*scales, *ratios) <= 0:
            raise ValueError(f"ANCHORS: give positive SCALES and RATIOS, got {list(scales)} and {list(ratios)}")
        if any(len(level) != len(sizes[0]) or not level or min(level) <= 0 for level in sizes):
            raise ValueError(f"ANCHORS.SIZES: give as many positive sides for each level, got {list(sizes)}")
        self.sizes, self.whole_pixels = [list(level) for level in sizes], whole_pixels
        self.per_cell = len(self.sizes[0] if sizes else scales) * len(ratios)
        if options.get("refinement") is not None:
            raise ValueError("REFINE: made for points, not for anchors; set REFINE.ENABLED to False")
        super().__init__(rule=rule, box_form=box_form, **options)
        with torch.device("cpu"):  # no weights: also there when the model is built on the meta device
            self.shapes = _shapes(torch.tensor(sizes or scales, dtype=torch.float32), torch.tensor(ratios))
        self.offset, self.ignore_padding = offset, ignore_padding
        self.transform = Box2BoxTransform(DELTA_WEIGHTS)
        self._places: Points | None = None

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        super().add_config(node)
        node.RULE = "RetinaNet(positive=0.5, negative=0.4)"
        node.BOX_FORM = "delta"
        # Anchors of each cell: their sides in strides at ratio 1, their ratios of height to width, and where in the
        # cell they are centred, as a share of the stride (RetinaNet: nine, at the corner; DeFCN's Anchor rule: 4 and 1,
        # in the middle).
        node.ANCHORS = CfgNode()
        node.ANCHORS.SCALES = [4.0, 5.039684, 6.349604]
        node.ANCHORS.RATIOS = [0.5, 1.0, 2.0]
        node.ANCHORS.OFFSET = 0.0
        # Their sides in pixels, a list a level, instead of SCALES; and whether their corners, as seen from the centre,
        # are rounded to whole pixels (torchvision: 32, 40, 50 on P3, 64, 80, 101 on P4, ...; rounded).
        node.ANCHORS.SIZES = []
        node.ANCHORS.WHOLE_PIXELS = False
        # Leave cells behind an image's own size, padded to 32, out of the class loss (DATE-R).
        node.IGNORE_PADDING = False

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str, in_channels: int) -> dict[str, Any]:
        node = cfg.MODEL.DEFCN[name]
        anchors = node.ANCHORS
        return {
            **super().from_config(cfg, name, in_channels),
            "scales": anchors.SCALES,
            "ratios": anchors.RATIOS,
            "sizes": anchors.SIZES,
            "whole_pixels": anchors.WHOLE_PIXELS,
            "offset": anchors.OFFSET,
            "ignore_padding": node.IGNORE_PADDING,
            "box_form": "delta",
        }

    @classmethod
    def points_of_cell(cls, cfg: CfgNode, name: str) -> int:
        anchors = cfg.MODEL.DEFCN[name].ANCHORS
        return len(anchors.SIZES[0] if anchors.SIZES else anchors.SCALES) * len(anchors.RATIOS)

    @classmethod
    def _check_box_form(cls, node: CfgNode) -> None:
        """Anchors have one form, whatever the key of points says."""

    def places(self, points: Points) -> Points:
        """The anchors: A points a cell."""
        if recording():
            return self._lay(points)
        known = self._places
        same = known is not None and (known.sizes, known.cells) == (points.sizes, points.cells)
        if known is None or not same or known.xy.device != points.xy.device:
            with torch.inference_mode(False):  # they outlive this call, and training may use them
                known = self._places = self._lay(points)
        return known

    def _anchors(self, points: Points) -> Tensor:
        """(A R, 4) of all points."""
        anchors = self.places(points).anchors
        assert anchors is not None
        return anchors

    def _lay(self, points: Points) -> Points:
        shapes = self._shapes_in_strides(points)
        fill, device = bool(points.cells), points.xy.device
        return Points.with_anchors(points.sizes, points.strides, shapes, offset=self.offset, fill=fill, device=device)

    def _shapes_in_strides(self, points: Points) -> Tensor:
        """(A, 2) or (L, A, 2) width and height.

        Raises:
            ValueError: there are more levels than lists of sides.
        """
        if not self.sizes and not self.whole_pixels:
            return self.shapes
        if self.sizes and len(self.sizes) < len(points.strides):
            raise ValueError(f"ANCHORS.SIZES: {len(self.sizes)} lists for {len(points.strides)} levels")
        stride = torch.tensor(points.strides, dtype=torch.float32, device="cpu")[:, None, None]
        pixels = self.shapes[: len(stride)] if self.sizes else self.shapes * stride
        return (2 * (pixels / 2).round() if self.whole_pixels else pixels) / stride

    def decode(self, points: Points, raw: Tensor) -> Tensor:
        """Boxes (N, R, 4) from deltas (N, R, 4), whose dw and dh are cut off at log(1000 / 16)."""
        anchors = self._anchors(points).repeat(raw.shape[0], 1)
        boxes: Tensor = self.transform.apply_deltas(raw.flatten(0, 1), anchors)
        return boxes.view_as(raw)

    def box_loss_of(self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> Tensor:
        """(P,) the box loss of each pair, without weight; L1 sums the four deltas."""
        if self.box_loss != "delta_l1":
            return super().box_loss_of(points, predictions, objects, pairs)
        anchors = self._anchors(points)
        target: Tensor = self.transform.get_deltas(anchors[pairs.point % len(anchors)], objects.boxes[pairs.object])
        assert predictions.deltas is not None
        return (predictions.deltas.flatten(0, 1)[pairs.point] - target).abs().sum(-1)

    def ignored(self, points: Points, objects: Objects, pairs: Pairs) -> Tensor | None:
        """(I,) anchors of the ignore band, and those in the padding if that is asked for; none of them positive."""
        if not self.ignore_padding:
            return pairs.ignored
        places = self.places(points)
        corner = places.xy - places.offset * places.steps[places.level]
        extent = padded(objects.sizes).flip(-1)
        ignored = (corner[None] >= extent[:, None]).any(-1).flatten()
        if pairs.ignored is not None:
            ignored[pairs.ignored] = True
        ignored[pairs.point] = False  # a rule that looks at all points may choose one in the padding
        return ignored.nonzero().squeeze(1)


def _shapes(sides: Tensor, ratios: Tensor) -> Tensor:
    """(..., A) sides at ratio 1 and (B,) ratios of height to width -> (..., B A, 2) widths and heights, by ratio."""
    root = ratios.sqrt()[:, None]
    return torch.stack([sides[..., None, :] / root, sides[..., None, :] * root], dim=-1).flatten(-3, -2)
