import json
import logging

import pytest
import yaml

from detectron2.config import (
    CfgNode,
    downgrade_config,
    get_cfg,
    global_cfg,
    set_global_cfg,
    upgrade_config,
)
from detectron2.config.compat import guess_version
from tests.conftest import FACTS

GOLDEN = json.loads((FACTS / "golden_behaviours.json").read_text())
TYPES = json.loads((FACTS / "config_types.json").read_text())
MISSING = object()


def flat(node, prefix=""):
    for name, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def plain(value):
    return json.loads(json.dumps(value))


def lookup(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def test_defaults_are_those_of_the_facts_to_the_byte():
    assert get_cfg().dump() == (FACTS / "config_defaults.yaml").read_text()


def test_types_of_defaults():
    found = {key: [type(value).__name__, plain(value)] for key, value in flat(get_cfg())}
    assert found == TYPES["defaults"]


# ---- one value: name of the fact -> key, and what is written to a file or given on the command line

FROM_FILE = {
    "unknown_key_in_file": ("MODEL.NOT_THERE", "MODEL: {NOT_THERE: 1}"),
    "unknown_top_level_key": ("NOT_THERE", "NOT_THERE: 1"),
    "type_mismatch_str_for_int": ("SOLVER.MAX_ITER", "SOLVER: {MAX_ITER: many}"),
    "int_for_float": ("SOLVER.BASE_LR", "SOLVER: {BASE_LR: 1}"),
    "float_for_int": ("SOLVER.MAX_ITER", "SOLVER: {MAX_ITER: 1.0}"),
    "quoted_number_for_int": ("SOLVER.MAX_ITER", "SOLVER: {MAX_ITER: '7'}"),
    "list_for_tuple": ("SOLVER.STEPS", "SOLVER: {STEPS: [1, 2]}"),
    "paren_string_for_tuple": ("SOLVER.STEPS", "SOLVER: {STEPS: '(1, 2)'}"),
    "tuple_string_single": ("DATASETS.TRAIN", """DATASETS: {TRAIN: '("a",)'}"""),
    "plain_string_for_tuple": ("DATASETS.TRAIN", "DATASETS: {TRAIN: a}"),
    "paren_string_for_list": ("MODEL.PIXEL_STD", "MODEL: {PIXEL_STD: '(1.0, 2.0, 3.0)'}"),
    "scientific_1e-4_without_dot_in_yaml": ("SOLVER.BASE_LR", "SOLVER: {BASE_LR: 1e-4}"),
    "bool_for_int": ("SOLVER.MAX_ITER", "SOLVER: {MAX_ITER: true}"),
    "int_for_bool": ("MODEL.MASK_ON", "MODEL: {MASK_ON: 1}"),
    "none_for_string": ("MODEL.WEIGHTS", "MODEL: {WEIGHTS: null}"),
    "value_for_None_default": ("SOLVER.WEIGHT_DECAY_BIAS", "SOLVER: {WEIGHT_DECAY_BIAS: 0.0}"),
    "unsafe_eval_tag_default": (
        "MODEL.PIXEL_STD",
        "MODEL: {PIXEL_STD: !!python/object/apply:eval ['[x * 2.0 for x in (1, 2, 3)]']}",
    ),
    "version1_explicit": ("MODEL.WEIGHTS", "VERSION: 1\nMODEL: {WEIGHT: abc}"),
    "version1_key_in_version2_file": ("MODEL.WEIGHT", "VERSION: 2\nMODEL: {WEIGHT: abc}"),
    "version3_file": ("VERSION", "VERSION: 3"),
}
FROM_LIST = {
    "list_string_int": ("SOLVER.MAX_ITER", "7"),
    "list_string_float": ("SOLVER.BASE_LR", "1e-3"),
    "list_int_for_float": ("SOLVER.BASE_LR", "1"),
    "list_string_tuple": ("SOLVER.STEPS", "(1, 2)"),
    "list_string_list_for_tuple": ("DATASETS.TRAIN", "['a']"),
    "list_string_bool": ("MODEL.MASK_ON", "True"),
    "list_lowercase_true": ("MODEL.MASK_ON", "true"),
    "list_plain_string": ("MODEL.WEIGHTS", "a/b.pth"),
    "list_unknown_key": ("MODEL.NOT_THERE", "1"),
    "list_odd_length": ("MODEL.WEIGHTS", MISSING),
    "list_whole_node": ("MODEL.FPN", "1"),
    "list_numeric_string_for_string": ("OUTPUT_DIR", "123"),
    "list_none": ("MODEL.WEIGHTS", "None"),
}


def outcome(key, merge):
    cfg = get_cfg()
    try:
        merge(cfg)
    except Exception as error:
        return {"raises": type(error).__name__}
    value = lookup(cfg, key)
    return {"value": plain(value), "type": type(value).__name__}


@pytest.mark.parametrize("name", FROM_FILE)
def test_value_from_a_file(name, tmp_path):
    key, text = FROM_FILE[name]
    file = tmp_path / "t.yaml"
    file.write_text(text if "VERSION" in text else text + "\nVERSION: 2")
    assert outcome(key, lambda cfg: cfg.merge_from_file(str(file))) == GOLDEN["config"][name]


@pytest.mark.parametrize("name", FROM_LIST)
def test_value_from_a_list(name):
    key, value = FROM_LIST[name]
    arguments = [key] if value is MISSING else [key, value]
    assert outcome(key, lambda cfg: cfg.merge_from_list(arguments)) == GOLDEN["config"][name]


# ---- several files

BASES = {
    "grand.yaml": "VERSION: 2\nSOLVER: {MAX_ITER: 11, STEPS: [3]}\nMODEL: {WEIGHTS: base}",
    "sub/child.yaml": "_BASE_: ../grand.yaml\nSOLVER: {MAX_ITER: 12}\nMODEL: {MASK_ON: true}",
    "one.yaml": "VERSION: 2\nSOLVER: {MAX_ITER: 21, GAMMA: 0.25, STEPS: [3]}",
    "two.yaml": "SOLVER: {GAMMA: 0.5}",
    "list.yaml": "_BASE_: [one.yaml, two.yaml]\nVERSION: 2",
    "lost.yaml": "_BASE_: nowhere.yaml\nVERSION: 2",
    "flat.yaml": "VERSION: 2\nSOLVER: 1",
    "over_flat.yaml": "_BASE_: flat.yaml\nSOLVER: {MAX_ITER: 1}",
    "over_node.yaml": "_BASE_: one.yaml\nSOLVER: 1",
}


@pytest.fixture
def base_files(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, text in BASES.items():
        (tmp_path / name).write_text(text)
    absolute = tmp_path / "sub" / "absolute.yaml"
    absolute.write_text(f"_BASE_: {tmp_path / 'grand.yaml'}\nVERSION: 2")
    return tmp_path


@pytest.mark.parametrize("fact, file", [("base_chain", "sub/child.yaml"), ("base_list_later_wins", "list.yaml")])
def test_base_files(base_files, fact, file):
    for key, expected in GOLDEN["config"][fact].items():
        assert outcome(key, lambda cfg: cfg.merge_from_file(str(base_files / file))) == expected, key


@pytest.mark.parametrize(
    "fact, file",
    [
        ("base_missing", "lost.yaml"),
        ("base_absolute_path", "sub/absolute.yaml"),
        ("base_dict_vs_scalar", "over_node.yaml"),
        ("scalar_in_base_dict_in_child", "over_flat.yaml"),
    ],
)
def test_base_file_and_its_child(base_files, fact, file):
    found = outcome("SOLVER.MAX_ITER", lambda cfg: cfg.merge_from_file(str(base_files / file)))
    assert found == GOLDEN["config"][fact]


def test_base_works_in_files_only():
    errors = []
    merges = (lambda c: c.merge_from_list(["_BASE_", "x"]), lambda c: c.merge_from_other_cfg(CfgNode({"_BASE_": "x"})))
    for merge in merges:
        with pytest.raises(AssertionError) as error:
            merge(get_cfg())
        errors.append({"ok": False, "raises": error.type.__name__})
    assert errors == GOLDEN["config"]["base_in_list_or_other_cfg"]


def test_missing_file_and_unsafe_file(tmp_path):
    with pytest.raises(AssertionError):
        get_cfg().merge_from_file(str(tmp_path / "none.yaml"))
    file = tmp_path / "t.yaml"
    file.write_text(FROM_FILE["unsafe_eval_tag_default"][1])
    with pytest.raises(yaml.constructor.ConstructorError):
        get_cfg().merge_from_file(str(file), allow_unsafe=False)
    facts = GOLDEN["config"]
    assert facts["missing_file"]["raises"] == "AssertionError"
    assert facts["unsafe_eval_tag_allow_unsafe_False"]["raises"] == "ConstructorError"


# ---- versions


def test_file_without_version_is_taken_as_latest(tmp_path, caplog):
    (tmp_path / "t.yaml").write_text("SOLVER: {MAX_ITER: 3}")
    with caplog.at_level(logging.INFO):
        get_cfg().merge_from_file(str(tmp_path / "t.yaml"))
    found = [[r.levelname, r.getMessage().replace(str(tmp_path / "t.yaml"), "<DIR>/<file>")] for r in caplog.records]
    assert found == GOLDEN["config"]["no_VERSION_log"]


def test_version_1_file_is_recognised_and_upgraded(tmp_path, caplog):
    (tmp_path / "t.yaml").write_text("MODEL: {WEIGHT: abc}\nTEST: {AUG_ON: true, DETECTIONS_PER_IMG: 33}")
    cfg = get_cfg()
    with caplog.at_level(logging.INFO):
        cfg.merge_from_file(str(tmp_path / "t.yaml"))
    facts = dict(GOLDEN["config"]["version1_file_by_guess"])
    assert [[r.levelname, r.getMessage().replace(str(tmp_path), "<DIR>")] for r in caplog.records] == facts.pop("log")
    for key, expected in facts.items():
        assert {"value": lookup(cfg, key), "type": type(lookup(cfg, key)).__name__} == expected, key


def test_version_1_anchors_of_the_head_in_use_become_the_generators(tmp_path):
    heads = "RETINANET: {ANCHOR_SIZES: [[7]], ANCHOR_STRIDES: [8]}, RPN: {ANCHOR_SIZES: [[9]]}"
    (tmp_path / "t.yaml").write_text("VERSION: 1\nMODEL: {META_ARCHITECTURE: RetinaNet, " + heads + "}")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "t.yaml"))
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[7]]
    assert "ANCHOR_STRIDES" not in cfg.MODEL.RETINANET


