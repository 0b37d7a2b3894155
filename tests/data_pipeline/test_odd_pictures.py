"""Odd pictures of a bright rectangle on dark ground, on their way through mapper, loader, training and evaluation."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from defcn_ext.data import RobustMapper, build_test_loader, build_train_loader, probe_headers
from defcn_ext.engine import Trainer
from defcn_ext.evaluation import build_evaluator
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from tests.tiny import ALL, image_with, tiny_cfg

pytestmark = pytest.mark.usefixtures("unregistered")

HEIGHT, WIDTH = 40, 60
BOX = [8, 6, 24, 16]  # x, y, w, h
UNTURN = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def scene():
    pixels = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
    x, y, w, h = BOX
    pixels[y : y + h, x : x + w] = 220
    return Image.fromarray(pixels)


def turned(orientation):
    """As a camera writes it that was held otherwise: the pixels as they were, and how to turn them."""
    image = scene() if UNTURN[orientation] is None else scene().transpose(UNTURN[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image, {"exif": exif}


def sixteen_bits(dtype, mode):
    values = np.asarray(scene().convert("L")).astype(dtype) * 257
    return Image.frombytes(mode, (WIDTH, HEIGHT), values.tobytes())


def with_alpha(mode):
    image = scene().convert(mode)
    image.putalpha(Image.fromarray(np.full((HEIGHT, WIDTH), 128, np.uint8)))
    return image


ODD = {
    **{f"exif {o}.jpg": (lambda o=o: turned(o)) for o in UNTURN},
    "exif 6.png": lambda: turned(6),
    **{f"exif {o}.tiff": (lambda o=o: turned(o)) for o in (3, 5, 8)},
    "exif 5.webp": lambda: turned(5),
    "one bit.png": lambda: (scene().convert("1", dither=Image.Dither.NONE), {}),
    "gray.jpg": lambda: (scene().convert("L"), {"quality": 95}),
    "gray alpha.png": lambda: (with_alpha("L"), {}),
    "palette.png": lambda: (scene().quantize(16), {}),
    "palette transparent.png": lambda: (scene().quantize(16), {"transparency": 0}),
    "palette.gif": lambda: (scene().quantize(16), {}),
    "moving.gif": lambda: (scene().quantize(16), {"save_all": True, "append_images": [scene().rotate(90)]}),
    "alpha.png": lambda: (with_alpha("RGB"), {}),
    "cmyk.jpg": lambda: (scene().convert("CMYK"), {"quality": 95}),
    "cmyk.tiff": lambda: (scene().convert("CMYK"), {}),
    "ycbcr.tiff": lambda: (scene().convert("YCbCr"), {}),
    "lab.tiff": lambda: (Image.merge("LAB", [scene().convert("L"), *[Image.new("L", (WIDTH, HEIGHT), 128)] * 2]), {}),
    "progressive.jpg": lambda: (scene(), {"progressive": True, "quality": 95}),
    "colour.webp": lambda: (scene(), {"lossless": True}),
    "colour.bmp": lambda: (scene(), {}),
    "colour.ppm": lambda: (scene(), {}),
    "two pages.tiff": lambda: (scene(), {"save_all": True, "append_images": [scene().rotate(90)]}),
    "16 bits.png": lambda: (sixteen_bits("<u2", "I;16"), {}),
    "16 bits.tiff": lambda: (sixteen_bits("<u2", "I;16"), {}),
    "16 bits big endian.tiff": lambda: (sixteen_bits(">u2", "I;16B"), {}),
    "float.tiff": lambda: (Image.fromarray(np.asarray(scene().convert("L")).astype(np.float32) / 255), {}),
    "wrong ending.jpg": lambda: (scene(), {"format": "PNG"}),
    "name with spaces, ünïcode.png": lambda: (scene(), {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for name, make in ODD.items():
        image, options = make()
        image.save(folder / name, **options)
    image = np.asarray(scene())
    Image.fromarray(image).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-300])
    (folder / "text.jpg").write_text("<!doctype html>")
    (folder / "nothing.png").write_bytes(b"")
    return folder


def written(folder, names, box=BOX):
    """A json of one object an image; the sizes are those that a viewer shows."""
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names, 1)]
    one = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0, "category_id": 1}
    annotations = [{**one, "id": i, "image_id": i} for i in range(1, len(names) + 1)]
    categories = [{"id": i, "name": f"class {i}"} for i in (1, 2, 3)]
    path = folder / f"{len(names)}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(path)


def config(folder, names, *opts):
    register_coco_instances("odd", {}, written(folder, names), str(folder))
    return tiny_cfg(
        *("DATASETS.TRAIN", ("odd",), "DATASETS.TEST", ("odd",), "DATALOADER.NUM_WORKERS", 0),
        *("INPUT.MIN_SIZE_TRAIN", (80,), "INPUT.MIN_SIZE_TEST", 0, "SOLVER.IMS_PER_BATCH", 4, "MODEL.WEIGHTS", ""),
        *("OUTPUT_DIR", str(folder / "out"), "INPUT.RANDOM_FLIP", "none"),
        *opts,
    )


def assert_bright_in_the_box(image, box):
    """Per channel, two pixels from the border."""
    x1, y1, x2, y2 = (round(v) for v in box.tolist())
    inside = torch.zeros(image.shape[1:], dtype=torch.bool)
    inside[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] = True
    around = torch.ones_like(inside)
    around[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = False
    for channel in image.float():
        assert channel[inside].mean() > 150 and channel[around].mean() < 80


@pytest.mark.parametrize("name", ODD)
def test_pixels_and_boxes_agree(folder, name):
    assert probe_headers([str(folder / name)]) == {str(folder / name): (HEIGHT, WIDTH)}
    cfg = config(folder, [name])
    for flip in ("none", "horizontal"):
        cfg.INPUT.RANDOM_FLIP = flip
        (record,) = DatasetCatalog.get("odd")
        mapped = RobustMapper(cfg, True)(record)
        assert mapped["image"].shape == (3, 80, 120) and mapped["image"].dtype == torch.uint8
        assert_bright_in_the_box(mapped["image"], mapped["instances"].gt_boxes.tensor[0])


class BrightRectangle(nn.Module):
    """Finds what is bright."""

    def forward(self, batch):
        (x,) = batch
        rows, columns = (x["image"].float().mean(0) > 110).nonzero().unbind(1)
        found = Instances(x["image"].shape[1:])
        found.pred_boxes = Boxes([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
        found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.long)
        return [{"instances": detector_postprocess(found, x["height"], x["width"])}]


def test_a_detector_of_bright_rectangles_finds_all_of_them(folder, tmp_path):
    cfg = config(folder, list(ODD), "MODEL.DEFCN.COMPARE_NMS", False)
    evaluator = build_evaluator(cfg, "odd", str(tmp_path))
    results = inference_on_dataset(BrightRectangle(), build_test_loader(cfg, "odd"), evaluator)
    assert results["bbox"]["AP75"] == pytest.approx(100)


def test_one_training_of_all_of_them_and_of_files_that_are_none(folder, tmp_path):
    names = [*ODD, "text.jpg", "nothing.png", "gone.jpg", "cut.jpg"]
    opts = ("OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", 3, "SOLVER.STEPS", (), "DATALOADER.NUM_WORKERS", 2)
    cfg = config(folder, names, *ALL["poto_3dmf_aux"], *opts)
    cfg.DATASETS.TEST = ()
    Trainer(cfg).train()
    losses = [json.loads(line)["total_loss"] for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert len(losses) == 1 and np.isfinite(losses).all()


def test_detectron2s_loader_takes_others_for_those_that_are_none(folder):
    cfg = config(folder, ["text.jpg", "gone.jpg", "cut.jpg", "exif 6.jpg", "palette.png"])
    seen = set()
    for _, batch in zip(range(6), build_train_loader(cfg)):
        seen |= {x["file_name"].rsplit("/", 1)[1] for x in batch}
        for x in batch:
            assert_bright_in_the_box(x["image"], x["instances"].gt_boxes.tensor[0])
    assert seen == {"exif 6.jpg", "palette.png"}


def built(name, *opts):
    torch.manual_seed(0)
    return Trainer.build_model(tiny_cfg(*ALL[name], *opts))


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (2, 3000)])
def test_a_picture_of_hardly_any_pixels(tmp_path, size):
    Image.fromarray(np.full((*size, 3), 200, np.uint8)).save(tmp_path / "x.png")
    cfg = tiny_cfg("INPUT.MIN_SIZE_TRAIN", (32,), "INPUT.MIN_SIZE_TEST", 32, "INPUT.MAX_SIZE_TRAIN", 100)
    record = {"file_name": str(tmp_path / "x.png"), "image_id": 1}
    box = {"bbox": [0.0, 0.0, *map(float, size[::-1])], "bbox_mode": 0, "category_id": 0, "iscrowd": 0}
    model = built("poto", "MODEL.RESNETS.NORM", "FrozenBN")
    losses = model([RobustMapper(cfg, True)({**record, "annotations": [box]})])
    assert all(v.isfinite() for v in losses.values())
    found = model.eval()([RobustMapper(cfg, False)(record)])[0]["instances"]
    assert found.image_size[0] >= size[0] and found.image_size[1] >= size[1]


@pytest.mark.parametrize("name", ["poto_3dmf_aux", "date_r", "o2f", "dw"])
def test_a_thousand_objects(name):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (1000, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(4, 28, (1000, 2))], axis=1)
    model = built(name)
    losses = model([image_with(boxes.tolist(), (np.arange(1000) % 3).tolist(), size=(128, 128))])
    sum(losses.values()).backward()
    assert all(v.isfinite() for v in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    found = model.eval()([image_with([], [], size=(128, 128))])[0]["instances"]
    assert len(found) <= 100


@pytest.mark.parametrize("name", ["poto_3dmf_aux", "date_f", "o2f", "dw"])
def test_lvis_has_1203_classes(name):
    model = built(name, "MODEL.DEFCN.NUM_CLASSES", 1203, "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0)
    x = image_with([[8, 8, 60, 60], [30, 20, 90, 80], [30, 20, 90, 80]], [0, 1202, 600])
    losses = model([x])
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        for branch in model.branches.values():
            if hasattr(branch, "cls_score"):
                branch.cls_score.bias.view(-1, 1203)[:, 1202] = 9.0
    found = model.eval()([x])[0]["instances"]
    assert found.scores.max() > 0.3 and found.pred_classes[0] == 1202


def test_exif_of_the_examples_turns_them_back():
    for orientation in UNTURN:
        image, options = turned(orientation)
        image.getexif().update(options["exif"])
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), np.asarray(scene()))
