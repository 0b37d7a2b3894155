"""Which detectron2 an import finds. The module is loaded by its path, in an interpreter of its own, without torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[1] / "defcn_ext" / "_platform.py"
SCRIPT = f"""
import importlib.util, sys
if "early" in sys.argv:
    import detectron2
spec = importlib.util.spec_from_file_location("platform_under_test", {str(MODULE)!r})
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
module.ensure_detectron2()
length = len(sys.path)
module.ensure_detectron2()
assert len(sys.path) == length, "the second call changed the path"
print(importlib.util.find_spec("detectron2").origin)
"""


@pytest.fixture
def find(tmp_path):
    """Returns a function that gives "installed" or "standin", by where detectron2 lies, or the error's last line."""
    package = tmp_path / "detectron2"

    def run(kind, choice, *arguments):
        if kind != "nothing":
            package.mkdir()
        if kind == "package":
            (package / "__init__.py").touch()
        environment = {k: v for k, v in os.environ.items() if k not in ("DEFCN_DETECTRON2", "PYTHONPATH")}
        environment["PYTHONPATH"] = str(tmp_path)
        if choice is not None:
            environment["DEFCN_DETECTRON2"] = choice
        # -S: without the packages of this interpreter, one of which may be detectron2
        command = [sys.executable, "-S", "-c", SCRIPT, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
        return {package: "installed", MODULE.parent / "standin" / "detectron2": "standin"}[
            Path(done.stdout.strip()).parent
        ]

    return run


@pytest.mark.parametrize(
    "kind, choice, expected",
    [
        ("nothing", None, "standin"),
        ("nothing", "", "standin"),
        ("nothing", "standin", "standin"),
        ("folder", None, "standin"),  # a folder of that name that is no package, such as a clone's
        ("package", None, "installed"),
        ("package", "installed", "installed"),
        ("package", "standin", "standin"),
    ],
)
def test_choice(find, kind, choice, expected):
    assert find(kind, choice) == expected


@pytest.mark.parametrize("kind", ["nothing", "folder"])
def test_an_installed_one_can_be_demanded(find, kind):
    assert find(kind, "installed").startswith("ImportError: DEFCN_DETECTRON2=installed")


def test_an_unknown_choice(find):
    assert find("package", "real").startswith("ValueError: DEFCN_DETECTRON2='real'")


def test_one_that_is_imported_already_is_not_replaced(find):
    assert find("package", "standin", "early").startswith("ImportError: DEFCN_DETECTRON2=standin")
