"""One real world of two processes: importing torch in each takes a few seconds."""

import copy
import itertools
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.engine import SimpleTrainer, create_ddp_model
from detectron2.engine.launch import DEFAULT_TIMEOUT, launch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tests.conftest import FACTS

GOLDEN = json.loads((FACTS / "golden_launch.json").read_text())


def call_all_of_comm(folder: Path) -> dict:
    """What a worker of a world of two sees."""
    rank = comm.get_rank()
    found = {
        "rank": rank,
        "world": comm.get_world_size(),
        "local_rank": comm.get_local_rank(),
        "local_size": comm.get_local_size(),
        "main": comm.is_main_process(),
        "backend": dist.get_backend(),
        "initialized": dist.is_initialized(),
        "all_gather": comm.all_gather({"r": rank}),
        "gather_dst0": comm.gather(rank * 10),
        "gather_dst1": comm.gather(rank * 10, dst=1),
    }
    # The order of keys differs between the workers on purpose.
    values = [("a", torch.tensor(10.0 * (rank + 1))), ("b", torch.tensor(1.0 * (rank + 1)))]
    reduced = comm.reduce_dict(dict(reversed(values) if rank else values))
    found["reduce_dict_avg"] = {name: value.item() for name, value in reduced.items()}
    reduced = comm.reduce_dict({"b": torch.tensor(1.0 * (rank + 1))}, average=False)
    found["reduce_dict_sum"] = {name: value.item() for name, value in reduced.items()}
    np.random.seed(5 + rank)
    own = np.random.randint(2**31)
    np.random.seed(5 + rank)
    found["shared_seed"] = comm.shared_random_seed()
    found["rank0_own_draw"] = comm.all_gather(own)[0]

    found["training_sampler_seed0_size6"] = list(itertools.islice(TrainingSampler(6, seed=0), 8))
    found["inference_sampler_5"] = list(InferenceSampler(5))
    return {**found, **train_one_step(folder, rank)}


class TwoLosses(torch.nn.Module):
    """loss_a has gradient 2 on rank 0 and 4 on rank 1, and values 1 and 2."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return {"loss_a": 2 * x * self.w + x, "loss_b": 0 * self.w}


def train_one_step(folder: Path, rank: int) -> dict:
    found = {}
    try:
        create_ddp_model(TwoLosses())
    except ValueError as error:
        found["create_ddp_model_cpu_default_arguments"] = type(error).__name__
    model = create_ddp_model(TwoLosses(), device_ids=None)
    found["ddp_class"] = type(model).__name__
    trainer = SimpleTrainer(model, itertools.repeat(rank + 1.0), torch.optim.SGD(model.parameters(), lr=1.0))
    with EventStorage() as storage:
        trainer.run_step()
        latest = {name: value for name, (value, _) in storage.latest().items()}
    found["weight_after_step"] = model.module.w.item()
    found["storage_has_rank_data_time"] = latest.pop("rank_data_time", None) is not None
    found["storage_has_data_time"] = latest.pop("data_time", None) is not None
    found["storage"] = latest

    checkpointer = DetectionCheckpointer(model, str(folder))
    checkpointer.save("m")
    comm.synchronize()
    found["checkpoint_files"] = sorted(os.listdir(folder))
    found["saved_keys"] = list(torch.load(folder / "m.pth")["model"])
    found["save_to_disk"] = checkpointer.save_to_disk
    comm.synchronize()
    return found


def world_of_two(folder: str) -> None:
    folder = Path(folder)
    found = call_all_of_comm(folder)
    (folder / f"rank{comm.get_rank()}").write_text(json.dumps(found))
    comm.synchronize()
    if comm.get_rank() == 1:
        raise KeyError("only the second worker fails")


def raise_key_error() -> None:
    raise KeyError


def note(folder: str) -> str:
    Path(folder, "note").write_text(f"{os.getpid()} {dist.is_initialized()}")
    return "not returned"


NAMELESS = [lambda: None][0]


def test_timeout():
    assert DEFAULT_TIMEOUT.total_seconds() == GOLDEN["DEFAULT_TIMEOUT_seconds"]


def test_world_of_one_is_a_plain_call(tmp_path):
    facts = GOLDEN["world_1"]
    assert launch(note, 1, dist_url="nonsense", args=(str(tmp_path),)) == facts["return"] and facts["dist_url_ignored"]
    assert (tmp_path / "note").read_text() == f"{os.getpid()} {facts['initialized']}" and facts["pid_is_parent"]
    with pytest.raises(KeyError):
        launch(raise_key_error, 1)
    assert facts["exception"] == "KeyError"
    assert launch(note, 0, args=(str(tmp_path),)) == GOLDEN["world_0"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the facts are those of gloo")
def test_world_of_two(tmp_path):
    """Both workers report through files; then one fails, and the parent must hear of it with the traceback."""
    with pytest.raises(torch.multiprocessing.ProcessRaisedException) as error:
        launch(world_of_two, 2, dist_url="auto", args=(str(tmp_path),))
    facts = GOLDEN["world_2_child_raises"]
    assert f"{error.type.__module__}.{error.type.__name__}" == facts["parent_raises"]
    assert error.value.error_index == facts["error_index"]
    assert "only the second worker fails" in str(error.value) and facts["message_has_child_traceback"]

    for rank, expected in enumerate(copy.deepcopy(GOLDEN["world_2_gloo"]["ranks"])):
        found = json.loads((tmp_path / f"rank{rank}").read_text())
        # Which number is drawn depends on the seed of the recorded run, so only the rule is compared.
        assert found.pop("shared_seed") == found.pop("rank0_own_draw")
        assert expected.pop("shared_seed") == expected.pop("rank0_own_draw")
        assert found == expected


def test_what_cannot_be_launched():
    with pytest.raises(AssertionError):
        launch(note, 1, num_machines=2, dist_url="auto")
    assert GOLDEN["auto_with_two_machines"] == "AssertionError"
    with pytest.raises(pickle.PicklingError):
        launch(NAMELESS, 2, dist_url="auto")
    assert GOLDEN["lambda_main_func"] == "PicklingError"


@pytest.mark.slow
def test_no_meeting_point():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException):
        launch(note, 2, args=(".",))
    assert GOLDEN["dist_url_None_world_2"] == "ProcessRaisedException"
