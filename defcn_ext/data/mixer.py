"""When pictures of a training are mixed, and with which: the part of `defcn_ext.data.mixing` that draws lots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetFromList
from detectron2.utils import comm

from .mixing import Sample, copy_blend, fit_together, mixup, mosaic, size_of

CENTER = (0.3, 0.7)  # where a mosaic's pictures meet, shares of its sides
MAX_TRIES = 100


class Mixer:
    """Makes a sample out of several, by the keys INPUT.MIX. Draws from numpy's global state, as augmentations do.

    Outside of `shares` it draws nothing, so that those samples are what they are without it.
    """

    @configurable
    def __init__(
        self,
        *,
        mosaic: float,
        mixup: float,
        copy_blend: float,
        shares: tuple[float, float],
        copies: int = 3,
        min_area: float = 100.0,
        blend: tuple[float, float] = (0.45, 0.55),
    ):
        """
        Args:
            mosaic, mixup, copy_blend: probabilities, one after the other.
            shares: (first, last) share of the training in which pictures are mixed, the last not included.
            copies: most objects that copy-blend takes from another picture.
            min_area: of their boxes, square pixels.
            blend: (lowest, highest) weight of the first picture in mixup and copy-blend.

        Raises:
            ValueError: a value is outside of its range.
        """
        for name, value in (("MOSAIC", mosaic), ("MIXUP", mixup), ("COPY_BLEND", copy_blend)):
            if not 0 <= value <= 1:
                raise ValueError(f"INPUT.MIX.{name}: {value}: expected a probability, a number in [0, 1]")
        if len(shares) != 2 or not 0 <= shares[0] < shares[1] <= 1:
            raise ValueError(f"INPUT.MIX.SHARES: {tuple(shares)}: expected (start, stop) with 0 <= start < stop <= 1")
        if len(blend) != 2 or not 0 < blend[0] <= blend[1] < 1:
            raise ValueError(f"INPUT.MIX.BLEND: {tuple(blend)}: expected (lowest, highest), 0 < lowest <= highest < 1")
        self._mosaic, self._mixup, self._copy_blend = mosaic, mixup, copy_blend
        self._shares, self._copies, self._min_area, self._blend = tuple(shares), copies, min_area, tuple(blend)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        mix = cfg.INPUT.MIX
        probabilities = {"mosaic": mix.MOSAIC, "mixup": mix.MIXUP, "copy_blend": mix.COPY_BLEND}
        copies = {"copies": mix.COPIES, "min_area": mix.MIN_AREA}
        return {**probabilities, **copies, "shares": mix.SHARES, "blend": mix.BLEND}

    def __call__(self, sample: Sample, another: Callable[[], Sample], progress: float) -> Sample:
        """
        Args:
            another: draws one of the training's samples.
            progress: share of the training that is over.
        """
        if not self._shares[0] <= progress < self._shares[1]:
            return sample
        for probability, mix in (
            (self._mosaic, self._in_mosaic),
            (self._mixup, self._in_mixup),
            (self._copy_blend, self._with_copies),
        ):
            if np.random.rand() < probability:
                sample = mix(sample, another)
        return sample

    def _in_mosaic(self, sample: Sample, another: Callable[[], Sample]) -> Sample:
        others = [another() for _ in range(3)]
        shares = np.random.uniform(*CENTER, 2)
        order = np.random.permutation(4)
        samples = [(sample, *others)[i] for i in order]
        if not fit_together(samples):
            return sample
        height, width = size_of(sample)
        if min(height, width) < 2:
            return sample
        center = (min(max(1, round(shares[0] * width)), width - 1), min(max(1, round(shares[1] * height)), height - 1))
        return mosaic(sample, samples, center)

    def _in_mixup(self, sample: Sample, another: Callable[[], Sample]) -> Sample:
        other, ratio, where = another(), float(np.random.uniform(*self._blend)), np.random.rand(2).tolist()
        return mixup(sample, other, ratio, where) if fit_together([sample, other]) else sample

    def _with_copies(self, sample: Sample, another: Callable[[], Sample]) -> Sample:
        other, ratio = another(), float(np.random.uniform(*self._blend))
        if not fit_together([sample, other]):
            return sample
        large = (other["instances"].gt_boxes.area() >= self._min_area).nonzero()[:, 0].numpy()
        chosen = np.random.permutation(large)[: self._copies].tolist()
        where = np.random.rand(len(chosen), 2).tolist()
        return copy_blend(sample, other, chosen, where, ratio) if chosen else sample


def build_mixer(cfg: CfgNode) -> Mixer | None:
    """None where all of INPUT.MIX's probabilities are 0.

    Raises:
        ValueError: as `Mixer`.
    """
    mixer, mix = Mixer(cfg), cfg.INPUT.MIX
    return mixer if mix.MOSAIC or mix.MIXUP or mix.COPY_BLEND else None


class MixingMapper:
    """A mapper for Detectron2's own loader and trainers, which do not tell how far the training is.

    It counts its calls: those of one loader worker times the number of workers are the samples of its process. A run
    that is resumed counts from 0 again, as its data start from the beginning.
    """

    def __init__(self, mapper: Callable[[dict], Sample | None], records: Sequence[dict], mixer: Mixer, cfg: CfgNode):
        """
        Args:
            mapper: makes a sample of a record, or None.
            records: of the training.
        """
        self._mapper, self._records, self._mixer = mapper, DatasetFromList(list(records), copy=False), mixer
        self._samples = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / comm.get_world_size()
        self._calls = 0

    def __call__(self, record: dict) -> Sample | None:
        """A sample of a record, mixed with others or not; None if the mapper returns that."""
        worker = get_worker_info()
        progress = self._calls * (worker.num_workers if worker else 1) / self._samples
        self._calls += 1
        sample = self._mapper(record)
        return None if sample is None else self._mixer(sample, self._another, progress)

    def _another(self) -> Sample:
        for _ in range(MAX_TRIES):
            sample = self._mapper(self._records[int(np.random.randint(len(self._records)))])
            if sample is not None:
                return sample
        raise RuntimeError(f"the mapper refused {MAX_TRIES} records in a row: are the image files there?")
