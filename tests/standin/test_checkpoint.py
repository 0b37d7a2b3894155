import json
import logging
import os
import pickle
import re

import numpy as np
import pytest
import torch
from torch import nn

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts, convert_c2_detectron_names
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from tests.conftest import FACTS
from tests.standin import says

GOLDEN = json.loads((FACTS / "golden_behaviours.json").read_text())["checkpoint"]
C2_NAMES = json.loads((FACTS / "c2_names_R50.json").read_text())
NAMES = ("head.weight", "backbone.conv1.weight", "my_scale")


class Model(nn.Module):
    """Three entries, all -1, one of them with an underscore in its name."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 2, bias=False)
        self.backbone = nn.Module()
        self.backbone.conv1 = nn.Linear(2, 2, bias=False)
        self.my_scale = nn.Parameter(torch.ones(1))
        for parameter in self.parameters():
            nn.init.constant_(parameter, -1.0)


def entries(value, names=NAMES, array=torch.full):
    return {name: array((1,) if name == "my_scale" else (2, 2), float(value)) for name in names}


SUFFIXES = ("head.weight", "conv1.weight", "my_scale")  # ends of the model's names
EXTRA = {"nobody": torch.zeros(1)}
ZOO = {"__author__": "me"}

# name of the fact -> file, query and content
FILES = {
    "pth_with_model": ("a.pth", "", lambda: {"model": entries(2), "iteration": 1, "extra": 2}),
    "pth_plain_state_dict": ("b.pth", "", lambda: entries(3)),
    "pth_module_prefix": ("c.pth", "", lambda: {"model": {f"module.{k}": v for k, v in entries(4).items()}}),
    "pth_suffix_names_plain": ("d.pth", "", lambda: entries(5, SUFFIXES)),
    "pth_suffix_names_with_query": ("d.pth", "?matching_heuristics=True", lambda: entries(5, SUFFIXES)),
    "pth_unknown_query": ("d.pth", "?foo=1", lambda: entries(5)),
    "pth_shape_mismatch": ("e.pth", "", lambda: {**entries(6), "head.weight": torch.zeros(3, 2)}),
    "pth_missing_and_extra": ("f.pth", "", lambda: {**entries(6, NAMES[:2]), **EXTRA}),
    "pth_with_numpy_arrays": ("g.pth", "", lambda: {"model": entries(7, array=np.full)}),
    "pkl_zoo_format": ("h.pkl", "", lambda: {"model": entries(8, array=np.full), **ZOO}),
    "pkl_zoo_format_matching_heuristics": (
        "i.pkl",
        "",
        lambda: {"model": entries(9, SUFFIXES, np.full), **ZOO, "matching_heuristics": True},
    ),
    "pkl_caffe2_plain": ("j.pkl", "", lambda: {"conv1_w": np.zeros((2, 2))}),
    "pkl_caffe2_blobs": (
        "k.pkl",
        "",
        lambda: {"blobs": {"head_w": np.full((2, 2), 11.0), "head_w_momentum": np.zeros((2, 2))}},
    ),
    "pkl_state_dict_without_model_key": ("l.pkl", "", lambda: {**entries(12, array=np.full), "nobody": np.zeros(1)}),
    "pyth_pycls": (
        "m.pyth",
        "",
        lambda: {"model_state": {**entries(13, SUFFIXES), "bn.num_batches_tracked": torch.tensor(3)}},
    ),
    "pyth_without_model_state": ("n.pyth", "", lambda: entries(0)),
    "heuristics_longest_suffix_wins": (
        "o.pkl",
        "",
        lambda: {
            "model": {"backbone.conv1.weight": np.full((2, 2), 14.0), "conv1.weight": np.zeros((2, 2))},
            "__author__": "m",
            "matching_heuristics": True,
        },
    ),
    "missing_file": ("none.pth", "", None),
    "empty_string": (None, "", None),
}

# What Detectron2 refuses and `defcn_ext.checkpoint.guard` reads, on both alike.
READ_ON = {"pth_with_numpy_arrays": 7.0, "pyth_without_model_state": 0.0}


def write(folder, name, content):
    path = folder / name
    if content is not None:
        path.write_bytes(pickle.dumps(content())) if name.endswith(".pkl") else torch.save(content(), path)
    return str(path)


def log_of(caplog, folder):
    """Level and first line of each message, without colour and folder."""
    lines = [[r.levelname, r.getMessage().split("\n")[0].replace(str(folder), "<DIR>")] for r in caplog.records]
    return [[level, re.sub(r"\x1b\[\d+m", "", text)] for level, text in lines]


@pytest.mark.parametrize("fact", FILES)
def test_files_of_every_origin(fact, tmp_path, caplog):
    name, query, content = FILES[fact]
    path = "" if name is None else write(tmp_path, name, content) + query
    model = Model()
    with caplog.at_level(logging.INFO):
        try:
            rest = DetectionCheckpointer(model).load(path)
        except Exception as error:
            found = {"raises": type(error).__name__}
        else:
            found = {
                "head.weight": model.head.weight[0, 0].item(),
                "conv1": model.backbone.conv1.weight[0, 0].item(),
                "returned_keys": sorted(rest),
            }
    if fact in READ_ON:
        assert found == {"head.weight": READ_ON[fact], "conv1": READ_ON[fact], "returned_keys": []}
    else:
        assert {**found, "log": log_of(caplog, tmp_path)} == GOLDEN[fact]


def test_unmatched_entries_are_passed_on_under_their_own_name(tmp_path):
    model = Model()
    name, _, content = FILES["pkl_state_dict_without_model_key"]
    DetectionCheckpointer(model).load(write(tmp_path, name, content))
    assert model.my_scale.item() == 12, "renaming from Caffe2 breaks this name; it must still be found"


def test_one_entry_for_two_parameters_is_refused():
    with pytest.raises(ValueError, match=says("fits both")):
        align_and_update_state_dicts(Model().state_dict(), {"weight": torch.zeros(2, 2)}, c2_conversion=False)
    assert GOLDEN["heuristics_one_key_matching_two_parameters"]["raises"] == "ValueError"


def test_heuristics_match_at_dots_only_and_skip_other_shapes(caplog):
    checkpoint = {"v1.weight": torch.zeros(2, 2), "head.weight": torch.zeros(3, 3)}
    result = align_and_update_state_dicts(Model().state_dict(), checkpoint, c2_conversion=False)
    assert set(result) == set(checkpoint), "conv1.weight ends in v1.weight, but not at a dot"
    assert re.search(says("shapes differ"), caplog.text)


# ---- saving


def failure(call):
    with pytest.raises(Exception) as error:
        call()
    return {"ok": False, "raises": error.type.__name__}


def test_save(tmp_path):
    checkpointer = DetectionCheckpointer(Model(), str(tmp_path))
    checkpointer.save("x", foo=1)
    content = torch.load(tmp_path / "x.pth")
    found = {
        "files": sorted(os.listdir(tmp_path)),
        "last_checkpoint": (tmp_path / "last_checkpoint").read_text(),
        "has_checkpoint": checkpointer.has_checkpoint(),
        "get_checkpoint_file": os.path.basename(checkpointer.get_checkpoint_file()),
        "get_all": [os.path.basename(f) for f in checkpointer.get_all_checkpoint_files()],
        "keys": sorted(content),
    }
    assert found == GOLDEN["save"]
    torch.testing.assert_close(dict(content["model"]), entries(-1))


def test_where_nothing_is_saved(tmp_path):
    missing = DetectionCheckpointer(Model(), str(tmp_path / "none"))
    assert failure(lambda: missing.save("x")) == GOLDEN["save_without_dir_existing"]
    assert DetectionCheckpointer(Model()).save("x") == GOLDEN["empty_save_dir_saves_nothing"]["value"]
    DetectionCheckpointer(Model(), str(tmp_path), save_to_disk=False).save("x")
    assert (tmp_path / "x.pth").exists() == GOLDEN["save_to_disk_False"]
    assert os.listdir(tmp_path) == []


def optimizer_of(model, lr):
    return torch.optim.SGD(model.parameters(), lr=lr)


def lr_of(optimizer):
    return optimizer.param_groups[0]["lr"]


@pytest.fixture
def saved(tmp_path):
    """A folder with s.pth, of iteration 3 and learning rate 1, and a.pth with weights of 2."""
    model = Model()
    checkpointer = DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer_of(model, 1))
    checkpointer.save("s", iteration=3)
    write(tmp_path, "a.pth", FILES["pth_with_model"][2])
    return tmp_path


def resumable(folder):
    model = Model()
    optimizer = optimizer_of(model, 9)
    return model, optimizer, DetectionCheckpointer(model, str(folder), optimizer=optimizer)


def test_checkpointables(saved):
    assert sorted(torch.load(saved / "s.pth")) == GOLDEN["with_checkpointable_keys"]
    for fact, arguments in (("load_checkpointables_empty", {"checkpointables": []}), ("load_all", {})):
        _, optimizer, checkpointer = resumable(saved)
        rest = checkpointer.load(str(saved / "s.pth"), **arguments)
        assert {"lr": lr_of(optimizer), "returned": sorted(rest)} == GOLDEN[fact]
    add = checkpointer.add_checkpointable
    assert failure(lambda: add("optimizer", optimizer)) == GOLDEN["duplicate_checkpointable"]
    assert failure(lambda: add("other", 3)) == GOLDEN["not_checkpointable"]


def test_resume(saved):
    _, optimizer, checkpointer = resumable(saved)
    rest = checkpointer.resume_or_load(str(saved / "a.pth"), resume=True)
    assert {"returned": sorted(rest), "iteration": rest["iteration"]} == GOLDEN["resume_or_load_resume_True"]
    assert lr_of(optimizer) == 1

    model, optimizer, checkpointer = resumable(saved)
    rest = checkpointer.resume_or_load(str(saved / "a.pth"), resume=False)
    found = {"returned": sorted(rest), "head": model.head.weight[0, 0].item()}
    assert found == GOLDEN["resume_or_load_resume_False"]
    assert lr_of(optimizer) == 9

    (saved / "s.pth").unlink()
    found = failure(lambda: checkpointer.resume_or_load("", resume=True))
    assert found == GOLDEN["last_checkpoint_points_to_deleted_file"]


SAVED = (
    "save with_checkpointable_keys save_without_dir_existing empty_save_dir_saves_nothing save_to_disk_False".split()
)
LOADED = "load_checkpointables_empty load_all resume_or_load_resume_True resume_or_load_resume_False".split()
REFUSED = "duplicate_checkpointable not_checkpointable last_checkpoint_points_to_deleted_file".split()


def test_every_fact_on_checkpoints_has_a_test():
    tested = {*FILES, *SAVED, *LOADED, *REFUSED, "heuristics_one_key_matching_two_parameters"}
    assert set(GOLDEN) == tested


@pytest.mark.parametrize("fact", ["period5_max20_keep2", "period5_max18_keep2", "period1_max3_keep1"])
def test_periodic_checkpointer_works_on_it(fact, tmp_path):
    expected = json.loads((FACTS / "golden_training.json").read_text())["periodic_checkpointer"][fact]
    period, last, keep = map(int, re.findall(r"\d+", fact))
    periodic = PeriodicCheckpointer(DetectionCheckpointer(Model(), str(tmp_path)), period, last, keep)
    for iteration in range(last):
        periodic.step(iteration)
    found = {"files": sorted(os.listdir(tmp_path)), "last_checkpoint": (tmp_path / "last_checkpoint").read_text()}
    assert found == expected


def test_pixel_statistics_and_old_anchors_are_not_worth_a_warning(tmp_path, caplog):
    model = Model()
    model.register_buffer("pixel_mean", torch.zeros(3))
    model.register_buffer("pixel_std", torch.ones(3))
    content = {**entries(1), "anchor_generator.cell_anchors.0": torch.zeros(1)}
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(model).load(write(tmp_path, "x.pth", lambda: content))
    assert caplog.records == [] and model.my_scale.item() == 1


@pytest.mark.parametrize(
    "path, url",
    [
        ("detectron2://X/Y.pkl", "https://dl.fbaipublicfiles.com/detectron2/X/Y.pkl"),
        (
            "catalog://ImageNetPretrained/MSRA/R-50",
            "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/MSRA/R-50.pkl",
        ),
        ("https://example.com/Y.pkl", "https://example.com/Y.pkl"),
        ("http://example.com/Y.pkl", "http://example.com/Y.pkl"),
    ],
)
def test_prefixes(path, url, tmp_path, monkeypatch):
    """The download itself is replaced: what counts is which URL would be fetched."""
    file = write(tmp_path, "h.pkl", FILES["pkl_zoo_format"][2])
    asked = []

    def download(self, path, force=False, **kwargs):
        asked.append(path)
        return file

    monkeypatch.setattr("iopath.common.file_io.HTTPURLHandler._get_local_path", download)
    model = Model()
    DetectionCheckpointer(model).load(path)
    assert asked == [url]
    assert model.head.weight[0, 0].item() == 8


def test_unknown_catalog_name():
    with pytest.raises(RuntimeError, match=says("MSRA/R-50")):
        PathManager.get_local_path("catalog://ImageNetPretrained/R-1000")


# ---- Caffe2 names


@pytest.mark.parametrize("flavour", ["bn_affine_split", "bn_affine_fused"])
def test_blobs_of_resnet_50(flavour, facts):
    data = C2_NAMES[flavour]
    assert len(data["rows"]) == data["num_blobs"]
    blobs = {blob: torch.empty(shape, device="meta") for blob, shape, _, _ in data["rows"]}
    renamed, original = convert_c2_detectron_names(blobs)
    assert {new: blob for blob, _, new, _ in data["rows"]} == original
    assert all(renamed[new] is blobs[blob] for new, blob in original.items())

    model = {
        name: torch.empty(shape, device="meta") for name, shape, *_ in facts("state_dict_retinanet_R50.json")["entries"]
    }
    aligned = align_and_update_state_dicts(model, blobs)
    homes = {blob: name for blob, _, _, name in data["rows"]}
    assert set(aligned) == {home or blob for blob, home in homes.items()}
    assert [blob for blob, home in homes.items() if home is None] == data["blobs_without_a_home"]
    for blob, home in homes.items():
        assert aligned[home or blob] is blobs[blob]
    uncovered = [name for name in model if name.startswith("backbone.bottom_up") and name not in aligned]
    assert uncovered == data["bottom_up_entries_not_covered"]


@pytest.mark.parametrize("flavour", ["bn_affine_split", "bn_affine_fused"])
def test_blobs_reach_a_real_model(flavour, tmp_path):
    """A narrow RetinaNet has the same names. The older flavour has no running statistics: mean 0 and variance 1."""
    cfg = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", "4", "MODEL.FPN.OUT_CHANNELS", "8"])
    cfg.merge_from_list(["MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.WIDTH_PER_GROUP", "4"])
    model = build_model(cfg)
    state = model.state_dict()
    homes = {blob: home for blob, _, _, home in C2_NAMES[flavour]["rows"]}
    blobs = {b: np.full(state[h].shape if h else (1,), float(i), "f") for i, (b, h) in enumerate(homes.items())}
    rest = DetectionCheckpointer(model).load(write(tmp_path, "R-50.pkl", lambda: blobs))
    assert rest == {"__author__": "Caffe2", "matching_heuristics": True}
    for blob, home in homes.items():
        assert home is None or state[home].unique().tolist() == [blobs[blob].flat[0]], blob
    for name in C2_NAMES[flavour]["bottom_up_entries_not_covered"]:
        assert state[name].unique().tolist() == [1.0 if name.endswith("running_var") else 0.0], name


@pytest.mark.parametrize(
    "blob, name",
    [
        ("fpn_inner_res5_2_sum_w", "fpn_lateral5.weight"),
        ("fpn_inner_res4_5_sum_lateral_b", "fpn_lateral4.bias"),
        ("fpn_inner_res3_3_sum_gn_s", "fpn_lateral3.norm.weight"),
        ("fpn_res2_2_sum_w", "fpn_output2.weight"),
        ("pred_w", "linear.weight"),
        ("pred_b", "linear.bias"),
        ("res3_1_branch2a_bn_rm", "res3.1.conv1.norm.running_mean"),
        ("res3_1_branch2a_bn_riv", "res3.1.conv1.norm.running_var"),
    ],
)
def test_other_blob_names(blob, name):
    assert convert_c2_detectron_names({blob: 0})[1] == {name: blob}
