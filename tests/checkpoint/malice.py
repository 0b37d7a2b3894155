"""Files that run something when they are loaded in the ordinary way."""

import copyreg
import functools
import importlib
import io
import marshal
import os
import pickle
import runpy
import subprocess
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.testing._private.utils import runstring


class Calls:
    """Pickled as a call; with a `state` the object that the call gives is then given it."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call

    def __call__(self):
        """So that what a call gives can itself be called."""


class Runs:
    """An object that runs something when it is given its state."""

    def __init__(self, code):
        self.code = code

    def __setstate__(self, state):
        exec(state["code"])


def attacks(marker):
    """By name: what adds a line to the file `marker` when it is unpickled, in ways that have been used."""
    code = f"open({str(marker)!r}, 'a').write('x\\n')"
    shell = f"echo x >> {marker}"
    evaluate = Calls(eval, code)
    compiled = marshal.dumps(compile(code, "x", "exec"))
    inner = pickle.dumps(evaluate)
    return {
        "os.system": Calls(os.system, shell),
        "subprocess": Calls(subprocess.call, ["sh", "-c", shell]),
        "eval": evaluate,
        "exec": Calls(exec, code),
        "open": Calls(open, str(marker), "a"),
        "runstring": Calls(runstring, code, {}),
        "runpy": Calls(runpy.run_path, str(Path(str(marker) + ".py"))),
        "import": Calls(importlib.import_module, "os"),
        "getattr": Calls(Calls(getattr, Calls(__import__, "os"), "system"), shell),
        "pickle.loads": Calls(pickle.loads, inner),
        "torch.load": Calls(torch.storage._load_from_bytes, _torch_bytes(evaluate)),
        "numpy.load": Calls(np.load, Calls(io.BytesIO, _numpy_bytes(evaluate)), None, True),
        "marshal": Calls(exec, Calls(marshal.loads, compiled)),
        "partial": Calls(functools.partial(eval, code)),
        "map": Calls(list, Calls(map, eval, [code])),
        "nested": Calls(OrderedDict, Calls(zip, ["a"], [evaluate])),
        "default": Calls(defaultdict, Calls(functools.partial, eval, code)),
        "reconstructor": Calls(copyreg._reconstructor, Calls(type, "A", (), {"x": evaluate}), object, None),
        "object array": np.array([evaluate, 1], dtype=object),
        "state": Runs(code),
        "state of a call": Calls(Path, "x", state={"a": evaluate}),
        "dict key": {Calls(str, evaluate): 1},
    }


# They run nothing by themselves: what they give is run by whoever uses it, or they only prepare.
PREPARE = {"import", "default"}
LAYOUTS = {
    "beside the weights": lambda state, evil: {"model": state, "extra": evil},
    "as an entry": lambda state, evil: {"model": {**state, "evil": evil}},
    "as the weights": lambda state, evil: {"model": evil},
    "as the trainer": lambda state, evil: {"model": state, "trainer": evil, "iteration": 1},
    "as the author": lambda state, evil: {"model": state, "__author__": evil, "matching_heuristics": True},
    "alone": lambda state, evil: evil,
}
# Suffix, and how the content becomes bytes.
FORMATS = {
    "zip .pth": (".pth", lambda content: _saved(content)),
    "zip .pkl": (".pkl", lambda content: _saved(content)),
    "zip .pyth": (".pyth", lambda content: _saved({**content, "model_state": content.get("model")})),
    "legacy .pth": (".pth", lambda content: _saved(content, _use_new_zipfile_serialization=False)),
    "legacy .pyth": (".pyth", lambda content: _saved(content, _use_new_zipfile_serialization=False)),
    **{f"pickle {n} .pkl": (".pkl", lambda content, n=n: pickle.dumps(content, protocol=n)) for n in (0, 2, 5)},
    **{f"pickle {n} .pth": (".pth", lambda content, n=n: pickle.dumps(content, protocol=n)) for n in (0, 4)},
}


def write(folder, name, state, layout, format_, marker):
    """Writes a file and returns its path; arrays in a pickle of its own, tensors in torch's.

    Raises:
        TypeError and others: there is no such file.
    """
    suffix, to_bytes = FORMATS[format_]
    if format_.startswith("pickle"):
        state = {key: value.numpy() for key, value in state.items()}
    path = folder / f"{name} {layout} {format_}{suffix}".replace(" ", "_")
    path.write_bytes(to_bytes(LAYOUTS[layout](state, attacks(marker)[name])))
    Path(str(marker) + ".py").write_text(f"open({str(marker)!r}, 'a').write('x\\n')")
    return path


def ran(marker):
    """Whether something ran since the last question."""
    found = marker.exists()
    marker.unlink(missing_ok=True)
    return found


def _saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _torch_bytes(content):
    return _saved(content)


def _numpy_bytes(content):
    file = io.BytesIO()
    np.save(file, np.array([content, 1], dtype=object), allow_pickle=True)
    return file.getvalue()
