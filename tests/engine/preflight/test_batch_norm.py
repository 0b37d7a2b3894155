import pytest
import torch

from defcn_ext.config import UserError
from defcn_ext.engine.preflight.batch_norm import check_batch_norm
from detectron2.modeling import build_model
from tests.tiny import image_with, tiny_cfg

BACKBONE = ("MODEL.RESNETS.NORM", "BN")
TOWERS = ("MODEL.DEFCN.NORM", "BN")
CASES = [
    # norms, smallest side of training, size of the image -> whether a map has one cell
    (BACKBONE, 20, (20, 20), True),
    (BACKBONE, 20, (20, 33), False),
    (BACKBONE, 33, (20, 20), False),
    (BACKBONE, 0, (32, 32), True),
    (TOWERS, 128, (64, 64), True),
    (TOWERS, 96, (50, 60), True),
    (TOWERS, 97, (200, 200), True),
    (TOWERS, 129, (64, 64), False),
    ((), 20, (20, 20), False),
]


@pytest.mark.parametrize("norms, short, size, single", CASES)
def test_an_image_of_one_cell_is_named_and_would_fail(norms, short, size, single):
    cfg = tiny_cfg(*norms, "INPUT.MIN_SIZE_TRAIN", (short, 200), "INPUT.MAX_SIZE_TRAIN", 400)
    model = build_model(cfg)
    record = {"file_name": "small.png", "height": size[0], "width": size[1]}
    scale = short / min(size) if short else 1
    image = image_with([[2, 2, 12, 12]], [0], size=tuple(round(side * scale) for side in size))
    check_batch_norm(cfg, model, [record], images=2)
    if not single:
        check_batch_norm(cfg, model, [record], images=1)
        model([image])
        return
    with pytest.raises(UserError, match=r"small\.png: .*INPUT\.MIN_SIZE_TRAIN"):
        check_batch_norm(cfg, model, [record], images=1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model([image])
    with torch.no_grad():
        model([image, image])