@pytest.mark.parametrize("version", [0, 1])
def test_upgrade_undoes_downgrade(version):
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = 5
    cfg.USER_KEY = "kept"
    old = downgrade_config(cfg, version)
    assert old.VERSION == version and old != cfg
    assert upgrade_config(old) == cfg
    assert upgrade_config(old, 1).VERSION == 1
    assert cfg.VERSION == 2, "neither of them may change its argument"


def test_names_of_version_1():
    old = downgrade_config(get_cfg(), 1)
    leaves = {key for key, _ in flat(old)} - {key for key, _ in flat(get_cfg())}
    assert sorted({key.rsplit(".", 1)[-1] for key in leaves}) == GOLDEN["config"]["downgrade_renamed_keys"]
    assert old.VERSION == GOLDEN["config"]["downgraded_version"]


def test_guess_of_a_default_config_is_the_latest():
    assert guess_version(get_cfg(), "x") == GOLDEN["config"]["guess_version_default"]


# ---- the node


def test_class_bases():
    found = [f"{cls.__module__}.{cls.__qualname__}" for cls in CfgNode.__mro__]
    assert found == GOLDEN["config"]["class_bases"]


def test_get_cfg_is_a_fresh_unfrozen_copy():
    get_cfg().MODEL.DEVICE = "elsewhere"
    assert get_cfg().MODEL.DEVICE == GOLDEN["config"]["get_cfg_is_a_copy"]
    assert get_cfg().is_frozen() == GOLDEN["config"]["is_frozen_default"]


