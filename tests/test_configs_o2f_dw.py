"""The configs of one-to-few and of dual weighting build, learn, and say what the papers and their releases say."""

import pytest
import torch

from defcn_ext.assignment.expression import parse_call
from detectron2.modeling import build_model
from tests.test_configs import ROOT, SGD, THIN, counts, full_size, load, solver, step, values
from tests.tiny import batch, image_with, mostly_slow

NAMES = sorted(f"{p.parent.name}/{p.stem}" for folder in ("O2F", "DW") for p in (ROOT / "COCO" / folder).glob("*.yaml"))
SCHEDULES = {  # 40-o2f and 50-dw, section 8
    "12e_sgd": {**solver(MAX_ITER=87_960, STEPS=(58_640, 80_630)), "INPUT.MIN_SIZE_TRAIN": (800,)},
    "36e_sgd": {
        **solver(MAX_ITER=263_880, STEPS=(175_920, 241_890)),
        **{"INPUT.MIN_SIZE_TRAIN": (640, 800), "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"},
    },
    "24e_ms_sgd": {
        **solver(MAX_ITER=175_920, STEPS=(117_280, 161_260)),
        **{"INPUT.MIN_SIZE_TRAIN": (480, 960), "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"},
    },
}
TORCHVISION = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": (123.675, 116.28, 103.53),
    "MODEL.PIXEL_STD": (58.395, 57.12, 57.375),
}
FACEBOOK = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": (103.53, 116.28, 123.675),
    "MODEL.PIXEL_STD": (57.375, 57.12, 58.395),
    "MODEL.WEIGHTS": "catalog://ImageNetPretrained/FAIR/X-101-64x4d",
}
# A ResNet-50 that is thin, for deformable convs, which smaller ones do not have.
THIN_50 = (
    *(*THIN, "MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.WIDTH_PER_GROUP", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
)


def config(name, *opts):
    return load(f"COCO/{name}.yaml", *opts)


def names(start):
    return [name for name in NAMES if name.startswith(start)]


def test_there_are_configs():
    assert len(names("O2F/")) >= 60 and len(names("DW/")) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_schedules_and_backbones(name):
    cfg, stem = config(name), name.split("/")[1]
    schedule = next(key for key in sorted(SCHEDULES, key=len, reverse=True) if stem.endswith(f"_{key}"))
    depth = 101 if "_101_" in stem else 50
    weights = {"MODEL.WEIGHTS": f"detectron2://ImageNetPretrained/torchvision/R-{depth}.pkl"}
    facts = {
        **SGD,
        **SCHEDULES[schedule],
        **(FACEBOOK if "_X_101" in stem else {**TORCHVISION, **weights}),
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": 64 if "_X_101" in stem else 1,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4 if "_X_101" in stem else 64,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": (False, *["_DCN_" in stem] * 3),
        "MODEL.RESNETS.DEFORM_MODULATED": "_DCN_" in stem,
        "MODEL.DEFCN.DEFORM_TOWERS": "_DCN_" in stem,
        "MODEL.DEFCN.P6_FEATURE": "p5",
        "INPUT.MAX_SIZE_TRAIN": 1333,
        "INPUT.MIN_SIZE_TEST": 800,
    }
    assert values(cfg, facts) == facts


@pytest.mark.parametrize("name", NAMES)
def test_labels_fall_over_the_epochs_that_are_trained(name):
    cfg = config(name)
    rule, options = parse_call(cfg.MODEL.DEFCN.ONE_TO_ONE.RULE)
    if "O2F/o2f_" in name:
        assert rule == "O2F" and cfg.MODEL.DEFCN.BRANCHES == ["ONE_TO_ONE"] and not cfg.MODEL.DEFCN.NMS
        assert options.get("epochs", 12) * 7330 == cfg.SOLVER.MAX_ITER
        assert cfg.MODEL.DEFCN.NMS_CLIPPED and not cfg.MODEL.DEFCN.TOPK_WITHIN_POINTS


@pytest.mark.parametrize("name", NAMES)
def test_full_size(name, monkeypatch):
    """R-50-FPN has 27,323,584 parameters; the heads: 40-o2f, section 2, and 50-dw, section 8."""
    total, trainable = counts(full_size(monkeypatch, config(name)))
    assert trainable == total - 222_400 or "_X_101" in name  # the stem and the first stage
    deformable = 0
    if "_DCN_" in name:
        blocks = (4, 23 if "_101_" in name else 6, 3)
        deformable = sum(n * (27 * 9 * width + 27) for n, width in zip(blocks, (128, 256, 512)))
        deformable += 2 * (27 * 9 * 256 + 27)
    heads = {
        "o2f_1_conv": 5_066_586,
        "o2f_2_convs": 5_103_642,
        "o2f": 5_140_698,
        "dw": 4_920_666,
        "dw_refine": 4_939_106,
    }
    kind = name.split("/")[1].partition("_R_")[0]
    if kind in heads:
        assert total == 27_323_584 + heads[kind] + deformable + (18_939_904 if "_R_101" in name else 0)


STEPPED = [
    *("O2F/o2f_1_conv_R_50_36e_sgd", "O2F/o2f_3dmf_R_50_12e_sgd", "O2F/o2f_one_to_one_R_50_12e_sgd"),
    *("O2F/o2f_one_to_two_R_50_12e_sgd", "O2F/o2f_static_0.8_R_50_12e_sgd", "O2F/o2f_add_0.6_R_50_12e_sgd"),
    *("O2F/hybrid_epoch_R_50_12e_sgd", "O2F/poto_3dmf_aux_fcos_R_50_12e_sgd", "O2F/fcos_R_50_12e_sgd"),
    *("DW/dw_refine_R_50_12e_sgd", "DW/dw_g1_2_g2_3_R_50_12e_sgd", "DW/dw_threshold_1.7_R_50_12e_sgd"),
    *("DW/dw_top_k_9_R_50_12e_sgd", "DW/dw_without_importance_R_50_12e_sgd", "DW/dw_paper_R_50_12e_sgd"),
    "DW/dw_one_to_one_R_50_12e_sgd",
]
ON_CPU = pytest.mark.standin_only("Detectron2 has no modulated deformable convs for a CPU")
DEFORMABLE = [pytest.param("DW/dw_refine_R_50_DCN_24e_ms_sgd", THIN_50, marks=ON_CPU)]


@pytest.mark.parametrize("name, opts", mostly_slow([(name, THIN) for name in STEPPED], fast=STEPPED[1::4]) + DEFORMABLE)
def test_detectors_learn_and_take_images_without_objects(name, opts):
    """Three small steps on three images lower the loss; then one on images without objects has no box loss."""
    losses = three_steps(name, opts)
    assert sum(losses[2].values()) < sum(losses[0].values())


@pytest.mark.parametrize("name", ["gfl", "vfl", "tood", "musu"])
def test_detectors_whose_labels_follow_the_boxes(name):
    """Better boxes raise the labels and with them the class loss, so that only the box loss must fall."""
    losses = three_steps(f"DW/{name}_R_50_12e_sgd", THIN)
    assert losses[0]["loss_box"] > losses[1]["loss_box"] > losses[2]["loss_box"] > 0.1


def three_steps(name, opts):
    torch.manual_seed(0)
    model = build_model(config(name, *opts))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=3e-4)
    losses = [step(model, optimizer, batch()) for _ in range(3)]
    empty = step(model, optimizer, [image_with([], [], size=(64, 96), seed=n) for n in range(2)])
    assert all(value == 0 for loss, value in empty.items() if loss.split("_")[1] == "box")
    assert all(0 <= value < 100 for value in empty.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return losses


def options_of(name, branch):
    return parse_call(config(name).MODEL.DEFCN[branch].RULE)[1]


def words(name, start):
    return name.removeprefix(start).partition("_R_50_")[0].split("_")


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.startswith(("O2F/o2f_k", "O2F/o2f_t_", "O2F/o2f_add", "O2F/o2f_mul"))]
)
def test_ablations_of_o2f_are_named_after_their_rule(name):
    """o2f, Tables 2 to 4: one thing changes, the rest is the default."""
    kind, *numbers = words(name, "O2F/o2f_")
    expected = {"k": 7, "alpha": 0.8, "t_max": 0.6, "t_min": 0.2, "schedule": "step", "epochs": 12}
    if kind == "k":
        expected["k"] = int(numbers[0])
    elif kind == "t":
        expected["t_max"], expected["t_min"] = map(float, numbers)
    else:
        expected |= {"alpha": float(numbers[0]), "combine": kind}
    assert options_of(name, "ONE_TO_ONE") == expected


