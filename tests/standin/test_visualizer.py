import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image
from scipy import ndimage

from detectron2.data.catalog import Metadata
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.utils.colormap import colormap, random_color, random_colors
from tests.standin import says

visualizer = pytest.importorskip("detectron2.utils.visualizer")  # Detectron2's needs OpenCV
ColorMode, GenericMask = visualizer.ColorMode, visualizer.GenericMask
VisImage, Visualizer = visualizer.VisImage, visualizer.Visualizer
pytestmark = pytest.mark.standin_only("pictures are alike, but not equal pixel by pixel")

BLACK = np.zeros((60, 80, 3), dtype=np.uint8)
RED = (1.0, 0.0, 0.0)


def changed(vis, before=BLACK):
    """(H, W): where the picture differs from what it was made of."""
    return (vis.get_image() != before).any(axis=2)


def rectangle(x1, y1, x2, y2, shape=(60, 80)):
    mask = np.zeros(shape, dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


RING = rectangle(10, 10, 50, 50) & ~rectangle(20, 20, 40, 40)


@pytest.mark.parametrize("scale, shape", [(1.0, (60, 80, 3)), (2.0, (120, 160, 3)), (0.5, (30, 40, 3))])
def test_untouched_picture_is_the_image(scale, shape):
    image = np.random.default_rng(0).integers(0, 256, BLACK.shape, dtype=np.uint8)
    drawn = Visualizer(image, scale=scale).get_output().get_image()
    assert drawn.shape == shape and drawn.dtype == np.uint8
    if scale >= 1:
        np.testing.assert_array_equal(drawn, image.repeat(int(scale), axis=0).repeat(int(scale), axis=1))


def test_picture_has_whole_pixels_at_any_size():
    for size in (928, 333, 7):
        image = np.random.default_rng(0).random((size, size + 1, 3)) * 255
        assert Visualizer(image).get_output().get_image().shape == image.shape


def test_values_outside_the_range_are_clipped():
    drawn = Visualizer(np.full((8, 8, 3), 300.0)).get_output().get_image()
    assert (drawn == 255).all()


def test_save_writes_what_get_image_returns(tmp_path):
    output = Visualizer(BLACK, scale=2.0).draw_box((10, 10, 40, 40), edge_color="r", alpha=1)
    output.save(str(tmp_path / "picture.png"))
    saved = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
    np.testing.assert_array_equal(saved, output.get_image())


def test_reset_image_replaces_the_image():
    output = VisImage(BLACK)
    output.reset_image(np.full_like(BLACK, 90))
    assert (output.get_image() == 90).all()


def test_box_is_drawn_on_its_frame_only():
    drawn = changed(Visualizer(BLACK).draw_box((20, 10, 60, 40), edge_color=RED, alpha=1))
    assert drawn[10, 20:60].all() and drawn[40, 20:60].all() and drawn[10:40, 20].all() and drawn[10:40, 60].all()
    assert not drawn[15:36, 25:56].any() and not drawn[:7].any() and not drawn[:, 64:].any()


def test_box_opacity_blends_with_the_image():
    frame = Visualizer(np.full_like(BLACK, 100)).draw_box((20, 10, 60, 40), edge_color=RED, alpha=0.5).get_image()
    # The line is wider than one pixel, so its middle is a pure mix of 100 and (255, 0, 0).
    np.testing.assert_allclose(frame[9:11, 40], [[177.5, 50, 50]] * 2, atol=1.5)


def test_polygon_is_filled_with_the_mix():
    triangle = np.array([[10, 10], [70, 10], [10, 50]])
    image = Visualizer(BLACK).draw_polygon(triangle, RED, alpha=0.5).get_image()
    np.testing.assert_allclose(image[20, 20], [128, 0, 0], atol=1)
    np.testing.assert_array_equal(image[45, 60], [0, 0, 0])


def test_circle_and_line():
    drawn = changed(Visualizer(BLACK).draw_circle((40, 30), "r", radius=5))
    rows, columns = np.nonzero(drawn)
    # The line around the disc and the blur of its edge add up to two pixels.
    np.testing.assert_allclose([rows.min(), rows.max(), columns.min(), columns.max()], [24, 35, 34, 45], atol=1)
    assert drawn[30, 40]
    drawn = changed(Visualizer(BLACK).draw_line([10, 70], [30, 30], "r"))
    assert drawn[30, 10:70].all() and not drawn[:27].any() and not drawn[34:].any()


def test_text_is_light_on_dark_below_its_position():
    image = Visualizer(np.full_like(BLACK, 128)).draw_text("Wide", (40, 20), color=(0.3, 0, 0)).get_image()
    rows, columns = np.nonzero((image != 128).any(axis=2))
    assert rows.min() >= 17 and abs((columns.min() + columns.max()) / 2 - 40) <= 2
    assert image.min() < 60 and image[..., 0].max() > 200


@pytest.mark.parametrize("mask", [rectangle(10, 10, 30, 50), RING])
def test_binary_mask_covers_its_pixels(mask):
    image = Visualizer(BLACK).draw_binary_mask(mask, color="red", alpha=0.5).get_image()
    # Polygons have an edge, a few pixels wide.
    inside = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=3)
    outside = ~ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=3)
    np.testing.assert_allclose(image[inside], [[127.5, 0, 0]] * inside.sum(), atol=2)
    assert inside.sum() > 50 and not image[outside].any()


