import os
from argparse import Namespace

import pytest
import torch

from defcn_ext.config import UserError
from defcn_ext.engine.preflight import check_run
from tests.engine.tiny import NAME, tiny_cfg


def args(**changes) -> Namespace:
    usual = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto", "eval_only": False}
    return Namespace(**{**usual, "resume": False, **changes})


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
        (("MODEL.WEIGHTS", "/"), {}, "MODEL.WEIGHTS /: a folder; give the file of weights in it"),
        (("MODEL.WEIGHTS", "/dev/zero"), {}, "MODEL.WEIGHTS /dev/zero: a pipe or a device, not a file of weights"),
        (("MODEL.WEIGHTS", __file__), {}, "MODEL.WEIGHTS .*test_run.py: a text file"),
        (("DATASETS.TEST", (NAME,)), {"eval_only": True}, "--eval-only: give MODEL.WEIGHTS"),
        ((), {"eval_only": True}, "DATASETS.TEST names no data set"),
        ((), {"num_gpus": 3}, "IMS_PER_BATCH 4 is no multiple of 3"),
        (("SOLVER.ACCUMULATE", 4), {"num_gpus": 2}, "no multiple of 2 .processes. x 4"),
        ((), {"num_gpus": 0}, "--num-gpus 0"),
        (("SOLVER.ACCUMULATE", 0), {}, "SOLVER.ACCUMULATE: expected at least 1, got 0"),
        (("SOLVER.ACCUMULATE", -1), {}, "SOLVER.ACCUMULATE: expected at least 1, got -1"),
        (("SOLVER.IMS_PER_BATCH", 0), {}, "SOLVER.IMS_PER_BATCH: expected at least 1, got 0"),
        (("SOLVER.MAX_ITER", 0), {}, "SOLVER.MAX_ITER: expected at least 1, got 0"),
        (("SOLVER.OPTIMIZER", "ADAM"), {}, "SOLVER.OPTIMIZER: expected 'SGD' or 'ADAMW', got 'ADAM'"),
        (("SOLVER.LR_SCHEDULER_NAME", "StepLR"), {}, "StepLR"),
        (("SOLVER.AMP.DTYPE", "half"), {}, "SOLVER.AMP.DTYPE: expected 'auto' or .*got 'half'"),
        (("INPUT.RANDOM_FLIP", "left"), {}, "INPUT.RANDOM_FLIP: expected 'none' or .*got 'left'"),
        (("MODEL.DEVICE", "gpu"), {}, "MODEL.DEVICE: unknown device 'gpu'; known: cpu, cuda"),
        (("MODEL.DEVICE", "gpu"), {"eval_only": True}, "MODEL.DEVICE: unknown device 'gpu'; known: cpu, cuda"),
        ((), {"num_machines": 2}, "--dist-url"),
        ((), {"num_machines": 2, "dist_url": "node1:99"}, "--dist-url tcp://HOST:PORT"),
        ((), {"num_machines": 0}, "--machine-rank 0: not one of 0 to --num-machines 0 - 1"),
        ((), {"machine_rank": 1}, "--machine-rank 1: not one of"),
        (("MODEL.DEVICE", "meta"), {}, "MODEL.DEVICE: 'meta' holds no numbers"),
        (("MODEL.DEVICE", "mps"), {}, "MODEL.DEVICE: 'mps' cannot be used here"),
        (("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [2.0, 0.5]), {}, "INPUT.CROP.SIZE .2.0, 0.5.: shares"),
        (("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute"), {}, "INPUT.CROP.SIZE .0.9, 0.9.: whole pixels"),
        (("TEST.EXPECTED_RESULTS", [["bbox", "AP", 1, 2]]), {}, "TEST.EXPECTED_RESULTS: there will be no results"),
        (("OUTPUT_DIR", f"{__file__}/out"), {}, "OUTPUT_DIR .*/out: cannot be written"),
        (("SOLVER.REFERENCE_WORLD_SIZE", 3), {}, "REFERENCE_WORLD_SIZE 3 does not divide SOLVER.IMS_PER_BATCH 4"),
        (
            ("SOLVER.REFERENCE_WORLD_SIZE", 4, "SOLVER.ACCUMULATE", 2),
            {},
            r"IMS_PER_BATCH 1 \(scaled from SOLVER.REFERENCE_WORLD_SIZE 4\) is no multiple of 1 .* x 2",
        ),
        (("SOLVER.STEPS", (6,)), {}, "SOLVER.STEPS .6,.: a step at SOLVER.MAX_ITER itself"),
        (("SOLVER.NESTEROV", True, "SOLVER.MOMENTUM", 0.0), {}, "SOLVER.NESTEROV: needs a SOLVER.MOMENTUM"),
        (
            ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 1.0),
            {},
            "SOLVER.BASE_LR_END 1.0 is above SOLVER.BASE_LR 0.05",
        ),
        (("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (9,)), {}, "MIN_SIZE_TRAIN .9,.: expected"),
        (("MODEL.WEIGHTS", "catalog://ImageNet/R-50"), {}, "MODEL.WEIGHTS catalog://ImageNet/R-50: not in .* catalog"),
        (("MODEL.WEIGHTS", "zoo://R-50.pkl"), {}, "MODEL.WEIGHTS zoo://R-50.pkl: no such file; known schemes: http"),
        (("MODEL.WEIGHTS", f"{__file__}?matching=1"), {}, r"MODEL.WEIGHTS .*\?matching=1: behind \? only"),
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
    torch.save({"model": {}}, tmp_path / "w.pth")
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
