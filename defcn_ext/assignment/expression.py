"""Reads a rule from one line of yaml: `POTO(alpha=0.8, prior=center)`."""

from __future__ import annotations

import ast
import re
from typing import Any, NamedTuple

# `option=word`, where the word may also be one that Python reserves, such as `global`
_BARE_WORD = re.compile(r"=\s*(?!True\b|False\b|None\b)([A-Za-z_]\w*)(?=\s*[,)])")


class Call(NamedTuple):
    """A name and its options, whose values may be calls themselves."""

    name: str
    options: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.options.items())})"


def parse_call(text: str) -> Call:
    """Reads the text of a call with keyword arguments; nothing is executed.

    Values are Python literals, further calls, or bare words, which are strings.

    Raises:
        ValueError: the text is anything else.
    """
    try:
        return _call(ast.parse(_BARE_WORD.sub(r"='\1'", text.strip()), mode="eval").body)
    except (SyntaxError, ValueError):
        pass
    form = "NAME(option=value, ...), each option once; values are numbers, words, strings, lists or such calls"
    raise ValueError(f"cannot read the rule {text!r}: write it as {form}")


def _call(node: ast.expr) -> Call:
    if isinstance(node, ast.Name):
        return Call(node.id, {})
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError("not a call with keyword arguments")
    options = {_name(keyword): _value(keyword.value) for keyword in node.keywords}
    if len(options) < len(node.keywords):
        raise ValueError("an option is given twice")
    return Call(node.func.id, options)


def _value(node: ast.expr) -> Any:
    return _call(node) if isinstance(node, ast.Call) else ast.literal_eval(node)


def _name(keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise ValueError("'**' is not an option")
    return keyword.arg
