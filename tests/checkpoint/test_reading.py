"""Files are read without running anything in them, and a wrong one is named in one line."""

import argparse
import gzip
import json
import logging
import os
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing._private.utils import runstring

from defcn_ext.checkpoint import read_checkpoint
from defcn_ext.config import UserError

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1, 2], dtype=torch.int64)}


class Calls:
    """Pickled as a call, which runs when the file is loaded in the ordinary way."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def attacks(marker):
    """Calls that make `marker`, in ways that have been used."""
    make = f"open({str(marker)!r}, 'w').close()"
    return {
        "posix.system": Calls(os.system, f"touch {marker}"),
        "builtins.eval": Calls(eval, make),
        "builtins.exec": Calls(exec, make),
        "numpy.testing._private.utils.runstring": Calls(runstring, make, {}),
        "builtins.open": Calls(open, str(marker), "w"),
        # a call within the arguments of a harmless one
        "nested": Calls(OrderedDict, Calls(zip, ["a"], [Calls(eval, make)])),
        "object array": np.array([Calls(os.system, f"touch {marker}"), 1], dtype=object),
    }


EVIL = ["posix.system", "builtins.eval", "builtins.exec", "numpy.testing._private.utils.runstring", "builtins.open"]
EVIL += ["nested", "object array"]
WRITERS = {
    "torch": lambda content, path: torch.save(content, path),
    "torch, old": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle 0": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
    "pickle 2": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    "pickle 5": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=5)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", EVIL)
def test_a_file_that_would_run_something_is_refused_and_does_not(tmp_path, marker, writer, name):
    path = tmp_path / "evil.pth"
    state = {"a": np.zeros(2, np.float32)} if writer.startswith("pickle") else STATE
    WRITERS[writer]({"model": state, "extra": attacks(marker)[name]}, path)
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert not marker.exists()
    assert str(caught.value).startswith(f"{path}: refused, as it names ") and "\n" not in str(caught.value)
    assert "--trust" in str(caught.value)
    if name in EVIL[:5]:  # old protocols have Python 2's name of a module
        names = (name, *(name.replace("builtins.", other) for other in ("__builtin__.", "io.", "_io.", "")))
        assert str(caught.value).split("names ")[1].split(", ")[0] in names
    # the same file does run it where it is trusted: the attack is real
    read_checkpoint(path, trust=True)
    assert marker.exists()


def test_codecs_are_not_a_way_in(tmp_path):
    """Python 3 writes bytes into old protocols as _codecs.encode(text, "latin1"); other codecs decompress."""
    import _codecs

    path = tmp_path / "bomb.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": Calls(_codecs.encode, "x", "zip")}}, protocol=2))
    with pytest.raises(UserError, match="refused, as it names _codecs.encode with 'zip'"):
        read_checkpoint(path)


def test_no_file_changes_how_the_next_is_read(tmp_path):
    """The pickle sets an attribute of the class that stands in for numpy's dtype."""
    path, good = tmp_path / "evil.pkl", tmp_path / "good.pkl"
    body = b"\x80\x02}(X\x05\x00\x00\x00modelcnumpy\ndtype\n(N}X\x07\x00\x00\x00resolveccollections\nOrderedDict\nstbu."
    path.write_bytes(body)
    with pytest.raises(UserError):
        read_checkpoint(path)
    good.write_bytes(pickle.dumps({"model": {"a": np.ones(2, np.float32)}}, protocol=2))
    assert torch.equal(read_checkpoint(good).state["a"], torch.ones(2))


@pytest.mark.parametrize("writer", ["torch", "torch, old"])
@pytest.mark.parametrize("wrap", ["state_dict", "model", None])
def test_torch_files_with_harmless_extras(tmp_path, writer, wrap):
    path = tmp_path / "in.pth"
    state = OrderedDict(STATE)
    extras = {
        "meta": {"CLASSES": ("person",), "config": "model = dict()", "mAP": np.float64(0.4), "n": np.int64(3)},
        "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "array": np.arange(3.0),
    }
    WRITERS[writer](state if wrap is None else {wrap: state, **extras}, path)
    read = read_checkpoint(path)
    assert list(read.state) == list(STATE) and all(torch.equal(read.state[key], STATE[key]) for key in STATE)
    assert wrap is None or read.extras["meta"]["config"] == "model = dict()"


def test_the_wrapper_of_ddp_is_taken_off(tmp_path):
    path = tmp_path / "in.pth"
    torch.save({"model": {f"module.{key}": value for key, value in STATE.items()}}, path)
    assert list(read_checkpoint(path).state) == list(STATE)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "<i8", "|u1", "|b1"])
def test_model_zoo_pickles_of_every_protocol(tmp_path, protocol, dtype):
    path = tmp_path / "R-50.pkl"
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    arrays = {"c": array, "fortran": np.asfortranarray(array), "empty": array[:0], "one": array[0, 0, :1].reshape(())}
    content = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_checkpoint(path)
    assert read.extras["__author__"] == "someone"
    for name, value in arrays.items():
        expected = torch.from_numpy(np.ascontiguousarray(value).astype(value.dtype.newbyteorder("="))).reshape(
            value.shape
        )
        assert torch.equal(read.state[name], expected) and read.state[name].dtype == expected.dtype


