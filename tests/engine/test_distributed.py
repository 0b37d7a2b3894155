"""Two processes on the CPU against one."""

import pytest
import torch

from detectron2.engine import launch
from detectron2.utils import comm
from tests.engine.tiny import NAME, run, tiny_cfg

# float32 sums in another order: two halves of a batch against the whole
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def config(entry, output):
    cfg = tiny_cfg(entry, output, "DATALOADER.ASPECT_RATIO_GROUPING", False, "SOLVER.EMA.ENABLED", True)
    cfg.DATASETS.TEST = (NAME,)
    cfg.MODEL.DROPOUT = 0.0
    return cfg


def train(entry: str, output, result) -> None:
    torch.set_num_threads(1)
    trainer = run(config(entry, output))
    losses = [value for value, _ in trainer.storage.history("total_loss").values()] if comm.is_main_process() else []
    model = getattr(trainer.model, "module", trainer.model)
    average = trainer.average.average
    everything = {"weights": model.state_dict(), "average": average, "seen": model.seen, "losses": losses}
    everything["evaluated_after"] = model.evaluated_after
    torch.save(everything, f"{result}.{comm.get_rank()}")


def test_two_processes_equal_one_on_the_joint_batch(tiny_entry, tmp_path, monkeypatch):
    launch(train, 1, args=(tiny_entry, tmp_path / "one", tmp_path / "single"))
    with monkeypatch.context() as workers:
        workers.setenv("CUDA_VISIBLE_DEVICES", "")  # else they would want a GPU each, and talk over NCCL
        launch(train, 2, dist_url="auto", args=(tiny_entry, tmp_path / "two", tmp_path / "pair"))
    single, *pair = (torch.load(tmp_path / name) for name in ("single.0", "pair.0", "pair.1"))

    joint = [image for batch in zip(pair[0]["seen"], pair[1]["seen"]) for image in batch]
    assert joint == single["seen"]
    assert pair[0]["losses"] == pytest.approx(single["losses"], rel=1e-4)
    # the one value that is each process's own; evaluation takes the first one's everywhere
    assert pair[0]["seen"][-1] != pair[1]["seen"][-1]
    assert pair[0]["evaluated_after"] == pair[1]["evaluated_after"] == pair[0]["seen"][-1]
    for kind in ("weights", "average"):
        own = single[kind].pop("last_image")
        assert own == pair[1][kind]["last_image"] != pair[0][kind]["last_image"]
        for name, value in single[kind].items():
            torch.testing.assert_close(pair[0][kind][name], value, **TOLERANCE)
            assert torch.equal(pair[0][kind][name], pair[1][kind][name]), name
