"""Scenes of "Quick crowd": upright figures that hide one another, as CrowdHuman annotates people. See
prepare_quick_crowd.py.

A figure is a head, a trunk and two legs. Its full box may be hidden for the most part, and may leave the image. As in
`quick_scene`, only arithmetic that is the same on every machine decides which pixel belongs to whom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from quick_scene import Canvas, visible_box

REFERENCE_SIZE = 160  # lengths below are pixels where the image height is this, and scale with it
HEIGHTS = (30.0, 110.0)
MIN_VISIBLE = 0.25  # of a figure's pixels, the part outside the image included
IGNORED_BELOW = 0.32  # figures of which less is seen carry "ignore", as annotators were unsure
CROWD_HEIGHTS = (10.0, 16.0)  # figures of far crowds, which are not annotated one by one
POSTER_EVERY = 3  # one image in so many has a figure on a poster: person-like, tagged "mask"
CROWD_EVERY = 4
EMPTY_EVERY = 40
NEIGHBOURS = (0.35, 1.1)  # distance of figures in a group, in widths


@dataclass
class Figure:
    """One person before occlusion, in pixels: middle, top, height, half width, and how far the feet stand apart."""

    x: float
    top: float
    height: float
    half: float
    stride: float

    @property
    def y(self) -> float:
        return self.top + 0.5 * self.height

    @property
    def radius(self) -> float:
        return 0.5 * self.height

    @property
    def head_radius(self) -> float:
        return 0.085 * self.height

    def extent(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of the whole figure."""
        return self.x - self.half, self.top, self.x + self.half, self.top + self.height

    def head(self) -> tuple[float, float, float, float]:
        r = self.head_radius
        return self.x - r, self.top, self.x + r, self.top + 2 * r

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance to the outline in pixels, negative inside (a lower bound near corners)."""
        h, dx, dy = self.height, np.abs(x - self.x), y - self.top
        from_head = dy - self.head_radius
        head = np.sqrt(dx * dx + from_head * from_head) - self.head_radius
        trunk = np.maximum(dx - self.half, np.abs(dy - 0.37 * h) - 0.2 * h)
        legs = np.maximum(np.abs(dx - self.stride) - 0.32 * self.half, np.abs(dy - 0.77 * h) - 0.23 * h)
        return np.minimum(np.minimum(head, trunk), legs)


class CrowdCanvas(Canvas):
    """A canvas on which figures may hide one another further, and may stand partly outside."""

    def __init__(self, rng: np.random.RandomState, height: int, width: int, scale: float):
        super().__init__(rng, height, width, scale)
        self.figures: list[Figure] = []
        self.areas: list[int] = []

    def try_place(self, figure: Figure) -> bool:
        """Paints the figure in front, unless it or one behind it would show less than MIN_VISIBLE."""
        placed = self._window(figure)
        if placed is None:
            return False
        window, distance, full = placed
        owner = self.owner.copy()
        owner[window][distance < 0] = len(self.figures)
        shown = np.bincount(owner.ravel() + 1, minlength=len(self.figures) + 2)[1:]
        if any(s < MIN_VISIBLE * f for s, f in zip(shown, [*self.areas, full])):
            return False
        self.owner = owner
        self.figures.append(figure)
        self.areas.append(full)
        self._dress(figure, window, distance)
        return True

    def paint_unowned(self, figure: Figure, strength: float) -> bool:
        """Paints a figure that is nobody's, mixed with what is there; what is painted later may cover it."""
        placed = self._window(figure)
        if placed is None:
            return False
        window, distance, _ = placed
        if (self.owner[window][distance < 0] >= 0).any():
            return False
        before = self.pixels[window].copy()
        self._dress(figure, window, distance)
        self.pixels[window] = before + strength * (self.pixels[window] - before)
        return True

    def _window(self, figure: Figure) -> tuple[tuple[slice, slice], np.ndarray, int] | None:
        """Where to paint, the distance there, and the area of the figure, the part outside included."""
        x1, y1, x2, y2 = figure.extent()
        left, top = math.floor(x1) - 2, math.floor(y1) - 2
        ys, xs = np.mgrid[top : math.ceil(y2) + 2, left : math.ceil(x2) + 2] + 0.5
        distance = figure.distance(xs, ys)
        full = int((distance < 0).sum())
        inside = (slice(max(0, -top), max(0, self.height - top)), slice(max(0, -left), max(0, self.width - left)))
        distance = distance[inside]
        if not (distance < 0).any():
            return None
        window = (
            slice(max(0, top), max(0, top) + distance.shape[0]),
            slice(max(0, left), max(0, left) + distance.shape[1]),
        )
        return window, distance, full

    def _dress(self, figure: Figure, window: tuple[slice, slice], distance: np.ndarray) -> None:
        dx, dy = self.x[window] - figure.x, self.y[window] - figure.y
        self._paint(figure, window, distance, dx, dy)
        # A head of another colour than the clothes, so that one person can be told from the next.
        x1, y1, x2, y2 = figure.head()
        from_head = np.sqrt((dx + figure.x - 0.5 * (x1 + x2)) ** 2 + (dy + figure.y - 0.5 * (y1 + y2)) ** 2)
        alpha = np.clip(0.5 - (from_head - 0.9 * figure.head_radius), 0, 1)[..., None] * (distance < 1)[..., None]
        skin = self.rng.uniform(0.35, 1.0) * np.array([225.0, 180.0, 150.0])
        self.pixels[window] = self.pixels[window] * (1 - alpha) + skin * alpha


