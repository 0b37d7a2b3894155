"""Stock configs by their name in the public model zoo. The zoo's trained weights are not listed here."""

from pathlib import Path

import torch

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg

CONFIGS = Path(__file__).parent / "configs"


def get_config_file(config_path) -> str:
    """The local path of a stock config, such as "COCO-Detection/retinanet_R_50_FPN_1x.yaml".

    Raises:
        RuntimeError: there is no such config here.
    """
    path = CONFIGS / config_path
    if not path.is_file():
        known = ", ".join(sorted(str(file.relative_to(CONFIGS)) for file in CONFIGS.rglob("*.yaml")))
        raise RuntimeError(f"{config_path} not available in Model Zoo! Known here: {known}")
    return str(path)


def get_checkpoint_url(config_path) -> str:
    """The URL of the trained weights of a stock config.

    Raises:
        RuntimeError: always; give MODEL.WEIGHTS the URL from the public model zoo page instead.
    """
    raise RuntimeError(
        f"{config_path} not available in Model Zoo! No trained weights are listed here: look up the URL on the "
        "public model zoo page and set MODEL.WEIGHTS to it"
    )


def get_config(config_path, trained: bool = False) -> CfgNode:
    """The config of a stock model; MODEL.WEIGHTS are the trained ones if asked, else those that training starts from.

    Raises:
        RuntimeError: the config, or its trained weights, are not known here.
    """
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config_path))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(config_path)
    return cfg


def get(config_path, trained: bool = False, device: str | None = None):
    """A stock model with its weights, on `device` (default: that of the config, or the CPU where CUDA is missing).

    Raises:
        RuntimeError: see `get_config`.
    """
    from detectron2.modeling import build_model

    cfg = get_config(config_path, trained)
    if device is not None or not torch.cuda.is_available():
        cfg.MODEL.DEVICE = device or "cpu"
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model
