"""Stations import only those before them, and there is no circle."""

import ast
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


def test_no_module_imports_itself_through_others():
    modules, done = graph(), set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in done:
            for other in modules.get(name, set()):
                visit(other, (*path, name))
            done.add(name)

    for name in modules:
        visit(name, ())


def test_a_station_imports_only_those_before_it():
    wrong = []
    for name, others in graph().items():
        own = name.split(".")[1] if name.count(".") else ""
        for other in others:
            its = other.split(".")[1] if other.count(".") else ""
            if own in STATIONS and its in STATIONS and STATIONS.index(its) > STATIONS.index(own):
                wrong.append(f"{name} imports {other}")
    assert not wrong, wrong


def test_every_package_is_a_station():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages - {"weights"} == set(STATIONS)


def test_no_file_hides_two_things():
    long = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {name: lines for name, lines in long.items() if lines > 350}