def test_a_pickle_of_python_2_whose_strings_are_bytes(tmp_path):
    """As numpy under Python 2 wrote it: str holds the array's bytes, and module names are numpy 1's."""
    path = tmp_path / "R-50.pkl"
    data = struct.pack("<2f", 1.5, -2.0)
    body = b"\x80\x02}U\x06conv1wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    body += (
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    body += b"\x89U\x08" + data + b"tbs."
    path.write_bytes(body)
    assert read_checkpoint(path).state["conv1w"].tolist() == [1.5, -2.0]


def test_arrays_whose_bytes_are_not_those_of_their_shape(tmp_path):
    path = tmp_path / "R-50.pkl"
    good = pickle.dumps({"model": {"a": np.zeros(300, np.float32)}}, protocol=2)
    assert good.count(struct.pack("<H", 300)) >= 1
    path.write_bytes(good.replace(b"M" + struct.pack("<H", 300), b"M" + struct.pack("<H", 301)))
    with pytest.raises(UserError, match=r"a numpy array of 1200 bytes whose shape is \(301,\)"):
        read_checkpoint(path)


def safetensors(entries, data, extra=b""):
    header = json.dumps(entries).encode() + extra
    return struct.pack("<Q", len(header)) + header + data


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    data = struct.pack("<3f", 1, 2, 3) + struct.pack("<2H", 0x3F80, 0x4000)  # bfloat16 1 and 2
    entries = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [3, 1], "data_offsets": [0, 12]},
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [12, 16]},
    }
    path.write_bytes(safetensors(entries, data, b"  "))
    state = read_checkpoint(path).state
    assert state["a"].tolist() == [[1.0], [2.0], [3.0]] and state["b"].tolist() == [1.0, 2.0]
    assert state["b"].dtype == torch.bfloat16
    path.write_bytes(safetensors(entries, data[:-2]))
    with pytest.raises(UserError, match=r"a tensor of 2 bytes whose shape is \(2,\)"):
        read_checkpoint(path)


def test_truncated_files_of_every_kind(tmp_path):
    whole = {}
    for name in ("torch", "torch, old", "pickle 2"):
        path = tmp_path / f"{name}.pth"
        content = {"model": {"a": np.zeros(500, np.float32)} if name == "pickle 2" else {"a": torch.zeros(500)}}
        WRITERS[name](content, path)
        whole[name] = path.read_bytes()
    for name, content in whole.items():
        for length in (20, len(content) // 2, len(content) - 3):
            path = tmp_path / "cut.pth"
            path.write_bytes(content[:length])
            with pytest.raises(UserError) as caught:
                read_checkpoint(path)
            message = str(caught.value)
            assert message.startswith(f"{path}: truncated, damaged, or no file of weights"), (name, length)
            assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><title>404</title></html>", "an HTML page"),
        (b"\n<html><body>Google Drive - Quota exceeded</body></html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (gzip.compress(b"weights", mtime=0), "unpack it first"),
        (b"not weights at all, only words", "a text file"),
        (b"\x93NUMPY\x01\x00 and so on", "a numpy .npy file"),
        (b"\x00\xff" * 40, "no file of weights; known are torch files"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    path = tmp_path / "in.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"in.pth: .*{message}") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({}, "holds no weights"),
        ({"model": {}}, "holds no weights"),
        ({"model": {"a": 3}}, "entry 'a' is a int"),
        ({"state_dict": {"a": {"b": torch.zeros(1)}}}, "entry 'a' is a dict"),
        ({1: torch.zeros(1)}, "entry 1 is"),
        ({"model": {"a": torch.zeros(1), "b": np.array(["x"])}}, "numpy type 'U1'"),
    ],
)
def test_files_that_hold_something_else(tmp_path, content, message):
    path = tmp_path / "in.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=f"in.pth: .*{message}"):
        read_checkpoint(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="nothing.pth: no such file"):
        read_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="a folder; give the file"):
        read_checkpoint(tmp_path)


class Settings:
    """A class of somebody's own training code, which is not installed here."""

    def __init__(self, **values):
        self.__dict__.update(values)


