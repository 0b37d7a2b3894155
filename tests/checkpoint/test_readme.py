"""The table of releases names configs that are there."""

import re
from pathlib import Path

import defcn_ext.checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"
README = Path(defcn_ext.checkpoint.__file__).parent / "README.md"


def test_every_config_of_the_table_exists():
    named = re.findall(r"`(?:--config configs/)?((?:COCO/|Base-)[\w/.{},-]+)`", README.read_text())
    paths = []
    for name in named:
        braces = re.search(r"\{(.+)\}", name)
        choices = braces[1].split(",") if braces else [""]
        paths += [re.sub(r"\{.+\}", choice, name).removesuffix(".yaml") for choice in choices]
    assert len(paths) > 40
    assert [path for path in paths if not (CONFIGS / f"{path}.yaml").is_file()] == []
