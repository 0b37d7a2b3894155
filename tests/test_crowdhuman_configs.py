"""The configs of CrowdHuman build, and say what the papers and their released code say (70-crowdhuman, section 3)."""

import pytest
import torch

from detectron2.modeling import build_model
from tests.test_configs import ADAMW, ROOT, SGD, THIN, counts, full_size, load, solver, step, values
from tests.tiny import batch, image_with, kept_labels

FOLDER = ROOT / "CrowdHuman"
NAMES = sorted(p.stem for p in FOLDER.glob("*.yaml") if not p.name.startswith("Base"))
SMALL = sorted(p.stem for p in (ROOT / "QuickCrowd").glob("*.yaml") if not p.name.startswith("Base"))

COMMON = {
    "MODEL.DEFCN.NUM_CLASSES": 1,
    "MODEL.DEFCN.P6_FEATURE": "p5",
    "MODEL.DEFCN.COMPARE_NMS": True,
    "MODEL.RESNETS.DEPTH": 50,
    "DATASETS.TRAIN": ("crowdhuman_train",),
    "DATASETS.TEST": ("crowdhuman_val",),
    "INPUT.MAX_SIZE_TRAIN": 1400,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1400,
    "INPUT.RANDOM_FLIP": "horizontal",
    "TEST.DETECTIONS_PER_IMAGE": 500,
}
MSRA = {
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.PIXEL_STD": (1.0, 1.0, 1.0),
    "INPUT.FORMAT": "BGR",
}
THIRTY_K = solver(MAX_ITER=30_000, STEPS=(20_000, 25_000))
DEFCN = {
    **{**COMMON, **MSRA, **SGD, **THIRTY_K},
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "INPUT.DETR_CROP.ENABLED": False,
    "MODEL.DEFCN.SCORE_THRESH_TEST": 0.05,
    "MODEL.DEFCN.TOPK_CANDIDATES_TEST": 1000,
}
DATE = {
    **{**COMMON, **MSRA, **ADAMW, **THIRTY_K},
    "INPUT.MIN_SIZE_TRAIN": tuple(range(640, 897, 32)),
    "INPUT.DETR_CROP.ENABLED": True,
    "INPUT.DETR_CROP.SIZES": (400, 500, 600),
    "INPUT.DETR_CROP.CROP": (384, 600),
    "MODEL.DEFCN.TOPK_CANDIDATES_TEST": 1000,
    "MODEL.PIXEL_MEAN": (102.9801, 115.9465, 122.7717),
}
O2F = {
    **COMMON,
    **solver(MAX_ITER=50 * 938, STEPS=(40 * 938,), OPTIMIZER="ADAMW", BASE_LR=4e-5, BACKBONE_MULTIPLIER=1.0),
    **solver(WEIGHT_DECAY=1e-4, WEIGHT_DECAY_NORM=1e-4, WEIGHT_DECAY_BIAS=None, IMS_PER_BATCH=16, GAMMA=0.1),
    **solver(WARMUP_ITERS=1000, WARMUP_FACTOR=0.001),
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.PIXEL_MEAN": (123.675, 116.28, 103.53),
    "MODEL.PIXEL_STD": (58.395, 57.12, 57.375),
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TRAIN": (480, 960),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
    "MODEL.DEFCN.SCORE_THRESH_TEST": 0.05,
    "MODEL.DEFCN.TOPK_CANDIDATES_TEST": 5000,
}


def detector(branches, nms, **facts):
    facts = {"BRANCHES": branches, "NMS": nms, **facts}
    return {"MODEL.DEFCN." + key.replace("__", "."): value for key, value in facts.items()}


