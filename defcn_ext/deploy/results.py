"""Detections as files: COCO results, a table, pictures with boxes."""

from __future__ import annotations

import colorsys
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from defcn_ext._text import write_whole

from .detections import Detections

COLUMNS = ("image", "label", "class", "score", "x1", "y1", "x2", "y2")


def coco_results(
    image_id: str | int, found: Detections, category_ids: Sequence[int | str] = ()
) -> list[dict[str, Any]]:
    """Entries as COCO's result files have them.

    Args:
        category_ids: of the classes in the data set's json, by label; () where nobody knows them: 1 for label 0.
    """
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label] if category_ids else int(label) + 1,
            "bbox": [round(float(x), 3) for x in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "score": round(float(score), 6),
        }
        for box, score, label in zip(found.boxes, found.scores, found.labels)
    ]


def write_results(
    folder: Path, found: Sequence[tuple[str, Detections]], category_ids: Sequence[int | str] = ()
) -> list[Path]:
    """`detections.json` and `detections.csv` of pictures, by their names; for `category_ids` see `coco_results`."""
    entries = [entry for name, detections in found for entry in coco_results(name, detections, category_ids)]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, detections in found:
        for box, score, label, kind in zip(detections.boxes, detections.scores, detections.labels, detections.names):
            writer.writerow([name, int(label), kind, f"{score:.6f}", *(f"{x:.2f}" for x in box)])
    paths = [folder / "detections.json", folder / "detections.csv"]
    for path, text in zip(paths, (json.dumps(entries), table.getvalue())):
        write_whole(path, text)
    return paths


def drawn(picture: np.ndarray, found: Detections) -> Image.Image:
    """The picture with a box, a name and a score a detection, in one colour a class."""
    image = Image.fromarray(picture)
    canvas = ImageDraw.Draw(image)
    width = max(1, round(min(image.size) / 250))
    for box, score, label, name in zip(found.boxes, found.scores, found.labels, found.names):
        colour = colour_of(int(label))
        x1, y1, x2, y2 = (float(x) for x in box)
        canvas.rectangle((x1, y1, x2, y2), outline=colour, width=width)
        text = f"{name} {score:.2f}"
        place = (x1 + width, max(0.0, y1 - 11))
        canvas.rectangle(canvas.textbbox(place, text), fill=colour)
        canvas.text(place, text, fill=(255, 255, 255))
    return image


def colour_of(label: int) -> tuple[int, int, int]:
    """Classes that follow each other are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.9, 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)
