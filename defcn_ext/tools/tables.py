"""Writes the papers' tables into configs/README.md: which config or command each row is, and the paper's figure.

    python -m defcn_ext.tools.tables

The rows stand in configs/tables.yaml. The figures are the papers', never measured ones.
"""

from __future__ import annotations

import defcn_ext  # noqa: F401  (makes detectron2 importable)
from defcn_ext._text import say, write_whole
from defcn_ext.study.papers import CONFIGS, read_tables, render, replace_section


def main() -> None:
    readme = CONFIGS / "README.md"
    tables = read_tables()
    write_whole(readme, replace_section(readme.read_text(encoding="utf-8"), render(tables)))
    say(f"{readme}: {len(tables)} tables, {sum(len(table.rows) for table in tables)} rows")


if __name__ == "__main__":
    main()
