"""The whole way on the synthetic crowd, as a user goes it: prepare, train, evaluate, score the result file alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, data):
    environment = {**os.environ, "DETECTRON2_DATASETS": str(data), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_prepare_train_evaluate_and_score(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    run("datasets/prepare_quick_crowd.py", "--train", 8, "--val", 4, "--size", 96, data=data)
    run("datasets/prepare_crowdhuman.py", "--root", data / "quick_crowd", data=data)
    small = ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", 96, "SOLVER.IMS_PER_BATCH", 2]
    # No threshold: after 30 steps nothing scores high, and what is compared below must not be empty.
    small += ["SOLVER.MAX_ITER", 30, "MODEL.DEFCN.SCORE_THRESH_TEST", 0.0, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", out]
    run("train_net.py", "--config-file", "configs/QuickCrowd/poto_3dmf_aux.yaml", *small, data=data)
    results = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()][-1]
    odgt = data / "quick_crowd" / "annotation_val.odgt"
    for key, folder in (("bbox", "inference"), ("bbox_with_nms", "inference/with_nms")):
        file = out / folder / "crowdhuman_results.json"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(lines) == 4 and 0 < max(len(line["dtboxes"]) for line in lines) <= 500
        text = run("-m", "defcn_ext.tools.evaluate_crowdhuman", "--gt", odgt, "--dt", file, "--json", data=data)
        alone = json.loads(text.splitlines()[-1])
        for metric, value in alone.items():
            assert results[f"{key}/{metric}"] == pytest.approx(100 * value, abs=1e-9), (key, metric)
        assert alone["recall"] > 0
    gap = results["bbox_with_nms/recall"] - results["bbox/recall"]
    assert results["bbox_nms_gap/recall"] == pytest.approx(gap, abs=1e-9) and gap <= 0
