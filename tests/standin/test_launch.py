"""One real world of two processes: importing torch in each takes a few seconds."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine.launch import DEFAULT_TIMEOUT, launch
from detectron2.utils import comm
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

    checkpointer = DetectionCheckpointer(torch.nn.Linear(1, 1, bias=False), str(folder))
    checkpointer.save("m")
    comm.synchronize()
    found["checkpoint_files"] = sorted(file for file in os.listdir(folder) if not file.startswith("rank"))
    found["save_to_disk"] = checkpointer.save_to_disk
    return found


def world_of_two(folder: str) -> None:
    folder = Path(folder)
    (folder / f"rank{comm.get_rank()}").write_text(json.dumps(call_all_of_comm(folder)))
    comm.synchronize()
    if comm.get_rank() == 1:
        raise KeyError("only the second worker fails")


def raise_key_error() -> None:
    raise KeyError


def note(folder: str) -> str:
    Path(folder, "note").write_text(f"{os.getpid()} {dist.is_initialized()}")
    return "not returned"


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

    for rank, expected in enumerate(GOLDEN["world_2_gloo"]["ranks"]):
        found = json.loads((tmp_path / f"rank{rank}").read_text())
        # Which number is drawn depends on the seed of the run, so only the rule is compared.
        assert found.pop("shared_seed") == found.pop("rank0_own_draw")
        assert found == {name: expected[name] for name in found}


def test_what_cannot_be_launched():
    with pytest.raises(AssertionError):
        launch(note, 1, num_machines=2, dist_url="auto")
    assert GOLDEN["auto_with_two_machines"] == "AssertionError"
    with pytest.raises(Exception) as error:
        launch(lambda: None, 2, dist_url="auto")
    # A lambda inside a function is an AttributeError of pickle; at module level it is the PicklingError of the facts.
    assert error.type in (pickle.PicklingError, AttributeError) and GOLDEN["lambda_main_func"] == "PicklingError"


@pytest.mark.slow
def test_no_meeting_point():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException):
        launch(note, 2, args=(".",))
    assert GOLDEN["dist_url_None_world_2"] == "ProcessRaisedException"


def test_environment_table_as_a_program():
    command = [sys.executable, "-c", "import defcn_ext; from detectron2.utils.collect_env import main; main()"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^PyTorch +\d", out, re.MULTILINE)
