"""Augmentations that change colours. Random draws come from numpy's global generator."""

from __future__ import annotations

from typing import Any

import numpy as np
from fvcore.transforms.transform import BlendTransform, Transform

from detectron2.data.transforms.augmentation import Augmentation

__all__ = ["RandomBrightness", "RandomContrast", "RandomSaturation", "RandomLighting"]

# Rec. 601 luma of red, green, blue.
LUMA = (0.299, 0.587, 0.114)

# Principal components of ImageNet's RGB values (Krizhevsky et al. 2012): components in columns, and their variances.
IMAGENET_COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
IMAGENET_VARIANCES = np.array([0.2175, 0.0188, 0.0045])


class _RandomBlend(Augmentation):
    """Mixes the image with something else, keeping a drawn weight of it; above 1 moves away from the other."""

    def __init__(self, intensity_min: float, intensity_max: float):
        self._init(locals())

    def _other(self, image: np.ndarray) -> Any:
        raise NotImplementedError

    def get_transform(self, image: np.ndarray) -> Transform:
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=self._other(image), src_weight=1 - weight, dst_weight=weight)


class RandomBrightness(_RandomBlend):
    """Mixes with black."""

    def _other(self, image: np.ndarray) -> Any:
        return 0


class RandomContrast(_RandomBlend):
    """Mixes with the mean of the image."""

    def _other(self, image: np.ndarray) -> Any:
        return image.mean()


class RandomSaturation(_RandomBlend):
    """Mixes an RGB image with its gray version."""

    def _other(self, image: np.ndarray) -> np.ndarray:
        assert image.shape[-1] == 3, f"RandomSaturation needs RGB images, got shape {image.shape}"
        return image.dot(LUMA)[:, :, None]


class RandomLighting(Augmentation):
    """Adds noise along ImageNet's principal components of colour, with standard deviation `scale`. RGB only."""

    def __init__(self, scale: float):
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        assert image.shape[-1] == 3, f"RandomLighting needs RGB images, got shape {image.shape}"
        weights = np.random.normal(scale=self.scale, size=3)
        shift = IMAGENET_COMPONENTS @ (weights * IMAGENET_VARIANCES)
        return BlendTransform(src_image=shift, src_weight=1.0, dst_weight=1.0)
