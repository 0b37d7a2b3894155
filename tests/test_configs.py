"""Every yaml builds, and says what the papers and their released code say."""

from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from defcn_ext.assignment.expression import parse_call
from defcn_ext.branches import Branch
from defcn_ext.config import add_defcn_config
from defcn_ext.engine.solver import build_optimizer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from tests.tiny import batch, image_with, kept_labels, mostly_slow

ROOT = Path(__file__).parent.parent / "configs"
RUNNABLE = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*/*.yaml") if not p.name.startswith("Base"))
COCO = [n for n in RUNNABLE if n.startswith("COCO/") and n.split("/")[1] not in ("O2F", "DW")]  # test_configs_o2f_dw
SMALL = [name for name in RUNNABLE if name.startswith(("Quick/", "BCCD/"))]
QUICK = [name for name in SMALL if name.startswith("Quick/")]
VARIANTS = [f"Quick/{name}.yaml" for name in ("date_f_ia_bce", "date_f_mal", "ddq", "top_7_then_one")]  # slow ones
THIN = (
    *("MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.FPN.OUT_CHANNELS", 64, "MODEL.DEFCN.NUM_CONVS", 1),
    *("MODEL.DEFCN.NUM_CLASSES", 3),
)


def load(name, *opts):
    cfg = get_cfg()
    add_defcn_config(cfg)
    cfg.merge_from_file(str(ROOT / name))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *opts])
    return cfg


def full_size(monkeypatch, cfg):
    """The model without memory for its weights."""
    monkeypatch.setattr(Branch, "try_rule", lambda branch: None)  # it would need numbers
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def counts(model):
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable)


def step(model, optimizer, images):
    losses = model(images)
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def test_there_are_configs():
    assert len(COCO) >= 80 and len(SMALL) >= 17


# Building and stepping


@pytest.mark.parametrize("name", COCO)
def test_coco_configs_build_at_full_size(name, monkeypatch):
    model = full_size(monkeypatch, load(name))
    total, trainable = counts(model)
    assert 31e6 < trainable < total < 58e6
    assert not any(p.requires_grad for p in model.backbone.bottom_up.stem.parameters())


STEPPED = [
    *("fcos_centerness_R_50_1x", "poto_argmax_R_50_3x_ms", "poto_3dmf_wo_gn_R_50_3x_ms"),
    *("DeFCN-tables/poto_add_0.5_R_50_2x", "DeFCN-tables/poto_alpha_0.4_global_R_50_2x"),
    *("DeFCN-tables/poto_alpha_1.0_inside_R_50_2x", "DeFCN-tables/poto_alpha_0.0_center_R_50_2x"),
    *("DeFCN-tables/fcos_centerness_aux_R_50_2x", "DeFCN-tables/poto_3dmf_aux_fcos_R_50_2x"),
    *("DeFCN-tables/poto_3dmf_aux_atss_R_50_2x", "DeFCN-tables/poto_3dmf_aux_quality_fcos_R_50_2x"),
    *("DeFCN-tables/poto_3dmf_aux_quality_top_k_R_50_2x", "DeFCN-tables/poto_3dmf_tau_4_kernel_5_R_50_2x"),
    *("DATE/date_f_3dmf_R_50_36e", "DATE/date_r_own_towers_R_50_12e", "DATE/date_r_min_cost_R_50_12e"),
    *("DATE/retinanet_R_50_12e", "DATE/fcos_R_50_36e", "DATE/poto_R_50_12e"),
]


@pytest.mark.parametrize(
    "name, opts",
    mostly_slow([(n, ()) for n in QUICK], fast=[n for n in QUICK if n not in VARIANTS])
    + mostly_slow([(f"COCO/{n}.yaml", THIN) for n in STEPPED], fast=[f"COCO/{n}.yaml" for n in STEPPED[::4]]),
)
def test_detectors_learn_and_take_images_without_objects(name, opts):
    """Two steps on three images, with equal labels and a falling loss; then one on crops that hit nothing."""
    cfg = load(name, *opts)
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    with kept_labels(model):
        first, second = (sum(step(model, optimizer, batch()).values()) for _ in range(2))
    assert second < first
    empty = step(model, optimizer, [image_with([], [], size=(64, 96), seed=n) for n in range(2)])
    of_objects = {name for name in empty if name.split("_")[1] in ("box", "l1", "centerness") or "cls_pos" in name}
    assert all(empty[name] == 0 for name in of_objects)
    assert all(0 < empty[name] < 30 for name in empty.keys() - of_objects)  # 15 where it is a plain BCE


# Sizes


@pytest.mark.parametrize(
    "name, opts, total, trainable",
    [
        ("poto_R_50_1x", (), 32_241_945, 32_019_545),
        ("fcos_R_50_1x", (), 32_241_945, 32_019_545),
        ("anchor_R_50_2x", (), 32_241_940, 32_019_540),
        ("poto_3dmf_R_50_1x", (), 32_834_842, 32_612_442),
        ("poto_3dmf_aux_R_50_1x", (), 32_834_842, 32_612_442),
        ("poto_3dmf_wo_gn_R_50_3x_ms", (), 32_834_330, 32_611_930),
        ("fcos_centerness_R_50_1x", (), 32_244_250, 32_021_850),
        ("fcos_centerness_R_50_1x", ("MODEL.DEFCN.P6_FEATURE", "res5"), 36_373_018, None),
        ("poto_3dmf_R_50_1x", ("MODEL.DEFCN.P6_FEATURE", "res5"), 36_963_610, None),
        ("poto_R_50_1x", ("MODEL.DEFCN.NUM_CLASSES", 1), 32_059_850, None),
        ("poto_3dmf_R_50_1x", ("MODEL.DEFCN.NUM_CLASSES", 1), 32_652_747, None),
        ("poto_3dmf_R_50_1x", ("MODEL.RESNETS.DEPTH", 101), 51_774_746, None),
        ("DATE/onenet_R_50_12e", (), 32_293_017, 32_017_497),
        ("DATE/date_f_R_50_12e", ("MODEL.DEFCN.INFERENCE_ONLY", True), 32_293_017, 32_017_497),
        ("DATE/fcos_R_50_12e", (), 32_295_322, 32_019_802),
        ("DATE/retinanet_R_50_12e", (), 33_841_977, 33_566_457),
        ("DATE/date_f_R_50_12e", (), 32_488_942, 32_213_422),
        ("DATE/date_r_R_50_12e", (), 34_035_597, 33_760_077),
        ("DATE/date_r_own_towers_R_50_12e", (), 38_758_285, 38_482_765),
        ("DATE/date_f_3dmf_R_50_12e", ("MODEL.DEFCN.INFERENCE_ONLY", True), 32_885_914, 32_610_394),
        ("DATE/date_f_3dmf_R_50_12e", (), 33_081_839, 32_806_319),
        ("DATE/date_f_R_50_12e", ("MODEL.DEFCN.NUM_CLASSES", 1), None, 31_849_232),
        ("DATE/date_r_R_50_12e", ("MODEL.DEFCN.NUM_CLASSES", 1), None, 31_939_127),
    ],
)
def test_parameter_counts(name, opts, total, trainable, monkeypatch):
    """10-defcn, 'What to test'; DATE's Tables 8 and 9, counted with the released code, which keeps BN's affines too."""
    model = full_size(monkeypatch, load(f"COCO/{name}.yaml", *opts))
    frozen_affine = 53_120 if name.startswith("DATE") else 0  # buffers here, parameters there
    here = counts(model)
    if total is not None:
        assert here[0] == total - frozen_affine
    if trainable is not None:
        assert here[1] == trainable
    scales = [n for n, p in model.named_parameters() if n.endswith(".scale") and p.requires_grad]
    assert len(scales) == (0 if name.startswith("anchor") else 5)


# What the configs say


def values(cfg, facts):
    found = {}
    for key in facts:
        node = cfg
        for part in key.split("."):
            node = node[part]
        found[key] = tuple(node) if isinstance(node, list) else node
    return found


def solver(**facts):
    return {f"SOLVER.{key}": value for key, value in facts.items()}


WARM_UP = solver(IMS_PER_BATCH=16, WARMUP_ITERS=1000, WARMUP_FACTOR=0.001, WEIGHT_DECAY=1e-4, GAMMA=0.1)
SGD = {**WARM_UP, **solver(OPTIMIZER="SGD", BASE_LR=0.01, MOMENTUM=0.9, WEIGHT_DECAY_NORM=0.0)}
SGD["SOLVER.CLIP_GRADIENTS.ENABLED"] = False
ADAMW = {
    **WARM_UP,
    **solver(OPTIMIZER="ADAMW", BASE_LR=4e-4, BACKBONE_MULTIPLIER=0.1, WEIGHT_DECAY_NORM=1e-4, WEIGHT_DECAY_BIAS=None),
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.FULL_MODEL": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.1,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "SOLVER.AMP.ENABLED": False,
}


def sizes(*short, crop=False):
    common = {"INPUT.MAX_SIZE_TRAIN": 1333, "INPUT.MIN_SIZE_TEST": 800, "INPUT.MAX_SIZE_TEST": 1333}
    return {"INPUT.MIN_SIZE_TRAIN": short, "INPUT.DETR_CROP.ENABLED": crop, "INPUT.RANDOM_FLIP": "horizontal", **common}


SCHEDULES = {  # 00-common, section 8
    "1x": {**SGD, **sizes(800), **solver(MAX_ITER=90_000, STEPS=(60_000, 80_000))},
    "2x": {**SGD, **sizes(800), **solver(MAX_ITER=180_000, STEPS=(120_000, 160_000))},
    "3x_ms": {**SGD, **sizes(*range(640, 801, 32)), **solver(MAX_ITER=270_000, STEPS=(210_000, 250_000))},
    "6x_ms": {**SGD, **sizes(*range(640, 801, 32)), **solver(MAX_ITER=540_000, STEPS=(480_000, 520_000))},
    "9x_ms": {**SGD, **sizes(*range(640, 801, 32)), **solver(MAX_ITER=810_000, STEPS=(750_000, 790_000))},
    "12e": {**ADAMW, **sizes(800), **solver(MAX_ITER=12 * 7330, STEPS=(8 * 7330, 11 * 7330))},
    "36e": {
        **ADAMW,
        **sizes(*range(480, 801, 32), crop=True),
        **solver(MAX_ITER=36 * 7330, STEPS=(24 * 7330, 33 * 7330)),
        "INPUT.DETR_CROP.SIZES": (400, 500, 600),
        "INPUT.DETR_CROP.CROP": (384, 600),
    },
}


@pytest.mark.parametrize("name", COCO)
def test_schedules_and_backbones(name):
    cfg = load(name)
    stem = Path(name).stem
    depth, schedule = (101 if "_R_101_" in stem else 50), stem.partition("_R_50_")[2] or stem.partition("_R_101_")[2]
    facts = {
        **SCHEDULES[schedule],
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.WEIGHTS": f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl",
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.DEFCN.P6_FEATURE": "p5",
        "MODEL.PIXEL_STD": (1.0, 1.0, 1.0),
        "DATASETS.TRAIN": ("coco_2017_train",),
        "DATASETS.TEST": ("coco_2017_val",),
        "TEST.DETECTIONS_PER_IMAGE": 100,
    }
    assert values(cfg, facts) == facts


def detector(**facts):
    return {"MODEL.DEFCN." + key.replace("__", "."): value for key, value in facts.items()}


def branch(name, cls, box, l1=0.0, form="relu", loss="giou", **facts):
    facts = {"CLS_WEIGHT": cls, "BOX_WEIGHT": box, "L1_WEIGHT": l1, "BOX_FORM": form, "BOX_LOSS": loss, **facts}
    return {f"MODEL.DEFCN.{name}.{key}": value for key, value in facts.items()}


DEFCN = detector(CONV_BIAS=True, NORM="GN", NUM_CONVS=4, SCORE_THRESH_TEST=0.05, TOPK_CANDIDATES_TEST=1000)
DEFCN |= detector(TOPK_WITHIN_POINTS=True, NMS_CLIPPED=False)
DEFCN["MODEL.PIXEL_MEAN"] = (103.53, 116.28, 123.675)
DATE = detector(CONV_BIAS=False, NORM="GN", NUM_CONVS=4, NMS_THRESH_TEST=0.5, LEVEL_SCALES=True)
DATE |= detector(TOPK_WITHIN_POINTS=False, NMS_CLIPPED=True)
DATE["MODEL.PIXEL_MEAN"] = (102.9801, 115.9465, 122.7717)
O2O = {**branch("ONE_TO_ONE", 2.0, 2.0, 5.0), **detector(NMS=False, SCORE_THRESH_TEST=0.01)}
O2M_FCOS = branch(
    *("ONE_TO_MANY", 1.0, 1.0, 0.0, "exp", "iou"),
    **{"RULE": "FCOS(prior=inside)", "CENTERNESS": "cls", "CENTERNESS_SCORE": "product", "NORMALIZER": "positives"},
)
O2M_RETINA = branch(
    *("ONE_TO_MANY", 1.0, 1.0, 0.0, "delta", "delta_l1"),
    **{"RULE": "RetinaNet(positive=0.5, negative=0.4)", "NORMALIZER": "images", "IGNORE_PADDING": True},
    **{"ANCHORS.SCALES": (4.0, 5.039684, 6.349604), "ANCHORS.RATIOS": (0.5, 1.0, 2.0), "ANCHORS.OFFSET": 0.0},
)
BOTH = ("ONE_TO_ONE", "ONE_TO_MANY")
POTO_DATE = "POTO(alpha=0.8, prior=center, radius=1.5, invalid=0)"
COST = "MinCost(cls=2, l1=5, giou=2, select=matching)"
ANCHOR = {"MODEL.DEFCN.ONE_TO_ONE.RULE": "Anchor(scale=4)", **detector(LEVEL_SCALES=False)}
MANY_RULE = {"MODEL.DEFCN.ONE_TO_MANY.RULE": "FCOS(prior=center, radius=1.5)"}
CENTERNESS = {"MODEL.DEFCN.ONE_TO_MANY.CENTERNESS": "reg", "MODEL.DEFCN.ONE_TO_MANY.CENTERNESS_SCORE": "sqrt"}


def rule(text, where="ONE_TO_ONE"):
    return {f"MODEL.DEFCN.{where}.RULE": text}


DETECTORS = [  # 00-common, sections 3 to 9, and 10-defcn, 20-date: each pattern that fits a config adds to its facts
    ("[!D]*", DEFCN),
    ("fcos*", {**branch("ONE_TO_MANY", 1.0, 1.0), **MANY_RULE, **detector(NMS=True, NMS_THRESH_TEST=0.6)}),
    ("fcos_R*", detector(BRANCHES=("ONE_TO_MANY",), ONE_TO_MANY__CENTERNESS="")),
    ("fcos_centerness_R*", {**CENTERNESS, **detector(BRANCHES=("ONE_TO_MANY",))}),
    ("anchor*", {**ANCHOR, **branch("ONE_TO_ONE", 1.0, 2.0, form="delta"), **detector(NMS=False)}),
    ("center*", {**rule("Center()"), **branch("ONE_TO_ONE", 1.0, 2.0), **detector(NMS=False)}),
    ("foreground*", {**rule("ForegroundLoss(radius=1.5, giou=2)"), **branch("ONE_TO_ONE", 1.0, 2.0)}),
    ("poto*", {**branch("ONE_TO_ONE", 1.0, 2.0, LOSS_WEIGHT=1.0), **detector(NMS=False)}),
    ("poto_[R3]*", rule("POTO(alpha=0.8, prior=center, radius=1.5, select=matching)")),
    ("poto_argmax*", rule("POTO(alpha=0.8, prior=center, radius=1.5, select=argmax)")),
    ("poto_R*", detector(BRANCHES=("ONE_TO_ONE",), ONE_TO_ONE__MAX_FILTERING__ENABLED=False)),
    ("poto_3dmf*", detector(ONE_TO_ONE__MAX_FILTERING__ENABLED=True)),
    ("poto_3dmf_[Ra]*", detector(ONE_TO_ONE__MAX_FILTERING__TAU=2, ONE_TO_ONE__MAX_FILTERING__KERNEL=3)),
    ("poto_3dmf_[Rat]*", detector(ONE_TO_ONE__MAX_FILTERING__NORM="GN")),
    ("poto_3dmf_wo_gn*", detector(ONE_TO_ONE__MAX_FILTERING__NORM="")),
    ("poto_3dmf*_aux*", detector(BRANCHES=("ONE_TO_ONE", "AUX"), AUX__CLS_WEIGHT=1.0)),
    ("poto_3dmf*aux_R*", rule("QualityATSS(k=9, alpha=0.8)", "AUX")),
    ("DeFCN-tables/*", {**DEFCN, **branch("ONE_TO_ONE", 1.0, 2.0)}),
    ("DeFCN-tables/fcos_c*", {**CENTERNESS, **MANY_RULE, **detector(BRANCHES=("ONE_TO_MANY", "AUX"), NMS=True)}),
    ("DeFCN-tables/fcos_c*", rule("QualityATSS(k=9, alpha=0.8)", "AUX")),
    ("DeFCN-tables/*_aux_fcos*", rule("FCOS(prior=center, radius=1.5)", "AUX")),
    ("DeFCN-tables/*_aux_atss*", rule("ATSS(k=9, scale=8)", "AUX")),
    ("DeFCN-tables/*_aux_quality_fcos*", rule("QualityFCOS(alpha=0.8, prior=center, radius=1.5)", "AUX")),
    ("DeFCN-tables/*_aux_quality_top_k*", rule("QualityTopK(k=9, alpha=0.8)", "AUX")),
    ("DATE/*", DATE),
    ("DATE/onenet*", {**O2O, **rule(COST), **detector(BRANCHES=("ONE_TO_ONE",), TOPK_CANDIDATES_TEST=100)}),
    ("DATE/poto*", {**O2O, **rule(POTO_DATE), **detector(BRANCHES=("ONE_TO_ONE",), TOPK_CANDIDATES_TEST=100)}),
    ("DATE/date_f*", {**O2O, **O2M_FCOS, **detector(BRANCHES=BOTH, TOPK_CANDIDATES_TEST=100)}),
    ("DATE/date_r*", {**O2O, **O2M_RETINA, **detector(BRANCHES=BOTH, TOPK_CANDIDATES_TEST=1000)}),
    ("DATE/date_?_[!m]*", rule(POTO_DATE)),
    ("DATE/date_?_min_cost*", rule(COST)),
    ("DATE/date_?_R*", detector(SHARE_TOWERS=True, ONE_TO_ONE__LOSS_WEIGHT=1.0)),
    ("DATE/date_f_R*", detector(ONE_TO_MANY__LOSS_WEIGHT=1.0, ONE_TO_ONE__MAX_FILTERING__ENABLED=False)),
    ("DATE/date_r_R*", detector(ONE_TO_MANY__LOSS_WEIGHT=2.0)),
    ("DATE/date_f_3dmf*", detector(ONE_TO_ONE__MAX_FILTERING__ENABLED=True, ONE_TO_ONE__MAX_FILTERING__TAU=2)),
    ("DATE/date_r_own*", detector(SHARE_TOWERS=False, ONE_TO_MANY__LOSS_WEIGHT=2.0)),
    ("DATE/fcos*", {**O2M_FCOS, **detector(BRANCHES=("ONE_TO_MANY",), NMS=True, ONE_TO_MANY__LOSS_WEIGHT=1.0)}),
    ("DATE/retina*", {**O2M_RETINA, **detector(BRANCHES=("ONE_TO_MANY",), NMS=True, ONE_TO_MANY__LOSS_WEIGHT=1.0)}),
    ("DATE/[fr]*", detector(SCORE_THRESH_TEST=0.05, TOPK_CANDIDATES_TEST=1000)),
]


@pytest.mark.parametrize("name", COCO)
def test_detectors(name):
    cfg = load(name)
    facts = [facts for pattern, facts in DETECTORS if fnmatch(name.removeprefix("COCO/"), pattern)]
    assert len(facts) >= 2 or name.startswith("COCO/DeFCN-tables/")
    for some in facts:
        assert values(cfg, some) == some


@pytest.mark.parametrize("name", [name for name in COCO if name.startswith("COCO/DeFCN-tables/poto_a")])
def test_ablations_of_poto_are_named_after_their_rule(name):
    _, kind, number, *prior = Path(name).stem.removesuffix("_R_50_2x").split("_")
    expected = {"alpha": float(number), "prior": prior[0] if kind == "alpha" else "center"}
    expected |= {"radius": 1.5} if expected["prior"] == "center" else {}
    expected |= {"combine": "add"} if kind == "add" else {}
    found, options = parse_call(load(name).MODEL.DEFCN.ONE_TO_ONE.RULE)
    assert (found, options) == ("POTO", expected)


@pytest.mark.parametrize("name", [name for name in COCO if "_tau_" in name])
def test_ablations_of_max_filtering_are_named_after_it(name):
    tau, kernel = (int(word) for word in Path(name).stem.split("_")[3:6:2])
    window = load(name).MODEL.DEFCN.ONE_TO_ONE.MAX_FILTERING
    assert (window.ENABLED, window.TAU, window.KERNEL) == (True, tau, kernel)


@pytest.mark.parametrize("name", [name for name in COCO if "_lambda_" in name])
def test_lambdas_are_named(name):
    """DATE's Table 10. RetinaNet's released weights of 2 are its lambda, so they stand nowhere else."""
    one, many = (float(word) for word in Path(name).stem.split("_")[3:5])
    nodes = load(name).MODEL.DEFCN
    assert (nodes.ONE_TO_ONE.LOSS_WEIGHT, nodes.ONE_TO_MANY.LOSS_WEIGHT) == (one, many)


@pytest.mark.parametrize("name", SMALL)
def test_small_sets_compare_alike(name):
    """Pixels, thresholds and budget are those of the data set, whatever the detector's own base says."""
    facts = {
        **detector(SCORE_THRESH_TEST=0.05, TOPK_CANDIDATES_TEST=1000, NMS_THRESH_TEST=0.6),
        "MODEL.PIXEL_MEAN": (103.53, 116.28, 123.675),
        "MODEL.PIXEL_STD": (57.375, 57.12, 58.395),
        "SOLVER.OPTIMIZER": "ADAMW",
        "SOLVER.MAX_ITER": 1200 if name.startswith("Quick") else 2500,
    }
    assert values(load(name), facts) == facts


def test_decay_and_rates_of_the_parameters():
    """DATE decays norms and biases too, and trains the backbone at a tenth; DeFCN's norms do not decay."""
    for name, decays, rates in (("DATE/date_f_R_50_12e", {1e-4}, {4e-4, 4e-5}), ("poto_R_50_2x", {1e-4, 0.0}, {0.01})):
        cfg = load(f"COCO/{name}.yaml", *THIN)
        model = build_model(cfg)
        names = {id(p): n for n, p in model.named_parameters()}
        found = {
            names[id(p)]: (group["lr"], group["weight_decay"])
            for group in build_optimizer(cfg, model).param_groups
            for p in group["params"]
        }
        assert {decay for _, decay in found.values()} == decays
        assert {rate for rate, _ in found.values()} == rates
        assert found["head.cls_subnet.1.weight"][1] == min(decays)
        slow = [n for n, (rate, _) in found.items() if rate == 4e-5]
        assert all(n.startswith("backbone.bottom_up.") for n in slow)
