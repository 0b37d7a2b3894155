"""Reads a rule from one line of yaml: `POTO(alpha=0.8, prior=center)`."""

from __future__ import annotations

import ast
import re
from typing import Any

# `option=word`, where the word may also be one that Python reserves, such as `global`
_BARE_WORD = re.compile(r"=\s*(?!True\b|False\b|None\b)([A-Za-z_]\w*)(?=\s*[,)])")


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Splits the text of a call with keyword arguments; nothing is executed.

    Values are Python literals; a bare word is a string.

    Returns:
        the name and the arguments.

    Raises:
        ValueError: the text is anything else.
    """
    try:
        node = ast.parse(_BARE_WORD.sub(r"='\1'", text.strip()), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            names = [_name(k) for k in node.keywords]
            if len(set(names)) == len(names):
                return node.func.id, {name: ast.literal_eval(k.value) for name, k in zip(names, node.keywords)}
    except (SyntaxError, ValueError):
        pass
    form = "NAME(option=value, ...), each option once; values are numbers, words, strings or lists"
    raise ValueError(f"cannot read the rule {text!r}: write it as {form}")


def _name(keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise ValueError("'**' is not an option")
    return keyword.arg
