"""Every name and file of this project that its README files mention exists."""

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted(
    REPOSITORY / name
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    if not name.startswith("tests/")
) or sorted(REPOSITORY.glob("*.md"))
IMPORT = re.compile(r"^ *from (defcn_ext[\w.]*) import ([\w, ]+)", re.MULTILINE)
DOTTED = re.compile(r"\bdefcn_ext(?:\.\w+)+")
FILE = re.compile(r"\b(?:defcn_ext|configs|datasets)/[\w./-]*[\w]")
DATA = re.compile(r"datasets/(NAME|quick|quick_crowd|coco|crowdhuman|bccd|mine)", re.IGNORECASE)


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    names = set(DOTTED.findall(text))
    for module, imported in IMPORT.findall(text):
        names |= {f"{module}.{name.strip()}" for name in imported.split(",")}
    files = {name for name in FILE.findall(text) if not DATA.match(name)}
    missing = [n for n in sorted(names) if not resolves(n)]
    missing += [f for f in sorted(files) if not (REPOSITORY / f).exists() and not (page.parent / f).exists()]
    assert missing == []


def test_the_python_of_the_readme_can_be_read():
    """Blocks that begin with an import are whole Python."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    python = [b for b in blocks if re.match(r"\s*(from|import) \w", b)]
    assert len(python) >= 2
    for block in python:
        ast.parse(re.sub(r"^    ", "", block, flags=re.MULTILINE).replace("...", "Ellipsis"))
