"""Scenes of "Quick": shapes of four classes in overlapping groups over textured backgrounds. See prepare_quick.py.

Only arithmetic that IEEE 754 fixes to the last bit decides which pixels belong to an object, and numpy's frozen
`RandomState` draws the numbers, so that scenes are the same on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np

CLASSES = ("disc", "ring", "square", "triangle")
REFERENCE_SIZE = 160  # lengths below are pixels where the image size is this, and scale with it
DIAMETERS = (14.0, 60.0)
GROUP_DIAMETER = 18.0  # smallest first member of a group
GROUP_IOU = (0.15, 0.68)
SMALL_IOU = 0.4  # the most for members below SMALL_SIDE, where a pixel matters
SMALL_SIDE = 28.0
MIN_VISIBLE = 0.5
MIN_SIDE = 6
EMPTY_EVERY = 40  # one image in so many has no objects
SHAPES_HW = ((1.0, 1.0), (1.0, 1.0), (1.0, 1.2), (1.2, 1.0))


@dataclass
class Shape:
    """One object before occlusion: class index, centre, half size and direction, in pixels."""

    label: int
    x: float
    y: float
    radius: float
    cos: float
    sin: float
    hole: float

    def extent(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of the whole shape."""
        if self.label < 2:
            offsets = [(-self.radius, -self.radius), (self.radius, self.radius)]
        else:
            offsets = self._corners()
        xs, ys = zip(*offsets)
        return self.x + min(xs), self.y + min(ys), self.x + max(xs), self.y + max(ys)

    def _corners(self) -> list[tuple[float, float]]:
        if self.label == 2:
            local = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
        else:
            local = [(0.0, -1.15), (0.995929, 0.575), (-0.995929, 0.575)]  # a regular triangle about its centroid
        return [
            (self.radius * (u * self.cos - v * self.sin), self.radius * (u * self.sin + v * self.cos)) for u, v in local
        ]

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance to the outline in pixels, negative inside (a lower bound near corners)."""
        dx, dy = x - self.x, y - self.y
        if self.label < 2:
            radial = np.sqrt(dx * dx + dy * dy)
            outside = radial - self.radius
            return outside if self.label == 0 else np.maximum(outside, self.hole * self.radius - radial)
        u, v = dx * self.cos + dy * self.sin, dy * self.cos - dx * self.sin
        if self.label == 2:
            return np.maximum(np.abs(u), np.abs(v)) - self.radius
        return np.maximum(v, 0.866025 * np.abs(u) - 0.5 * v) - 0.575 * self.radius


def box_iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def direction(rng: np.random.RandomState) -> tuple[float, float]:
    """cos and sin of a random angle; rounded, so that the last bits of the C library's do not matter."""
    angle = 2 * math.pi * rng.random_sample()
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


