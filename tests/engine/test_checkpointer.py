"""Weights of another detector: what fits is taken, the rest is told, a wrong file is refused."""

import logging

import pytest
import torch

from defcn_ext.config import UserError
from defcn_ext.engine.checkpointer import Checkpointer
from detectron2.modeling import build_model
from tests.tiny import DATE_F, DATE_FCOS, ONENET, tiny_cfg

FCOS = ("MODEL.DEFCN.CONV_BIAS", False, "MODEL.DEFCN.BRANCHES", ["ONE_TO_MANY"], *DATE_FCOS)


def built(opts, seed):
    torch.manual_seed(seed)
    return build_model(tiny_cfg(*opts))


@pytest.fixture(scope="module")
def fcos(tmp_path_factory):
    """A model with numbers that no fresh one has, and its file."""
    model = built(FCOS, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    path = tmp_path_factory.mktemp("fcos") / "model_final.pth"
    torch.save({"model": model.state_dict()}, path)
    return model.state_dict(), str(path)


@pytest.fixture
def log(caplog):
    """What fvcore logs, whatever other tests did to its loggers."""
    logger = logging.getLogger("fvcore.common.checkpoint")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("opts", [ONENET, DATE_F])
def test_one_to_one_detectors_start_from_fcos(fcos, opts, log):
    """DATE, Table 11: backbone, FPN, towers and scales come from FCOS, the one-to-one predictor starts anew."""
    weights, path = fcos
    model, fresh = built(opts, seed=2), built(opts, seed=2).state_dict()
    Checkpointer(model).load(path, checkpointables=[])
    loaded = model.state_dict()
    shared = [name for name in loaded if name.startswith(("backbone.", "head."))]
    parts = {name.split(".")[1] for name in shared}
    assert parts >= {"bottom_up", "fpn_output5", "cls_subnet", "bbox_subnet", "scales"}
    assert all(torch.equal(loaded[name], weights[name]) for name in shared)
    own = [name for name in loaded if name.startswith("branches.one_to_one.")]
    assert len(own) == 4 and all(torch.equal(loaded[name], fresh[name]) for name in own)
    (missing,) = {message for message in log.messages if "not found in the checkpoint" in message}
    assert "branches.one_to_one" in missing and "backbone" not in missing and "head." not in missing
    unused = [message for message in log.messages if "not used by the model" in message]
    if opts is ONENET:
        assert "branches.one_to_many" in unused[0]
    else:  # DATE-F trains that branch on
        assert not unused and all(torch.equal(loaded[n], weights[n]) for n in loaded if "one_to_many" in n)


def test_other_shapes_are_told_and_left_out(fcos, log):
    model = built((*ONENET, "MODEL.DEFCN.NUM_CONVS", 1, "MODEL.FPN.OUT_CHANNELS", 32), seed=2)
    Checkpointer(model).load(fcos[1], checkpointables=[])
    assert "head.cls_subnet.0.weight" in log.text and "(64, 64, 3, 3)" in log.text and "(32, 32, 3, 3)" in log.text
    name = "backbone.bottom_up.stem.conv1.weight"
    assert torch.equal(model.state_dict()[name], fcos[0][name])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"encoder.weight": torch.zeros(3)}}, r"none of the 1 entries .*encoder\.weight"),
        ({"model": {"head.cls_subnet.0.weight": torch.zeros(3)}}, r"none of the 1 entries"),
        ({"model": {}}, r"none of the 0 entries"),
        ([1, 2], r"w\.pth: holds no weights"),
        ({"model": 3}, r"w\.pth: holds no weights"),
        (b"not a checkpoint", r"w\.pth: holds no weights"),
        (b"", r"w\.pth: holds no weights"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, content, message):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        Checkpointer(built(ONENET, seed=2)).load(str(path), checkpointables=[])
