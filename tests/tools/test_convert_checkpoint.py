"""The command: two files that work together, one line for what goes wrong, nothing written then."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from defcn_ext.checkpoint import classes_of
from defcn_ext.engine.checkpointer import Checkpointer
from defcn_ext.engine.preflight import load_config
from defcn_ext.engine.stored_config import config_of
from defcn_ext.tools import convert_checkpoint
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from tests.checkpoint import layouts

CONFIGS = Path(__file__).parents[2] / "configs"


def save(path, entries, key="state_dict", **extras):
    torch.save({key: layouts.weights(entries), **extras}, path)
    return str(path)


def run(capsys, *argv):
    status = convert_checkpoint.main([str(x) for x in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_weights_and_config_load_strictly(tmp_path, capsys):
    source, out = (
        save(tmp_path / "epoch_36.pth", layouts.o2f(classes=1), meta={"CLASSES": ("person",)}),
        tmp_path / "o.pth",
    )
    status, text, _ = run(capsys, source, out)
    assert status == 0
    saved = torch.load(out, weights_only=True)
    assert (
        saved.keys() == {"model", "__author__", "matching_heuristics", "config", "thing_classes"}
        and saved["matching_heuristics"] is False
    )
    cfg = load_config(str(out.with_suffix(".yaml")), ["MODEL.DEVICE", "cpu"])
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.WEIGHTS == str(out) and cfg.MODEL.DEFCN.NUM_CLASSES == 1
    model = build_model(cfg)
    missing = []
    checkpointer = DetectionCheckpointer(model)
    checkpointer.logger.addFilter(lambda record: missing.append(record.getMessage()) or True)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    checkpointer.logger.filters.clear()
    assert not [line for line in missing if "not found" in line or "not used" in line or "shape" in line], missing
    assert all(torch.equal(value, saved["model"][key]) for key, value in model.state_dict().items())
    for line in (
        "input     RGB, PIXEL_MEAN [123.675, 116.28, 103.53]",
        "500 detections an image",
        "no NMS",
        "P6 from p5",
    ):
        assert line in text
    assert "dropped   53 num_batches_tracked" in text and "configs/Base-O2F.yaml" in text


def test_the_config_beside_the_weights_is_the_one_converted_for(tmp_path, capsys):
    source, out = save(tmp_path / "in.pth", layouts.dw(dcn=True)), tmp_path / "dw.pth"
    status, text, _ = run(capsys, source, out, "MODEL.DEFCN.NMS_THRESH_TEST", 0.5)
    assert status == 0 and "NMS above IoU 0.5" in text
    cfg = load_config(str(out.with_suffix(".yaml")), [])
    assert cfg.MODEL.DEFCN.ONE_TO_MANY.REFINE.ENABLED and cfg.MODEL.DEFCN.DEFORM_TOWERS
    assert cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE == [False, True, True, True]
    assert cfg.MODEL.DEFCN.NMS and cfg.MODEL.DEFCN.NMS_THRESH_TEST == 0.5
    assert cfg.DATASETS.TEST == ("coco_2017_val",)
    # defaults too, where a wrong one would cost points
    written = (tmp_path / "dw.yaml").read_text()
    for key in ("FORMAT: RGB", "PIXEL_STD: [58.395, 57.12, 57.375]", "STRIDE_IN_1X1: false", "P6_FEATURE: p5"):
        assert key in written
    assert "DETECTIONS_PER_IMAGE: 100" in written and "DEVICE" not in written


def test_the_weights_alone_are_enough(tmp_path, capsys):
    """They carry the config that lies beside them, and COCO's names."""
    source, out = save(tmp_path / "in.pth", layouts.o2f()), tmp_path / "o2f.pth"
    assert run(capsys, source, out)[0] == 0
    beside, inside = load_config(str(tmp_path / "o2f.yaml"), []), config_of(out)
    assert inside.MODEL.DEFCN == beside.MODEL.DEFCN and inside.MODEL.RESNETS == beside.MODEL.RESNETS
    assert inside.MODEL.PIXEL_MEAN == beside.MODEL.PIXEL_MEAN
    assert inside.INPUT == beside.INPUT and inside.TEST == beside.TEST
    assert len(classes_of(out)) == 80 and classes_of(out)[0] == "person"


def test_a_config_of_the_users_is_not_replaced(tmp_path, capsys):
    source, out = save(tmp_path / "in.pth", layouts.o2f()), tmp_path / "o2f.pth"
    (tmp_path / "o2f.yaml").write_text("_BASE_: mine.yaml\n")
    status, _, error = run(capsys, source, out)
    assert status == 1 and "o2f.yaml: is there" in error and not out.exists()
    (tmp_path / "o2f.yaml").unlink()
    assert [run(capsys, source, out)[0] for _ in range(2)] == [0, 0], "its own it may replace"
    status, _, error = run(capsys, source, tmp_path / "o2f.yaml")
    assert status == 1 and "the name of a config" in error


def test_inference_alone(tmp_path, capsys):
    source, out = save(tmp_path / "in.pth", layouts.date("R")), tmp_path / "date.pth"
    status, text, _ = run(capsys, source, out, "--from", "mmdet", "--inference")
    assert status == 0 and "4 branches.one_to_many" in text and "PIXEL_MEAN [102.9801, 115.9465, 122.7717]" in text
    assert load_config(str(out.with_suffix(".yaml")), []).MODEL.DEFCN.INFERENCE_ONLY
    assert not [key for key in torch.load(out)["model"] if "one_to_many" in key]


def test_a_backbone_is_something_to_train_from(tmp_path, capsys):
    """Our FPN finds the ResNet by the ends of its names, and every entry of it."""
    theirs, out = tmp_path / "resnet18.pth", tmp_path / "R-18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), theirs)
    status, text, _ = run(capsys, theirs, out)
    assert status == 0 and "2 fc" in text and "ResNet-18" in text
    resnet = [line for line in (tmp_path / "R-18.yaml").read_text().split("\n") if "DEPTH" in line]
    assert "DEPTH: 18" in resnet[0]
    base = tmp_path / "train.yaml"
    base.write_text(f"_BASE_: [{str(CONFIGS / 'Base-POTO.yaml')!r}, {str(out.with_suffix('.yaml'))!r}]\n")
    cfg = load_config(str(base), ["MODEL.DEVICE", "cpu"])
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.WEIGHTS == str(out) and not cfg.MODEL.RESNETS.STRIDE_IN_1X1
    model = build_model(cfg)
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    given = torch.load(out)["model"]
    own = {key: value for key, value in model.state_dict().items() if ".bottom_up." in key}
    assert len(own) == len(given) and all(torch.equal(own[f"backbone.bottom_up.{key}"], x) for key, x in given.items())


@pytest.mark.parametrize("variant", ["resnet50d", "not a ResNet"])
def test_other_backbones_are_refused(tmp_path, capsys, variant):
    state = torchvision.models.resnet18().state_dict()
    if variant == "resnet50d":  # a stem of three convs
        state["conv1.0.weight"] = state.pop("conv1.weight")
        expected = "unknown: conv1.0.weight (64, 3, 7, 7)"
    else:
        state = {key: value for key, value in state.items() if not key.startswith("layer4.1.")}
        expected = "[2, 2, 2, 1] blocks"
    torch.save(state, tmp_path / "in.pth")
    status, _, error = run(capsys, tmp_path / "in.pth", tmp_path / "out.pth")
    assert status == 1 and expected in error and not (tmp_path / "out.pth").exists()


def test_what_does_not_fit_is_listed_and_nothing_is_written(tmp_path, capsys):
    entries = [x for x in layouts.date() if x.theirs != "bbox_head.scales.2.scale"]
    out = tmp_path / "out.pth"
    status, text, error = run(capsys, save(tmp_path / "in.pth", entries), out)
    assert status == 1 and text == "" and not out.exists() and not (tmp_path / "out.yaml").exists()
    assert error.startswith(f"error: {tmp_path}/in.pth: 1 entries do not fit")
    assert error.endswith("\n  missing: head.scales.2.scale (1,)\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{in}", "{in}"], "the file that is read"),
        (["{in}", "{dir}"], "a folder"),
        (["{in}", "{dir}/none/out.pth"], "its folder does not exist"),
        (["{dir}/none.pth", "{dir}/out.pth"], "no such file"),
        (["{in}", "{dir}/out.pth", "--config", "{dir}/none.yaml"], "none.yaml: no such file"),
        (["{in}", "{dir}/out.pth", "MODEL.DEFCN.NMZ", "True"], "MODEL.DEFCN.NMZ"),
        (["{in}", "{dir}/out.pth", "--from", "cvpods"], "its names are those of mmdet"),
    ],
)
def test_mistakes_in_the_command(tmp_path, capsys, argv, message):
    source = save(tmp_path / "in.pth", layouts.date())
    status, _, error = run(capsys, *(x.format(**{"in": source, "dir": tmp_path}) for x in argv))
    assert status == 1 and message in error and error.count("\n") == 1 and not (tmp_path / "out.pth").exists()


def test_as_a_command(tmp_path):
    """With a page instead of a file."""
    (tmp_path / "in.pth").write_bytes(b"<!DOCTYPE html><html>Not found</html>")
    command = [sys.executable, "-m", "defcn_ext.tools.convert_checkpoint", str(tmp_path / "in.pth"), "out.pth"]
    done = subprocess.run(command, cwd=CONFIGS.parent, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr.strip().split("\n")[-1] == f"error: {tmp_path}/in.pth: an HTML page, perhaps of a failed download"
    )
