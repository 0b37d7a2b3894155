import os

import pytest

import train_net
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
    monkeypatch.setattr(train_net.DetectionCheckpointer, "resume_or_load", lambda *args, **kwargs: {})
    with pytest.raises(SystemExit, match=r"error: DATASETS\.TEST tiny_train: 1 of 10 images .* first .*4\.png"):
        command(*more)


def test_a_wrong_key_ends_with_one_line(command):
    with pytest.raises(SystemExit, match=r"error: unknown config key SOLVER\.MAXITER; did you mean SOLVER\.MAX_ITER"):
        command("SOLVER.MAXITER", 3)
