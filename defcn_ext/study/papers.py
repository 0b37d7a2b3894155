"""The papers' tables: which config or command each row is, and the paper's figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

CONFIGS = Path(__file__).parents[2] / "configs"
BEGIN = "<!-- the papers' tables, written by python -m defcn_ext.tools.tables -->"
END = "<!-- end of the papers' tables -->"


@dataclass(frozen=True)
class Row:
    """One row of a paper's table: `config` lies in its folder; `opts` are KEY VALUE pairs; a figure a column."""

    label: str
    config: str
    opts: str
    figures: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    folder: str  # of its configs, below configs/


def read_tables(path: Path = CONFIGS / "tables.yaml") -> list[Table]:
    """
    Raises:
        ValueError: a row has not one figure a column.
    """
    tables = []
    for table in yaml.safe_load(path.read_text(encoding="utf-8")):
        columns = tuple(table["columns"])
        rows = tuple(
            Row(str(row["row"]), row["config"], row.get("opts", ""), tuple(str(row["figures"]).split()))
            for row in table["rows"]
        )
        for row in rows:
            if len(row.figures) != len(columns):
                raise ValueError(
                    f"{path}: {table['title']}: {row.label}: {len(row.figures)} figures for {len(columns)} columns"
                )
        tables.append(Table(table["title"], table.get("note", ""), columns, rows, table.get("folder", "COCO")))
    return tables


def render(tables: list[Table]) -> str:
    """The tables as Markdown, under one heading each."""
    return "\n\n".join(_render_table(table) for table in tables)


def _render_table(table: Table) -> str:
    with_opts = any(row.opts for row in table.rows)
    head = ["row", f"config (`configs/{table.folder}/`)", *(["keys"] if with_opts else []), *table.columns]
    lines = [_line(head), "|---" * len(head) + "|"]
    for row in table.rows:
        keys = [f"`{row.opts}`" if row.opts else ""] if with_opts else []
        lines.append(_line([row.label, f"[`{row.config}`]({table.folder}/{row.config})", *keys, *row.figures]))
    note = f"{table.note}\n\n" if table.note else ""
    return f"### {table.title}\n\n{note}" + "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def replace_section(text: str, section: str) -> str:
    """`text` with `section` between the two markers.

    Raises:
        ValueError: a marker is missing, or stands there twice.
    """
    for marker in (BEGIN, END):
        if text.count(marker) != 1:
            raise ValueError(f"configs/README.md: expected the line {marker} once")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{rest.partition(END)[2]}"
