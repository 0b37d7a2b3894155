"""Saves are whole or not at all. Weights of another detector: what fits is taken, the rest is told."""

import errno
import logging
import os
import resource
import signal

import pytest
import torch
from torch import nn

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
        ({"model": {}}, r"w\.pth: holds no weights"),
        ([1, 2], r"w\.pth: holds a list"),
        ({"model": 3}, r"w\.pth: entry 'model' is a int"),
        (b"not a checkpoint, only words", r"w\.pth: a text file"),
        (b"version https://git-lfs.github.com/spec/v1", r"w\.pth: a pointer of git LFS"),
        (b"<!DOCTYPE html><html>", r"w\.pth: an HTML page"),
        (b"", r"w\.pth: empty"),
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


@pytest.fixture
def saver(tmp_path):
    """A checkpointer of a model of 1 MB, which has saved once."""
    saver = Checkpointer(nn.Linear(512, 512), str(tmp_path))
    saver.save("model_final", iteration=1)
    return saver


def state_of(folder):
    """Names and bytes of all files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_save_is_flushed_and_renamed_and_the_pointer_comes_last(saver, tmp_path, monkeypatch):
    done, original = [], {name: getattr(os, name) for name in ("replace", "fsync")}
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("flush"), original["fsync"](handle))[1])
    monkeypatch.setattr(
        os, "replace", lambda old, new: (done.append(f"{old.name} -> {new.name}"), original["replace"](old, new))[1]
    )
    saver.save("model_0000003", iteration=3)
    pointer = ".last_checkpoint.partial -> last_checkpoint"
    renames = [".model_0000003.pth.partial -> model_0000003.pth", pointer]
    assert done == ["flush", renames[0], "flush", "flush", renames[1], "flush"]
    assert sorted(state_of(tmp_path)) == ["last_checkpoint", "model_0000003.pth", "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    saved = torch.load(tmp_path / "model_0000003.pth")
    assert saved["iteration"] == 3 and torch.equal(saved["model"]["weight"], saver.model.weight)


@pytest.mark.parametrize("name", ["model_0000003", "model_final"])
def test_a_full_disk_leaves_what_was_saved_before(saver, tmp_path, name):
    """A limit on the size of files meets torch's writer as a full disk does: its own error covers the system's."""
    before, limits = state_of(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"{name}\.pth: cannot be saved \(File too large\); .* saved before stays"):
            saver.save(name, iteration=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert state_of(tmp_path) == before


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_folder_that_takes_no_file_leaves_what_was_saved_before(saver, tmp_path, monkeypatch, call, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    before = state_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open" if call == "open" else f"os.{call}", refuse)
        with pytest.raises(UserError, match=rf"model_final\.pth: cannot be saved \({os.strerror(code)}\)"):
            saver.save("model_final", iteration=3)
    assert state_of(tmp_path) == before


def test_a_folder_that_is_gone(saver, tmp_path):
    saver.save_dir = str(tmp_path / "gone")
    with pytest.raises(UserError, match=r"gone/model_final\.pth: cannot be saved \(No such file or directory\)"):
        saver.save("model_final")


def test_other_errors_stay_what_they_are(saver):
    with pytest.raises(AttributeError, match="pickle|local object"):
        saver.save("model_final", what=lambda: None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_saved(saver, tmp_path, value):
    before = state_of(tmp_path)
    with torch.no_grad():
        saver.model.bias[7] = value
    with pytest.raises(FloatingPointError, match=r"model_final\.pth: not saved, as model/bias is not finite; resume"):
        saver.save("model_final")
    assert state_of(tmp_path) == before


def test_nothing_is_saved_without_a_folder_or_elsewhere_than_on_the_main_process(tmp_path):
    Checkpointer(nn.Linear(2, 2)).save("model")
    Checkpointer(nn.Linear(2, 2), str(tmp_path), save_to_disk=False).save("model")
    assert not state_of(tmp_path)
