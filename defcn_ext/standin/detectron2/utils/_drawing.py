"""The picture that the visualizer draws on, and the shapes it draws."""

import colorsys
from collections.abc import Sequence

import matplotlib.colors as mplc
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon, Rectangle
from scipy import ndimage

from ._generic_mask import GenericMask
from .colormap import colormap

Color = str | Sequence[float] | np.ndarray

COLORS = colormap(rgb=True, maximum=1)
LABEL_BOX = {"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"}


def color_of(i: int) -> tuple[float, float, float]:
    """The same colour for the same number; neighbours differ."""
    return tuple(COLORS[i % len(COLORS)].tolist())


class VisImage:
    """A picture to draw on through matplotlib's `ax`, whose coordinates are the pixels of `img`.

    Args:
        img: (H, W, 3) RGB, 0 to 255.
        scale: the result is this many times larger.
    """

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.fig = Figure(frameon=False)
        # A hundredth of a pixel on top, as the canvas cuts its size down to whole pixels.
        pixels = np.array([self.width, self.height]) * scale + 1e-2
        self.fig.set_size_inches(*(pixels / self.fig.get_dpi()))
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes((0.0, 0.0, 1.0, 1.0))
        self.ax.axis("off")
        self.reset_image(img)
        self.ax.autoscale(False)

    def reset_image(self, img: np.ndarray) -> None:
        """Puts `img` (H, W, 3), 0 to 255, under everything drawn so far and later."""
        self.img = img
        self.draw_image(img.astype(np.uint8))

    def draw_image(self, image: np.ndarray) -> None:
        """Draws (H, W, 3) or (H, W, 4), uint8 or float in [0, 1], over the whole picture."""
        self.ax.imshow(image, extent=(0, self.width, self.height, 0), interpolation="nearest")

    def save(self, filepath: str) -> None:
        """Writes the picture as an image file, in the format of the path's ending."""
        self.fig.savefig(filepath)

    def get_image(self) -> np.ndarray:
        """(H * scale, W * scale, 3) uint8, RGB."""
        self.canvas.draw()
        return np.array(self.canvas.buffer_rgba())[..., :3]


