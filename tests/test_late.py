"""The parts that run without torch import none, and everything else finds the registries filled."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
FILLED = """
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from defcn_ext.checkpoint import guard
import defcn_ext.meta_arch, sys
assert META_ARCH_REGISTRY.get("DeFCN") is defcn_ext.meta_arch.DeFCN is sys.modules["defcn_ext.meta_arch"].DeFCN
assert "quick_val" in DatasetCatalog and DetectionCheckpointer._load_file is guard._load_file
import detectron2
for module in (defcn_ext.meta_arch, defcn_ext.config, detectron2):
    assert module.__spec__.loader.get_source(module.__name__)
print("filled")
"""


def said_by(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_deploy_imports_no_torch():
    parts = "import defcn_ext.deploy, defcn_ext.deploy.images, defcn_ext.deploy.metadata, defcn_ext._text"
    code = f"{parts}, sys; print(*({{'torch', 'detectron2', 'scipy', 'matplotlib'}} & set(sys.modules)), 'end')"
    assert said_by(code) == ["end"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import defcn_ext",
        "import defcn_ext.deploy",
        "import defcn_ext.config",
        "import defcn_ext.meta_arch",
        "from defcn_ext import add_defcn_config",
        "from defcn_ext.structures import Points",
        "import defcn_ext; defcn_ext.meta_arch.DeFCN",
        "import defcn_ext, importlib.util as u; assert u.find_spec('detectron2').origin.endswith('__init__.py')",
        "import defcn_ext._platform as p; p.ensure_detectron2(); import detectron2.modeling, defcn_ext",
    ],
)
def test_whatever_comes_first_the_registries_are_filled(first):
    assert said_by(f"{first}\n{FILLED}") == ["filled"]


@pytest.mark.slow
def test_an_attribute_that_is_not_there_is_said_to_be_missing():
    code = "import defcn_ext\ntry: defcn_ext.nothing\nexcept AttributeError as error: print(error)"
    assert "'nothing'" in said_by(code)
