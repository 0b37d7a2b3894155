"""The main job: two predictors, trained, evaluated and drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tabulate import tabulate

import defcn_ext
from defcn_ext._text import minutes, number, say, without_nan, write_whole
from defcn_ext.config import UserError
from defcn_ext.data.loaders import dicts_to_look_at
from defcn_ext.engine.preflight import load_config
from defcn_ext.evaluation.outcomes import SCORE
from defcn_ext.pictures.drawing import contact_sheet, save, score_map_figure
from defcn_ext.pictures.scenes import load_scene, most_crowded
from defcn_ext.pictures.sheets import detection_columns
from defcn_ext.predictor import Predictor
from defcn_ext.study.training import Run, load_trained, train_or_reuse
from detectron2.config import CfgNode

REPOSITORY = Path(defcn_ext.__file__).resolve().parents[1]
CONFIGS = {"FCOS": "fcos.yaml", "DeFCN": "poto_3dmf_aux.yaml"}
SHEET_IMAGES, SUMMARY_IMAGES, SCORE_MAP_IMAGES = 8, 3, 2
MAX_OBJECTS = 10  # of an image in the pictures, so that one can tell the boxes apart


def prepare_data() -> Path:
    """Writes the embedded data set unless it is there. Returns its folder.

    Raises:
        UserError: the script that writes it is missing, or fails.
    """
    folder = Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))) / "quick"
    if all((folder / name).is_file() for name in ("train.json", "val.json", "meta.json")):
        return folder
    script = REPOSITORY / "datasets" / "prepare_quick.py"
    if not script.is_file():
        raise UserError(f"{script}: no such file; run the demo from a clone of the repository (pip install -e .)")
    if subprocess.run([sys.executable, str(script), "--output", str(folder)], check=False).returncode:
        raise UserError(f"{script} could not write {folder}; its message is above")
    return folder


def demo_config(name: str, folder: Path, iterations: int | None) -> CfgNode:
    """The config of `configs/Quick/NAME`, on the GPU if there is one."""
    changes = ["OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu"]
    changes += ["SOLVER.MAX_ITER", str(iterations)] if iterations else []
    return load_config(str(REPOSITORY / "configs" / "Quick" / name), changes)


def result_table(runs: Sequence[Run]) -> str:
    """The results in markdown."""
    rows = [
        [
            run.detector,
            number(run.ap["without_nms"]),
            number(run.ap["with_nms"]),
            number(run.gap, "+.1f"),
            f"{run.counts.duplicates_per_object:.2f}",
            minutes(run.train_seconds),
        ]
        for run in runs
    ]
    headers = ["detector", "AP without NMS", "AP with NMS", "NMS adds", "duplicates an object", "training (min:s)"]
    align = ("left", *["right"] * 5)
    return tabulate(rows, headers, tablefmt="github", colalign=align, disable_numparse=True)


def write_pictures(predictors: Sequence[Predictor], runs: Sequence[Run], output: Path) -> list[tuple[Path, str]]:
    """Writes the figures. Returns their paths and what they show."""
    cfg, names = predictors[0].cfg, predictors[0].class_names
    records = most_crowded(dicts_to_look_at(cfg, cfg.DATASETS.TEST[0]), SHEET_IMAGES, max_objects=MAX_OBJECTS)
    scenes = [load_scene(record) for record in records]
    seen = [[predictor.observe(record) for record in records] for predictor in predictors]
    plain = detection_columns(predictors, seen, SCORE, ["without_nms"])
    plain = [(f"{title}: AP {number(run.ap['without_nms'])}", found) for (title, found), run in zip(plain, runs)]
    figures = {
        "demo.png": (contact_sheet(scenes[:SUMMARY_IMAGES], plain, names), "the two predictors without NMS"),
        "contact_sheet.png": (
            contact_sheet(scenes, detection_columns(predictors, seen, SCORE), names),
            f"{len(scenes)} crowded validation images, without and with NMS",
        ),
    }
    for index, scene in enumerate(scenes[:SCORE_MAP_IMAGES]):
        rows = [row for observations in seen for row in observations[index].maps]
        figures[f"score_maps_{index + 1}.png"] = (score_map_figure(scene, rows, SCORE), "which points fire")
    for name, (figure, _) in figures.items():
        save(figure, output / name, colors=256 if name == "demo.png" else None)
    return [(output / name, what) for name, (_, what) in figures.items()]


def write_results(runs: Sequence[Run], output: Path) -> list[tuple[Path, str]]:
    """Writes `table.md` and `results.json` (null where there was nothing to measure)."""
    write_whole(output / "table.md", result_table(runs) + "\n")
    rows = [{**asdict(run), "gap": run.gap, "duplicates_per_object": run.counts.duplicates_per_object} for run in runs]
    write_whole(output / "results.json", json.dumps(without_nan(rows), indent=2) + "\n")
    return [(output / "table.md", "the table above"), (output / "results.json", "its numbers, and the counts behind")]


def run_demo(output: Path, iterations: int | None = None) -> list[Run]:
    """
    Raises:
        UserError: something is missing or in the way.
    """
    start = time.perf_counter()
    data = prepare_data()
    configs = {name: demo_config(file, output / name.lower(), iterations) for name, file in CONFIGS.items()}
    runs = []
    for step, (name, cfg) in enumerate(configs.items(), start=1):
        say(f"\n[{step}/{len(configs) + 1}] {name}")
        runs.append(train_or_reuse(name, cfg, data))
    say(f"\n[{len(configs) + 1}/{len(configs) + 1}] pictures")
    predictors = [load_trained(run.detector, configs[run.detector], run.weights) for run in runs]
    files = write_pictures(predictors, runs, output) + write_results(runs, output)
    say(f"\n{result_table(runs)}\n")
    say(f"Duplicates: detections without NMS, scored above {SCORE}, on an object that is found already.\n")
    width = max(len(str(path)) for path, _ in files)
    for path, what in files:
        say(f"{path!s:<{width}}  {what}")
    for run in runs:
        say(f"{Path(run.weights)!s:<{width}}  {run.detector}, for train_net.py and defcn_ext.tools.visualize")
    say(f"\nDone in {minutes(time.perf_counter() - start)} (min:s).")
    return runs