def test_freezing_blocks_attributes_only():
    cfg = get_cfg()
    cfg.freeze()
    facts = GOLDEN["config"]
    for node, name, fact in ((cfg, "SEED", "frozen_set"), (cfg.MODEL, "DEVICE", "frozen_nested_set")):
        with pytest.raises(AttributeError):
            setattr(node, name, 1)
        assert facts[fact]["raises"] == "AttributeError"
    cfg.merge_from_list(["SEED", "4"])
    assert cfg.SEED == 4 and facts["frozen_merge_from_list"]["ok"]
    assert cfg.clone().is_frozen() == facts["frozen_clone_is_frozen"]
    cfg.COMPUTED_X = 1
    cfg.COMPUTED_X = 1
    with pytest.raises(KeyError):
        cfg.COMPUTED_X = 2
    assert [facts[k]["ok"] for k in ("computed_when_frozen", "computed_same_again", "computed_changed")] == [1, 1, 0]
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.NEW = 1
    assert facts["defrost"]["ok"] and facts["set_new_attribute_unfrozen"]["ok"]


def test_dump_and_merge_changes_nested_tuples_only(tmp_path):
    (tmp_path / "t.yaml").write_text(get_cfg().dump())
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "t.yaml"))
    before = dict(flat(get_cfg()))
    changed = [key for key, value in flat(cfg) if value != before[key]]
    assert changed == ["MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"]
    assert changed[0] in GOLDEN["config"]["dump_then_load_difference"]
    assert (cfg == get_cfg()) == GOLDEN["config"]["dump_then_load_equal"]


