import os
from argparse import Namespace

import pytest
import torch

from defcn_ext.config import UserError
from defcn_ext.engine.preflight import check_run, load_config
from tests.engine.tiny import NAME, tiny_cfg


def args(**changes) -> Namespace:
    return Namespace(
        **{"num_gpus": 1, "num_machines": 1, "dist_url": "auto", "eval_only": False, "resume": False, **changes}
    )


@pytest.mark.parametrize(
    "opts, message",
    [
        (["SOLVER.BASE_LRR", "1.0"], r"SOLVER\.BASE_LRR; did you mean SOLVER\.BASE_LR"),
        (["MODEL.DEFCN.NUM_CLASES", "1"], r"did you mean MODEL\.DEFCN\.NUM_CLASSES"),
        (["INPUT.BASE_LR", "1.0"], r"INPUT\.BASE_LR; did you mean .*SOLVER\.BASE_LR"),
        (["SOLVER.MAX_ITER", "many"], r"SOLVER\.MAX_ITER"),
        (["SOLVER.MAX_ITER"], "odd|length|pairs"),
        (["MODEL", "3"], "MODEL"),
        (["OUTPUT_DIR", "out", "--resume"], "--resume stands behind KEY VALUE pairs: put all options before"),
    ],
)
def test_wrong_overrides(opts, message):
    with pytest.raises(UserError, match=message):
        load_config("", opts)


def test_wrong_file(tmp_path):
    with pytest.raises(UserError, match="none.yaml: no such file"):
        load_config(str(tmp_path / "none.yaml"), [])
    (tmp_path / "typo.yaml").write_text("VERSION: 2\nMODEL:\n  DEFCN:\n    SCORE_TRESH_TEST: 0.1\n")
    with pytest.raises(UserError, match=r"SCORE_TRESH_TEST; did you mean MODEL\.DEFCN\.SCORE_THRESH_TEST"):
        load_config(str(tmp_path / "typo.yaml"), [])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"MODEL: {WEIGHTS: [", "while parsing"),
        (b"", "KEY: VALUE"),
        (b"- MODEL", "KEY: VALUE"),
        (b"MODEL: 3", "MODEL"),
        (b"_BASE_: gone.yaml", "gone.yaml"),
        (b"# \xe9t\xe9", "utf-8.*can't decode"),
        (b"VERSION: 2\nDATASETS: {REGISTER: 'x=a.json:img'}", 'expected a list of "NAME=JSON:IMAGE_DIR"'),
    ],
)
def test_a_file_that_is_no_config_is_named_in_one_line(tmp_path, content, message):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(UserError, match=f"c.yaml: .*{message}") as raised:
        load_config(str(tmp_path / "c.yaml"), [])
    assert "\n" not in str(raised.value)


def test_one_data_set_is_registered_without_brackets():
    assert load_config("", ["DATASETS.REGISTER", "x=a.json:img"]).DATASETS.REGISTER == ("x=a.json:img",)
    assert load_config("", ["DATASETS.REGISTER", "('x=a.json:img',)"]).DATASETS.REGISTER == ("x=a.json:img",)


