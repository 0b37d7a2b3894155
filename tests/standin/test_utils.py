import json
import logging
import os
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch

import detectron2
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info, main
from detectron2.utils.env import seed_all_rng, setup_custom_environment
from detectron2.utils.file_io import Detectron2Handler, PathManager
from detectron2.utils.logger import create_small_table, log_every_n, log_every_n_seconds, log_first_n, setup_logger
from detectron2.utils.memory import retry_if_cuda_oom
from detectron2.utils.registry import Registry, locate
from tests.conftest import FACTS
from tests.standin import says

GOLDEN = json.loads((FACTS / "golden_behaviours.json").read_text())


def test_version():
    assert detectron2.__version__ == "0.6"


# ---- registry


def test_registry():
    registry = Registry("TEST")

    @registry.register()
    def f1():
        pass

    facts = GOLDEN["registry"]
    assert ("f1" in registry) == facts["in"]
    assert [name for name, _ in registry] == facts["names"]
    assert (registry.get("f1") is f1) == facts["get_returns_object"]
    with pytest.raises(AssertionError):
        registry.register(f1)
    with pytest.raises(KeyError):
        registry.get("f2")
    with pytest.raises(AttributeError):
        registry.register("a name")
    assert [facts[k]["raises"] for k in ("duplicate", "get_missing", "register_with_a_name_string")] == [
        "AssertionError",
        "KeyError",
        "AttributeError",
    ]


def test_locate():
    assert locate("torch.nn.Linear") is torch.nn.Linear
    assert locate("torch.nn.Linear").__name__ == GOLDEN["registry"]["locate"]
    with pytest.raises(ImportError):
        locate("torch.nn.NotThere")


# ---- comm in a single process


def test_comm_alone():
    facts = GOLDEN["comm_single_process"]
    for name in ("get_world_size", "get_rank", "get_local_rank", "get_local_size", "is_main_process", "synchronize"):
        assert getattr(comm, name)() == facts[name], name
    assert comm.all_gather({"a": 1}) == facts["all_gather"]
    assert comm.gather(5) == facts["gather"]
    losses = {"x": torch.ones(())}
    assert (comm.reduce_dict(losses) is losses) == facts["reduce_dict_same_object"]
    with pytest.raises(AssertionError):
        comm.get_local_process_group()
    np.random.seed(1)
    assert comm.shared_random_seed() == facts["shared_random_seed_after_np_seed_1"]


# ---- seeds


def test_seeds(monkeypatch, caplog):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    facts = GOLDEN["seeds"]
    draws = []
    for _ in range(2):
        seed_all_rng(7)
        draws.append([np.random.rand(), torch.rand(1).item(), random.random()])
    assert draws[0] == draws[1]
    np.testing.assert_allclose(draws[0], facts["seed_7_first_numpy_torch_python"], rtol=1e-6)
    assert os.environ["PYTHONHASHSEED"] == facts["PYTHONHASHSEED"]
    with caplog.at_level(logging.INFO):
        seed_all_rng(None)
    seed = int(re.search(r"\d+", caplog.records[-1].getMessage()).group())
    assert torch.initial_seed() == seed, "a run must be repeatable from its log"


def test_custom_environment(tmp_path, monkeypatch):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import os\ndef setup_environment():\n    os.environ['STANDIN_TEST'] = 'called'\n")
    bad.write_text("x = 1\n")
    monkeypatch.setenv("STANDIN_TEST", "not called")
    setup_custom_environment(str(good))
    assert os.environ["STANDIN_TEST"] == "called"
    with pytest.raises(AssertionError, match=says("setup_environment")):
        setup_custom_environment(str(bad))


# ---- logger


@pytest.fixture
def logger_name(request):
    name = request.node.name
    yield name
    logging.getLogger(name).handlers.clear()


def test_logger_files_and_lines(tmp_path, logger_name, capsys):
    facts = GOLDEN["logger"]
    logger = setup_logger(str(tmp_path), color=False, name=logger_name)
    handlers = list(logger.handlers)
    assert setup_logger(str(tmp_path), color=False, name=logger_name) is logger
    assert len(logger.handlers) - len(handlers) == facts["second_call_adds_handlers"]
    assert (logger.propagate, logger.level) == (facts["propagate"], facts["level"])
    logger.info("hello")
    line = (tmp_path / "log.txt").read_text().strip()
    shape = facts["file_line_shape"].replace("mylib", logger_name)
    assert re.sub(r"\d\d(?=[/: \]])", "99", line) == shape
    assert capsys.readouterr().out.strip() == line
    assert sorted(os.listdir(tmp_path)) == facts["file"]


