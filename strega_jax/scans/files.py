"""Files that appear whole or not at all."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path of the same name; what was written there becomes `path` when the block ends well."""
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as indented JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_tsv(path: str | os.PathLike[str], rows: list[dict[str, str]]) -> None:
    """Write rows, all with the same columns, as a tab-separated table with a header."""
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