def test_mask_with_a_hole_is_exact_at_the_border():
    mask = rectangle(40, 0, 60, 60) & ~rectangle(45, 20, 55, 30)
    image = np.full_like(BLACK, [255, 0, 0])
    drawn = Visualizer(image, scale=3).draw_binary_mask(mask, color="blue").get_image()
    assert drawn.shape == (180, 240, 3)
    for row in (drawn[0], drawn[-1]):
        assert len({tuple(pixel) for pixel in row.tolist()}) == 2
        np.testing.assert_array_equal(row[:120], [[255, 0, 0]] * 120)
        np.testing.assert_allclose(row[120:180], [[127.5, 0, 127.5]] * 60, atol=2)
        np.testing.assert_array_equal(row[180:], [[255, 0, 0]] * 60)


def test_small_parts_of_a_mask_are_left_out():
    mask = rectangle(10, 10, 30, 30) | rectangle(60, 40, 62, 42)
    assert not changed(Visualizer(BLACK).draw_binary_mask(mask, "red", area_threshold=5))[38:45, 55:70].any()
    assert changed(Visualizer(BLACK).draw_binary_mask(mask, "red", area_threshold=4))[40:42, 60:62].all()
    assert not changed(Visualizer(BLACK).draw_binary_mask(np.zeros((60, 80)), "red", text="nothing")).any()


def test_text_of_a_mask_lies_on_its_largest_part():
    mask = rectangle(5, 5, 15, 15) | rectangle(40, 20, 78, 58)
    with_text = Visualizer(BLACK).draw_binary_mask(mask, "red", text="i").get_image()
    without = Visualizer(BLACK).draw_binary_mask(mask, "red").get_image()
    rows, columns = np.nonzero((with_text != without).any(axis=2))
    assert 38 <= rows.min() and abs(columns.mean() - 58.5) < 3


def test_soft_mask_scales_the_opacity():
    soft = np.linspace(0, 1, 80)[None].repeat(60, axis=0)
    image = Visualizer(BLACK).draw_soft_mask(soft, color="red", alpha=0.5).get_image()
    np.testing.assert_allclose(image[30, :, 0], 127.5 * soft[0], atol=2.5)
    assert not changed(Visualizer(BLACK).draw_soft_mask(np.zeros((60, 80)), color="red", text="nothing")).any()