class Canvas:
    """An image being painted, and which object each pixel belongs to (-1: background)."""

    def __init__(self, rng: np.random.RandomState, height: int, width: int, scale: float):
        self.rng, self.height, self.width, self.scale = rng, height, width, scale
        self.y, self.x = np.mgrid[0:height, 0:width] + 0.5
        self.owner = np.full((height, width), -1, dtype=np.int32)
        self.shapes: list[Shape] = []
        self.full_areas: list[int] = []
        self.pixels = self._background()
        for _ in range(rng.randint(2, 7)):
            self._distractor()

    def _noise(self, cell: float) -> np.ndarray:
        """Smooth noise in [0, 1] of shape (height, width), bilinear between random knots `cell` pixels apart."""
        cell = max(2.0, cell * self.scale)
        knots = self.rng.random_sample((int(self.height / cell) + 2, int(self.width / cell) + 2))
        gy, gx = self.y[:, :1] / cell, self.x[:1] / cell
        iy, ix = gy.astype(int), gx.astype(int)
        fy, fx = gy - iy, gx - ix
        top = knots[iy, ix] * (1 - fx) + knots[iy, ix + 1] * fx
        bottom = knots[iy + 1, ix] * (1 - fx) + knots[iy + 1, ix + 1] * fx
        return top * (1 - fy) + bottom * fy

    def _background(self) -> np.ndarray:
        first, second = self.rng.uniform(30, 225, (2, 3))
        mix = (0.6 * self._noise(60) + 0.4 * self._noise(22))[..., None]
        pixels = first * mix + second * (1 - mix)
        return pixels + self.rng.uniform(15, 60) * (self._noise(7)[..., None] - 0.5)

    def _distractor(self) -> None:
        """Something that is none of the classes: a line, a soft blob, a long ellipse or a plus sign."""
        rng = self.rng
        cos, sin = direction(rng)
        dx, dy = self.x - rng.uniform(0, self.width), self.y - rng.uniform(0, self.height)
        u, v = np.abs(dx * cos + dy * sin), np.abs(dy * cos - dx * sin)
        length = self.scale * rng.uniform(8, 50)
        thin = self.scale * rng.uniform(0.8, 3)
        kind = rng.randint(4)
        if kind == 0:
            alpha = np.clip(0.5 - np.maximum(u - 2 * length, v - thin), 0, 1)
        elif kind == 1:
            spread = (u * u + 2 * v * v) / (length * length / 4)
            alpha = 0.8 / (1 + spread * spread)
        elif kind == 2:
            alpha = np.clip(0.5 - (np.sqrt(u * u + 12 * v * v) - 0.7 * length) / 2, 0, 1)
        else:
            arm = 0.4 * length
            bars = np.minimum(np.maximum(u - arm, v - thin), np.maximum(v - arm, u - thin))
            alpha = np.clip(0.5 - bars, 0, 1)
        alpha = alpha[..., None] * rng.uniform(0.5, 1)
        self.pixels = self.pixels * (1 - alpha) + rng.uniform(10, 245, 3) * alpha

    def try_add(self, shape: Shape) -> bool:
        """Paints the shape over what is there, unless that hides it, or something below it, too much."""
        x1, y1, x2, y2 = shape.extent()
        left, top = math.floor(x1) - 2, math.floor(y1) - 2
        ys, xs = np.mgrid[top : math.ceil(y2) + 2, left : math.ceil(x2) + 2] + 0.5
        distance = shape.distance(xs, ys)
        full = int((distance < 0).sum())
        inside = (slice(max(0, -top), self.height - top), slice(max(0, -left), self.width - left))
        distance, xs, ys = distance[inside], xs[inside], ys[inside]
        mask = distance < 0
        if int(mask.sum()) < max(1.5 * MIN_VISIBLE * full, 40 * self.scale**2):
            return False
        window = (slice(max(0, top), max(0, top) + mask.shape[0]), slice(max(0, left), max(0, left) + mask.shape[1]))
        owner = self.owner.copy()
        owner[window][mask] = len(self.shapes)
        if not self._all_visible(owner, self.full_areas + [full]):
            return False
        self.owner = owner
        self.shapes.append(shape)
        self.full_areas.append(full)
        self._paint(shape, window, distance, xs - shape.x, ys - shape.y)
        return True

    def _all_visible(self, owner: np.ndarray, full_areas: list[int]) -> bool:
        shown = np.bincount(owner.ravel() + 1, minlength=len(full_areas) + 1)[1:]
        if any(s < max(MIN_VISIBLE * f, 30 * self.scale**2) for s, f in zip(shown, full_areas)):
            return False
        boxes = [visible_box(owner == i) for i in range(len(full_areas))]
        return all(min(x2 - x1, y2 - y1) >= MIN_SIDE * self.scale for x1, y1, x2, y2 in boxes)

    def _paint(self, shape: Shape, window, distance: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> None:
        rng, radius = self.rng, shape.radius
        under = self.pixels[window][distance < 0]
        cos, sin = direction(rng)
        shading = 1 + rng.uniform(0.1, 0.35) * (dx * cos + dy * sin) / radius
        texture = self._texture(rng.randint(4), dx, dy)
        color = self._contrasting(under)
        body = (color * shading[..., None]) + (rng.uniform(10, 28) * texture)[..., None]
        outline = np.clip(distance + 1.6 * math.sqrt(self.scale), 0, 1)[..., None]
        body = body * (1 - rng.uniform(0.3, 0.6) * outline)
        alpha = np.clip(0.5 - distance, 0, 1)[..., None]
        self.pixels[window] = self.pixels[window] * (1 - alpha) + body * alpha

    def _texture(self, kind: int, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Plain, stripes, checks or speckle, in [-1, 1]."""
        cos, sin = direction(self.rng)
        period = self.scale * self.rng.uniform(4, 10)
        u, v = (dx * cos + dy * sin) / period, (dy * cos - dx * sin) / period
        if kind == 0:
            return np.zeros_like(u)
        if kind == 1:
            return np.sign((u - np.floor(u)) - 0.5)
        if kind == 2:
            return np.sign((u - np.floor(u)) - 0.5) * np.sign((v - np.floor(v)) - 0.5)
        return 2 * self.rng.random_sample(u.shape) - 1

    def _contrasting(self, under: np.ndarray) -> np.ndarray:
        """A random colour (3,) whose largest channel differs from the mean of what it covers by 50 or more."""
        mean = under.astype(np.int64).sum(axis=0) / len(under)
        for _ in range(20):
            color = self.rng.uniform(25, 235, 3)
            if np.abs(color - mean).max() >= 50:
                break
        return color

    def finish(self) -> np.ndarray:
        """The image as uint8 (height, width, 3), with pixel noise."""
        noise = self.rng.random_sample((2, *self.pixels.shape)).sum(axis=0) - 1
        noisy = self.pixels + self.rng.uniform(5, 16) * noise
        return np.floor(np.clip(noisy, 0, 255) + 0.5).astype(np.uint8)


def visible_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the pixels of a (H, W) mask; all zero if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def rle(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths of a (H, W) mask: column by column, the first run counts zeros."""
    flat = np.concatenate(([0], mask.T.ravel().astype(np.int8), [0]))
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate(([0], edges, [mask.size])))
    counts = counts[:-1] if counts[-1] == 0 else counts
    return {"size": list(mask.shape), "counts": counts.tolist()}


def random_shape(rng: np.random.RandomState, label: int, x: float, y: float, diameter: float) -> Shape:
    cos, sin = direction(rng)
    radius = 0.5 * diameter * (1.0, 1.0, 0.8, 1.05)[label]  # about equal boxes for the four classes
    return Shape(label, x, y, radius, cos, sin, hole=rng.uniform(0.5, 0.65))


def neighbour(rng: np.random.RandomState, shape: Shape, scale: float) -> Shape | None:
    """A shape of the same class whose box overlaps that of `shape` by an IoU drawn from GROUP_IOU."""
    x1, y1, x2, y2 = shape.extent()
    side = max(x2 - x1, y2 - y1)
    target = rng.uniform(GROUP_IOU[0], GROUP_IOU[1] if side > SMALL_SIDE * scale else SMALL_IOU)
    best, best_gap = None, 0.05
    for _ in range(16):
        reach = side * rng.uniform(0.05, 0.6)
        cos, sin = direction(rng)
        diameter = side * rng.uniform(0.7, 1.2)
        other = random_shape(rng, shape.label, shape.x + reach * cos, shape.y + reach * sin, diameter)
        gap = abs(box_iou(shape.extent(), other.extent()) - target)
        if gap < best_gap:
            best, best_gap = other, gap
    return best


def add_group(canvas: Canvas, members: int) -> None:
    """One object, then others of its class about it."""
    rng = canvas.rng
    small, large = (d * canvas.scale for d in DIAMETERS)
    # More small than large objects: log-uniform, rounded to what every machine's power function gives.
    first = small if members == 1 else GROUP_DIAMETER * canvas.scale
    diameter = round(first * (large / first) ** rng.random_sample(), 3)
    label = int(rng.randint(len(CLASSES)))
    group: list[Shape] = []
    for _ in range(6 * members):
        if group:
            shape = neighbour(rng, group[rng.randint(len(group))], canvas.scale)
        else:
            x, y = rng.uniform(0, canvas.width), rng.uniform(0, canvas.height)
            shape = random_shape(rng, label, x, y, diameter)
        if shape is None or not small <= 2 * shape.radius <= 1.1 * large:
            continue
        if canvas.try_add(shape):
            group.append(shape)
        if len(group) == members:
            return


def draw(seed: int, split: int, index: int, size: int) -> tuple[np.ndarray, list[dict]]:
    """Image `index` of a split: uint8 (H, W, 3) and the annotations without ids."""
    # RandomState's stream is frozen by numpy's policy, unlike that of the newer Generator.
    rng = np.random.RandomState([seed, split, index])
    stretch = SHAPES_HW[rng.randint(len(SHAPES_HW))]
    height, width = (int(size * s) for s in stretch)
    canvas = Canvas(rng, height, width, size / REFERENCE_SIZE)
    if (index + 1) % EMPTY_EVERY:
        for _ in range(rng.randint(3, 8)):
            add_group(canvas, members=(1, 2, 2, 3, 3, 4, 5)[rng.randint(7)])
    annotations = []
    for i, shape in enumerate(canvas.shapes):
        mask = canvas.owner == i
        x1, y1, x2, y2 = visible_box(mask)
        annotations.append(
            {
                "category_id": shape.label + 1,
                # Floats: Detectron2 keeps integer boxes integer, and truncates them when it resizes.
                "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": rle(mask),
            }
        )
    return canvas.finish(), annotations
