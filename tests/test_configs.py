"""Every yaml builds; the models have the sizes that the papers' code has."""

from pathlib import Path

import pytest
import torch

from defcn_ext.config import add_defcn_config
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from tests.tiny import batch

ROOT = Path(__file__).parent.parent / "configs"
RUNNABLE = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("*/*.yaml") if not p.name.startswith("Base"))


def load(name, *opts):
    cfg = get_cfg()
    add_defcn_config(cfg)
    cfg.merge_from_file(str(ROOT / name))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *opts])
    return cfg


def test_there_are_configs():
    assert len(RUNNABLE) >= 23


@pytest.mark.parametrize("name", [n for n in RUNNABLE if not n.startswith("COCO")])
def test_small_configs_step_twice(name):
    cfg = load(name)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    values = []
    for _ in range(2):
        loss = sum(model(batch()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss))
    assert values[1] < values[0]


@pytest.mark.parametrize("name", [n for n in RUNNABLE if n.startswith("COCO")])
def test_coco_configs_build_and_step_twice(name):
    """At full size; the pretrained weights are left out, and two small images stand for COCO's."""
    if not name.endswith("_1x.yaml"):
        pytest.skip("the schedules share their model; test_schedules holds their numbers")
    model = build_model(load(name, "MODEL.WEIGHTS", ""))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    for _ in range(2):
        loss = sum(model(batch()[:2]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.isfinite()


@pytest.mark.parametrize(
    "name, opts, total, trainable",
    [
        ("COCO/poto_R_50_1x.yaml", (), 32_241_945, 32_019_545),
        ("COCO/fcos_R_50_1x.yaml", (), 32_241_945, 32_019_545),
        ("COCO/poto_3dmf_R_50_1x.yaml", (), 32_834_842, 32_612_442),
        ("COCO/poto_3dmf_aux_R_50_1x.yaml", (), 32_834_842, 32_612_442),
        ("COCO/poto_3dmf_R_50_1x.yaml", ("MODEL.DEFCN.ONE_TO_ONE.MAX_FILTERING.NORM", ""), 32_834_330, 32_611_930),
        ("COCO/fcos_centerness_R_50_1x.yaml", (), 32_244_250, 32_021_850),
        ("COCO/fcos_centerness_R_50_1x.yaml", ("MODEL.DEFCN.P6_FEATURE", "res5"), 36_373_018, None),
        ("COCO/poto_3dmf_R_50_1x.yaml", ("MODEL.DEFCN.P6_FEATURE", "res5"), 36_963_610, None),
        ("COCO/poto_R_50_1x.yaml", ("MODEL.DEFCN.NUM_CLASSES", 1), 32_059_850, None),
        ("COCO/poto_3dmf_R_50_1x.yaml", ("MODEL.DEFCN.NUM_CLASSES", 1), 32_652_747, None),
        ("COCO/poto_3dmf_R_50_1x.yaml", ("MODEL.RESNETS.DEPTH", 101), 51_774_746, None),
    ],
)
def test_parameter_counts(name, opts, total, trainable):
    """10-defcn, 'What to test'."""
    model = build_model(load(name, "MODEL.WEIGHTS", "", *opts))
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters) == total
    if trainable is not None:
        assert sum(p.numel() for p in parameters if p.requires_grad) == trainable
    scales = [n for n, p in model.named_parameters() if n.endswith(".scale") and p.requires_grad]
    assert len(scales) == 5


@pytest.mark.parametrize(
    "schedule, max_iter, steps, sizes",
    [
        ("1x", 90_000, (60_000, 80_000), (800,)),
        ("2x", 180_000, (120_000, 160_000), (800,)),
        ("3x_ms", 270_000, (210_000, 250_000), (640, 672, 704, 736, 768, 800)),
    ],
)
def test_schedules(schedule, max_iter, steps, sizes):
    """00-common, section 8."""
    names = [n for n in RUNNABLE if n.startswith("COCO") and n.endswith(f"_{schedule}.yaml")]
    assert len(names) == 5
    for name in names:
        cfg = load(name)
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.INPUT.MIN_SIZE_TRAIN) == (max_iter, steps, sizes)
        assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.WEIGHT_DECAY) == (0.01, 16, 1e-4)
        assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR) == (1000, 0.001)
        assert cfg.SOLVER.OPTIMIZER == "SGD" and not cfg.SOLVER.CLIP_GRADIENTS.ENABLED
        assert cfg.INPUT.MAX_SIZE_TRAIN == 1333 and cfg.MODEL.BACKBONE.FREEZE_AT == 2
        assert cfg.MODEL.DEFCN.NMS == name.startswith("COCO/fcos")
        weight = (
            cfg.MODEL.DEFCN.ONE_TO_MANY.BOX_WEIGHT if cfg.MODEL.DEFCN.NMS else cfg.MODEL.DEFCN.ONE_TO_ONE.BOX_WEIGHT
        )
        assert weight == (1.0 if cfg.MODEL.DEFCN.NMS else 2.0)
        assert (cfg.MODEL.DEFCN.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE) == (0.05, 100)
