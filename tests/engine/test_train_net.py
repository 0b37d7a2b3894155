import json
import os
from urllib.error import URLError

import pytest
import torch

import defcn_ext
import train_net
from defcn_ext.engine.checkpointer import Checkpointer
from tests.engine.tiny import NAME, tiny_cfg


@pytest.fixture
def command(tiny_entry, tmp_path, monkeypatch):
    """Runs the script in this process on the tiny data set, as a single worker."""
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_cfg(tiny_entry, tmp_path / "out", "DATASETS.TEST", (NAME,)).dump())

    def run(*argv):
        args = train_net.parse(["--config-file", str(config), *map(str, argv)])
        with monkeypatch.context() as patch:
            # a copy: CUDA, started in this process without a device, would hide the GPU from all later tests
            patch.setattr(os, "environ", {**os.environ, "CUDA_VISIBLE_DEVICES": "0"})
            train_net.prepare(args)
            assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
        return train_net.main(args)

    return run


def test_train_then_evaluate_then_prolong(command, tmp_path, capfd):
    trained = command()
    assert set(trained) == {"bbox"} and (tmp_path / "out" / "model_final.pth").is_file()
    weights = tmp_path / "out" / "model_final.pth"
    assert command("--eval-only", "MODEL.WEIGHTS", weights)["bbox"] == pytest.approx(trained["bbox"], nan_ok=True)

    with pytest.raises(SystemExit, match="already holds a run"):
        command()
    command("--resume", "SOLVER.MAX_ITER", 8)
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_final.pth"
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "Starting training from iteration 6" in log and "iter: 8/8" in log


@pytest.mark.parametrize("more", [(), ("--eval-only", "MODEL.WEIGHTS", "detectron2://unused")])
def test_a_broken_test_image_is_named_before_anything_is_trained(command, tmp_path, monkeypatch, more):
    (tmp_path / "data" / "4.png").write_text("no image")
    monkeypatch.setattr(train_net.Trainer, "run_step", lambda self: pytest.fail("trained"))
    monkeypatch.setattr(Checkpointer, "resume_or_load", lambda *args, **kwargs: {})
    with pytest.raises(SystemExit, match=r"error: DATASETS\.TEST tiny_train: 1 of 10 images .* first .*4\.png"):
        command(*more)


def test_repairs_and_platform_are_in_the_log(command, tmp_path):
    content = json.loads((tmp_path / "data" / "tiny.json").read_text())
    content["annotations"][0]["bbox"] = None
    (tmp_path / "data" / "tiny.json").write_text(json.dumps(content))
    command("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()")
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("tiny.json: 1 annotations whose bbox is not four finite numbers: skipped") == 1
    assert f"detectron2: {defcn_ext.PLATFORM}" in log


@pytest.mark.parametrize("more", [(), ("--eval-only",)])
def test_weights_that_cannot_be_downloaded(command, tmp_path, monkeypatch, more):
    def fail(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setattr(Checkpointer, "resume_or_load", fail)
    with pytest.raises(SystemExit, match=r"error: MODEL\.WEIGHTS detectron2://a/b.pkl: .*no route.*a local file"):
        command(*more, "MODEL.WEIGHTS", "detectron2://a/b.pkl")
    with pytest.raises(URLError):
        torch.save({"model": {}}, tmp_path / "local.pth")
        command(*more, "MODEL.WEIGHTS", str(tmp_path / "local.pth"))


def test_a_wrong_key_ends_with_one_line(command):
    with pytest.raises(SystemExit, match=r"error: unknown config key SOLVER\.MAXITER; did you mean SOLVER\.MAX_ITER"):
        command("SOLVER.MAXITER", 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_deleted_during_training_end_it_with_one_line(command, tmp_path, monkeypatch, workers):
    step = train_net.Trainer.run_step

    def delete_and_step(trainer):
        for path in (tmp_path / "data").glob("*.png") if trainer.iter == 1 else ():
            path.unlink()
        step(trainer)

    monkeypatch.setattr(train_net.Trainer, "run_step", delete_and_step)
    more = ("DATALOADER.NUM_WORKERS", workers, "SOLVER.MAX_ITER", 60, "DATASETS.TEST", "()")
    with pytest.raises(SystemExit, match=r"^error: none of 10 images can be read, the last: \S+\.png \(FileNotFound"):
        command(*more)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "The training ends: none of 10 images can be read" in log and "Traceback" not in log


def test_other_errors_keep_their_traceback(command, tmp_path, monkeypatch):
    def fail(trainer):
        raise RuntimeError("ours")

    monkeypatch.setattr(train_net.Trainer, "run_step", fail)
    with pytest.raises(RuntimeError, match="ours"):
        command("DATASETS.TEST", "()")
    assert "Traceback" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content.pop("annotations"), "no image with an object is left: there are no annotations"),
        (lambda content: [a.update(iscrowd=1) for a in content["annotations"]], "left: .* annotations are crowds"),
    ],
)
def test_what_only_the_data_tell_ends_in_one_line_before_training(command, tmp_path, monkeypatch, change, message):
    content = json.loads((tmp_path / "data" / "tiny.json").read_text())
    change(content)
    (tmp_path / "data" / "tiny.json").write_text(json.dumps(content))
    monkeypatch.setattr(train_net.Trainer, "run_step", lambda self: pytest.fail("trained"))
    with pytest.raises(SystemExit, match=rf"^error: DATASETS\.TRAIN tiny_train: .*{message}"):
        command("DATASETS.TEST", "()")


def test_an_assertion_of_detectron2_ends_in_one_line(command, monkeypatch):
    def refuse(self, cfg):
        raise AssertionError("Dataset 'x'\n is empty")

    monkeypatch.setattr(train_net.Trainer, "build_train_loader", refuse)
    with pytest.raises(SystemExit, match="^error: Dataset 'x' is empty$"):
        command("DATASETS.TEST", "()")