def make_figure(rng: np.random.RandomState, x: float, top: float, height: float) -> Figure:
    half = 0.5 * height * rng.uniform(0.36, 0.46)
    return Figure(x, top, height, half, stride=half * rng.uniform(0.35, 0.65))


def add_far_crowd(canvas: CrowdCanvas) -> dict | None:
    """Rows of tiny figures behind everything: one ignored box about them all."""
    rng, scale = canvas.rng, canvas.scale
    width, rows = int(rng.uniform(0.2, 0.45) * canvas.width), 2
    left, top = rng.uniform(0, canvas.width - width), rng.uniform(0.05, 0.3) * canvas.height
    bottoms = []
    for row in range(rows):
        x = left + 3 * scale
        while x < left + width - 3 * scale:
            height = scale * rng.uniform(*CROWD_HEIGHTS)
            figure = make_figure(rng, x, top + 7 * scale * row, height)
            canvas.paint_unowned(figure, 0.8)
            bottoms.append(figure.extent()[3])
            x += scale * rng.uniform(4, 8)
    return mask_entry([left, top, width, max(bottoms) - top]) if bottoms else None


def add_poster(canvas: CrowdCanvas) -> dict | None:
    """A faint figure, which is no person: an ignored box."""
    rng = canvas.rng
    height = canvas.scale * rng.uniform(30, 60)
    figure = make_figure(rng, rng.uniform(0, canvas.width), rng.uniform(0, canvas.height - height), height)
    if not canvas.paint_unowned(figure, 0.5):
        return None
    x1, y1, x2, y2 = figure.extent()
    return mask_entry([x1, y1, x2 - x1, y2 - y1])


def add_group(canvas: CrowdCanvas, members: int) -> None:
    """Figures of about one size, side by side, the later ones in front and lower."""
    rng = canvas.rng
    low, high = (canvas.scale * h for h in HEIGHTS)
    # More small than large ones: log-uniform, rounded to what every machine's power function gives.
    height = round(low * (high / low) ** rng.random_sample(), 3)
    x, foot = rng.uniform(0, canvas.width), rng.uniform(0.5, 1.12) * canvas.height
    placed = 0
    for _ in range(4 * members):
        tall = min(high, max(low, height * rng.uniform(0.85, 1.15)))
        if canvas.try_place(make_figure(rng, x, foot - tall, tall)):
            placed += 1
        if placed == members:
            return
        side = 1 if rng.random_sample() < 0.5 else -1
        x += side * 0.42 * tall * rng.uniform(*NEIGHBOURS)
        foot += 0.05 * tall * rng.random_sample()


def mask_entry(box: list[float]) -> dict:
    whole = integers(box)
    return {"tag": "mask", "hbox": whole, "vbox": whole, "fbox": whole, "head_attr": {}, "extra": {"ignore": 1}}


def integers(box: list[float]) -> list[int]:
    """x, y, w, h as the official files have them: whole pixels."""
    x1, y1 = math.floor(box[0] + 0.5), math.floor(box[1] + 0.5)
    return [x1, y1, max(1, math.floor(box[0] + box[2] + 0.5) - x1), max(1, math.floor(box[1] + box[3] + 0.5) - y1)]


def person_entry(canvas: CrowdCanvas, index: int) -> dict:
    figure = canvas.figures[index]
    mask = canvas.owner == index
    vx1, vy1, vx2, vy2 = visible_box(mask)
    x1, y1, x2, y2 = figure.extent()
    hx1, hy1, hx2, hy2 = figure.head()
    hidden = mask.sum() < IGNORED_BELOW * canvas.areas[index]
    seen = canvas.owner[max(0, int(hy1)) : max(0, int(hy2) + 1), max(0, int(hx1)) : max(0, int(hx2) + 1)] == index
    extra = {"box_id": index, "occ": int(mask.sum() < canvas.areas[index])}
    if hidden:
        extra["ignore"] = 1
    return {
        "tag": "person",
        "hbox": integers([hx1, hy1, hx2 - hx1, hy2 - hy1]),
        "head_attr": {"ignore": int(not seen.any()), "occ": int(not seen.all()), "unsure": 0},
        "vbox": [vx1, vy1, vx2 - vx1, vy2 - vy1],
        "fbox": integers([x1, y1, x2 - x1, y2 - y1]),
        "extra": extra,
    }


def draw(seed: int, split: int, index: int, size: int) -> tuple[np.ndarray, list[dict]]:
    """Image `index` of a split: uint8 (H, W, 3) and its `gtboxes`."""
    rng = np.random.RandomState([seed, split, index, 1])  # the last number parts these scenes from Quick's
    width = int(size * (1.0, 1.25, 1.5)[rng.randint(3)])
    canvas = CrowdCanvas(rng, size, width, size / REFERENCE_SIZE)
    entries: list[dict | None] = []
    if (index + 1) % EMPTY_EVERY:
        if index % CROWD_EVERY == 0:
            entries.append(add_far_crowd(canvas))
        if index % POSTER_EVERY == 0:
            entries.append(add_poster(canvas))
        for _ in range(rng.randint(2, 6)):
            add_group(canvas, members=(1, 2, 3, 4, 5, 6)[rng.randint(6)])
    people = [person_entry(canvas, i) for i in range(len(canvas.figures))]
    return canvas.finish(), people + [entry for entry in entries if entry is not None]
