"""Whether a file says what the model says that it was made from."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from defcn_ext.deploy.images import as_input, resized, size_for
from defcn_ext.meta_arch import DeFCN

from .formats import Run
from .options import ExportOptions
from .prepare import Prepared

RANDOM_SIZES = (0.6, 1.0)  # of the shorter side that the config asks for, where any size will do


@dataclass(frozen=True)
class Limits:
    """What counts as equal: boxes in pixels of the input, scores, and the share of detections without a partner."""

    boxes: float
    scores: float
    share: float


EQUAL = Limits(0.1, 1e-3, 0.0)
RESIZED = Limits(1.0, 0.02, 0.02)  # where the file resizes: a grey level of a few pixels is another


def limits_of(options: ExportOptions) -> Limits:
    """What an export with these options must keep to."""
    return RESIZED if options.preprocess else EQUAL


class ParityError(ValueError):
    """A file that differs from its model; the message says by how much."""


@dataclass(frozen=True)
class Parity:
    """Detections of a model beside those of its file.

    Attributes:
        images: how many were compared.
        detections: how many the model has there, all of them.
        boxes: largest difference of a side, pixels of the input.
        scores: largest difference of a score.
        moved: how many stand at another place in the order.
        lacking: how many have no partner, on either side; those at the threshold, or at the cut, left out.
    """

    images: int = 0
    detections: int = 0
    boxes: float = 0.0
    scores: float = 0.0
    moved: int = 0
    lacking: int = 0

    def __add__(self, other: Parity) -> Parity:
        return Parity(
            self.images + other.images,
            self.detections + other.detections,
            max(self.boxes, other.boxes),
            max(self.scores, other.scores),
            self.moved + other.moved,
            self.lacking + other.lacking,
        )

    def __str__(self) -> str:
        return (
            f"{self.images} images, {self.detections} detections; largest difference: boxes {self.boxes:.2g} px, "
            f"scores {self.scores:.2g}; {self.moved} in another order, {self.lacking} without a partner"
        )

    def check(self, limits: Limits) -> None:
        """
        Raises:
            ParityError: more differs than may.
        """
        if self.lacking > limits.share * self.detections:
            raise ParityError(f"the file is not the model: {self}")


Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes (M, 4), scores (M,), labels (M,), decreasing


class Reference:
    """The detector itself, with its own inference, as far as the options change that."""

    def __init__(self, model: DeFCN, options: ExportOptions, top_k: int):
        self.model = copy.deepcopy(model).cpu().float().eval()
        self.model.nms, self.model.compare_nms = options.with_nms, False
        one_class = options.one_class or self.model.inference.one_class_per_point
        changes = {"detections_per_image": top_k, "one_class_per_point": one_class}
        self.model.inference = replace(self.model.inference, **changes)

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> list[Found]:
        """(N, C, H, W) images, as the graph takes them."""
        return [_found(x) for x in self.model([{"image": torch.from_numpy(x)} for x in images])]

    @torch.no_grad()
    def whole(self, picture: np.ndarray, resize: tuple[int, int]) -> list[Found]:
        """(H, W, 3) uint8 RGB, resized as in an evaluation."""
        from detectron2.data import transforms as T

        pixels = picture if self.model.input_format == "RGB" else picture[..., ::-1]
        enlarged = T.ResizeShortestEdge(resize[0], resize[1]).get_transform(pixels).apply_image(pixels)
        image = torch.from_numpy(enlarged.transpose(2, 0, 1).copy())
        return [_found(x) for x in self.model([{"image": image, "height": len(picture), "width": picture.shape[1]}])]


def _found(result: dict) -> Found:
    found = result["instances"]
    return found.pred_boxes.tensor.numpy(), found.scores.numpy(), found.pred_classes.numpy()


def compare_file(model: DeFCN, prepared: Prepared, run: Run, pictures: Iterable[np.ndarray]) -> Parity:
    """Runs model and file on the same pictures, in random sizes where the file takes any, and as batches.

    Args:
        pictures: (H, W, 3) uint8 RGB.
    """
    options, metadata = prepared.options, prepared.metadata
    reference = Reference(model, options, metadata.top_k)
    rng, total = np.random.default_rng(0), Parity()
    for picture in pictures:
        if options.preprocess:
            expected, inputs = reference.whole(picture, metadata.resize), picture
        else:
            inputs = _batch(picture, prepared, rng)
            expected = reference(inputs)
        for theirs, ours in zip(expected, zip(*run(inputs)), strict=True):
            total += compare(theirs, ours, limits_of(options), metadata.score_thresh, metadata.top_k)
    return total


def _batch(picture: np.ndarray, prepared: Prepared, rng: np.random.Generator) -> np.ndarray:
    """The picture and its mirror image, in turn."""
    metadata = prepared.metadata
    rows, columns = size_for(*picture.shape[:2], metadata)
    if metadata.size is None:
        share = rng.uniform(*RANDOM_SIZES)
        rows, columns = max(32, round(rows * share)), max(32, round(columns * share))
    seen = resized(picture, (rows, columns))
    return as_input([seen if n % 2 == 0 else seen[:, ::-1] for n in range(metadata.batch or 2)], metadata)


def compare(expected: Found, ours: Sequence[np.ndarray], limits: Limits, threshold: float, top_k: int) -> Parity:
    """The detections of one image; those of a file end where its scores are 0."""
    boxes, scores, labels = (x[ours[1] > 0] for x in ours)
    partner = _partners(expected, (boxes, scores, labels), limits)
    paired = [(i, j) for i, j in enumerate(partner) if j is not None]
    alone = [expected[1][i] for i, j in enumerate(partner) if j is None]
    alone += [scores[j] for j in set(range(len(scores))) - {j for _, j in paired}]
    lowest = [threshold]  # where a small difference decides whether there is a detection at all
    lowest += [float(x[-1]) for x in (expected[1], scores) if len(x) >= top_k]
    lacking = [x for x in alone if all(abs(x - limit) > limits.scores for limit in lowest)]
    return Parity(
        images=1,
        detections=len(expected[1]),
        boxes=max((float(np.abs(expected[0][i] - boxes[j]).max()) for i, j in paired), default=0.0),
        scores=max((float(abs(expected[1][i] - scores[j])) for i, j in paired), default=0.0),
        moved=sum(i != j for i, j in paired),
        lacking=len(lacking),
    )


def _partners(expected: Found, ours: Found, limits: Limits) -> list[int | None]:
    """For each detection the one of the file of the same class and nearly the same box and score, or None."""
    free, found = np.ones(len(ours[1]), dtype=bool), []
    for box, score, label in zip(*expected):
        fits = free & (ours[2] == label) & (np.abs(ours[1] - score) <= limits.scores)
        apart = np.where(fits, np.abs(ours[0] - box).max(axis=1, initial=0.0), np.inf)
        best = int(apart.argmin()) if len(apart) else -1
        if best < 0 or apart[best] > limits.boxes:
            found.append(None)
            continue
        free[best] = False
        found.append(best)
    return found