def test_rotated_box():
    # Turned by 90 degrees, a wide box stands upright.
    vis = Visualizer(BLACK)
    drawn = changed(vis.overlay_instances(boxes=np.array([[40.0, 30.0, 40.0, 20.0, 90.0]])))
    rows, columns = np.nonzero(drawn)
    np.testing.assert_allclose([rows.min(), rows.max(), columns.min(), columns.max()], [10, 50, 30, 50], atol=2)
    # Counterclockwise: the middle of the right side goes up.
    drawn = changed(Visualizer(BLACK).draw_rotated_box_with_label([40.0, 30.0, 40.0, 8.0, 30.0]))
    assert drawn[15:25, 50:62].any() and not drawn[15:25, 18:30].any()


def predictions(**fields):
    return Instances(BLACK.shape[:2], **fields)


def test_instance_predictions_draw_boxes_and_labels():
    boxes = Boxes([[10.0, 20, 50, 55]])
    bare = changed(Visualizer(BLACK).draw_instance_predictions(predictions(pred_boxes=boxes)))
    assert bare[20, 10:50].all() and not bare[25:50, 15:45].any()
    labelled = predictions(pred_boxes=boxes, scores=torch.tensor([0.9]), pred_classes=torch.tensor([0]))
    drawn = changed(Visualizer(BLACK, Metadata().set(thing_classes=["cell"])).draw_instance_predictions(labelled))
    assert drawn[22:34, 12:30].mean() > 0.3 > bare[22:34, 12:30].mean()


