"""The papers' tables in configs/README.md agree with their rows and with the configs there are."""

from pathlib import Path

import pytest

from defcn_ext.engine.preflight import load_config
from defcn_ext.study.papers import BEGIN, CONFIGS, END, read_tables, render, replace_section

TABLES = read_tables()
ROWS = [(table, row) for table in TABLES for row in table.rows]


def test_the_readme_is_up_to_date():
    """If not: python -m defcn_ext.tools.tables"""
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert replace_section(text, render(TABLES)) == text


def test_every_row_has_a_config_and_every_config_a_row():
    named = {f"{table.folder}/{row.config}" for table, row in ROWS}
    there = {
        str(p.relative_to(CONFIGS)) for folder in ("COCO", "CrowdHuman") for p in (CONFIGS / folder).rglob("*.yaml")
    }
    assert named == {name for name in there if not Path(name).name.startswith("Base-")}


def test_the_keys_of_a_row_are_keys():
    for config, opts in {(f"{table.folder}/{row.config}", row.opts) for table, row in ROWS if row.opts}:
        load_config(str(CONFIGS / config), opts.split())


def test_the_same_command_has_the_same_figure_in_every_table():
    """Up to 0.1, by which releases differ from papers. Of "without/with NMS" the first figure counts."""
    seen: dict[tuple[str, str, str], set[float]] = {}
    for table, row in ROWS:
        for column, figure in zip(table.columns, row.figures):
            if figure != "-":
                first = float(figure.replace(";", "/").split("/")[0])
                seen.setdefault((row.config, row.opts, column), set()).add(first)
    assert sum(len(figures) > 1 for figures in seen.values()) >= 6  # 41.443 and 41.4, ...
    assert all(max(figures) - min(figures) < 0.11 for figures in seen.values())


def test_a_row_without_a_figure_for_each_column_is_named(tmp_path):
    path = tmp_path / "tables.yaml"
    path.write_text("- {title: T, columns: [AP, AR], rows: [{row: POTO, config: a.yaml, figures: 38.0}]}")
    with pytest.raises(ValueError, match="T: POTO: 1 figures for 2 columns"):
        read_tables(path)


def test_only_what_lies_between_the_markers_is_replaced():
    assert replace_section(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\n\nnew\n\n{END}\nb"
    with pytest.raises(ValueError, match="once"):
        replace_section(f"a {BEGIN}", "new")
