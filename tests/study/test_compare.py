import json
import math
import re
import time
from pathlib import Path

import pytest
import torch

from defcn_ext.config import UserError
from defcn_ext.evaluation.outcomes import Tally
from defcn_ext.study import plans, runs
from defcn_ext.study.entries import FORM, Entry, parse_entries, parse_entry
from defcn_ext.study.runs import Evaluation, Run
from defcn_ext.tools import compare
from defcn_ext.tools.compare import parse
from tests.quick import REPOSITORY

QUICK = REPOSITORY / "configs" / "Quick"
SMALL = ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "SOLVER.IMS_PER_BATCH", "2"]


def make_run(label="FCOS", seed=0, aps=((10, 5.0, 9.0), (20, 20.0, 35.0)), counts=(100, 80, 200, 30), **changes):
    curve = tuple(Evaluation(iteration, plain, with_nms, 2 * plain) for iteration, plain, with_nms in aps)
    values = {"images": 10, "train_seconds": 100.0, "wall_seconds": 120.0, "weights": "a.pth", **changes}
    return Run(label, seed, curve, Tally(*counts), **values)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("configs/Quick/fcos.yaml", ("fcos", "configs/Quick/fcos.yaml", ())),
        ("Our own=a.yml", ("Our own", "a.yml", ())),
        (
            "a1=a.yaml:MODEL.DEFCN.ONE_TO_ONE.RULE=POTO(alpha=1.0, prior=center);SEED.X=['a=b.json:c']",
            (
                "a1",
                "a.yaml",
                ("MODEL.DEFCN.ONE_TO_ONE.RULE", "POTO(alpha=1.0, prior=center)", "SEED.X", "['a=b.json:c']"),
            ),
        ),
        ("x/a.yaml:MODEL.A=b.yaml", ("a", "x/a.yaml", ("MODEL.A", "b.yaml"))),
    ],
)
def test_entries(text, expected):
    entry = parse_entry(text)
    assert (entry.label, entry.config, entry.changes) == expected


@pytest.mark.parametrize("text", ["configs/fcos.txt", "a.yaml:MODEL.A", "a.yaml:=3", "a.yaml;MODEL.A=3"])
def test_entries_that_are_none(text):
    with pytest.raises(UserError, match=re.escape(FORM)):
        parse_entry(text)


def test_labels_differ():
    assert [x.label for x in parse_entries(["a.yaml", "b/a.yaml"], ["A", "B"])] == ["A", "B"]
    with pytest.raises(UserError, match="two configs have the same label 'a'"):
        parse_entries(["a.yaml", "b/a.yaml"])
    with pytest.raises(UserError, match="too similar labels, 'A b' and 'a_B'"):
        parse_entries(["A b=a.yaml", "a_B=a.yaml"])
    with pytest.raises(UserError, match="--labels: 1 for 2 configs"):
        parse_entries(["a.yaml", "b.yaml"], ["A"])


def test_command_line():
    args = parse(["a.yaml", "b.yaml", "--labels", "A", "B.2", "--seeds", "3", "1", "MODEL.X", "1", "SOLVER.Y", "2"])
    assert args.configs == ["a.yaml", "b.yaml"] and args.labels == ["A", "B.2"] and args.seeds == [3, 1]
    assert args.opts == ["MODEL.X", "1", "SOLVER.Y", "2"]
    for bad in (["--jobs", "0"], ["--iterations", "0"], ["--seeds", "1", "1"], ["--seeds", "-1"], ["MODEL.X"]):
        with pytest.raises(SystemExit):
            parse(["a.yaml", *bad])


def arguments(output, *more, iterations=2):
    fixed = ["--output", str(output), "--iterations", str(iterations), "--threads", "1"]
    return [str(QUICK / "fcos.yaml"), *fixed, *map(str, more)]


def config(output, *opts, entry=None, seed=0, **options):
    args = parse([*arguments(output, **options), *opts])
    return plans.run_config(entry or Entry("A b", str(QUICK / "fcos.yaml")), args, seed)


def test_the_config_of_a_run(tmp_path):
    entry = Entry("A b", str(QUICK / "poto.yaml"), ("SOLVER.BASE_LR", "0.5"))
    cfg = config(
        tmp_path, "SOLVER.BASE_LR", "0.25", "SOLVER.WEIGHT_DECAY", "0.125", entry=entry, seed=7, iterations=600
    )
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SEED) == (0.5, 0.125, 7)
    assert tmp_path / "runs" / "a_b" / "seed_7" == Path(cfg.OUTPUT_DIR)
    assert (cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD) == (600, 60, 60)
    assert cfg.MODEL.DEFCN.COMPARE_NMS
    with pytest.raises(UserError, match="A b: OUTPUT_DIR is set by this tool; use --output"):
        config(tmp_path, entry=Entry("A b", str(QUICK / "poto.yaml"), ("OUTPUT_DIR", "x")))
    with pytest.raises(UserError, match="A b: .*none.yaml: no such file"):
        config(tmp_path, entry=Entry("A b", "none.yaml"))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("SOLVER.MAX_ITER", "7", r"SOLVER\.MAX_ITER: A has 2, B has 7; give --iterations"),
        ("SOLVER.IMS_PER_BATCH", "4", r"SOLVER\.IMS_PER_BATCH: A has 8, B has 4; give both the same"),
        ("TEST.EVAL_PERIOD", "2", r"TEST\.EVAL_PERIOD: A has 1, B has 2; give --eval-period"),
        ("INPUT.MIN_SIZE_TRAIN", "(96,)", r"MIN_SIZE_TRAIN: A has \(160,\), B has \(96,\)"),
        ("DATASETS.TRAIN", "('quick_val',)", r"DATASETS\.TRAIN: A has \('quick_train',\), B has \('quick_val',\)"),
        ("DATASETS.TEST", "()", r"B: DATASETS\.TEST \(\): give exactly one"),
        ("MODEL.META_ARCHITECTURE", "RetinaNet", "B: MODEL.META_ARCHITECTURE RetinaNet: only DeFCN is compared"),
    ],
)
def test_unequal_budgets_are_refused(tmp_path, key, value, message):
    first, second = config(tmp_path), config(tmp_path).clone()
    second.defrost()
    second.merge_from_list([key, value])
    plans.check_budget({"A": first, "B": config(tmp_path)})
    with pytest.raises(UserError, match=message):
        plans.check_budget({"A": first, "B": second})