def test_device_falls_back_with_one_warning(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load_config("", []).MODEL.DEVICE == "cpu"
    assert [r.getMessage() for r in caplog.records] == ["MODEL.DEVICE cuda: no GPU is available, using the CPU"]
    caplog.clear()
    load_config("", ["MODEL.DEVICE", "cpu"])
    assert not caplog.records


def test_good_run_passes(tiny_entry, tmp_path):
    check_run(tiny_cfg(tiny_entry, tmp_path / "new" / "out"), args())
    assert (tmp_path / "new" / "out").is_dir() and not os.listdir(tmp_path / "new" / "out")


@pytest.mark.parametrize(
    "opts, changes, message",
    [
        (("DATASETS.TRAIN", ("tiny_trian",)), {}, "DATASETS.TRAIN: unknown .* tiny_trian; did you mean tiny_train"),
        (("DATASETS.TRAIN", ()), {}, "DATASETS.TRAIN names no data set"),
        (("DATASETS.TEST", ("coco_2017_val",)), {}, "coco_2017_val: .* does not exist.*DETECTRON2_DATASETS"),
        (("DATASETS.REGISTER", ("x=/none/a.json:/none",)), {}, "DATASETS.REGISTER: x: .*/none"),
        (("MODEL.WEIGHTS", "/none/R-50.pkl"), {}, "MODEL.WEIGHTS /none/R-50.pkl: no such file"),
        (("DATASETS.TEST", (NAME,)), {"eval_only": True}, "--eval-only: give MODEL.WEIGHTS"),
        ((), {"eval_only": True}, "DATASETS.TEST names no data set"),
        ((), {"num_gpus": 3}, "IMS_PER_BATCH 4 is no multiple of 3"),
        (("SOLVER.ACCUMULATE", 4), {"num_gpus": 2}, "no multiple of 2 .processes. x 4"),
        ((), {"num_gpus": 0}, "--num-gpus 0"),
        (("SOLVER.ACCUMULATE", 0), {}, "SOLVER.ACCUMULATE 0: must be at least 1"),
        (("SOLVER.ACCUMULATE", -1), {}, "SOLVER.ACCUMULATE -1: must be at least 1"),
        (("SOLVER.IMS_PER_BATCH", 0), {}, "SOLVER.IMS_PER_BATCH 0: must be at least 1"),
        (("SOLVER.MAX_ITER", 0), {}, "SOLVER.MAX_ITER 0: must be at least 1"),
        (("SOLVER.OPTIMIZER", "ADAM"), {}, "SOLVER.OPTIMIZER: unknown optimizer 'ADAM'; known: SGD"),
        (("SOLVER.LR_SCHEDULER_NAME", "StepLR"), {}, "StepLR"),
        (("SOLVER.AMP.DTYPE", "half"), {}, "SOLVER.AMP.DTYPE: unknown type 'half'"),
        (("INPUT.RANDOM_FLIP", "left"), {}, "INPUT.RANDOM_FLIP: unknown value 'left'"),
        (("MODEL.DEVICE", "gpu"), {}, "MODEL.DEVICE: unknown device 'gpu'; known: cpu, cuda"),
        (("MODEL.DEVICE", "gpu"), {"eval_only": True}, "MODEL.DEVICE: unknown device 'gpu'; known: cpu, cuda"),
        (
            ("MODEL.META_ARCHITECTURE", "DeFCN", "MODEL.DEFCN.ONE_TO_ONE.RULE", "POTTO()"),
            {},
            "MODEL.DEFCN.ONE_TO_ONE.*RULE: unknown assignment rule 'POTTO'; known: ",
        ),
        ((), {"num_machines": 2}, "--dist-url"),
        (("OUTPUT_DIR", f"{__file__}/out"), {}, "OUTPUT_DIR .*/out: cannot be written"),
        (
            ("MODEL.META_ARCHITECTURE", "DeFCN", "MODEL.DEFCN.NUM_CLASSES", 7),
            {},
            "NUM_CLASSES is 7, but tiny_train has 1",
        ),
    ],
)
def test_what_would_fail_is_told_before(tiny_entry, tmp_path, opts, changes, message):
    with pytest.raises(UserError, match=message):
        check_run(tiny_cfg(tiny_entry, tmp_path / "out", *opts), args(**changes))


def test_home_in_the_root_of_the_data_sets(tiny_entry, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    with pytest.raises(UserError, match=f"now {tmp_path}/data"):
        check_run(tiny_cfg(tiny_entry, tmp_path / "out", "DATASETS.TEST", ("coco_2017_val",)), args())


def test_remote_and_heuristic_weights_are_not_looked_for_here(tiny_entry, tmp_path):
    (tmp_path / "w.pth").touch()
    for weights in ("detectron2://a/b.pkl", f"{tmp_path / 'w.pth'}?matching_heuristics=True"):
        check_run(tiny_cfg(tiny_entry, tmp_path / "out", "MODEL.WEIGHTS", weights), args())


def test_an_existing_run_is_not_overwritten(tiny_entry, tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    cfg = tiny_cfg(tiny_entry, tmp_path)
    with pytest.raises(UserError, match="already holds a run.*--resume"):
        check_run(cfg, args())
    check_run(cfg, args(resume=True))


def test_a_checkpoint_of_other_classes_is_told_before_an_evaluation(tiny_entry, tmp_path):
    weights = str(tmp_path / "other.pth")
    torch.save({"model": {"w": torch.zeros(1)}, "thing_classes": ["other"]}, weights)
    cfg = tiny_cfg(tiny_entry, tmp_path / "out", "DATASETS.TEST", (NAME,), "MODEL.WEIGHTS", weights)
    with pytest.raises(
        UserError, match=r"tiny_train has the classes thing; .*other\.pth has other; .*DATASETS\.CLASSES"
    ):
        check_run(cfg, args(eval_only=True))
    check_run(cfg, args())  # fine-tuning