class Drawing:
    """Single shapes on a picture; every method returns the picture.

    Args:
        img: (H, W, 3) uint8, RGB.
        scale: the result is this many times larger, at unchanged coordinates.
    """

    def __init__(self, img: np.ndarray, scale: float = 1.0, font_size_scale: float = 1.0) -> None:
        self.output = VisImage(img, scale=scale)
        height, width = img.shape[:2]
        self._default_font_size = max((height * width) ** 0.5 / 90, 10 / scale) * font_size_scale

    def get_output(self) -> VisImage:
        return self.output

    def draw_text(
        self,
        text: str,
        position: Sequence[float],
        *,
        font_size: float | None = None,
        color: Color = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Writes light text on a dark ground, below `position` (x, y)."""
        font_size = self._default_font_size if font_size is None else font_size
        x, y = position
        self.output.ax.text(
            x,
            y,
            text,
            size=font_size * self.output.scale,
            family="sans-serif",
            bbox=LABEL_BOX,
            verticalalignment="top",
            horizontalalignment=horizontal_alignment,
            color=_with_lightness(color, at_least=0.7),
            zorder=10,
            rotation=rotation,
        )
        return self.output

    def draw_box(
        self, box_coord: Sequence[float], alpha: float = 0.5, edge_color: Color = "g", line_style: str = "-"
    ) -> VisImage:
        """Draws the frame of a box x1, y1, x2, y2."""
        x1, y1, x2, y2 = box_coord
        frame = Rectangle(
            (x1, y1),
            x2 - x1,
            y2 - y1,
            fill=False,
            edgecolor=edge_color,
            linewidth=self._line_width(),
            alpha=alpha,
            linestyle=line_style,
        )
        self.output.ax.add_patch(frame)
        return self.output

    def draw_rotated_box_with_label(
        self,
        rotated_box: Sequence[float],
        alpha: float = 0.5,
        edge_color: Color = "g",
        line_style: str = "-",
        label: str | None = None,
    ) -> VisImage:
        """Draws a box (centre x, y, width, height, degrees counterclockwise) with a dashed top side."""
        x, y, width, height, degrees = (float(number) for number in rotated_box)
        center, angle = np.array([x, y]), np.deg2rad(degrees)
        rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        signs = np.array([[-1, 1], [-1, -1], [1, -1], [1, 1]])
        corners = signs * [width / 2, height / 2] @ rotation.T + center
        for i, (start, end) in enumerate(zip(corners, np.roll(corners, -1, axis=0))):
            color = mplc.to_rgba(edge_color, alpha)
            self.draw_line(*zip(start, end), color, linestyle="--" if i == 1 else line_style)
        if label is not None:
            self.draw_text(label, corners[1], color=edge_color, horizontal_alignment="left", rotation=degrees)
        return self.output

    def draw_circle(self, circle_coord: Sequence[float], color: Color, radius: float = 3) -> VisImage:
        """Draws a disc around x, y."""
        self.output.ax.add_patch(Circle(tuple(circle_coord), radius=radius, fill=True, color=color))
        return self.output

    def draw_line(
        self,
        x_data: Sequence[float],
        y_data: Sequence[float],
        color: Color,
        linestyle: str = "-",
        linewidth: float | None = None,
    ) -> VisImage:
        """Draws a line through points given by their x and y."""
        width = self._line_width() if linewidth is None else max(linewidth, 1) * self.output.scale
        self.output.ax.add_line(Line2D(list(x_data), list(y_data), linewidth=width, color=color, linestyle=linestyle))
        return self.output

    def draw_polygon(
        self, segment: np.ndarray, color: Color, edge_color: Color | None = None, alpha: float = 0.5
    ) -> VisImage:
        """Fills a polygon (points, 2); an edge without a colour of its own gets the fill's, opaque."""
        patch = Polygon(
            np.asarray(segment),
            fill=True,
            facecolor=mplc.to_rgba(color, alpha),
            edgecolor=mplc.to_rgba(color if edge_color is None else edge_color, 1),
            linewidth=self._line_width(),
        )
        self.output.ax.add_patch(patch)
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Color | None = None,
        *,
        edge_color: Color | None = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: float | None = 10,
    ) -> VisImage:
        """Draws a bitmap (H, W) as polygons, or pixel by pixel if it has holes, with text on its largest part.

        Args:
            area_threshold: parts of fewer pixels are left out.
        """
        color = color_of(0) if color is None else mplc.to_rgb(color)
        parts, count = ndimage.label(np.asarray(binary_mask) != 0)
        areas = np.bincount(parts.reshape(-1), minlength=count + 1)
        kept = np.flatnonzero(areas >= (area_threshold or 0))
        mask = GenericMask(np.isin(parts, kept[kept > 0]), *parts.shape)
        self._fill_mask(mask, color, edge_color, alpha)
        if text is not None and mask.area() > 0:
            self._draw_text_in_mask(text, mask.mask, color)
        return self.output

    def draw_soft_mask(
        self, soft_mask: np.ndarray, color: Color | None = None, *, text: str | None = None, alpha: float = 0.5
    ) -> VisImage:
        """Draws a mask (H, W) with values in [0, 1], which scale the opacity; text where it is above 0.5."""
        color = color_of(0) if color is None else mplc.to_rgb(color)
        soft_mask = np.asarray(soft_mask)
        self.output.draw_image(_rgba(color, soft_mask * alpha))
        if text is not None and (soft_mask > 0.5).any():
            self._draw_text_in_mask(text, soft_mask > 0.5, color)
        return self.output

    def _fill_mask(self, mask: GenericMask, color: Color, edge_color: Color | None, alpha: float) -> None:
        """Fills the outlines; pixel by pixel where that would cover a hole."""
        if mask.has_holes:
            self.output.draw_image(_rgba(color, mask.mask * alpha))
            return
        for polygon in mask.polygons:
            self.draw_polygon(polygon.reshape(-1, 2), color, edge_color, alpha)

    def _draw_text_in_mask(self, text: str, mask: np.ndarray, color: Color) -> None:
        """Writes in the middle (the median pixel) of the largest connected part of a mask with any pixel."""
        parts, count = ndimage.label(mask)
        largest = 1 + ndimage.sum_labels(np.ones(parts.shape), parts, range(1, count + 1)).argmax()
        y, x = np.median(np.argwhere(parts == largest), axis=0)
        self.draw_text(text, (x, y), color=color)

    def _line_width(self) -> float:
        return max(self._default_font_size / 4, 1) * self.output.scale


def _rgba(color: Color, opacity: np.ndarray) -> np.ndarray:
    """(H, W, 4) of one colour, with opacity (H, W)."""
    return np.dstack([np.broadcast_to(mplc.to_rgb(color), (*opacity.shape, 3)), opacity.clip(0, 1)])


def _with_lightness(color: Color, at_least: float) -> tuple[float, float, float]:
    hue, lightness, saturation = colorsys.rgb_to_hls(*mplc.to_rgb(color))
    return colorsys.hls_to_rgb(hue, max(lightness, at_least), saturation)
