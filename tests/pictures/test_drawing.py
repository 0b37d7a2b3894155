import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from defcn_ext.evaluation.outcomes import Tally
from defcn_ext.pictures.drawing import (
    CLASS_COLORS,
    REPEAT_COLOR,
    Scene,
    ScoreMap,
    contact_sheet,
    draw_detections,
    save,
    score_map_figure,
    show_image,
)
from tests.evaluation.test_outcomes import detections, objects

NAMES = ["disc", "ring"]


@pytest.fixture
def scene():
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    return Scene(image, objects([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 1]), "sample")


@pytest.fixture
def found():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [45, 5, 55, 15]]
    return detections(boxes, [0.9, 0.8, 0.7], [0, 0, 1])


def texts(figure):
    return [t.get_text() for t in figure.texts] + [axes.get_title() for axes in figure.axes]


def test_boxes_have_the_colour_of_their_class_and_duplicates_are_red(scene, found):
    axes = Figure().add_subplot()
    assert draw_detections(axes, found, scene.objects) == Tally(2, 1, 1, 1)
    by_box = {(p.get_x(), p.get_y(), p.get_width(), p.get_height()): p for p in axes.patches}
    first, repeat, wrong = by_box[0, 0, 10, 10], by_box[0, 0, 10, 9], by_box[45, 5, 10, 10]
    colors = [to_hex(patch.get_edgecolor()).upper() for patch in (first, repeat, wrong)]
    assert colors == [CLASS_COLORS[0], REPEAT_COLOR, CLASS_COLORS[1]]
    solid = ("-", "solid")
    assert first.get_linestyle() in solid and wrong.get_linestyle() not in solid
    assert first.get_linewidth() > repeat.get_linewidth()
    assert repeat.get_zorder() > first.get_zorder()


def test_images_keep_their_place_and_become_paler(scene):
    axes = Figure().add_subplot()
    show_image(axes, scene.image)
    assert axes.get_xlim() == (0, 60) and axes.get_ylim() == (40, 0)
    assert (axes.images[0].get_array() > 100).all()


def test_contact_sheet_tells_the_counts(scene, found):
    columns = [("A without NMS", [found, found]), ("A with NMS", [found[:1], found[:0]])]
    figure = contact_sheet([scene, scene], columns, NAMES)
    assert len(figure.axes) == 6  # two images, three columns
    assert {"Ground truth", "A without NMS", "A with NMS", "2 objects"} <= set(texts(figure))
    assert "3 boxes · 1/2 found · 1 duplicate · 1 wrong" in texts(figure)
    assert "1 box · 1/2 found · 0 duplicates" in texts(figure)
    assert "0 boxes · 0/2 found · 0 duplicates" in texts(figure)
    legend = [t.get_text() for box in figure.legends for t in box.get_texts()]
    assert legend[-2:] == NAMES and len(legend) == 5


def test_class_without_a_name(scene):
    figure = contact_sheet([scene], [("A", [detections([], [], [])])], [])
    assert "class 1" in [t.get_text() for box in figure.legends for t in box.get_texts()]


def test_score_maps_mark_the_points_that_fire(scene):
    scores = torch.zeros(5, 8)
    scores[1, 2], scores[4, 7] = 0.9, 0.31
    levels = [
        ScoreMap("P3 (stride 8)", scores, (8.0, 8.0)),
        ScoreMap("P4 (stride 16)", torch.zeros(3, 4), (16.0, 16.0)),
    ]
    figure = score_map_figure(scene, [("A", levels), ("B", levels)], 0.3)
    assert len(figure.axes) == 2 * 3 + 1  # the image and two levels for each output, and the colour bar
    image, fine, coarse = figure.axes[:3]
    assert fine.lines[0].get_xydata().tolist() == [[20.0, 12.0], [60.0, 36.0]]  # (column, row) + 0.5 cells of 8 px
    assert image.get_title() == "2 objects, 2 points fire"
    assert (fine.get_title(), coarse.get_title()) == ("2 of 40 fire", "none of 12")
    assert fine.images[0].get_clim() == coarse.images[0].get_clim() == (0, 1)
    assert fine.images[0].get_interpolation() == "nearest"
    # Cells reach beyond the image (padding), and what is beyond is cut off.
    assert coarse.images[0].get_extent() == [0, 64, 48, 0]
    assert coarse.get_xlim() == (0, 60) and coarse.get_ylim() == (40, 0)


def test_small_images_are_enlarged(scene, found, tmp_path):
    save(contact_sheet([scene], [("A", [found])], NAMES), tmp_path / "sheet.png", colors=256)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 10 * 60 and picture.mode == "P"
