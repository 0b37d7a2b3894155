"""Every key of this project, and those of Detectron2 that it relies on, with a wrong type and with a wrong value."""

from argparse import Namespace

import pytest

from defcn_ext.config import UserError, add_defcn_config, flat_keys
from defcn_ext.engine.preflight import check_run, load_config
from defcn_ext.engine.preflight.values import MAY_BE_NONE, VALUES, check_types, check_values
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from tests.test_configs import RUNNABLE, load
from tests.tiny import tiny_cfg

ARGS = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "auto", "eval_only": False, "resume": False}
SMALL = {
    "MODEL.META_ARCHITECTURE": "DeFCN",
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_defcn_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.DEFCN.NUM_CLASSES": 3,
}


def project_keys() -> dict:
    cfg = get_cfg()
    stock = flat_keys(cfg)
    add_defcn_config(cfg)
    return {k: v for k, v in flat_keys(cfg).items() if k not in stock and not isinstance(v, CfgNode)}


def all_keys() -> dict:
    everything = flat_keys(get_cfg())
    relied_on = {k: everything[k] for k in VALUES if k in everything}
    more = ("DATASETS.TRAIN", "DATASETS.TEST", "MODEL.PIXEL_MEAN", "MODEL.WEIGHTS", "MODEL.DEVICE", "SOLVER.NESTEROV")
    norms = ("MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.FPN.IN_FEATURES", "SOLVER.LR_SCHEDULER_NAME")
    return project_keys() | relied_on | {k: everything[k] for k in (*more, *norms)}


KEYS = all_keys()
WRONG_TYPES = {
    bool: ("maybe", 3),
    int: ("many", 1.5, None),
    float: ("many", [1.0], None),
    str: ([1, 2], None),
    tuple: ("word", 3, None, ({"a": 1},)),
    list: ("word", 3, None, [{"a": 1}]),
    type(None): ("word", [1]),
}
# where neither -1, nor an unknown word, nor an empty list is wrong
WRONG = {
    "DATASETS.CLASSES": ("a", "b", "a"),
    "DATASETS.REGISTER": ("name",),
    "DATASETS.TRAIN": (),
    "DATASETS.TEST": ("nowhere",),
    "INPUT.COLOR_JITTER": 1.0,
    "INPUT.DETR_CROP.CROP": (600, 384),
    "INPUT.DETR_CROP.SIZES": (0,),
    "INPUT.MIX.BLEND": (0.5, 1.0),
    "INPUT.MIX.SHARES": (0.5, 0.5),
    "INPUT.SCALE_JITTER": (2.0, 0.5),
    "MODEL.DEFCN.IMPORTS": ["no.such.module"],
    "MODEL.DEFCN.SCORE_THRESH_TEST": 1.5,
    "MODEL.DEFCN.TEST_BRANCH": "AUX",
    "MODEL.DEFCN.TRAIN_ONLY": ["NONE"],
    "MODEL.DEFCN.NMS_RANGE": 4,
    "MODEL.DEFCN.ONE_TO_MANY.ANCHORS.SIZES": [32.0, 64.0],
    "MODEL.DEFCN.ONE_TO_ONE.ANCHORS.SIZES": [[0.0]],
    "OUTPUT_DIR": " ",
    "SEED": -2,
    "SOLVER.EMA.DECAY": 1.0,
    "SOLVER.STEPS": (3, 2),
    "SOLVER.ONE_CYCLE.PEAK": 1.0,
    "TEST.EXPECTED_RESULTS": [["bbox", "AP", 38.5]],
    "MODEL.FPN.IN_FEATURES": ["res9"],
}
FREE = {"MODEL.DEFCN.ONE_TO_ONE.BOX_BIAS", "MODEL.DEFCN.ONE_TO_MANY.BOX_BIAS"}  # any finite number
ON = {  # what a key needs to have a meaning
    "MODEL.DEFCN.AUX": {"MODEL.DEFCN.BRANCHES": ["ONE_TO_ONE", "AUX"]},
    "MODEL.DEFCN.ONE_TO_MANY": {"MODEL.DEFCN.BRANCHES": ["ONE_TO_MANY"]},
    "MODEL.DEFCN.DEFORM_TOWERS": {"MODEL.DEFCN.NUM_CONVS": 0},
    "PYRAMID_SHUFFLE.SHARE": {"MODEL.DEFCN.PYRAMID_SHUFFLE.BOX": 1},
    "PEAK_FILTER": {"MODEL.DEFCN.PEAK_FILTER.ENABLED": True},
    "DETR_CROP": {"INPUT.DETR_CROP.ENABLED": True},
}


def words(options: dict) -> list[str]:
    """The options as a command line has them."""
    return [x if isinstance(x, str) else repr(x) for pair in options.items() for x in pair]


