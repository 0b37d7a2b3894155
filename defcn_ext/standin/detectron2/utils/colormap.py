"""Colours that can be told apart, without a table: hues a golden ratio apart, in three shades."""

import colorsys

import numpy as np

__all__ = ["colormap", "random_color", "random_colors"]

NUM_COLORS = 80

GOLDEN_RATIO = (5**0.5 - 1) / 2
SHADES = ((0.95, 1.0), (0.6, 0.95), (1.0, 0.7))  # saturation, value


def colormap(rgb: bool = False, maximum: float = 255) -> np.ndarray:
    """(80, 3) float32 colours in [0, maximum], BGR unless `rgb`; `maximum` is 255 or 1."""
    assert maximum in (255, 1), f"maximum must be 255 or 1, got {maximum}"
    colors = [colorsys.hsv_to_rgb(i * GOLDEN_RATIO % 1, *SHADES[i % len(SHADES)]) for i in range(NUM_COLORS)]
    colors = np.asarray(colors, dtype=np.float32) * maximum
    return colors if rgb else colors[:, ::-1]


def random_color(rgb: bool = False, maximum: float = 255) -> np.ndarray:
    """(3,), one of `colormap`, drawn with numpy's global generator."""
    return colormap(rgb, maximum)[np.random.randint(NUM_COLORS)]


def random_colors(N: int, rgb: bool = False, maximum: float = 255) -> list[np.ndarray]:
    """N of `colormap`, all different as long as there are enough."""
    order = np.concatenate([np.random.permutation(NUM_COLORS) for _ in range(-(-N // NUM_COLORS))] or [[]])
    return [colormap(rgb, maximum)[int(i)] for i in order[:N]]
