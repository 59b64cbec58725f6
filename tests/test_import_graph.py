"""Stations import only those before them, and there is no circle.

python tests/test_import_graph.py     # prints the stations: lines of code, and what each imports
"""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

import strega_jax

PACKAGE = Path(strega_jax.__file__).parent
# In the order of README's table: each may import those before it.
STATIONS = (
    "scans", "tissue", "slices", "augment", "detectors", "postprocess", "models", "training", "detection", "output",
    "inference", "evaluation",
)  # fmt: skip


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports when it is loaded; what is imported later or for types is not."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("strega_jax"):
            base = PACKAGE.parent.joinpath(*(node.module or "").split("."))
            modules = {f"{node.module}.{alias.name}" for alias in node.names if (base / f"{alias.name}.py").exists()}
            found |= modules or {str(node.module)}
    return found


def graph() -> dict[str, set[str]]:
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = imports(path)
    return modules


def circle(modules: dict[str, set[str]]) -> str:
    """Modules that import one another in a circle; empty without one."""
    done = set()

    def visit(name: str, path: tuple[str, ...]) -> str:
        if name in path:
            return " → ".join((*path, name))
        found = "" if name in done else next(filter(None, (visit(o, (*path, name)) for o in modules.get(name, ()))), "")
        done.add(name)
        return found

    return next(filter(None, (visit(name, ()) for name in modules)), "")


def station(module: str) -> str:
    """The station of a module; empty for what lies beside them, such as the commands."""
    return module.split(".")[1] if module.count(".") else ""


def lines() -> Counter[str]:
    """Lines of code of each station: what is no comment and no docstring; empty for what lies beside them."""
    count: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.string.strip()]
        rows = {
            row for token in tokens if token.type != tokenize.COMMENT for row in _rows(token.start[0], token.end[0])
        }
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                rows -= _rows(node.lineno, node.end_lineno)
        count[path.parent.name if path.parent != PACKAGE else ""] += len(rows)
    return count


def _rows(first: int, last: int) -> set[int]:
    return set(range(first, last + 1))


def show() -> None:
    """Print the graph of the stations."""
    modules, count = graph(), lines()
    for name in (*STATIONS, ""):
        own = {station(other) for module, others in modules.items() if station(module) == name for other in others}
        print(f"{name or '(beside)':12} {count[name]:5}  → {' '.join(s for s in STATIONS if s in own - {name})}")
    print(f"{sum(count.values())} lines of code; " + (f"circle: {circle(modules)}" if circle(modules) else "no circle"))


def test_no_module_imports_itself_through_others():
    assert not circle(graph())
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == "a → b → c → b"


def test_the_graph_is_shown_with_every_station(capsys):
    show()
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[:-1]] == [*STATIONS, "(beside)"]
    assert shown[-1].endswith("no circle")


def test_a_station_imports_only_those_before_it():
    wrong = []
    for name, others in graph().items():
        own = station(name)
        for other in others:
            its = station(other)
            if own in STATIONS and its in STATIONS and STATIONS.index(its) > STATIONS.index(own):
                wrong.append(f"{name} imports {other}")
    assert not wrong, wrong


def test_every_package_is_a_station():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages - {"weights"} == set(STATIONS)


def test_no_file_hides_two_things():
    long = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: lines for name, lines in long.items() if lines > 350}


if __name__ == "__main__":
    show()