def test_all_configs_are_checked_before_the_first_training(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plans, "run_all", pytest.fail)
    broken = f"B={QUICK / 'poto.yaml'}:MODEL.DEFCN.ONE_TO_ONE.RULE=Nothing()"
    with pytest.raises(SystemExit, match=r"compare: error: B: .*Nothing"):
        compare.main([broken, *arguments(tmp_path)])


def prepared(folder, *opts, iterations=4):
    cfg = config(folder, *SMALL, "TEST.EVAL_PERIOD", "2", *opts, iterations=iterations)
    inputs = runs.inputs_of(cfg)
    path = Path(cfg.OUTPUT_DIR)
    runs.prepare_folder(path, cfg, inputs)
    return path, inputs


def test_an_interrupted_run_goes_on_and_gives_the_same(quick, tmp_path, monkeypatch):
    folder, _ = prepared(tmp_path / "a")
    whole = runs.train(folder)
    assert [x.iteration for x in whole.curve] == [2, 4] and whole.images == 6 and whole.counts.objects > 0
    assert sorted(x.name for x in folder.glob("*.pth")) == ["model_final.pth"]

    class PulledPlugError(Exception):
        pass

    def stop_at_the_third(record):
        if record.trainer.iter == 2:
            raise PulledPlugError
        record._start = time.perf_counter()

    folder, inputs = prepared(tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(runs.Record, "before_step", stop_at_the_third)
        with pytest.raises(PulledPlugError):
            runs.train(folder)
    assert (folder / "last_checkpoint").read_text() == "model_0000001.pth"
    runs.prepare_folder(folder, *_again(folder, inputs))
    steps = []
    run_step = runs.RecordedTrainer.run_step
    monkeypatch.setattr(runs.RecordedTrainer, "run_step", lambda self: (steps.append(self.iter), run_step(self)))
    resumed = runs.train(folder)
    assert steps == [2, 3]
    assert resumed.curve == whole.curve and resumed.counts == whole.counts
    first, second = (torch.load(run.weights, weights_only=False)["model"] for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first) and len(first) > 50
    again = runs.train(folder)  # killed after the training, before its record was written
    assert again.curve == whole.curve and again.train_seconds == resumed.train_seconds and steps == [2, 3]


def _again(folder, inputs):
    return runs.load_config(str(folder / "config.yaml"), []), inputs


def test_an_empty_checkpoint_pointer_starts_again(tmp_path):
    pointer = tmp_path / "last_checkpoint"
    for text, kept in [("", False), ("model_0000001.pth", False), ("model_final.pth", True)]:
        (tmp_path / "model_final.pth").touch()
        pointer.write_text(text)
        runs._forget_lost_checkpoint(tmp_path)
        assert pointer.exists() == kept


def test_folders_of_other_runs_are_refused_and_kept(quick, tmp_path):
    (tmp_path / "runs" / "a_b" / "seed_0" / "datasets").mkdir(parents=True)  # the check of the config may write it
    folder, inputs = prepared(tmp_path)
    prepared(tmp_path, "SOLVER.BASE_LR", "0.5")  # nothing was trained yet
    prepared(tmp_path)
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    prepared(tmp_path)
    with pytest.raises(UserError, match=r"holds a run with another config \(BASE_LR: 0.003\): remove it"):
        prepared(tmp_path, "SOLVER.BASE_LR", "0.5")
    with pytest.raises(UserError, match="on other data"):
        runs.prepare_folder(folder, config(tmp_path), {**inputs, "data": "other"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="files that are of no comparison"):
        runs.prepare_folder(tmp_path / "mine", config(tmp_path), inputs)


def test_a_finished_run_is_taken_over_if_inputs_are_equal(quick, tmp_path):
    folder, inputs = prepared(tmp_path)
    run = make_run(aps=((4, math.nan, 3.0),))
    content = {"run": runs.without_nan(runs.asdict(run)), "inputs": inputs}
    (folder / "run.json").write_text(json.dumps(content))
    found = runs.read_run(folder, inputs)
    assert math.isnan(found.curve[0].ap) and found.curve[0].ap_with_nms == 3.0 and found.counts == run.counts
    assert runs.read_run(folder, {**inputs, "data": "other"}) is None
    (folder / "run.json").write_text(json.dumps(content)[:50])
    assert runs.read_run(folder, inputs) is None
    moved = config(tmp_path / "elsewhere", *SMALL, "TEST.EVAL_PERIOD", "2", iterations=4)
    assert runs.inputs_of(moved) == inputs
