"""Nodes of new names in a config: from files, bases, other configs and the command line."""

import pickle

import pytest

from defcn_ext.branches import BRANCH_REGISTRY, branch_node, build_branches
from defcn_ext.config import UserError, add_defcn_config
from defcn_ext.engine.preflight import load_config
from detectron2.config import CfgNode, get_cfg
from tests.tiny import tiny_cfg

MINE = "MODEL.DEFCN.MINE."
YAML = """
MODEL:
  DEFCN:
    MINE: {RULE: "FCOS", TYPE: "point", MAX_FILTERING: {TAU: 4}}
    BRANCHES: ["ONE_TO_ONE", "MINE"]
"""


def plain():
    cfg = get_cfg()
    add_defcn_config(cfg)
    return cfg


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(YAML)
    return str(path)


def test_a_file_adds_a_branch_with_the_keys_of_its_type(file):
    cfg = plain()
    cfg.merge_from_file(file)
    mine = cfg.MODEL.DEFCN.MINE
    expected = branch_node("point")
    expected.RULE, expected.MAX_FILTERING.TAU = "FCOS", 4
    assert mine == expected and type(mine) is CfgNode
    assert list(build_branches(cfg, 64)) == ["one_to_one", "mine"]


def test_a_file_above_and_the_command_line_override_it(file, tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text('_BASE_: "mine.yaml"\nMODEL: {DEFCN: {MINE: {BOX_WEIGHT: 1.5, RULE: "ATSS"}}}\n')
    cfg = load_config(str(child), [MINE + "RULE", "QualityTopK(k=5)", MINE + "QUALITY.ENABLED", "True"])
    mine = cfg.MODEL.DEFCN.MINE
    assert (mine.RULE, mine.BOX_WEIGHT, mine.QUALITY.ENABLED) == ("QualityTopK(k=5)", 1.5, True)
    assert mine.is_frozen() and mine.QUALITY.is_frozen()


@pytest.mark.parametrize(
    "opts",
    [
        [MINE + "BOX_WEIGHT", "3.0", MINE + "TYPE", "weighted"],
        [MINE.rstrip("."), "{'TYPE': 'weighted', 'BOX_WEIGHT': 3.0}"],
    ],
)
def test_the_command_line_alone_adds_one_in_any_order(opts):
    cfg = plain()
    cfg.merge_from_list(opts)
    expected = branch_node("weighted")
    expected.BOX_WEIGHT = 3.0
    assert cfg.MODEL.DEFCN.MINE == expected


def test_dumps_clones_pickles_and_other_configs_keep_it(file, tmp_path):
    cfg = plain()
    cfg.merge_from_file(file)
    dump = tmp_path / "dump.yaml"
    dump.write_text(cfg.dump())
    again, other = plain(), plain()
    again.merge_from_file(str(dump))
    other.merge_from_other_cfg(cfg)
    copies = [again, other, cfg.clone(), pickle.loads(pickle.dumps(cfg))]
    for copy in copies:
        assert copy.MODEL.DEFCN == cfg.MODEL.DEFCN and type(copy) is type(cfg)
        copy.merge_from_list(["MODEL.DEFCN.OTHER.TYPE", "auxiliary"])
    assert "OTHER" not in cfg.MODEL.DEFCN


def test_a_frozen_config_takes_merges_as_ever(file):
    cfg = plain()
    cfg.freeze()
    cfg.merge_from_file(file)
    assert cfg.MODEL.DEFCN.MINE.is_frozen()


def test_a_type_that_changes_brings_its_keys_and_takes_the_others():
    cfg = plain()
    cfg.merge_from_list([MINE + "TYPE", "dual", MINE + "RULE", "VFL"])
    cfg.merge_from_list([MINE + "TYPE", "weighted"])
    mine = cfg.MODEL.DEFCN.MINE
    assert set(mine) == set(branch_node("weighted")) and mine.RULE == "VFL"
    again = plain()
    again.merge_from_other_cfg(cfg)
    assert again.MODEL.DEFCN == cfg.MODEL.DEFCN


def test_the_declared_nodes_keep_the_keys_that_older_files_write():
    cfg = plain()
    cfg.merge_from_list(["MODEL.DEFCN.AUX.TYPE", "dual", "MODEL.DEFCN.AUX.NEG_GAMMA", 1.0])
    cfg.merge_from_list(["MODEL.DEFCN.ONE_TO_ONE.NEG_GAMMA", 1.0])
    assert "BASE" in cfg.MODEL.DEFCN.AUX and cfg.MODEL.DEFCN.ONE_TO_ONE.TYPE == "point"


@pytest.mark.parametrize(
    "opts, message",
    [
        (
            [MINE + "TYPE", "point", MINE + "BOX_WIGHT", "1.0"],
            "unknown config key MODEL.DEFCN.MINE.BOX_WIGHT; .*BOX_W",
        ),
        ([MINE + "TYPE", "point", MINE + "NEG_GAMMA", "1.0"], "unknown config key MODEL.DEFCN.MINE.NEG_GAMMA"),
        (["MODEL.DEFCN.ONE_TO_ON.RULE", "FCOS"], "unknown config key MODEL.DEFCN.ONE_TO_ON.RULE; .*ONE_TO_ONE.RULE"),
        (["MODEL.DEFCN.NUM_CLASES", "3"], "unknown config key MODEL.DEFCN.NUM_CLASES; did you mean .*NUM_CLASSES"),
        ([MINE + "TYPE", "pont"], "MODEL.DEFCN.MINE.TYPE: unknown type 'pont'; known: .*'point'.*IMPORTS"),
        ([MINE + "TYPE", "point", MINE + "BOX_WEIGHT", "much"], "BOX_WEIGHT"),
        ([MINE + "TYPE"], "odd length"),
        (["MODEL.DEFCN.IMPORTS", "['no_such_module']"], "MODEL.DEFCN.IMPORTS: cannot import 'no_such_module'"),
    ],
)
def test_mistakes_on_the_command_line(opts, message):
    with pytest.raises(UserError, match=message):
        load_config("", opts)


@pytest.mark.parametrize(
    "node, message",
    [
        (
            "MINE: {TYPE: point, RUL: FCOS}",
            "unknown config key MODEL.DEFCN.MINE.RUL; did you mean .*MINE.RULE",
        ),
        ("MINE: {TYPE: point, QUALITY: {CONV: 1}}", "unknown config key MODEL.DEFCN.MINE.QUALITY.CONV; did you mean"),
        ("MINE: {RULE: FCOS}", "unknown config key MODEL.DEFCN.MINE"),
        ("NUM_CLASES: 3", "unknown config key MODEL.DEFCN.NUM_CLASES; did you mean"),
        ("MINE: 3", "unknown config key MODEL.DEFCN.MINE"),
    ],
)
def test_mistakes_in_a_file(tmp_path, node, message):
    path = tmp_path / "bad.yaml"
    path.write_text(f"MODEL:\n  DEFCN:\n    {node}\n")
    with pytest.raises(UserError, match=message):
        load_config(str(path), [])


def test_keys_of_other_projects_added_later_merge_as_before():
    cfg = plain()
    cfg.OTHERS = CfgNode({"A": CfgNode({"B": 1})})
    cfg.MODEL.OTHERS = CfgNode({"C": 2})
    cfg.merge_from_other_cfg(CfgNode({"OTHERS": {"A": {"B": 3}}, "MODEL": {"OTHERS": {"C": 4}}}))
    assert cfg.OTHERS.A.B == 3 and cfg.MODEL.OTHERS.C == 4 and type(cfg.OTHERS.A) is CfgNode


@pytest.mark.parametrize("weight, read", [([1.0, 0.1], [1.0, 0.1]), ("(2, 0)", [2, 0]), ("0.5", 0.5)])
def test_the_loss_weight_is_a_number_or_a_pair_wherever_it_is_merged(weight, read):
    cfg = tiny_cfg("MODEL.DEFCN.ONE_TO_ONE.LOSS_WEIGHT", weight)
    assert build_branches(cfg, 64)["one_to_one"].loss_weight == read
    cfg.merge_from_list(["MODEL.DEFCN.ONE_TO_ONE.LOSS_WEIGHT", 1.0])
    assert build_branches(cfg, 64)["one_to_one"].loss_weight == 1.0


@pytest.mark.parametrize("weight", [[1.0], [1.0, -1.0], [1.0, 0.5, 0.1], -2.0, ["a", 1.0]])
def test_other_loss_weights_are_refused(weight):
    with pytest.raises(ValueError, match=r"MODEL.DEFCN.ONE_TO_ONE: LOSS_WEIGHT: give one number or \(start, end\)"):
        build_branches(tiny_cfg("MODEL.DEFCN.ONE_TO_ONE.LOSS_WEIGHT", weight), 64)


def test_a_node_made_by_hand_must_be_whole():
    cfg = tiny_cfg("MODEL.DEFCN.BRANCHES", ["ONE_TO_ONE", "MINE"], MINE + "TYPE", "point")
    cfg.MODEL.DEFCN.MINE = CfgNode({"TYPE": "point", "RULE": "FCOS"})
    with pytest.raises(ValueError, match="MODEL.DEFCN.MINE: lacks LOSS_WEIGHT, .*merge it from a file or a list"):
        build_branches(cfg, 64)


def test_every_type_is_in_a_node_of_its_own():
    for name, kind in BRANCH_REGISTRY:
        assert branch_node(name).TYPE == name and kind.__module__.startswith("defcn_ext.branches")
