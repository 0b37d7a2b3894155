import pytest

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tests.tiny import batch, tiny_cfg


@pytest.mark.parametrize("iteration, pictures", [(0, 1), (5, 0), (10, 1)])
def test_every_vis_period_the_first_image_is_drawn(iteration, pictures):
    model = build_model(tiny_cfg("VIS_PERIOD", 10, "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0))
    records = batch()
    with EventStorage(iteration) as storage:
        model(records)
    assert len(storage._vis_data) == pictures
    for _, image, step in storage._vis_data:
        height, width = records[0]["image"].shape[1:]
        assert (image.shape, step) == ((3, height, 2 * width), iteration)
        assert (image[..., :width] != image[..., width:]).any()
