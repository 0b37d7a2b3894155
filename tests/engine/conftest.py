import pytest

from detectron2.data import DatasetCatalog, MetadataCatalog
from tests.engine import tiny


@pytest.fixture
def tiny_entry(tmp_path):
    """Entry for DATASETS.REGISTER of ten small images, taken out of the catalogs afterwards."""
    folder = tmp_path / "data"
    folder.mkdir()
    yield tiny.write_dataset(folder)
    if tiny.NAME in DatasetCatalog:
        DatasetCatalog.remove(tiny.NAME)
    if tiny.NAME in MetadataCatalog.list():
        MetadataCatalog.remove(tiny.NAME)
