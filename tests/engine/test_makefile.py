"""The Makefile with an interpreter that only writes down what it is asked to do."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

PYTHON = """#!/bin/sh
echo "$*" >> {log}
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""

PYTEST = "pytest -q -n 2 --dist loadfile"


@pytest.fixture
def make(tmp_path):
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(PYTHON.format(log=log))
    python.chmod(0o755)

    def run(*arguments: str) -> list[str]:
        log.write_text("")
        settings = [f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
        subprocess.run(["make", *settings, *arguments], cwd=ROOT, check=True, capture_output=True)
        return [line.split(" --disable")[0].removeprefix("-m ") for line in log.read_text().splitlines()]

    return run


def test_environment_is_made_once_and_updated_with_setup_py(make, tmp_path):
    assert make("test") == [f"venv {tmp_path / 'venv'}", "pip install", "ruff check .", "mypy", PYTEST]
    assert make("test") == ["ruff check .", "mypy", PYTEST]
    assert make("-W", "setup.py", "lint") == ["pip install", "ruff check .", "mypy"]
    assert make("demo") == ["pip install", "datasets/prepare_quick.py", "defcn_ext.tools.demo"]
    assert make() == ["datasets/prepare_quick.py", "defcn_ext.tools.demo"]


def test_an_environment_of_ones_own_is_left_alone(make, tmp_path):
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "python", folder / "python")
    assert make("test") == ["ruff check .", "mypy", PYTEST]
    assert sorted(p.name for p in (tmp_path / "venv").iterdir()) == ["bin"]
