import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest

from defcn_ext.config import UserError
from defcn_ext.study import jobs
from defcn_ext.study.jobs import Failure, Plan, locked, run_all
from defcn_ext.tools import compare
from tests.quick import REPOSITORY
from tests.study.test_compare import QUICK, SMALL, arguments, make_run

INPUTS = {"config": "a", "data": "b"}


def plans(tmp_path, *names, **options):
    found = []
    for seed, name in enumerate(names):
        (tmp_path / name).mkdir()
        found.append(Plan(name.upper(), seed, tmp_path / name, INPUTS, **options))
    return found


@pytest.fixture
def children(monkeypatch):
    """Children that run a script in place of a training, by the name of the folder; and what is started, in order."""
    scripts, started = {}, []

    def start(folder, threads, lock):
        started.append(folder.name)
        with open(folder / "log.txt", "ab") as log:
            command = [sys.executable, "-S", "-c", scripts[folder.name], str(folder)]
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    monkeypatch.setattr(jobs, "start", start)
    return scripts, started


def finishing(seed, seconds=0.0):
    record = json.dumps({"run": asdict(make_run(seed=seed)), "inputs": INPUTS})
    return f"import sys, time; time.sleep({seconds}); open(sys.argv[1] + '/run.json', 'w').write({record!r})"


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path, children, capsys):
    scripts, started = children
    scripts["a"] = "import sys\nfor i in range(20): print('line', i)\nsys.exit('error: no luck')"
    scripts["b"] = finishing(seed=1)
    scripts["c"] = "import os; os.kill(os.getpid(), 9)"
    runs, failures = run_all(plans(tmp_path, "a", "b", "c"), jobs=1, threads=1, lock=None)
    assert started == ["a", "b", "c"]
    assert [(run.label, run.seed) for run in runs] == [("B", 1)]
    assert [(x.label, x.reason.splitlines()[0]) for x in failures] == [
        ("A", "exit code 1"),
        ("C", "killed by signal 9"),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[1/3\] A, seed 0: FAILED, elapsed 0:0\d, left about 0:\d\d", lines[0])
    assert lines[1:9] == ["    exit code 1", *(f"    line {i}" for i in range(13, 20))]
    assert lines[9] == "    error: no luck"
    scored = "[2/3] B, seed 1: AP 20.0 without NMS, 35.0 with NMS, trained in 1:40, elapsed 0:0"
    assert any(line.startswith(scored) for line in lines)


def test_a_record_of_other_inputs_is_no_result(tmp_path, children):
    children[0]["a"] = finishing(seed=0).replace('"config": "a"', '"config": "other"')
    runs, failures = run_all(plans(tmp_path, "a"), jobs=1, threads=1, lock=None)
    assert runs == [] and failures == [Failure("A", 0, "exit code 0")]


def test_several_at_a_time_in_the_order_of_the_plans(tmp_path, children):
    scripts, started = children
    scripts |= {"a": finishing(0, 1.5), "b": finishing(1), "c": finishing(2), "d": finishing(3)}
    start = time.perf_counter()
    runs, _ = run_all(plans(tmp_path, "a", "b", "c", "d"), jobs=2, threads=1, lock=None)
    assert [run.seed for run in runs] == [0, 1, 2, 3] and started == ["a", "b", "c", "d"]
    written = [(tmp_path / name / "run.json").stat().st_mtime for name in "abcd"]
    assert written[0] > written[2], "the second worker must not wait for the first one"
    assert time.perf_counter() - start < 10


def test_finished_runs_are_taken_over_without_a_child(tmp_path, children, capsys):
    runs, _ = run_all(plans(tmp_path, "a", finished=make_run(label="")), jobs=1, threads=1, lock=None)
    assert runs == [make_run(label="A")] and children[1] == []
    expected = "[1/1] A, seed 0: AP 20.0 without NMS, 35.0 with NMS, taken over from an earlier call\n"
    assert capsys.readouterr().out == expected


def test_children_end_when_the_call_is_interrupted(tmp_path, children, monkeypatch):
    children[0]["a"] = "import time; time.sleep(60)"
    processes = []
    start = jobs.start
    monkeypatch.setattr(jobs, "start", lambda *args: processes.append(start(*args)) or processes[-1])

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_all(plans(tmp_path, "a"), jobs=1, threads=1, lock=None)
    assert processes[0].poll() == -signal.SIGKILL


def test_two_calls_in_one_folder(tmp_path):
    with locked(tmp_path / "out"):
        message = rf"out: another comparison is at work there \(process {os.getpid()}\)"
        with pytest.raises(UserError, match=message):
            with locked(tmp_path / "out"):
                pytest.fail("both have it")
        with locked(tmp_path / "other"):
            pass
    with locked(tmp_path / "out"):
        assert (tmp_path / "out" / ".lock").read_text() == str(os.getpid())


def test_the_lock_of_a_dead_call_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "LOCK_PATIENCE", 0.3)
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    dead.wait()
    with locked(tmp_path) as file:  # as an orphan holds it
        file.truncate(0)
        file.write(str(dead.pid))
        file.flush()
        start = time.monotonic()
        with pytest.raises(UserError, match=f"process {dead.pid}"):
            with locked(tmp_path):
                pytest.fail("the orphan still works")
        assert time.monotonic() - start >= 0.3
    with locked(tmp_path):
        pass


def test_a_failure_ends_the_command_with_1(quick, tmp_path, monkeypatch, capsys):
    failure = Failure("fcos", 0, "exit code 1")
    monkeypatch.setattr("defcn_ext.study.plans.run_all", lambda *_: ([], [failure]))
    with pytest.raises(SystemExit) as ended:
        compare.main(arguments(tmp_path))
    assert ended.value.code == 1 and "- (failed: 0)" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_and_called_again(data_root, tmp_path):
    """The whole command: the children of a killed call end, and the next call gives the table of an unbroken one."""
    entries = [f"{name.upper()}={QUICK / name}.yaml" for name in ("fcos", "poto")]
    options = ["--iterations", "12", "--eval-period", "4", "--jobs", "2", "--threads", "1"]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(data_root), "PYTHONPATH": str(REPOSITORY)}

    def command(output):
        return [sys.executable, "-m", "defcn_ext.tools.compare", *entries, *options, "--output", output, *SMALL]

    settings = {"cwd": tmp_path, "env": environment, "text": True}
    subprocess.run(command("whole"), check=True, **settings)
    killed = subprocess.Popen(command("broken"), **settings)
    pointer = tmp_path / "broken" / "runs" / "fcos" / "seed_0" / "last_checkpoint"
    deadline = time.monotonic() + 60
    while not pointer.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    second = subprocess.run(command("broken"), capture_output=True, **settings)
    assert second.returncode == 1 and f"another comparison is at work there (process {killed.pid})" in second.stderr
    killed.kill()
    killed.wait()
    third = subprocess.run(command("broken"), capture_output=True, check=True, **settings)
    results = [json.loads((tmp_path / name / "results.json").read_text())["runs"] for name in ("whole", "broken")]
    for whole, broken in zip(*results, strict=True):
        assert whole["curve"] == broken["curve"] and whole["counts"] == broken["counts"]
        assert [x["iteration"] for x in whole["curve"]] == [4, 8, 12]
    assert "taken over" not in third.stdout
    log = (pointer.parent / "log.txt").read_text()
    assert log.count("iter: 12/12") == 1 and "iter: 4/12" in log