def test_logger_of_another_rank(tmp_path, logger_name, capsys):
    setup_logger(str(tmp_path), name=logger_name)
    other = setup_logger(str(tmp_path), 2, name=logger_name + ".child")
    other.info("quiet")
    assert sorted(os.listdir(tmp_path)) == GOLDEN["logger"]["file_rank2"]
    assert capsys.readouterr().out == "" and GOLDEN["logger"]["rank>0_has_stdout_handler"] == 0


def test_logger_takes_a_file_name(tmp_path, logger_name):
    setup_logger(str(tmp_path / "sub" / "mine.txt"), name=logger_name, configure_stdout=False).info("x")
    assert os.listdir(tmp_path / "sub") == ["mine.txt"] and GOLDEN["logger"]["txt_name_used_as_is"]


def test_terminal_shortens_detectron2(capsys):
    logger = setup_logger(color=True, name="detectron2")
    try:
        logging.getLogger("detectron2.data").warning("careful")
        out = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)
    finally:
        logger.handlers.clear()
        logger.propagate = True
        setup_logger.cache_clear()
    assert re.fullmatch(r"WARNING \[\d\d/\d\d \d\d:\d\d:\d\d d2\.data\]: careful\n", out)


def test_log_limits(caplog, monkeypatch):
    facts = GOLDEN["logger"]
    seen = []
    for i in range(5):
        log_first_n(logging.WARNING, f"m{i}", 2)
    for i in range(4):
        log_first_n(logging.WARNING, f"q{i // 2}", key="message")
    for i in range(9):
        log_every_n(logging.WARNING, f"e{i}", 3)
    seen = [r.getMessage() for r in caplog.records]
    assert seen == facts["log_first_n_2_by_caller"] + facts["log_first_n_by_message"] + facts["log_every_n_3"]
    assert {r.name for r in caplog.records} == {__name__}


@pytest.mark.standin_only("a clock that is never set back")
def test_log_every_few_seconds(caplog, monkeypatch):
    clock = iter([0.0, 1.0, 2.5, 3.0])
    monkeypatch.setattr("detectron2.utils.logger.time.monotonic", lambda: next(clock))
    for i in range(4):
        log_every_n_seconds(logging.WARNING, f"s{i}", 2, name="other")
    assert [(r.name, r.getMessage()) for r in caplog.records] == [("other", "s0"), ("other", "s2")]


def test_small_table():
    assert create_small_table({"AP": 12.3456, "AP50": float("nan")}) == GOLDEN["logger"]["create_small_table"]


# ---- files, environment, memory


def test_zoo_prefix_is_a_url_behind_the_path_manager(monkeypatch):
    asked = []
    real = PathManager.get_local_path

    def get_local_path(path, force=False, **kwargs):
        if path.startswith("https://"):
            asked.append(path)
            return "/cache/file.pkl"
        return real(path, force, **kwargs)

    monkeypatch.setattr(PathManager, "get_local_path", get_local_path)
    assert PathManager.get_local_path("detectron2://A/B.pkl") == "/cache/file.pkl"
    assert asked == [Detectron2Handler.S3_DETECTRON2_PREFIX + "A/B.pkl"]


def test_environment_table_names_versions(capsys):
    table = collect_env_info()
    for name, version in (("PyTorch", torch.__version__), ("numpy", np.__version__), ("detectron2", "0.6")):
        assert re.search(rf"^{name} +{re.escape(version)}", table, re.MULTILINE), name
    main()
    assert capsys.readouterr().out.startswith(table)


def test_out_of_memory_is_retried_and_other_errors_are_not():
    calls = Counter()

    @retry_if_cuda_oom
    def short_of_memory(x):
        calls["memory"] += 1
        if calls["memory"] < 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return x + 1

    @retry_if_cuda_oom
    def broken():
        calls["broken"] += 1
        raise RuntimeError("something else")

    assert short_of_memory(torch.tensor(1)) == 2
    with pytest.raises(RuntimeError, match="something else"):
        broken()
    assert calls == {"memory": 3, "broken": 1}
