import numpy as np
import pytest
import torch

from defcn_ext.pictures.training import COLORS, truth_and_detections
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tests.tiny import batch, image_with, tiny_cfg


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


def test_objects_are_left_and_detections_right():
    """Colours as they are, whatever the order of the channels; of two boxes in one place the better is on top."""
    record = image_with([[4, 6, 20, 30]], [0], size=(40, 50))
    record["image"][:] = torch.tensor([200, 100, 50], dtype=torch.uint8).view(3, 1, 1)
    found = Instances((40, 50))
    found.pred_boxes = Boxes(torch.tensor([[10.0, 8, 40, 35], [10.0, 8, 40, 35]]))
    found.scores = torch.tensor([0.75, 0.5])
    picture = truth_and_detections(record, found, "BGR").transpose(1, 2, 0)
    best = np.array([int(COLORS[0][i : i + 2], 16) for i in (1, 3, 5)])
    assert (picture[0, 0] == [50, 100, 200]).all() and (picture[39, 99] == [50, 100, 200]).all()
    assert (picture[6:31, 4] == best).all() and (picture[30, 4:21] == best).all()
    assert (picture[30, 50 + 10] == best).all() and (picture[35, 50 + 10 : 50 + 41] == best).all()
    assert (picture[6:31, 50 + 4] == [50, 100, 200]).all()