ONE, MANY = ("ONE_TO_ONE",), ("ONE_TO_MANY",)
INSIDE = "POTO(alpha=0.8, prior=inside, select=matching)"
COST = "MinCost(cls=2, l1=5, giou=2, select=matching)"
FCOS = detector(
    *(MANY, True),
    **{"ONE_TO_MANY__CENTERNESS": "reg", "ONE_TO_MANY__CENTERNESS_SCORE": "sqrt", "NMS_THRESH_TEST": 0.6},
)
POTO = detector(ONE, False, ONE_TO_ONE__RULE=INSIDE, ONE_TO_ONE__BOX_WEIGHT=2.0)
FILTERED = detector(
    *(ONE, False),
    **{"ONE_TO_ONE__MAX_FILTERING__ENABLED": True, "ONE_TO_ONE__MAX_FILTERING__TAU": 2},
    **{"ONE_TO_ONE__RULE": INSIDE, "ONE_TO_ONE__BOX_WEIGHT": 2.0},
)
LOSSES = {"ONE_TO_ONE__CLS_WEIGHT": 2.0, "ONE_TO_ONE__BOX_WEIGHT": 2.0, "ONE_TO_ONE__L1_WEIGHT": 5.0}
COSTED = {"ONE_TO_ONE__RULE": COST, "SCORE_THRESH_TEST": 0.01, **LOSSES}
EXPECTED = {
    "fcos_R_50_30k": DEFCN
    | FCOS
    | detector(MANY, True, ONE_TO_MANY__RULE="FCOS(prior=center, radius=1.5)", ONE_TO_MANY__BOX_WEIGHT=1.0),
    "atss_R_50_30k": DEFCN
    | FCOS
    | detector(MANY, True, ONE_TO_MANY__RULE="ATSS(k=9, scale=8)", ONE_TO_MANY__BOX_WEIGHT=2.0),
    "poto_R_50_30k": DEFCN | POTO | detector(ONE, False, ONE_TO_ONE__MAX_FILTERING__ENABLED=False),
    "poto_3dmf_R_50_30k": DEFCN | FILTERED,
    "poto_3dmf_aux_R_50_30k": DEFCN
    | FILTERED
    | detector((*ONE, "AUX"), False, AUX__RULE="QualityATSS(k=9, alpha=0.8)", AUX__CLS_WEIGHT=1.0),
    "onenet_R_50_30k": DATE | detector(ONE, False, **COSTED),
    "date_f_R_50_30k": DATE
    | detector((*ONE, *MANY), False, **COSTED, ONE_TO_MANY__RULE="FCOS(prior=inside)", ONE_TO_MANY__LOSS_WEIGHT=1.0),
    "date_r_R_50_30k": DATE
    | detector(
        *((*ONE, *MANY), False),
        **{**COSTED, "ONE_TO_MANY__RULE": "RetinaNet(positive=0.5, negative=0.4)", "ONE_TO_MANY__LOSS_WEIGHT": 2.0},
    ),
    "retinanet_R_50_30k": DATE
    | detector(MANY, True, ONE_TO_MANY__RULE="RetinaNet(positive=0.5, negative=0.4)", ONE_TO_MANY__LOSS_WEIGHT=1.0)
    | detector(MANY, True, SCORE_THRESH_TEST=0.05, NMS_THRESH_TEST=0.5),
    "best_R_50_30k": DEFCN
    | detector(
        *((*MANY, "PEAKS"), False),
        **{"TEST_BRANCH": "PEAKS", "ONE_TO_MANY__RULE": "DW(mu=5, beta=5)", "PEAKS__IOU": 0.7, "PEAKS__FACTOR": 0.3},
    ),
    "o2f_R_50_50e": O2F
    | detector(
        *(ONE, False),
        **{"ONE_TO_ONE__RULE": "O2F(k=4, alpha=0.8, t_max=0.6, t_min=0.2, schedule=step, epochs=50)"},
        **{"ONE_TO_ONE__BOX_WEIGHT": 2.0, "ONE_TO_ONE__QUALITY__CONVS": 3},
    ),
}
# Trainable with one class: DATE's as counted with the released code; DeFCN's by 10-defcn's sums, less those of frozen
# layers (222,400). The towers of OneNet have no biases: 2 x 4 x 256 fewer than POTO's.
TRAINABLE = {
    "poto_R_50_30k": 32_059_850 - 222_400,
    "poto_3dmf_R_50_30k": 32_652_747 - 222_400,
    "poto_3dmf_aux_R_50_30k": 32_652_747 - 222_400,
    "onenet_R_50_30k": 32_059_850 - 222_400 - 2048,
    "date_f_R_50_30k": 31_849_232,
    "date_r_R_50_30k": 31_939_127,
}


def test_every_config_has_its_facts():
    assert sorted(EXPECTED) == NAMES
    assert SMALL == ["fcos", "o2f", "poto_3dmf_aux"]


@pytest.mark.parametrize("name", NAMES)
def test_configs_say_what_their_sources_say(name):
    cfg = load(f"CrowdHuman/{name}.yaml")
    assert values(cfg, EXPECTED[name]) == EXPECTED[name]
    assert name.endswith("_50e") == (cfg.SOLVER.MAX_ITER == 46_900)


@pytest.mark.parametrize("name", NAMES)
def test_configs_build_at_full_size(name, monkeypatch):
    _, trainable = counts(full_size(monkeypatch, load(f"CrowdHuman/{name}.yaml")))
    assert trainable == TRAINABLE.get(name, trainable) and 31e6 < trainable < 33e6


@pytest.mark.parametrize(
    "name, opts", [(f"CrowdHuman/{n}.yaml", (*THIN, "MODEL.DEFCN.NUM_CLASSES", 1)) for n in NAMES]
    + [(f"QuickCrowd/{n}.yaml", ()) for n in SMALL]
)  # fmt: skip
def test_detectors_learn_and_take_images_without_people(name, opts):
    torch.manual_seed(0)
    model = build_model(load(name, *opts))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    images = batch()
    for image in images:
        image["instances"].gt_classes.zero_()
    with kept_labels(model):  # a rule that chooses other points after the first step may raise the loss
        first, second = (sum(step(model, optimizer, images).values()) for _ in range(2))
    assert second < first
    empty = step(model, optimizer, [image_with([], [], size=(64, 96), seed=n) for n in range(2)])
    assert all(value == 0 for loss, value in empty.items() if loss.split("_")[1] in ("box", "l1", "centerness"))


@pytest.mark.parametrize("name", SMALL)
def test_the_small_set_compares_alike(name):
    cfg = load(f"QuickCrowd/{name}.yaml")
    quick = load("Quick/fcos.yaml")
    facts = {
        "DATASETS.TRAIN": ("quick_crowd_train",),
        "DATASETS.TEST": ("quick_crowd_val",),
        "TEST.DETECTIONS_PER_IMAGE": 500,
        "MODEL.DEFCN.NUM_CLASSES": 1,
        "MODEL.DEFCN.SCORE_THRESH_TEST": 0.05,
        "MODEL.DEFCN.TOPK_CANDIDATES_TEST": 1000,
        "SOLVER.MAX_ITER": 600,
        "SOLVER.BASE_LR": quick.SOLVER.BASE_LR,
        "INPUT.MIN_SIZE_TRAIN": tuple(quick.INPUT.MIN_SIZE_TRAIN),
        "MODEL.RESNETS.DEPTH": 18,
    }
    assert values(cfg, facts) == facts
