"""A trained detector becomes one that needs no NMS."""

import json

import pytest
import torch

from defcn_ext.branches import build_branches
from defcn_ext.checkpoint import read_checkpoint
from defcn_ext.config import UserError
from defcn_ext.engine import Trainer
from defcn_ext.engine.preflight import load_config
from defcn_ext.predictor import Predictor
from defcn_ext.study import nms_free
from defcn_ext.study.nms_free import Measures, Outcome, make_nms_free, report
from defcn_ext.study.nms_free_config import base_config, load_base, one_to_one, selector_config
from tests.quick import REPOSITORY
from tests.tiny import ALL, tiny_cfg

STRIDES = (8, 16, 32, 64, 128)
NEEDS_NMS = {"fcos", "fcos_centerness", "dw", "dw_refine", "o2f"}  # o2f: several points by design
SMALL = [
    *("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "SOLVER.IMS_PER_BATCH", "2"),
    *("MODEL.DEFCN.SCORE_THRESH_TEST", "0.0"),  # random weights detect something only so
]
QUICK = "configs/Quick/{}.yaml"


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("date")])
def test_which_rules_leave_one_point_an_object(name):
    branch = next(iter(build_branches(tiny_cfg(*ALL[name]), 64).values()))
    assert one_to_one(branch, STRIDES) == (name not in NEEDS_NMS)


@pytest.mark.parametrize("rule, type, expected", [("ATSS", "point", False), ("RetinaNet", "anchor", False)])
def test_other_one_to_many_rules(rule, type, expected):
    opts = ("MODEL.DEFCN.MINE.TYPE", type, "MODEL.DEFCN.MINE.RULE", rule, "MODEL.DEFCN.BRANCHES", ["MINE"])
    assert one_to_one(build_branches(tiny_cfg(*opts), 64)["mine"], STRIDES) == expected


def test_the_report():
    before, after = Measures(19.7, 34.3, 3.1), Measures(44.25, float("nan"), 0.334)
    text = report(Outcome({"val": before}, {"val": after}, 200, 61.2, 1000, 2_000_000), nms_free.Path("out"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:4]]
    assert rows == [["before", "19.7", "34.3", "+14.6", "3.10"], ["with the selector", "44.2", "-", "-", "0.33"]]
    assert "200 iterations in 1:01 (min:s); trained 1,000 of 2,000,000 parameters." in text
    assert "--config-file out/config.yaml --eval-only" in text


