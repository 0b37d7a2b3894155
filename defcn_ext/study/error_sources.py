"""The detectors whose errors are analysed, as the command line names them, and their detections."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from defcn_ext._text import say
from defcn_ext.config import UserError
from defcn_ext.data.coco_json import read_coco
from defcn_ext.data.register import register_from_config
from defcn_ext.engine.preflight import load_config
from defcn_ext.evaluation.crowdhuman import RESULT_FILE as CROWDHUMAN_FILE
from defcn_ext.evaluation.error_inputs import read_images, read_results_json
from defcn_ext.evaluation.image_results import ImageResult
from defcn_ext.evaluation.own_terms import RESULT_FILE as COCO_FILE
from defcn_ext.predictor import Predictor
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

FORM = "[LABEL=]FOLDER, [LABEL=]WEIGHTS.pth, [LABEL=]CONFIG.yaml:WEIGHTS.pth or [LABEL=]RESULTS.json"
ENTRY = re.compile(r"(?:(?P<label>[^=:/\\]+)=)?(?P<path>.+)", re.DOTALL)
WITH_CONFIG = re.compile(r"(?P<config>.+\.ya?ml):(?P<weights>.+)", re.DOTALL)
KINDS = {"without_nms": "without NMS", "with_nms": "with NMS", "": ""}


@dataclass(frozen=True)
class Source:
    """A detector: `runs` reads, for each of its trainings, its images by kind of inference (see `KINDS`)."""

    label: str
    runs: Sequence[Callable[[], dict[str, list[ImageResult]]]]


def find_sources(
    texts: Sequence[str], opts: Sequence[str], output: Path, annotations: str = "", max_detections: int = 100
) -> list[Source]:
    """
    Args:
        texts: entries as `FORM`. A folder is that of a training, of several seeds of one, or of a comparison.
        opts: KEY VALUE, one after the other: changes to the configs of detectors that are evaluated here.
        output: where those leave their detections.
        annotations: COCO json of the .json entries.

    Raises:
        UserError: an entry is none, or two have the same label.
    """
    sources: list[Source] = []
    for text in texts:
        match = ENTRY.fullmatch(text)
        label, path = ((match["label"] or "").strip(), match["path"]) if match else ("", "")
        if path.endswith(".json"):
            sources.append(_of_json(label, Path(path), annotations, max_detections))
        elif Path(path).is_dir():
            sources += _of_folder(label, Path(path))
        elif path.endswith((".pth", ".pkl")):
            sources.append(_of_weights(label, path, opts, output))
        else:
            raise UserError(f"{text}: no such folder, and no {FORM}")
    for source in sources:
        if sum(x.label == source.label for x in sources) > 1:
            raise UserError(f"two detectors are called {source.label!r}: give others with LABEL=...")
    return sources


def _of_json(label: str, path: Path, annotations: str, max_detections: int) -> Source:
    if not annotations:
        raise UserError(f"{path}: give --annotations, the COCO json that it is of")

    def read() -> dict[str, list[ImageResult]]:
        return {"": read_results_json(read_coco(annotations), path, max_detections)}

    return Source(label or path.stem, [read])


def _of_folder(label: str, folder: Path) -> list[Source]:
    """The trainings in a folder: itself, its seeds, or all detectors of a comparison."""
    if (folder / "config.yaml").is_file():
        return [Source(label or folder.name, [lambda: read_run(folder)])]
    seeds = sorted(path.parent for path in folder.glob("seed_*/config.yaml"))
    if seeds:
        return [Source(label or folder.name, [lambda seed=seed: read_run(seed) for seed in seeds])]
    groups: dict[str, list[Path]] = {}
    for name, run in _runs_of_comparison(folder):
        groups.setdefault(f"{label} {name}".strip(), []).append(run)
    if not groups:
        raise UserError(f"{folder}: no folder of a training (config.yaml) or of a comparison (results.json)")
    return [Source(name, [lambda run=run: read_run(run) for run in runs]) for name, runs in groups.items()]


def _runs_of_comparison(folder: Path) -> list[tuple[str, Path]]:
    """(label, folder) of the finished runs, wherever the comparison has been moved to."""
    try:
        runs = json.loads((folder / "results.json").read_text(encoding="utf-8"))["runs"]
        return [(run["label"], folder / "runs" / Path(*Path(run["weights"]).parts[-3:-1])) for run in runs]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def read_run(folder: Path) -> dict[str, list[ImageResult]]:
    """What the last evaluation of a training left.

    Raises:
        UserError: it left nothing.
    """
    cfg = load_config(str(folder / "config.yaml"), ["OUTPUT_DIR", str(folder)])
    name = _dataset(cfg)
    several = len(cfg.DATASETS.TEST) > 1
    return _read_inference(cfg, name, folder / "inference" / name if several else folder / "inference")


def _dataset(cfg: CfgNode) -> str:
    """The first of DATASETS.TEST, registered."""
    register_from_config(cfg)
    if not cfg.DATASETS.TEST or cfg.DATASETS.TEST[0] not in DatasetCatalog:
        raise UserError(f"DATASETS.TEST {tuple(cfg.DATASETS.TEST)}: names no data set that is registered")
    return cfg.DATASETS.TEST[0]


def _read_inference(cfg: CfgNode, name: str, folder: Path) -> dict[str, list[ImageResult]]:
    kinds = ("with_nms", "without_nms") if cfg.MODEL.DEFCN.NMS else ("without_nms", "with_nms")
    kinds = kinds if cfg.MODEL.META_ARCHITECTURE == "DeFCN" else ("", "-")
    found = {}
    for kind, place in zip(kinds, (folder, folder / kinds[1])):
        files = [place / file for file in (COCO_FILE, CROWDHUMAN_FILE) if (place / file).is_file()]
        if files:
            found[kind] = read_images(name, files[0], cfg.TEST.DETECTIONS_PER_IMAGE)
    if not found:
        raise UserError(f"{folder}: holds no {COCO_FILE}: evaluate first, or give CONFIG.yaml:WEIGHTS.pth")
    return {kind: found[kind] for kind in KINDS if kind in found}


def _of_weights(label: str, path: str, opts: Sequence[str], output: Path) -> Source:
    match = WITH_CONFIG.fullmatch(path)
    config, weights = (match["config"], match["weights"]) if match else (path, "")
    label = label or Path(config).stem
    folder = output / "detections" / re.sub(r"[^\w.+-]+", "_", label.casefold())
    return Source(label, [lambda: detect(config, weights, opts, folder)])


def detect(config: str, weights: str, opts: Sequence[str], folder: Path) -> dict[str, list[ImageResult]]:
    """Evaluates a detector on the first of DATASETS.TEST, into a folder.

    Args:
        config, weights: what `Predictor.load` takes first.

    Raises:
        UserError: something is missing or does not fit.
    """
    from defcn_ext.data.loaders import build_test_loader
    from defcn_ext.evaluation import build_evaluator
    from detectron2.evaluation import inference_on_dataset

    predictor = Predictor.load(config, weights, opts, dataset="", output=str(folder))
    cfg, name = predictor.cfg, _dataset(predictor.cfg)
    say(f"{weights or config}: evaluated on {name}")
    evaluator = build_evaluator(cfg, name, str(folder))
    inference_on_dataset(predictor.model, build_test_loader(cfg, name), evaluator)
    return _read_inference(cfg, name, folder)
