"""Augmentations: random policies that look at an input and decide on a transform."""

from __future__ import annotations

import inspect
import pprint
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = [
    "Augmentation",
    "AugmentationList",
    "AugInput",
    "TransformGen",
    "apply_transform_gens",
    "StandardAugInput",
    "apply_augmentations",
]


def _names_of_inputs(augmentation: Augmentation) -> tuple[str, ...]:
    """The attributes of the input that `get_transform` asks for by the names of its arguments.

    Raises:
        TypeError: an argument is variadic or has a default, so that its name says nothing.
    """
    if augmentation.input_args is not None:
        return augmentation.input_args
    parameters = list(inspect.signature(augmentation.get_transform).parameters.values())
    for parameter in parameters:
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            raise TypeError(
                f"{type(augmentation).__name__}.get_transform: cannot tell what '{parameter}' should get; "
                "use plain arguments named like attributes of the input, or set input_args or __call__"
            )
    # One argument is the image, whatever its author called it.
    return tuple(parameter.name for parameter in parameters) if len(parameters) > 1 else ("image",)


class Augmentation:
    """A policy that gives a `Transform` for an input.

    A child defines `get_transform(self, image)`, or with several arguments named after attributes of the
    `AugInput` (`image`, `boxes`, `sem_seg`). All randomness happens there, from numpy's global generator.
    """

    input_args: tuple[str, ...] | None = None

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Turns the `locals()` of a constructor into attributes."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args: Any) -> Transform:
        raise NotImplementedError

    def __call__(self, aug_input: AugInput) -> Transform:
        """Changes `aug_input` in place and returns the transform that did it.

        Raises:
            AttributeError: the input lacks something that the policy needs.
            AssertionError: `get_transform` did not return a transform.
        """
        transform = self.get_transform(*(getattr(aug_input, name) for name in _names_of_inputs(self)))
        assert isinstance(transform, (Transform, TransformList)), (
            f"{type(self).__name__}.get_transform must return a Transform, got {transform!r}"
        )
        aug_input.transform(transform)
        return transform

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: Any = None) -> Any:
        """A uniform draw from [low, high), or from [0, low) with one bound."""
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, () if size is None else size)

    def __repr__(self) -> str:
        """The constructor call, without the arguments that were left at their defaults."""
        shown = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name == "self":
                continue
            if name not in self.__dict__:
                return super().__repr__()
            value = self.__dict__[name]
            if value is not parameter.default:  # by identity, as in Detectron2: what was given is shown
                text = pprint.pformat(value)
                shown.append(f"{name}={'...' if chr(10) in text else text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class _FixedAugmentation(Augmentation):
    """A transform as a policy without choice."""

    def __init__(self, tfm: Transform):
        self.tfm = tfm

    def get_transform(self, *args: Any) -> Transform:
        return self.tfm

    def __call__(self, aug_input: AugInput) -> Transform:
        aug_input.transform(self.tfm)
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)

    __str__ = __repr__


def _as_augmentation(tfm_or_aug: Augmentation | Transform) -> Augmentation:
    if isinstance(tfm_or_aug, Augmentation):
        return tfm_or_aug
    assert isinstance(tfm_or_aug, (Transform, TransformList)), f"neither a Transform nor an Augmentation: {tfm_or_aug}"
    return _FixedAugmentation(tfm_or_aug)


class AugmentationList(Augmentation):
    """Augmentations one after the other, each seeing the result of those before."""

    def __init__(self, augs: Sequence[Augmentation | Transform]):
        self.augs = [_as_augmentation(aug) for aug in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"

    __str__ = __repr__


class AugInput:
    """What augmentations look at and change.

    Args:
        image: (H, W) or (H, W, C), uint8 in 0..255 or floats.
        boxes: (n, 4) absolute x1, y1, x2, y2.
        sem_seg: (H, W) uint8.

    Raises:
        AssertionError: the image is not such an array.
    """

    def __init__(self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None):
        assert isinstance(image, np.ndarray), f"image must be a numpy array, got {type(image)}"
        assert image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating), (
            f"image must be uint8 or floating point, got {image.dtype}"
        )
        assert image.ndim in (2, 3), f"image must have 2 or 3 axes, got shape {image.shape}"
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Applies a transform to everything that is there."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: list[Augmentation | Transform]) -> TransformList:
        return AugmentationList(augmentations)(self)


def apply_augmentations(augmentations: list[Augmentation | Transform], inputs: np.ndarray | AugInput):
    """Applies augmentations to an image or an input.

    Returns:
        The changed image or input, and the `TransformList` that changed it.
    """
    if isinstance(inputs, np.ndarray):
        wrapped = AugInput(inputs)
        transforms = wrapped.apply_augmentations(augmentations)
        return wrapped.image, transforms
    return inputs, inputs.apply_augmentations(augmentations)


# Names of older Detectron2 versions that are still in use.
TransformGen = Augmentation
StandardAugInput = AugInput
apply_transform_gens = apply_augmentations