def one_line(error: pytest.ExceptionInfo, key: str) -> str:
    """The message, which must be one line and name the key, the node of a branch perhaps before a colon."""
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    node, names = ".".join(key.split(".")[:3]), key.lower().split(".")[3:]
    assert key in message or (f"{node}: " in message and all(name in message.lower() for name in names)), message
    return message


@pytest.mark.parametrize("key", [k for k in KEYS if k != "DATASETS.REGISTER"])  # a bare word is an entry of it
def test_a_wrong_type(key):
    for wrong in WRONG_TYPES[type(KEYS[key])]:
        if wrong == [1.0] and key.endswith(".LOSS_WEIGHT"):
            continue  # which may be a pair
        if (wrong is None and key in MAY_BE_NONE) or (wrong is not None and key == "TEST.EXPECTED_RESULTS"):
            continue
        with pytest.raises(UserError) as raised:
            load_config("", words({key: wrong}))
        one_line(raised, key)


@pytest.mark.parametrize("key", [k for k, v in KEYS.items() if isinstance(v, float)])
def test_a_number_that_is_not_finite(key):
    for wrong in ("1e999", "-1e999"):
        with pytest.raises(UserError) as raised:
            load_config("", words({key: wrong}))
        one_line(raised, key)


def wrong_value(key):
    if key in WRONG:
        return WRONG[key]
    default = KEYS[key]
    if isinstance(default, (tuple, list)):
        return type(default)()
    return {str: "nonsense", int: -1, float: -1.0}.get(type(default), -1.0)


@pytest.fixture
def three_classes():
    """The name of a data set of three classes."""
    name = "preflight_three_classes"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).thing_classes = ["a", "b", "c"]
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("key", [k for k, v in KEYS.items() if not isinstance(v, bool) and k not in FREE])
def test_a_wrong_value(key, tmp_path, three_classes):
    needed = {k: v for part, more in ON.items() if part in key for k, v in more.items()}
    if ".QUALITY." in key or ".REFINE." in key or ".MAX_FILTERING." in key:
        needed[key.rpartition(".")[0] + ".ENABLED"] = True
    if ".ANCHORS." in key:
        needed[key.split(".ANCHORS")[0] + ".BOX_FORM"] = "delta"
    if key.endswith(("BOX_WEIGHTS", "BACKGROUND_GAMMA", "PAIR_GAMMA")):
        needed |= {key.rpartition(".")[0] + ".TYPE": "weighted", key.rpartition(".")[0] + ".RULE": "O2F"}
    if key.endswith("NEG_GAMMA"):
        needed |= {key.rpartition(".")[0] + ".TYPE": "dual", key.rpartition(".")[0] + ".RULE": "DW"}
    options = {**SMALL, "OUTPUT_DIR": str(tmp_path / "out"), "DATASETS.TRAIN": (three_classes,)}
    options |= {**needed, key: wrong_value(key)}
    with pytest.raises(UserError) as raised:
        check_run(load_config("", words(options)), Namespace(**ARGS))
    one_line(raised, key)


@pytest.mark.parametrize(
    "opts, message",
    [
        (("INPUT.FORMAT", "bgr"), "INPUT.FORMAT: expected 'BGR' or .*, got 'bgr'"),
        (("MODEL.PIXEL_MEAN", [1.0, 2.0]), "MODEL.PIXEL_MEAN: expected 3 numbers, .* INPUT.FORMAT BGR, got"),
        (("MODEL.PIXEL_STD", [1.0, 0.0, 1.0]), "MODEL.PIXEL_STD: expected a list, each a number above 0"),
        (("MODEL.DEFCN.INFERENCE_ONLY", True), "MODEL.DEFCN.INFERENCE_ONLY: such a model cannot be trained"),
        (("MODEL.RESNETS.RES2_OUT_CHANNELS", 256), "MODEL: the detector DeFCN cannot be built .*RES2_OUT_CHANNELS"),
        (("MODEL.RESNETS.NORM", "XN"), "MODEL.RESNETS.NORM: no norm 'XN'"),
        (("MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 48), "MODEL.FPN.NORM: no norm 'GN' for 48 channels"),
        (
            ("MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.STEM_OUT_CHANNELS", 48),
            "MODEL.RESNETS.NORM: no norm 'GN' for 48",
        ),
        (
            ("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [1.0], "MODEL.PIXEL_STD", [1.0], "INPUT.COLOR_JITTER", 0.1),
            "INPUT.COLOR_JITTER: gray images",
        ),
    ],
)
def test_what_does_not_go_together(tmp_path, opts, message):
    cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path), *opts)
    with pytest.raises(UserError, match=message):
        check_run(cfg, Namespace(**ARGS))


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_configs_pass(name):
    cfg = load(name)
    check_types(cfg)
    check_values(cfg)


def test_evaluation_may_have_no_branches_to_train(tmp_path):
    cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path), "MODEL.DEFCN.INFERENCE_ONLY", True)
    with pytest.raises(UserError, match="DATASETS.TEST names no data set"):
        check_run(cfg, Namespace(**{**ARGS, "eval_only": True}))