def test_missing_and_invalid_values():
    cfg = get_cfg()
    with pytest.raises(AttributeError):
        cfg.NOT_THERE  # noqa: B018
    assert cfg.get("NOT_THERE", 5) == GOLDEN["config"]["get_with_default"]
    with pytest.raises(AssertionError):
        cfg.NEW = object()
    for key, present in GOLDEN["config"]["not_defined_but_used_by_loaders"].items():
        assert (key in dict(flat(cfg))) == present


def test_global_cfg_shows_what_was_set():
    cfg = get_cfg()
    cfg.GLOBAL.HACK = 3.0
    set_global_cfg(cfg)
    assert global_cfg.GLOBAL.HACK == 3.0
    assert ("MODEL" in global_cfg) == GOLDEN["config"]["global_cfg_has_keys_after_set"]


ELSEWHERE = {  # facts that a test above checks under its own name
    *("get_cfg_is_a_copy is_frozen_default class_bases unsafe_eval_tag_allow_unsafe_False missing_file").split(),
    *("no_VERSION_log version1_file_by_guess upgrade_of_downgraded_equals_original downgraded_version").split(),
    *("downgrade_renamed_keys base_chain base_list_later_wins base_missing base_absolute_path").split(),
    *("base_dict_vs_scalar scalar_in_base_dict_in_child base_in_list_or_other_cfg frozen_set").split(),
    *("frozen_nested_set frozen_merge_from_list frozen_clone_is_frozen defrost set_new_attribute_unfrozen").split(),
    *("computed_when_frozen computed_same_again computed_changed dump_then_load_difference").split(),
    *("dump_then_load_equal freezing_blocks missing_attribute get_with_default invalid_value_type").split(),
    *("not_defined_but_used_by_loaders global_cfg_has_keys_after_set guess_version_default").split(),
}


def test_every_fact_on_configs_has_a_test():
    assert set(GOLDEN["config"]) == {*FROM_FILE, *FROM_LIST, *ELSEWHERE}
