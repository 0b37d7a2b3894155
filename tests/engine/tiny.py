"""A model of a few weights and a data set of a few images, for tests of the trainer."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from defcn_ext.config import add_defcn_config
from defcn_ext.engine import Trainer
from detectron2.config import CfgNode, get_cfg
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances

SIZES = [(24, 32), (32, 24), (28, 28), (24, 40), (40, 24), (32, 36), (36, 32), (24, 24), (26, 30), (30, 26)]
NAME = "tiny_train"


def write_dataset(folder: Path) -> str:
    """Ten images with one to three boxes each; returns the entry for DATASETS.REGISTER."""
    rng = np.random.default_rng(7)
    images, annotations = [], []
    for i, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        for _ in range(1 + i % 3):
            x, y = rng.uniform(0, 8, 2)
            box = {"bbox": [x, y, 10.0, 12.0], "area": 120.0, "iscrowd": 0, "category_id": 1}
            annotations.append({"id": len(annotations) + 1, "image_id": i, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "tiny.json").write_text(json.dumps(content))
    return f"{NAME}={folder / 'tiny.json'}:{folder}"


def tiny_cfg(entry: str, output: Path, *opts) -> CfgNode:
    cfg = get_cfg()
    add_defcn_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "TinyNet", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""),
            *("DATASETS.REGISTER", (entry,), "DATASETS.TRAIN", (NAME,), "DATALOADER.NUM_WORKERS", 0),
            *("INPUT.MIN_SIZE_TRAIN", (24, 32), "INPUT.MIN_SIZE_TEST", 24, "OUTPUT_DIR", str(output), "SEED", 3),
            *("SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 6, "SOLVER.STEPS", (4,), "SOLVER.BASE_LR", 0.05),
            *("SOLVER.WARMUP_ITERS", 2, "SOLVER.CHECKPOINT_PERIOD", 3),
            *opts,
        ]
    )
    return cfg


@META_ARCH_REGISTRY.register()
class TinyNet(nn.Module):
    """Two losses, each a mean over the images, so that a batch may be cut anywhere."""

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.ReLU())
        self.dropout = nn.Dropout(cfg.MODEL.get("DROPOUT", 0.2))
        self.head = nn.Linear(8, 2)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last_image", torch.tensor(-1))
        self.seen: list[int] = []  # image ids
        self.evaluated_after = -1  # value of last_image in evaluation
        self.dtypes: set[torch.dtype] = set()

    def forward(self, batch: list[dict]):
        predictions = torch.stack([self._predict(item["image"]) for item in batch])
        if not self.training:
            self.evaluated_after = int(self.last_image)
            return [{"instances": _one_box(item, p)} for item, p in zip(batch, predictions)]
        self.steps += 1
        self.seen += [item["image_id"] for item in batch]
        self.last_image.fill_(self.seen[-1])
        areas = torch.stack([item["instances"].gt_boxes.area().mean() / 500 for item in batch])
        counts = torch.tensor([float(len(item["instances"])) for item in batch])
        return {
            "loss_area": (predictions[:, 0].float() - areas).square().mean(),
            "loss_count": (predictions[:, 1].float() - counts).square().mean(),
        }

    def _predict(self, image: torch.Tensor) -> torch.Tensor:
        features = self.backbone(image[None].float() / 128 - 1).mean(dim=(2, 3))
        out = self.head(self.dropout(features))[0]
        self.dtypes.add(out.dtype)
        return out


def _one_box(item: dict, prediction: torch.Tensor) -> Instances:
    instances = Instances((item["height"], item["width"]))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 5.0, 5.0]]))
    instances.scores = prediction[:1].float().sigmoid()
    instances.pred_classes = torch.zeros(1, dtype=torch.int64)
    return instances


class MeanScore(DatasetEvaluator):
    def reset(self) -> None:
        self.scores: list[float] = []

    def process(self, inputs, outputs) -> None:
        self.scores += [output["instances"].scores.item() for output in outputs]

    def evaluate(self) -> dict:
        return {"bbox": {"mean": float(np.mean(self.scores))}}


class TinyTrainer(Trainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        return MeanScore()


def run(cfg: CfgNode, resume: bool = False) -> TinyTrainer:
    """Trains from fresh weights of seed 0 and returns the trainer."""
    torch.manual_seed(0)
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer
