import json
import os
import subprocess
import sys
import time

import pytest

from defcn_ext.config import UserError
from defcn_ext.evaluation.outcomes import Tally
from defcn_ext.study import demo, training
from defcn_ext.tools.demo import main
from tests.quick import REPOSITORY

PICTURES = {"demo.png", "contact_sheet.png", "score_maps_1.png", "score_maps_2.png"}


def make_run(**changes):
    values = {
        "detector": "FCOS",
        "weights": "fcos.pth",
        "iterations": 600,
        "train_seconds": 125.4,
        "ap": {"without_nms": 20.25, "with_nms": 51.5},
        "counts": Tally(objects=100, found=80, duplicates=200, wrong=3),
    }
    return training.Run(**{**values, **changes})


def test_table():
    defcn = make_run(detector="DeFCN", ap={"without_nms": 52.0, "with_nms": 51.9}, counts=Tally(100, 80, 4, 3))
    lines = demo.result_table([make_run(), defcn]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["FCOS", "20.2", "51.5", "+31.2", "2.50", "2:05"]
    assert cells[3] == ["DeFCN", "52.0", "51.9", "-0.1", "0.05", "2:05"]


def test_results_are_valid_json_even_where_nothing_was_measured(tmp_path):
    nothing = {"without_nms": float("nan"), "with_nms": float("nan")}
    demo.write_results([make_run(), make_run(ap=nothing, counts=Tally())], tmp_path)
    text = (tmp_path / "results.json").read_text()
    first, second = json.loads(text, parse_constant=pytest.fail)
    assert first["gap"] == 31.25 and first["counts"]["duplicates"] == 200
    assert second["ap"] == {"without_nms": None, "with_nms": None} and second["duplicates_per_object"] == 0.0
    last = (tmp_path / "table.md").read_text().splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")] == ["FCOS", "-", "-", "-", "0.00", "2:05"]


def test_a_run_survives_its_record():
    from dataclasses import asdict

    run = make_run()
    assert training.Run.from_json(json.loads(json.dumps(asdict(run)))) == run


@pytest.fixture
def small(tmp_path_factory, monkeypatch):
    """The configs of the demo with smaller batches and images, and fewer pictures."""
    folder = tmp_path_factory.mktemp("configs")
    for name, file in demo.CONFIGS.items():
        changes = "INPUT: {MIN_SIZE_TRAIN: [128], MIN_SIZE_TEST: 128}\nSOLVER: {IMS_PER_BATCH: 2}\n"
        (folder / file).write_text(f'_BASE_: "{REPOSITORY / "configs" / "Quick" / file}"\n{changes}')
        monkeypatch.setitem(demo.CONFIGS, name, str(folder / file))
    monkeypatch.setattr(demo, "SHEET_IMAGES", 2)


def test_trains_once_and_then_takes_over(quick, small, tmp_path, capsys, monkeypatch):
    first = demo.run_demo(tmp_path, iterations=1)
    printed = capsys.readouterr().out
    assert "iter: 1/1" in printed and "copypaste" not in printed and "ResNet(" not in printed
    assert "copypaste: AP,AP50" in (tmp_path / "fcos" / "log.txt").read_text()
    written = {path.name for path in tmp_path.iterdir()}
    assert PICTURES | {"table.md", "results.json", "fcos", "defcn"} == written
    assert all(str(tmp_path / name) in printed for name in written - {"fcos", "defcn"})
    assert (tmp_path / "table.md").read_text().strip() in printed

    monkeypatch.setattr(training, "train", pytest.fail)
    again = demo.run_demo(tmp_path, iterations=1)
    assert [run.train_seconds for run in again] == [run.train_seconds for run in first]
    assert "already trained" in capsys.readouterr().out


def test_another_config_or_other_data_trains_again(quick, tmp_path, monkeypatch):
    calls = []

    def train(detector, cfg):
        calls.append(cfg.SOLVER.MAX_ITER)
        (tmp_path / "run" / "config.yaml").touch()
        weights = tmp_path / "run" / "model_final.pth"
        weights.touch()
        return make_run(weights=str(weights))

    monkeypatch.setattr(training, "train", train)
    data = tmp_path / "data"
    data.mkdir()
    for iterations, digest in [(5, "a"), (5, "a"), (6, "a"), (6, "b"), (6, "b")]:
        (data / "meta.json").write_text(json.dumps({"sha256": digest}))
        cfg = demo.demo_config("fcos.yaml", tmp_path / "run", iterations)
        training.train_or_reuse("FCOS", cfg, data)
    assert calls == [5, 6, 6]
    (tmp_path / "run" / "model_final.pth").unlink()
    training.train_or_reuse("FCOS", cfg, data)
    assert calls == [5, 6, 6, 6]
    record = tmp_path / "run" / "run.json"
    for broken in (record.read_text()[:40], "[]", '{"run": {}}'):
        record.write_text(broken)
        training.train_or_reuse("FCOS", cfg, data)
    assert calls == [5, 6, 6, 6, 6, 6, 6]
    assert sorted(p.name for p in record.parent.iterdir()) == ["config.yaml", "model_final.pth", "run.json"]


def test_never_removes_what_is_not_its_own(tmp_path):
    precious = tmp_path / "fcos" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(UserError, match="choose another --output"):
        training.clear(precious.parent)
    assert precious.read_text() == "years of work"


def test_a_missing_script_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "empty"))
    monkeypatch.setattr(demo, "REPOSITORY", tmp_path)
    with pytest.raises(SystemExit, match=r"prepare_quick\.py: no such file; run the demo from a clone"):
        main(["--output", str(tmp_path / "out")])


@pytest.mark.slow
def test_from_nothing_and_again(tmp_path):
    command = [sys.executable, "-m", "defcn_ext.tools.demo", "--output", "out", "--iterations", "3"]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "data"), "PYTHONPATH": str(REPOSITORY)}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": True}
    first = subprocess.run(command, **options)
    assert len(list((tmp_path / "data" / "quick" / "images").iterdir())) == 500
    start = time.perf_counter()
    second = subprocess.run(command, **options)
    assert time.perf_counter() - start < 60
    table = (tmp_path / "out" / "table.md").read_text().strip()
    assert table in first.stdout and table in second.stdout and "training for" not in second.stdout
