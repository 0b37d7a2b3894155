"""Tiles cover a picture, and an object that several see is found once."""

import itertools

import numpy as np
import pytest

from defcn_ext.deploy import Detections, ModelFileError, Tiling
from defcn_ext.deploy.tiles import Tile, merged, tiles_of


def found(boxes, scores, labels=None):
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    labels = [0] * len(boxes) if labels is None else labels
    return Detections(boxes, np.asarray(scores, dtype=np.float32), np.asarray(labels), (100, 100), ("a", "b"))


@pytest.mark.parametrize("size", [(100, 100), (99, 250), (301, 90), (1000, 333)])
def test_every_pixel_lies_in_a_tile_and_neighbours_overlap(size):
    tiling = Tiling(100, 30, whole=False)
    seen = np.zeros(size, dtype=int)
    for tile in tiles_of(size, tiling):
        assert tile.cut(seen).shape == (min(100, size[0]), min(100, size[1]))
        tile.cut(seen)[:] += 1
    assert seen.min() >= 1
    lefts = sorted({tile.left for tile in tiles_of(size, tiling)})
    assert all(b - a <= 70 for a, b in itertools.pairwise(lefts))


def test_a_small_picture_is_one_tile():
    assert tiles_of((80, 60), Tiling(100, 30)) == [Tile(0, 0, 80, 60, (80, 60))]


def test_a_large_object_comes_from_the_look_at_the_whole():
    size, tiling = (100, 160), Tiling(100, 40)
    left, right, whole = tiles_of(size, tiling)
    parts = [(left, found([[10, 20, 100, 80]], [0.9])), (right, found([[0, 20, 90, 80]], [0.9]))]
    seen = merged([*parts, (whole, found([[10, 20, 150, 80]], [0.6]))], size, tiling, 100)
    assert seen.boxes.tolist() == [[10, 20, 150, 80]] and seen.size == size


def test_an_object_in_the_overlap_is_found_once_and_neighbours_in_one_tile_stay():
    size, tiling = (100, 160), Tiling(100, 40, whole=False)
    left, right = tiles_of(size, tiling)
    seen = merged(
        [
            (left, found([[65, 10, 90, 40], [66, 10, 92, 40]], [0.8, 0.7])),  # two objects behind each other
            (right, found([[5, 10, 30, 40], [5, 60, 30, 90]], [0.9, 0.3], [0, 1])),
        ],
        size,
        tiling,
        100,
    )
    assert seen.scores.tolist() == pytest.approx([0.9, 0.7, 0.3])  # of the object at 65 the view from the right
    assert seen.boxes[:2].tolist() == [[65, 10, 90, 40], [66, 10, 92, 40]] and seen.names == ["a", "a", "b"]


def test_a_part_of_a_box_of_another_tile_goes():
    size, tiling = (100, 160), Tiling(100, 40, whole=False)
    left, right = tiles_of(size, tiling)
    halves = [(left, found([[40, 10, 95, 90]], [0.5])), (right, found([[5, 20, 30, 60]], [0.9]))]
    assert merged(halves, size, tiling, 100).boxes.tolist() == [[40, 10, 95, 90]]


def test_boxes_of_other_classes_and_of_one_tile_are_no_rivals():
    size, tiling = (100, 160), Tiling(100, 40, whole=False)
    left, right = tiles_of(size, tiling)
    both = [(left, found([[65, 10, 90, 40], [66, 10, 92, 40]], [0.8, 0.7], [0, 0])), (right, found([], []))]
    assert len(merged(both, size, tiling, 100)) == 2 and len(merged(both, size, tiling, 1)) == 1
    other = [(left, found([[65, 10, 90, 40]], [0.8], [0])), (right, found([[5, 10, 30, 40]], [0.7], [1]))]
    assert merged(other, size, tiling, 100).names == ["a", "b"]


def test_tiles_that_overlap_by_their_side_are_refused():
    with pytest.raises(ModelFileError, match="tiles of 100 pixels cannot overlap by 100"):
        Tiling(100, 100)