@pytest.mark.parametrize("name", names("DW/dw_beta") + names("DW/dw_g1"))
def test_ablations_of_dw_are_named_after_their_exponents(name):
    """DW, Tables 2 and 3."""
    kind, first, _, second = words(name, "DW/dw_")
    expected, gamma = {"mu": 5, "beta": 5}, 2.0
    if kind == "beta":
        expected |= {"beta": int(first), "mu": int(second)}
    else:
        expected, gamma = {**expected, "g1": int(first)}, float(second)
    assert options_of(name, "ONE_TO_MANY") == expected
    assert config(name).MODEL.DEFCN.ONE_TO_MANY.NEG_GAMMA == gamma


@pytest.mark.parametrize("name", names("DW/dw_threshold") + names("DW/dw_top_k"))
def test_bags_of_dw_are_named_after_their_size(name):
    """DW, Table 4."""
    *kind, size = words(name, "DW/dw_")
    assert options_of(name, "ONE_TO_MANY") == {"mu": 5, "beta": 5, "bag": "".join(kind), "size": float(size)}


@pytest.mark.parametrize("name", names("DW/dw"))
def test_dual_weighting_has_its_released_weights(name):
    """50-dw, sections 5 and 8: 0.25 on the positive loss, 0.25 x 5 on the box loss, 1 on the negative loss."""
    nodes = config(name).MODEL.DEFCN
    many = nodes.ONE_TO_MANY
    assert (many.TYPE, many.CLS_WEIGHT, many.BOX_WEIGHT, many.NEG_WEIGHT) == ("dual", 0.25, 1.25, 1.0)
    assert (many.BOX_BIAS, nodes.PRIOR_PROB, nodes.NMS_THRESH_TEST) == (4.0, 0.02, 0.6)
    assert many.REFINE.ENABLED == ("dw_refine" in name)
    assert nodes.NMS == ("one_to_one" not in name and "peaks" not in name)
    assert nodes.NMS_CLIPPED and not nodes.TOPK_WITHIN_POINTS