def test_labels_say_class_score_and_crowd(monkeypatch):
    said = []
    monkeypatch.setattr(Visualizer, "draw_text", lambda self, text, *args, **kwargs: said.append(text))
    boxes = Boxes([[0.0, 0, 40, 40], [0, 0, 20, 20]])
    found = predictions(pred_boxes=boxes, scores=torch.tensor([0.987, 0.5]), pred_classes=torch.tensor([1, 0]))
    metadata = Metadata().set(thing_classes=["a", "b"])
    Visualizer(BLACK, metadata).draw_instance_predictions(found)
    Visualizer(BLACK).draw_instance_predictions(found)
    found.remove("pred_classes")
    Visualizer(BLACK, metadata).draw_instance_predictions(found)
    record = {"bbox": [0, 0, 30, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 1}
    Visualizer(BLACK, metadata).draw_dataset_dict({"annotations": [record]})
    assert said == ["b 99%", "a 50%", "1 99%", "0 50%", "99%", "50%", "b|crowd"]


def test_small_boxes_are_not_covered_by_their_label():
    for box in ([10, 10, 30, 24], [10, 44, 30, 58]):
        labelled = Visualizer(BLACK).overlay_instances(boxes=[box], labels=["x"]).get_image()
        x1, y1, x2, y2 = box
        np.testing.assert_array_equal(labelled[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3], 0)


def test_small_instances_are_drawn_over_large_ones():
    boxes = np.array([[20.0, 20, 40, 40], [0, 0, 80, 60]])
    masks = [rectangle(20, 20, 40, 40), rectangle(0, 0, 80, 60)]
    image = Visualizer(BLACK).overlay_instances(boxes=boxes, masks=masks, assigned_colors=["g", "r"], alpha=1.0)
    np.testing.assert_array_equal(image.get_image()[30, 30], [0, 128, 0])
    np.testing.assert_array_equal(image.get_image()[50, 70], [255, 0, 0])


@pytest.mark.parametrize(
    "masks",
    [
        BitMasks(np.stack([rectangle(10, 10, 50, 50)])),
        torch.from_numpy(rectangle(10, 10, 50, 50))[None],
        PolygonMasks([[[10.0, 10, 50, 10, 50, 50, 10, 50]]]),
        [[[10.0, 10, 50, 10, 50, 50, 10, 50]]],
        [mask_util.encode(np.asfortranarray(rectangle(10, 10, 50, 50).astype(np.uint8)))],
        [GenericMask(rectangle(10, 10, 50, 50), 60, 80)],
    ],
    ids=["BitMasks", "tensor", "PolygonMasks", "polygons", "rle", "GenericMask"],
)
def test_masks_of_every_kind(masks):
    drawn = changed(Visualizer(BLACK).overlay_instances(masks=masks, labels=["x"]))
    assert drawn[25:48, 30:48].all() and not drawn[:, 60:].any() and not drawn[54:].any()


def test_mask_with_a_hole_keeps_it_in_an_overlay():
    image = Visualizer(BLACK).overlay_instances(masks=[RING], assigned_colors=["r"]).get_image()
    assert not image[30, 30].any() and image[15, 15, 0] == pytest.approx(127.5, abs=2)


def test_wrong_numbers_are_refused():
    with pytest.raises(AssertionError, match=says(r"\[1, 2\]")):
        Visualizer(BLACK).overlay_instances(boxes=np.zeros((2, 4)), labels=["x"])
    with pytest.raises(AssertionError, match=says(r"\(60, 80\)")):
        Visualizer(BLACK).overlay_instances(masks=np.zeros((1, 60, 81)))


def test_nothing_to_draw():
    none = predictions(
        pred_boxes=Boxes(torch.zeros(0, 4)),
        scores=torch.zeros(0),
        pred_classes=torch.zeros(0, dtype=torch.int64),
        pred_masks=torch.zeros(0, 60, 80, dtype=torch.bool),
    )
    assert not changed(Visualizer(BLACK).draw_instance_predictions(none)).any()
    assert not changed(Visualizer(BLACK).draw_dataset_dict({})).any()
    assert not changed(Visualizer(BLACK).overlay_instances()).any()


def test_segmentation_mode_takes_the_classes_colours():
    metadata = Metadata().set(thing_classes=["a", "b"], thing_colors=[[0, 0, 255], [0, 255, 0]])
    found = predictions(pred_masks=torch.from_numpy(rectangle(10, 10, 70, 50))[None], pred_classes=torch.tensor([1]))
    plain = Visualizer(BLACK, metadata, instance_mode=ColorMode.SEGMENTATION)
    image = plain.draw_instance_predictions(found, jittering=False).get_image()
    np.testing.assert_allclose(image[40, 60], [0, 128, 0], atol=1)
    jittered = Visualizer(BLACK, metadata, instance_mode=ColorMode.SEGMENTATION)
    image = jittered.draw_instance_predictions(found).get_image()
    assert image[40, 60].argmax() == 1 and image[40, 60].tolist() != [0, 128, 0]


def test_bw_mode_keeps_colour_inside_masks_only():
    image = np.full_like(BLACK, [30, 60, 90])
    found = predictions(pred_boxes=Boxes([[10.0, 10, 50, 50]]))
    grey = Visualizer(image, instance_mode=ColorMode.IMAGE_BW).draw_instance_predictions(found).get_image()
    np.testing.assert_array_equal(grey[55, 70], [60, 60, 60])
    np.testing.assert_array_equal(grey[30, 30], [60, 60, 60])
    found.pred_masks = torch.from_numpy(rectangle(10, 10, 50, 50))[None]
    masked = Visualizer(image, instance_mode=ColorMode.IMAGE_BW).draw_instance_predictions(found).get_image()
    np.testing.assert_array_equal(masked[55, 70], [60, 60, 60])
    color = colormap(rgb=True)[0]
    np.testing.assert_allclose(masked[30, 30], 0.7 * np.array([30, 60, 90]) + 0.3 * color, atol=1.5)


def test_dataset_dict_draws_boxes_masks_and_semantics():
    annotations = [
        {"bbox": [10, 10, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0},
        {
            "bbox": [40, 10, 70, 50],
            "bbox_mode": 0,
            "category_id": 0,
            "segmentation": [[40, 10, 70, 10, 70, 50, 40, 50]],
        },
    ]
    drawn = changed(Visualizer(BLACK).draw_dataset_dict({"annotations": annotations}))
    assert drawn[30, 10:30].all() and drawn[10:30, 30].all()
    assert drawn[30:48, 45:65].all() and not drawn[55:].any()
    sem_seg = np.where(rectangle(0, 30, 80, 60), 1, 255)
    metadata = Metadata().set(stuff_classes=["sky", "sea"], stuff_colors=[[0, 0, 255], [0, 255, 0]])
    image = Visualizer(BLACK, metadata).draw_dataset_dict({"sem_seg": sem_seg}).get_image()
    np.testing.assert_allclose(image[55, 70], [0, 128, 0], atol=1)
    assert not image[:26].any()


def test_keypoints_are_connected_where_both_are_visible():
    metadata = Metadata().set(
        keypoint_names=["a", "b", "c"], keypoint_connection_rules=[("a", "b", (0, 255, 0)), ("a", "c", (0, 0, 255))]
    )
    points = np.array([[[10.0, 30, 1], [70, 30, 1], [10, 55, 0]]])
    image = Visualizer(BLACK, metadata).overlay_instances(keypoints=points).get_image()
    assert image[30, 20:60, 1].min() > 100 and image[32, 9, 0] > 100 and image[32, 71, 0] > 100
    assert not image[40:].any()


def test_drawing_leaves_numpys_generator_alone():
    np.random.seed(3)
    metadata = Metadata().set(thing_colors=[[0, 0, 255]])
    found = predictions(pred_boxes=Boxes([[10.0, 10, 50, 50]]), pred_classes=torch.tensor([0]))
    for mode in ColorMode:
        Visualizer(BLACK, metadata, instance_mode=mode).draw_instance_predictions(found)
    drawn = np.random.rand()
    np.random.seed(3)
    assert drawn == np.random.rand()


class TestGenericMask:
    def test_bitmap_to_polygons_and_back(self):
        mask = rectangle(10, 10, 30, 50) | rectangle(50, 0, 80, 20)
        generic = GenericMask(mask, 60, 80)
        assert len(generic.polygons) == 2 and not generic.has_holes
        assert generic.area() == 20 * 40 + 30 * 20
        np.testing.assert_allclose(generic.bbox(), [10, 0, 80, 50])
        back = GenericMask(generic.polygons, 60, 80).mask
        assert (back != mask).sum() <= 8  # corners may be cut

    def test_holes(self):
        generic = GenericMask(RING, 60, 80)
        assert generic.has_holes and len(generic.polygons) == 1
        np.testing.assert_allclose(generic.bbox(), [10, 10, 50, 50])

    def test_rle_compressed_and_not(self):
        mask = np.asfortranarray(RING.astype(np.uint8))
        np.testing.assert_array_equal(GenericMask(mask_util.encode(mask), 60, 80).mask, mask)
        runs = {"size": [60, 80], "counts": [600, 60, 4140]}
        assert GenericMask(runs, 60, 80).area() == 60

    def test_polygons(self):
        generic = GenericMask([[10.0, 10, 50, 10, 50, 30, 10, 30]], 60, 80)
        assert generic.area() == 800 and not generic.has_holes
        np.testing.assert_allclose(generic.bbox(), [10, 10, 50, 30])

    def test_empty(self):
        for empty in (np.zeros((60, 80)), []):
            generic = GenericMask(empty, 60, 80)
            assert generic.area() == 0 and generic.polygons == [] and generic.bbox().tolist() == [0, 0, 0, 0]


def test_colormap():
    rgb, bgr = colormap(rgb=True), colormap()
    np.testing.assert_array_equal(rgb[:, ::-1], bgr)
    np.testing.assert_allclose(colormap(rgb=True, maximum=1) * 255, rgb, rtol=1e-6)
    assert rgb.min() >= 0 and rgb.max() == 255 and len(rgb) >= 80
    distances = np.linalg.norm(rgb[:, None] - rgb[None], axis=2) + 1e6 * np.eye(len(rgb))
    assert distances.min() > 10 and np.linalg.norm(np.diff(rgb, axis=0), axis=1).min() > 100
    with pytest.raises(AssertionError):
        colormap(maximum=100)


def test_random_colors():
    assert random_color(rgb=True).tolist() in colormap(rgb=True).tolist()
    chosen = random_colors(80)
    assert len({tuple(color) for color in chosen}) == 80
    assert len(random_colors(100)) == 100 and random_colors(0) == []