@pytest.mark.parametrize("writer", ["torch", "torch, old", "pickle 0", "pickle 2", "pickle 5"])
def test_settings_beside_the_weights_are_read_where_they_are_plain_and_left_out_where_not(tmp_path, caplog, writer):
    """DETR keeps an argparse.Namespace in its files, YOLO paths, mmengine objects of its own."""
    path = tmp_path / "in.pth"
    state = {"a": np.ones(2, np.float32)} if writer.startswith("pickle") else STATE
    content = {
        "model": state,
        "args": argparse.Namespace(lr=0.1, backbone="resnet50", output=Path("runs"), inner=argparse.Namespace(n=2)),
        "best": np.float64(41.4),
        "epochs": [np.int64(3), 4],
        "by class": defaultdict(list, person=[1, 2]),
        "hub": {"log": Settings(values=np.zeros(3)), "step": 7},
        "list of objects": [1, Settings()],
        "kind": Settings,
        "names": {"dates": np.array(["2020-01-01"], dtype="datetime64[D]"), "n": np.arange(2)},
    }
    WRITERS[writer](content, path)
    with caplog.at_level(logging.WARNING):
        extras = read_checkpoint(path).extras
    array = extras["names"].pop("n")
    assert extras == {
        "args": {"lr": 0.1, "backbone": "resnet50", "inner": {"n": 2}},
        "best": 41.4,
        "epochs": [3, 4],
        "by class": {"person": [1, 2]},
        "hub": {"step": 7},
        "names": {},
    }
    assert array.tolist() == [0, 1]
    (told,) = caplog.messages
    assert told.startswith(f"{path}: read without its objects of ") and "test_reading.Settings" in told
    assert type(extras["best"]) is float and type(extras["epochs"][0]) is int


@pytest.mark.parametrize("writer", ["torch", "torch, old", "pickle 0", "pickle 2", "pickle 5"])
def test_numbers_and_arrays_of_numpy_among_the_weights(tmp_path, writer):
    path = tmp_path / "in.pth"
    WRITERS[writer]({"state_dict": {"a": np.arange(3.0), "scale": np.float32(1.5), "n": np.int64(7)}}, path)
    state = read_checkpoint(path).state
    assert state["a"].tolist() == [0.0, 1.0, 2.0]
    assert state["scale"].shape == () and state["scale"].dtype == torch.float32 and state["scale"].item() == 1.5
    assert state["n"].item() == 7


@pytest.mark.parametrize(
    "content",
    [
        {"model": STATE},
        {"state_dict": STATE},
        {"model_state_dict": STATE},
        {"model_ema": STATE, "model": None},
        {"model": STATE, "model_ema": {"a": torch.zeros(1)}},  # what was trained comes before its average
        {"model": {"state_dict": STATE, "epoch": 3}},
        {"state_dict": {f"model.{key}": value for key, value in STATE.items()}},
        {"state_dict": {f"module.model.{key}": value for key, value in STATE.items()}},
        {f"_orig_mod.{key}": value for key, value in STATE.items()},
        OrderedDict((key, torch.nn.Parameter(value.float())) for key, value in STATE.items()),
    ],
)
def test_wherever_the_weights_lie(tmp_path, content):
    torch.save(content, tmp_path / "in.pth")
    state = read_checkpoint(tmp_path / "in.pth").state
    assert list(state) == list(STATE) and all(torch.equal(state[key], STATE[key].to(state[key])) for key in STATE)


def test_a_prefix_of_some_names_is_a_part_of_them(tmp_path):
    names = {"model.a": torch.zeros(1), "criterion.b": torch.ones(1)}
    torch.save({"state_dict": names}, tmp_path / "in.pth")
    assert list(read_checkpoint(tmp_path / "in.pth").state) == list(names)


def test_modules_are_told_the_versions_of_their_entries(tmp_path):
    model = torch.nn.BatchNorm2d(2)
    torch.save({"model": model.state_dict()}, tmp_path / "in.pth")
    assert read_checkpoint(tmp_path / "in.pth").state._metadata == model.state_dict()._metadata


@pytest.mark.parametrize("writer", ["torch", "torch, old"])
@pytest.mark.parametrize("wrap", [True, False])
def test_a_whole_pickled_model_is_named(tmp_path, writer, wrap):
    path, model = tmp_path / "in.pth", torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))
    WRITERS[writer]({"model": model, "epoch": 3} if wrap else model, path)
    with pytest.raises(UserError, match=r"whole pickled torch\.nn\.modules\..*state_dict") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_programs_archives_and_pipes_are_named(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), str(tmp_path / "script.pt"))
    with zipfile.ZipFile(tmp_path / "weights.zip", "w") as archive:
        archive.writestr("model.pth", b"weights")
    os.mkfifo(tmp_path / "pipe.pth")
    for name, message in (("script.pt", "TorchScript"), ("weights.zip", "unpack it"), ("pipe.pth", "a pipe")):
        with pytest.raises(UserError, match=f"{name}: .*{message}") as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_named(tmp_path_factory, data):
    """Whatever bytes change, the outcome is weights or one line with the file."""
    path = tmp_path_factory.mktemp("damaged") / "in.pth"
    writer = data.draw(st.sampled_from([name for name in WRITERS if name != "pickle 0"]))
    array = writer.startswith("pickle")
    args = argparse.Namespace(a=[1], b=np.float64(2.0))
    WRITERS[writer]({"model": {"a": np.zeros(2) if array else torch.zeros(2)}, "args": args}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert read_checkpoint(path).state
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
