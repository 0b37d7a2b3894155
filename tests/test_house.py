"""The laws of the house: imports make no circle, and nothing knows a command."""

import ast
from pathlib import Path

import defcn_ext

PACKAGE = Path(defcn_ext.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "standin" not in path.parts
}


def imported(name: str, *, at_the_top: bool) -> set[str]:
    """Modules of the package that a module names in its import statements.

    Args:
        at_the_top: only those that run when the module is imported, not those inside functions.
    """
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    nodes = _outside_functions(tree) if at_the_top else ast.walk(tree)
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            found |= {x if (x := f"{source}.{alias.name}") in MODULES else source for alias in node.names}
    return found & set(MODULES) - {name}


def _outside_functions(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _outside_functions(child)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every circle that a walk in depth finds, as the names along it."""
    found, done = [], set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(graph[name]):
                walk(other, [*path, name])
            done.add(name)

    for name in sorted(graph):
        walk(name, [])
    return found


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_make_no_circle():
    """What a package's __init__ gathers is not counted against its own modules, which do not import it back."""
    graph = {name: imported(name, at_the_top=True) for name in MODULES if name != "defcn_ext"}
    graph = {name: {x for x in others if x != "defcn_ext"} for name, others in graph.items()}
    assert circles(graph) == []


def test_nothing_knows_a_command():
    knowing = {
        name: sorted(commands)
        for name in MODULES
        if (commands := {x for x in imported(name, at_the_top=False) if x.startswith("defcn_ext.tools")})
    }
    assert knowing == {}


def test_only_what_everything_stands_on_lies_loose_at_the_top():
    loose = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    assert loose <= {"config", "meta_arch", "predictor", "structures"}
