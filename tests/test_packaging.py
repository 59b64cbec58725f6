"""What the package imports is what it declares."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Imported by others on this package's behalf.
INDIRECT = {"flatbuffers": "jax.export writes programs with it"}
OPTIONAL = ("demo", "heads", "gcs", "dicom", "onnx")


def declared(requirements: list[str]) -> set[str]:
    """Names of distributions as registries spell them."""
    return {re.split(r"[\[<>=! ]", text)[0].lower().replace("_", "-") for text in requirements}


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Top-level packages that a file imports, and whether it needs them to be loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef)
        or (isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test))
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        yield from ((name.split(".")[0], id(node) not in inner) for name in names)


def test_every_import_is_of_a_declared_package():
    always = declared(PROJECT["dependencies"])
    optional = declared([text for extra in OPTIONAL for text in PROJECT["optional-dependencies"][extra]])
    distributions = importlib.metadata.packages_distributions()
    used: set[str] = set()
    undeclared = []
    for path in sorted((ROOT / "strega_jax").rglob("*.py")):
        for package, needed in imported(path):
            if package in sys.stdlib_module_names or package == "strega_jax":
                continue
            names = {name.lower().replace("_", "-") for name in distributions.get(package, [package])}
            used |= names
            if not names & (always if needed else always | optional):
                undeclared.append(f"{path.relative_to(ROOT)} imports {package}")
    assert undeclared == []
    assert always - used == set(INDIRECT)
