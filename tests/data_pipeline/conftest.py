import json

import numpy as np
import pytest
from PIL import Image

from tests.quick import data_root, quick  # noqa: F401  (fixtures)


@pytest.fixture
def make_image(tmp_path):
    """Writes a noisy image of a given (height, width) under tmp_path/images and returns its path."""

    def make(name: str, size: tuple[int, int] = (40, 60), **options) -> str:
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.RandomState(len(name)).randint(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, **options)
        return str(path)

    return make


@pytest.fixture
def make_truncated(make_image):
    """A JPEG with an intact header whose pixels are cut off."""

    def make(name: str, size: tuple[int, int] = (40, 60)) -> str:
        path = make_image(name, size)
        with open(path, "rb+") as file:
            file.truncate(len(file.read()) // 2)
        return path

    return make


@pytest.fixture
def make_json(tmp_path):
    """Writes COCO json from images and annotations, with categories 2 (cat) and 7 (dog) unless others are given."""

    def make(images, annotations, categories=None, name="data.json"):
        categories = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}] if categories is None else categories
        path = tmp_path / name
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return str(path)

    return make


@pytest.fixture
def coco_image():
    def make(number: int, name: str, height: int = 40, width: int = 60) -> dict:
        return {"id": number, "file_name": name, "height": height, "width": width}

    return make


@pytest.fixture
def coco_annotation():
    def make(number: int, image: int = 1, category: int = 2, box=(5.0, 6.0, 20.0, 10.0), **more) -> dict:
        area = box[2] * box[3] if len(box) == 4 else 0
        fixed = {"id": number, "image_id": image, "category_id": category, "bbox": list(box)}
        return {**fixed, "area": area, "iscrowd": 0, **more}

    return make


@pytest.fixture
def unregistered():
    """Removes the data sets that a test registers."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