def trained(folder, name="fcos", *opts):
    """A checkpoint of a Quick config, of random weights."""
    config = str(REPOSITORY / QUICK.format(name))
    cfg = load_config(config, [*SMALL, *opts, "OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.average.before_train()
    trainer.checkpointer.save("model_final")
    return str(folder / "model_final.pth")


@pytest.mark.parametrize(
    "name, opts, message",
    [
        ("poto", (), r"ONE_TO_ONE: its rule POTO\(.*gives an object one point, so that it needs no NMS"),
        ("fcos_selector", (), "SELECTOR: is a selector already"),
        ("fcos", ("MODEL.DEFCN.NUM_CONVS", "1"), "weights of another model.*8 that the model lacks"),
        ("fcos", ("MODEL.DEFCN.NUM_CLASSES", "9"), "MODEL.DEFCN.NUM_CLASSES"),
        ("fcos", ("DATASETS.TRAIN", "('nowhere',)"), "DATASETS.TRAIN: unknown data set nowhere"),
        ("fcos", ("MODEL.DEFCN.SELECTOR.READS", "boxes"), "READS: unknown value 'boxes'"),
        ("fcos", ("MODEL.DEFCN.SELECTOR.CONVOS", "1"), "unknown config key MODEL.DEFCN.SELECTOR.CONVOS"),
    ],
)
@pytest.mark.slow
def test_what_cannot_work_is_told_before(quick, tmp_path, name, opts, message):
    weights = trained(tmp_path / "base", name)
    with pytest.raises(UserError, match=message):
        make_nms_free(str(REPOSITORY / QUICK.format(name)), weights, tmp_path / "out", 1, [*SMALL, *opts])
    assert not (tmp_path / "out" / "nms_free.json").exists()


def test_missing_weights_are_told(quick, tmp_path):
    config = str(REPOSITORY / QUICK.format("fcos"))
    with pytest.raises(UserError, match="none.pth.*no such file"):
        make_nms_free(config, str(tmp_path / "none.pth"), tmp_path / "out")


BASES = {
    "fcos": (),
    "dw_refine": (),
    "date_r": ("MODEL.DEFCN.TEST_BRANCH", "ONE_TO_MANY"),
}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.slow
def test_only_the_selector_is_trained_and_the_files_stand_alone(quick, tmp_path, name):
    weights, out = trained(tmp_path / "base", name, *BASES[name]), tmp_path / "out"
    outcome = make_nms_free("", weights, out, 2, SMALL)
    before, after = read_checkpoint(weights).state, read_checkpoint(str(out / "model_final.pth")).state
    common = set(before) & set(after)
    assert set(after) - common == {k for k in after if k.startswith("branches.selector.")} != set()
    assert all(torch.equal(torch.as_tensor(before[k]), torch.as_tensor(after[k])) for k in common)
    assert outcome.total - outcome.trained == sum(
        p.numel() for k, p in Predictor.load(out / "model_final.pth").model.named_parameters() if "selector" not in k
    )
    assert set(outcome.before) == {"quick_val"} and outcome.iterations == 2
    cfg = load_config(str(out / "config.yaml"), [])
    assert cfg.MODEL.WEIGHTS == str(out / "model_final.pth") and cfg.MODEL.DEFCN.TEST_BRANCH == "SELECTOR"
    results = Trainer.test(cfg, Predictor.load(out / "config.yaml", out / "model_final.pth").model)
    assert results["bbox"]["AP"] == pytest.approx(outcome.after["quick_val"].without_nms)


@pytest.mark.slow
def test_it_goes_on_where_it_was_and_takes_over_what_is_done(quick, tmp_path, monkeypatch, capsys):
    weights = trained(tmp_path / "base")
    whole = make_nms_free("", weights, tmp_path / "whole", 4, SMALL)

    class Killed(Exception):
        pass

    def killed(trainer):
        trainer.checkpointer.save("model_0000001", iteration=trainer.iter)
        raise Killed

    out, step = tmp_path / "out", nms_free.SelectorTrainer.after_step
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(nms_free.SelectorTrainer, "after_step", lambda t: (step(t), killed(t) if t.iter == 1 else None))
        make_nms_free("", weights, out, 4, SMALL)
    assert "before" in json.loads((out / "nms_free.json").read_text())
    capsys.readouterr()
    again = make_nms_free("", weights, out, 4, SMALL)
    assert "as it is" not in capsys.readouterr().out
    assert again.after == whole.after
    states = [read_checkpoint(str(folder / "model_final.pth")).state for folder in (out, tmp_path / "whole")]
    assert all(torch.equal(torch.as_tensor(states[0][k]), torch.as_tensor(v)) for k, v in states[1].items())

    monkeypatch.setattr(nms_free, "_train", pytest.fail)
    assert make_nms_free("", weights, out, 4, SMALL) == again
    with pytest.raises(UserError, match="holds another run; remove it"):
        make_nms_free("", weights, out, 5, SMALL)


@pytest.mark.slow
def test_branches_that_only_train_are_left_out_and_anchors_have_their_rule(quick, tmp_path):
    opts = ["MODEL.DEFCN.TEST_BRANCH", "ONE_TO_MANY"]
    weights = trained(tmp_path / "base", "date_r", *opts)
    base = base_config("", weights, tmp_path / "out", SMALL)
    cfg = selector_config(base, load_base(base), 7, ["SOLVER.BASE_LR", "0.5", "MODEL.DEFCN.SELECTOR.CONVS", "1"])
    assert cfg.MODEL.DEFCN.BRANCHES == ["ONE_TO_MANY", "SELECTOR"] and cfg.MODEL.DEFCN.SELECTOR.CONVS == 1
    assert cfg.MODEL.DEFCN.SELECTOR.RULE.startswith("Combine(candidates=overlapping_anchors")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SOLVER.OPTIMIZER) == (7, 0.5, "ADAMW")
